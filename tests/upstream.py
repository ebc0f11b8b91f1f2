"""A model server for tests: real HTTP/1.1 on a loopback socket, in threads, with every fault an upstream can have.

By itself it answers as OpenAI does, exactly and deterministically, and refuses what OpenAI would refuse. What it says
depends on what it is sent:

    any text                            "You said: <last user text>. I have seen <n> items."
    "weather" and a function tool       a function call; with "both" two, with "explain" a message before
    tool_choice that demands a tool     that call
    "search" and a web_search tool      a hosted call and a cited message
    "refuse"                            a refusal
    text.format json_schema             JSON that fits the schema
    include reasoning.encrypted_content a reasoning item before the answer (chat: "think")
    max_output_tokens from 16 to 20     an answer cut short
    compaction_trigger as last item     one compaction item, which only this upstream's family can read

`enqueue(script, …)` changes the next answer to a POST, `always(script, …)` all of them; scripts are the functions below
that return a `Script`, and several of them apply one after the other to the same answer.

By hand: `python -m tests.upstream --port 19001 [--sloppy] [--close-delimited] [--api-key K] [--models a,b]`.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import gzip
import hashlib
import ipaddress
import itertools
import random
import re
import select
import signal
import socket
import ssl
import struct
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from enum import Enum
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

import orjson
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

JSON = dict[str, Any]
PATIENCE = 20.0
CREATED_AT = 1795353600

# --- an answer, as it goes over the wire ------------------------------------------------------------------------


class Act(Enum):
    """What an upstream can do instead of sending bytes."""

    HOLD = "say nothing until release() or until the peer hangs up"
    FIN = "close the connection"
    RESET = "close it with a RST"


HOLD, FIN, RESET = Act.HOLD, Act.FIN, Act.RESET


@dataclass(frozen=True, slots=True)
class Pause:
    """Silence of some length, for answers that drip."""

    seconds: float


Piece = bytes | Act | Pause
Framing = Literal["length", "chunked", "close"]


@dataclass(frozen=True, slots=True)
class Answer:
    """`lead` goes out before the head and `trail` after the body, both unframed; each piece of bytes is one write."""

    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    pieces: Iterable[Piece] = ()
    framing: Framing = "length"
    lead: Iterable[Piece] = ()
    trail: tuple[Piece, ...] = ()

    @property
    def body(self) -> bytes:
        return b"".join(piece for piece in self.pieces if isinstance(piece, bytes))

    @property
    def streams(self) -> bool:
        return self.headers.get("Content-Type", "").startswith("text/event-stream")


@dataclass(frozen=True, slots=True)
class Recorded:
    """One request as it arrived. Header names are lower case; `body` is None when it is no JSON."""

    method: str
    path: str
    headers: Mapping[str, str]
    raw: bytes
    body: Any
    connection: int
    """Which connection brought it, counted from 1."""
    number: int
    """Which request it is, counted from 1."""


@dataclass(frozen=True, slots=True)
class Exchange:
    """What a script may look at: the request, and what the upstream would say to another body."""

    request: Recorded
    reply: Callable[[JSON], Answer]


Script = Callable[[Exchange, Answer], Answer]

# --- scripts ----------------------------------------------------------------------------------------------------


def raw(status: int, body: bytes = b"", content_type: str = "application/json", **headers: str) -> Script:
    """Exactly this status and body. Underscores in header names become dashes."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return lambda exchange, answer: Answer(status, {"Content-Type": content_type, **named}, (body,))


def refusal(
    status: int, message: str = "No.", code: str | None = None, param: str | None = None, **headers: str
) -> Script:
    """An error in OpenAI's envelope."""
    return raw(status, orjson.dumps(_envelope(_Refusal(status, message, code, param))), **headers)


def rate_limited(retry_after: str | None = "1", code: str = "rate_limit_exceeded") -> Script:
    headers = {} if retry_after is None else {"Retry_After": retry_after}
    return refusal(429, "Rate limit reached. Please try again in 1s.", code, **headers)


def redirect(location: str, status: int = 307) -> Script:
    return raw(status, b"", "text/plain", Location=location)


def html(status: int = 200) -> Script:
    return raw(status, b"<!doctype html><html><body><h1>Welcome</h1></body></html>", "text/html; charset=utf-8")


def wire(*pieces: Piece) -> Script:
    """These bytes instead of an HTTP answer, then the end of the connection."""
    return lambda exchange, answer: Answer(lead=(*pieces, FIN))


def sse(*pieces: Piece, framing: Framing = "chunked") -> Script:
    """A stream of exactly these bytes."""
    return lambda exchange, answer: Answer(200, STREAM_HEADERS, pieces, framing)


def silent() -> Script:
    """Accepts the request and sends no byte of the answer until it is released."""
    return lambda exchange, answer: replace(answer, lead=(HOLD,))


def slammed(how: Act = FIN) -> Script:
    """The connection ends before the first byte of an answer."""
    return lambda exchange, answer: Answer(lead=(how,))


def stalled(after: int) -> Script:
    """Says nothing more after so many events, until it is released."""
    return lambda exchange, answer: replace(
        answer, pieces=(*_first(answer, after), HOLD, *itertools.islice(answer.pieces, after, None))
    )


def stepped() -> Script:
    """Waits for a release before each event."""
    return lambda exchange, answer: replace(
        answer, pieces=tuple(part for piece in answer.pieces for part in (HOLD, piece))
    )


def dropped(after: int, how: Act = FIN) -> Script:
    """The connection breaks after so many events; a chunked body is left without its last chunk."""
    return lambda exchange, answer: replace(answer, pieces=(*_first(answer, after), how))


def ended(after: int) -> Script:
    """The body ends properly after so many events, as if that were all."""
    return lambda exchange, answer: replace(answer, pieces=_first(answer, after))


def unterminated() -> Script:
    """Everything but the terminal event, ended properly."""
    return lambda exchange, answer: replace(answer, pieces=tuple(answer.pieces)[:-1])


def continued(*extra: Piece) -> Script:
    """More after what would have been the end."""
    return lambda exchange, answer: replace(answer, pieces=(*answer.pieces, *extra))


def failing(after: int, code: str = "server_error", message: str = "The model broke.") -> Script:
    """OpenAI's pair, `error` and `response.failed`, after so many events, one at least."""

    def script(exchange: Exchange, answer: Answer) -> Answer:
        head = _first(answer, after)
        begun = _parse(head[0])["response"]
        error = {"type": "server_error", "code": code, "message": message, "param": None}
        failed = {**begun, "status": "failed", "error": {"code": code, "message": message}}
        pair = [
            {"type": "error", "sequence_number": len(head), "error": error},
            {"type": "response.failed", "sequence_number": len(head) + 1, "response": failed},
        ]
        return replace(answer, pieces=(*head, *map(event_bytes, pair)))

    return script


def failing_at_once(code: str = "server_error", message: str = "The model broke.") -> Script:
    """A 200 whose first event is already the error."""
    error = {"type": "server_error", "code": code, "message": message, "param": None}
    return sse(event_bytes({"type": "error", "sequence_number": 0, "error": error}))


def rewritten(change: Callable[[JSON], JSON | None]) -> Script:
    """Each event, or the one JSON body, passed through `change`; None leaves an event out."""

    def script(exchange: Exchange, answer: Answer) -> Answer:
        if not answer.streams:
            return replace(answer, pieces=(orjson.dumps(change(orjson.loads(answer.body))),))
        changed = (change(_parse(piece)) for piece in answer.pieces if isinstance(piece, bytes) and _is_event(piece))
        return replace(answer, pieces=tuple(event_bytes(event) for event in changed if event is not None))

    return script


def respelled(change: Callable[[bytes], bytes]) -> Script:
    """The body's bytes passed through `change` as one whole: line ends, garbage, encodings."""
    return lambda exchange, answer: replace(answer, pieces=(change(answer.body),))


def line_ends(ending: bytes) -> Script:
    return respelled(lambda body: body.replace(b"\n", ending))


def byte_order_mark() -> Script:
    return respelled(lambda body: b"\xef\xbb\xbf" + body)


def commented(comment: bytes = b": ping\n\n") -> Script:
    """A comment before every event."""
    return lambda exchange, answer: replace(
        answer, pieces=tuple(comment + piece if isinstance(piece, bytes) else piece for piece in answer.pieces)
    )


def unnamed() -> Script:
    """No `event:` lines: only `data.type` names an event."""
    return respelled(lambda body: re.sub(rb"(?m)^event: .*\n", b"", body))


def garbage(after: int, data: bytes = b"event: response.output_text.delta\ndata: {not json}\n\n") -> Script:
    """Something that is no event after so many events."""
    return lambda exchange, answer: replace(
        answer, pieces=(*_first(answer, after), data, *itertools.islice(answer.pieces, after, None))
    )


def invalid_utf8() -> Script:
    """A byte that no UTF-8 text has, inside the first delta's text."""
    return respelled(lambda body: re.sub(rb'"delta":"', b'"delta":"\xff', body, count=1))


def split_at(*offsets: int) -> Script:
    """The same bytes in writes that end at these offsets."""

    def script(exchange: Exchange, answer: Answer) -> Answer:
        body = answer.body
        cuts = [0, *sorted({offset for offset in offsets if 0 < offset < len(body)}), len(body)]
        return replace(answer, pieces=tuple(body[a:b] for a, b in itertools.pairwise(cuts)))

    return script


def split_randomly(seed: int, pieces: int = 40) -> Script:
    def script(exchange: Exchange, answer: Answer) -> Answer:
        rng = random.Random(seed)
        return split_at(*(rng.randrange(1, len(answer.body)) for _ in range(pieces)))(exchange, answer)

    return script


def byte_by_byte() -> Script:
    return lambda exchange, answer: replace(answer, pieces=tuple(bytes([byte]) for byte in answer.body))


def in_one_write() -> Script:
    return lambda exchange, answer: replace(answer, pieces=(answer.body,))


def framed(framing: Framing) -> Script:
    """`close` delimits the body by the end of the connection."""
    return lambda exchange, answer: replace(answer, framing=framing)


def closing() -> Script:
    """Says that it closes the connection, and does."""
    return lambda exchange, answer: replace(
        answer, headers={**answer.headers, "Connection": "close"}, trail=(*answer.trail, FIN)
    )


def going_stale() -> Script:
    """Closes the connection after the answer without having said so.

    The next request may meet a closed connection or one about to close; `slammed()` for that one is always the latter.
    """
    return lambda exchange, answer: replace(answer, trail=(*answer.trail, FIN))


def json_instead() -> Script:
    """A JSON body although a stream was asked for."""
    return lambda exchange, answer: exchange.reply({**exchange.request.body, "stream": False})


def stream_instead() -> Script:
    """A stream although nobody asked."""
    return lambda exchange, answer: exchange.reply({**exchange.request.body, "stream": True})


def endless_line(after: int = 2) -> Script:
    """An event that never ends, as fast as it is taken."""
    return lambda exchange, answer: replace(
        answer, pieces=itertools.chain(_first(answer, after), [b"data: "], itertools.repeat(b"x" * 65536))
    )


def dripping(after: int = 2, interval: float = 0.02) -> Script:
    """A byte now and then, for ever, inside one event."""
    drops = _drops(interval)
    return lambda exchange, answer: replace(answer, pieces=itertools.chain(_first(answer, after), [b"data: "], drops))


def dripping_head(interval: float = 0.02) -> Script:
    """A header line that never ends, a byte now and then."""
    drops = _drops(interval)
    return lambda exchange, answer: Answer(lead=itertools.chain([b"HTTP/1.1 200 OK\r\nX-Slow: "], drops))


def zipped() -> Script:
    """gzip, although nobody accepts it."""
    return lambda exchange, answer: replace(
        answer, headers={**answer.headers, "Content-Encoding": "gzip"}, pieces=(gzip.compress(answer.body),)
    )


def bomb(megabytes: int = 64) -> Script:
    """gzip that unpacks to a thousand times its size."""
    packed = gzip.compress(b'{"x":"' + b" " * (megabytes << 20) + b'"}')
    return raw(200, packed, Content_Encoding="gzip")


def sloppy() -> Script:
    """A dialect like llama.cpp's: no numbers, no indexes, an almost empty beginning, no end of arguments."""

    def script(exchange: Exchange, answer: Answer) -> Answer:
        if exchange.request.path != "/v1/responses" or answer.status != 200:
            return answer
        return rewritten(_sloppy_event if answer.streams else _sloppy_body)(exchange, answer)

    return script


def _drops(interval: float) -> Iterator[Piece]:
    while True:
        yield b"x"
        yield Pause(interval)


def _first(answer: Answer, count: int) -> tuple[Piece, ...]:
    return tuple(itertools.islice(answer.pieces, count))


def _is_event(piece: bytes) -> bool:
    return b"data: {" in piece


def _parse(piece: Piece) -> JSON:
    assert isinstance(piece, bytes)
    event: JSON = orjson.loads(piece.partition(b"data: ")[2])
    return event


def _sloppy_event(event: JSON) -> JSON | None:
    kind = event["type"]
    if kind == "response.function_call_arguments.done":
        return None
    numbering = {"sequence_number", "output_index", "content_index", "summary_index", "logprobs", "obfuscation"}
    bare = {key: value for key, value in event.items() if key not in numbering}
    if kind in ("response.created", "response.in_progress"):
        return {**bare, "response": {"id": event["response"]["id"], "object": "response", "status": "in_progress"}}
    if "response" in bare:
        return {**bare, "response": _sloppy_body(bare["response"])}
    if "item" in bare:
        return {**bare, "item": _sloppy_item(bare["item"])}
    return bare


def _sloppy_item(item: JSON) -> JSON:
    return {key: value for key, value in item.items() if not (item["type"] == "function_call" and key == "id")}


def _sloppy_body(body: JSON) -> JSON:
    kept = ("id", "object", "created_at", "completed_at", "status", "model", "error", "incomplete_details")
    usage = body["usage"] and {key: body["usage"][key] for key in ("input_tokens", "output_tokens", "total_tokens")}
    return {
        **{key: body[key] for key in kept if body[key] is not None},
        "output": [_sloppy_item(item) for item in body["output"]],
        "usage": usage,
    }


# --- the server -------------------------------------------------------------------------------------------------


class _PeerGone(Exception):
    """The other side hung up while it was being answered."""


class _Closing(Exception):
    """The test is over."""


class ScriptedUpstream:
    """The server. `base_url` ends in /v1; everything it was sent is in `requests`."""

    def __init__(
        self,
        *,
        models: Iterable[str] | None = None,
        api_key: str | None = None,
        family: str | None = None,
        call_id_length: int = 29,
        port: int = 0,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        """`family`: upstreams of one family read each other's opaque items; by default each is its own."""
        self._listener = socket.create_server(("127.0.0.1", port), backlog=128)
        self.port: int = self._listener.getsockname()[1]
        self.base_url = f"{'https' if tls else 'http'}://127.0.0.1:{self.port}/v1"
        self.models = None if models is None else tuple(models)
        self.api_key = api_key
        self.requests: list[Recorded] = []
        self.hangups: list[Recorded] = []
        self.connections = 0
        self._model = _Model(family or f"family-{self.port}", call_id_length)
        self._tls = tls
        self._changed = threading.Condition()
        self._scripts: deque[tuple[Script, ...]] = deque()
        self._standing: tuple[Script, ...] = ()
        self._permits = 0
        self._closing = False
        self._open: dict[int, _Connection] = {}
        self._acceptor = threading.Thread(target=self._accept, name=f"upstream-{self.port}", daemon=True)
        self._acceptor.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Ends every connection, wakes whoever is held, and waits for the threads."""
        with self._changed:
            self._closing = True
            connections = list(self._open.values())
            self._changed.notify_all()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for connection in connections:
            connection.interrupt()
        for thread in (self._acceptor, *connections):
            thread.join(PATIENCE)

    # What comes next

    def enqueue(self, *scripts: Script, times: int = 1) -> None:
        """The next answer to a POST goes through these scripts, in this order."""
        self._scripts.extend([scripts] * times)

    def always(self, *scripts: Script) -> None:
        """Every answer to a POST for which nothing is enqueued goes through these."""
        self._standing = scripts

    def release(self, times: int = 1) -> None:
        """Lets so many holds go on, those to come included."""
        with self._changed:
            self._permits += times
            connections = list(self._open.values())
        for connection in connections:
            connection.wake()

    def reset(self) -> None:
        """Forgets scripts, requests and hang-ups, for the next test."""
        with self._changed:
            self._scripts.clear()
            self._standing = ()
            self._permits = 0
            self.requests.clear()
            self.hangups.clear()

    def channel(self, name: str = "exact", **keys: Any) -> JSON:
        """A row of the channel table that leads here."""
        row = {"name": name, "format": "responses", "base_url": self.base_url, "models": list(self.models or ("m",))}
        return {**row, "api_key": self.api_key or "none", **keys}

    # What has happened

    @property
    def bodies(self) -> list[Any]:
        """The bodies of all POSTs."""
        return [request.body for request in self.requests if request.method == "POST"]

    @property
    def open_connections(self) -> int:
        return len(self._open)

    def wait_for_request(self, number: int = 1, timeout: float = PATIENCE) -> Recorded:
        """The request of that number, counted from 1, as soon as it has arrived."""
        self._await(lambda: len(self.requests) >= number, timeout, f"{number} requests")
        return self.requests[number - 1]

    def wait_hangup(self, number: int = 1, timeout: float = PATIENCE) -> Recorded:
        """The request whose peer was the so-manieth to hang up before its answer was through."""
        self._await(lambda: len(self.hangups) >= number, timeout, f"{number} hang-ups")
        return self.hangups[number - 1]

    def wait_connections(self, count: int, timeout: float = PATIENCE) -> None:
        """Waits until exactly so many connections are open, idle ones included."""
        self._await(lambda: len(self._open) == count, timeout, f"{count} open connections")

    def _await(self, reached: Callable[[], bool], timeout: float, what: str) -> None:
        with self._changed:
            if not self._changed.wait_for(lambda: reached() or self._closing, timeout) or not reached():
                raise AssertionError(
                    f"waited {timeout} s for {what}: {len(self.requests)} requests, {len(self.hangups)} hang-ups, "
                    f"{len(self._open)} open connections"
                )

    # What the connections ask of it

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with self._changed:
                if self._closing:
                    sock.close()
                    return
                self.connections += 1
                connection = _Connection(self, sock, self.connections, self._tls)
                self._open[self.connections] = connection
                self._changed.notify_all()
                connection.start()

    def _forget(self, number: int) -> None:
        with self._changed:
            del self._open[number]
            self._changed.notify_all()

    def _record(self, method: str, path: str, headers: Mapping[str, str], raw: bytes, connection: int) -> Recorded:
        try:
            body = orjson.loads(raw)
        except orjson.JSONDecodeError:
            body = None
        with self._changed:
            request = Recorded(method, path, headers, raw, body, connection, len(self.requests) + 1)
            self.requests.append(request)
            self._changed.notify_all()
        return request

    def _hung_up(self, request: Recorded) -> None:
        with self._changed:
            self.hangups.append(request)
            self._changed.notify_all()

    def _take_permit(self) -> bool:
        with self._changed:
            if self._closing:
                raise _Closing
            if self._permits:
                self._permits -= 1
                return True
            return False

    def _answer(self, request: Recorded) -> Answer:
        exchange = Exchange(request, lambda body: self._by_itself(request, body))
        answer = self._by_itself(request, request.body)
        if request.method != "POST":
            return answer
        for script in self._next_scripts():
            answer = script(exchange, answer)
        return answer

    def _next_scripts(self) -> tuple[Script, ...]:
        with self._changed:
            return self._scripts.popleft() if self._scripts else self._standing

    def _by_itself(self, request: Recorded, body: Any) -> Answer:
        try:
            self._authenticate(request)
            return self._route(request, body)
        except _Refusal as refused:
            return _json_answer(_envelope(refused), refused.status)

    def _authenticate(self, request: Recorded) -> None:
        given = request.headers.get("authorization", "").removeprefix("Bearer ")
        if self.api_key is None or given == self.api_key:
            return
        if not given:
            raise _Refusal(401, "Missing bearer or basic authentication in header")
        raise _Refusal(401, f"Incorrect API key provided: {given[:6]}***.", "invalid_api_key")

    def _route(self, request: Recorded, body: Any) -> Answer:
        path = request.path.partition("?")[0]
        if (request.method, path) == ("GET", "/v1/models"):
            return _json_answer({"object": "list", "data": [_model_card(name) for name in self.models or ("m",)]})
        answers: dict[str, Callable[[JSON, _Ids], Answer]] = {
            "/v1/responses": self._model.respond,
            "/v1/responses/compact": self._model.compact,
            "/v1/chat/completions": self._model.chat,
        }
        if request.method != "POST" or path not in answers:
            raise _Refusal(404, f"Invalid URL ({request.method} {path})")
        if not isinstance(body, dict):
            raise _Refusal(400, "We could not parse the JSON body of your request.")
        _check_model(body.get("model"), self.models, 404 if path.endswith("completions") else 400)
        return answers[path](body, _Ids(f"{self.port}/{request.number}"))


class _Connection(threading.Thread):
    """One connection: requests in, answers out, until either side has enough."""

    def __init__(
        self, upstream: ScriptedUpstream, sock: socket.socket, number: int, tls: ssl.SSLContext | None
    ) -> None:
        super().__init__(name=f"upstream-{upstream.port}-{number}", daemon=True)
        self._upstream = upstream
        self._sock = sock
        self._number = number
        self._tls = tls
        self._received = b""
        self._waker, self._woken = socket.socketpair()

    def wake(self) -> None:
        with contextlib.suppress(OSError):
            self._waker.send(b"w")

    def interrupt(self) -> None:
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)
        self.wake()

    def run(self) -> None:
        try:
            if self._tls is not None:
                self._sock = self._tls.wrap_socket(self._sock, server_side=True)
            while (request := self._read()) is not None and self._serve(request):
                pass
        except (OSError, EOFError, _Closing):
            pass
        finally:
            self._sock.close()
            self._upstream._forget(self._number)
            self._waker.close()
            self._woken.close()

    # In

    def _read(self) -> Recorded | None:
        while b"\r\n\r\n" not in self._received:
            data = self._sock.recv(65536)
            if not data:
                return None
            self._received += data
        head, self._received = self._received.split(b"\r\n\r\n", 1)
        first, *lines = head.decode("latin-1").split("\r\n")
        method, path, _ = first.split(" ")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        if headers.get("transfer-encoding", "") == "chunked":
            body = b"".join(iter(self._read_chunk, b""))
        else:
            body = self._read_exactly(int(headers.get("content-length", "0")))
        return self._upstream._record(method, path, headers, body, self._number)

    def _read_chunk(self) -> bytes:
        while b"\r\n" not in self._received:
            self._receive()
        size, self._received = self._received.split(b"\r\n", 1)
        return self._read_exactly(int(size, 16) + 2)[:-2]

    def _read_exactly(self, size: int) -> bytes:
        while len(self._received) < size:
            self._receive()
        data, self._received = self._received[:size], self._received[size:]
        return data

    def _receive(self) -> None:
        data = self._sock.recv(1 << 20)
        if not data:
            raise EOFError
        self._received += data

    # Out

    def _serve(self, request: Recorded) -> bool:
        """Whether the connection lives on."""
        answer = self._upstream._answer(request)
        try:
            return self._send_answer(answer)
        except (_PeerGone, ConnectionError):
            self._upstream._hung_up(request)
            return False

    def _send_answer(self, answer: Answer) -> bool:
        if not self._send(answer.lead, _plain):
            return False
        self._write(_head(answer))
        if not self._send(answer.pieces, _chunk if answer.framing == "chunked" else _plain):
            return False
        if answer.framing == "chunked":
            self._write(b"0\r\n\r\n")
        return self._send(answer.trail, _plain) and answer.framing != "close"

    def _send(self, pieces: Iterable[Piece], frame: Callable[[bytes], bytes]) -> bool:
        for piece in pieces:
            if isinstance(piece, bytes):
                self._look(0)
                self._write(frame(piece))
            elif isinstance(piece, Pause):
                self._look(piece.seconds)
            elif piece is HOLD:
                while not self._upstream._take_permit():
                    self._look(None)
            else:
                self._break(piece)
                return False
        return True

    def _write(self, data: bytes) -> None:
        self._sock.sendall(data)

    def _break(self, how: Act) -> None:
        if how is RESET:
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._sock.close()

    def _look(self, timeout: float | None) -> None:
        """Waits for a wake-up or for the peer to hang up, which is an exception."""
        poll = select.poll()
        poll.register(self._sock, select.POLLRDHUP)
        poll.register(self._woken, select.POLLIN)
        for descriptor, _ in poll.poll(None if timeout is None else timeout * 1000):
            if descriptor == self._woken.fileno():
                self._woken.recv(1024)
                if self._upstream._closing:
                    raise _Closing
            elif not self._upstream._closing:
                raise _PeerGone


def _plain(data: bytes) -> bytes:
    return data


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data) if data else b""


def _head(answer: Answer) -> bytes:
    headers = {"x-request-id": f"req_{'0' * 32}", "openai-version": "2020-10-01", **answer.headers}
    if answer.framing == "chunked":
        headers["Transfer-Encoding"] = "chunked"
    elif answer.framing == "close":
        headers["Connection"] = "close"
    else:
        headers["Content-Length"] = str(len(answer.body))
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return f"HTTP/1.1 {answer.status} Scripted\r\n{lines}\r\n".encode("latin-1")


def closed_port() -> int:
    """A port on which nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
    return port


def self_signed(directory: Path) -> tuple[ssl.SSLContext, Path]:
    """What `tls=` takes, for 127.0.0.1, and the certificate's file for those who are to trust it."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "scripted upstream")])
    now = datetime.now(UTC)
    address = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([address]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, SHA256())
    )
    file, key_file = directory / "upstream.pem", directory / "upstream.key"
    file.write_bytes(certificate.public_bytes(Encoding.PEM))
    key_file.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(file, key_file)
    return context, file


@contextlib.contextmanager
def black_hole() -> Iterator[str]:
    """A base_url whose connections are never established: its backlog is full and nobody accepts."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(4):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(listener.getsockname())
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/v1"


# --- what the model says ----------------------------------------------------------------------------------------

STREAM_HEADERS = {"Content-Type": "text/event-stream; charset=utf-8", "Cache-Control": "no-store"}
SEAL = "gAAAA"
ITEM_IDS = {"message": "msg", "function_call": "fc", "reasoning": "rs", "compaction": "cmp", "custom_tool_call": "ctc"}
OUTPUTS = {"function_call_output": "function_call", "custom_tool_call_output": "custom_tool_call"}
DEFAULTS: JSON = {
    "background": False,
    "frequency_penalty": 0.0,
    "instructions": None,
    "max_output_tokens": None,
    "max_tool_calls": None,
    "parallel_tool_calls": True,
    "presence_penalty": 0.0,
    "previous_response_id": None,
    "prompt_cache_key": None,
    "prompt_cache_retention": None,
    "safety_identifier": None,
    "store": True,
    "temperature": 1.0,
    "tool_choice": "auto",
    "top_logprobs": 0,
    "top_p": 1.0,
    "truncation": "disabled",
    "user": None,
    "metadata": {},
}


class _Refusal(Exception):
    """An answer that is an error of the caller."""

    def __init__(self, status: int, message: str, code: str | None = None, param: str | None = None) -> None:
        super().__init__(message)
        self.status, self.message, self.code, self.param = status, message, code, param


def _envelope(refused: _Refusal) -> JSON:
    kind = {429: "requests"}.get(refused.status, "invalid_request_error" if refused.status < 500 else "server_error")
    error = {"message": refused.message, "type": kind, "param": refused.param, "code": refused.code}
    return {"error": error}


def _json_answer(body: JSON, status: int = 200) -> Answer:
    return Answer(status, {"Content-Type": "application/json"}, (orjson.dumps(body),))


def event_bytes(event: JSON) -> bytes:
    """An event as OpenAI writes it."""
    return b"event: %b\ndata: %b\n\n" % (event["type"].encode(), orjson.dumps(event))


class _Ids:
    """Ids that look random and follow from the port and the number of the request."""

    def __init__(self, seed: str) -> None:
        self._seed = seed
        self._count = itertools.count()

    def __call__(self, prefix: str, digits: int = 48) -> str:
        long = "".join(hashlib.sha256(f"{self._seed}/{next(self._count)}".encode()).hexdigest() for _ in range(4))
        return f"{prefix}_{long[:digits]}"


@dataclass(frozen=True, slots=True)
class _Model:
    family: str
    call_id_length: int

    def respond(self, body: JSON, ids: _Ids) -> Answer:
        _check_parameters(body)
        items = _as_items(body)
        self._check_items(items)
        output = self._output(body, items, ids)
        cut = any(item.get("status") == "incomplete" for item in output)
        final = _response(body, ids("resp"), output, "incomplete" if cut else "completed")
        if not body.get("stream"):
            return _json_answer(final)
        obfuscated = (body.get("stream_options") or {}).get("include_obfuscation", True)
        return Answer(200, STREAM_HEADERS, tuple(map(event_bytes, _events(final, obfuscated))), "chunked")

    def compact(self, body: JSON, ids: _Ids) -> Answer:
        _check_parameters(body)
        items = _as_items(body)
        self._check_items(items, open_calls=True)
        kept = [
            {"id": ids("msg"), "type": "message", "status": "completed", "role": "user", "content": _parts(item)}
            for item in items
            if item.get("role") == "user"
        ]
        output = [*kept, self._compaction(items, ids)]
        window = {"id": ids("resp"), "object": "response.compaction", "created_at": CREATED_AT, "output": output}
        return _json_answer({**window, "usage": _usage(body, output)})

    def chat(self, body: JSON, ids: _Ids) -> Answer:
        _check_chat(body)
        message, reason = _chat_message(body, ids, self.call_id_length)
        usage = _chat_usage(body, message)
        common = {"id": ids("chatcmpl", 24), "created": CREATED_AT, "model": _snapshot(body)}
        if not body.get("stream"):
            logprobs = {"content": _logprobs(message["content"] or "")} if body.get("logprobs") else None
            choice = {"index": 0, "message": message, "logprobs": logprobs, "finish_reason": reason}
            return _json_answer({**common, "object": "chat.completion", "choices": [choice], "usage": usage})
        chunks = _chat_chunks(message, reason, bool(body.get("logprobs")))
        if (body.get("stream_options") or {}).get("include_usage"):
            chunks = [*({**chunk, "usage": None} for chunk in chunks), {"choices": [], "usage": usage}]
        lines = (orjson.dumps({**common, "object": "chat.completion.chunk", **chunk}) for chunk in chunks)
        pieces = (*(b"data: %b\n\n" % line for line in lines), b"data: [DONE]\n\n")
        return Answer(200, STREAM_HEADERS, pieces, "chunked")

    # Opaque items

    def _seal(self, value: JSON) -> str:
        sealed = orjson.dumps({"family": self.family, **value})
        return SEAL + base64.urlsafe_b64encode(sealed).decode()

    def _unseal(self, item: JSON) -> JSON:
        try:
            value: JSON = orjson.loads(base64.urlsafe_b64decode(item["encrypted_content"].removeprefix(SEAL)))
        except ValueError:
            value = {}
        if value.get("family") != self.family:
            name = item.get("id") or item["type"]
            raise _Refusal(
                400, f"The encrypted content for item {name} could not be verified.", "invalid_encrypted_content"
            )
        return value

    def _compaction(self, items: list[JSON], ids: _Ids) -> JSON:
        said = [text for item in items for text in self._remembered(item)]
        return {"id": ids("cmp"), "type": "compaction", "encrypted_content": self._seal({"said": said})}

    def _remembered(self, item: JSON) -> list[str]:
        if item.get("type") == "compaction":
            return list(self._unseal(item)["said"])
        return [_text(item)] if item.get("role") == "user" else []

    # What is refused

    def _check_items(self, items: list[JSON], open_calls: bool = False) -> None:
        calls: dict[str, str] = {}
        outputs: set[str] = set()
        for position, item in enumerate(items):
            kind = item.get("type") or "message"
            if kind == "item_reference" or set(item) == {"id"}:
                raise _Refusal(404, f"Item with id '{item['id']}' not found.", None, "input")
            _check_ids(item, kind, position)
            if kind in ITEM_IDS and kind.endswith("_call"):
                calls[item["call_id"]] = kind
            if kind in OUTPUTS:
                if calls.get(item["call_id"]) != OUTPUTS[kind]:
                    name = OUTPUTS[kind].replace("_", " ")
                    raise _invalid_input(f"No tool call found for {name} output with call_id {item['call_id']}.")
                outputs.add(item["call_id"])
            if kind == "compaction" or item.get("encrypted_content"):
                self._unseal(item)
        missing = [call_id for call_id in calls if call_id not in outputs]
        if missing and not open_calls and items[-1].get("type") != "compaction_trigger":
            raise _invalid_input(f"No tool output found for function call {missing[0]}.")

    # What is answered

    def _output(self, body: JSON, items: list[JSON], ids: _Ids) -> list[JSON]:
        if items[-1].get("type") == "compaction_trigger":
            return [self._compaction(items, ids)]
        output = [*self._reasoning(body, ids), *self._answer(body, items, ids)]
        threshold = _compact_threshold(body)
        if threshold is not None and _usage(body, [])["input_tokens"] > threshold:
            output.append(self._compaction(items, ids))
        return output

    def _reasoning(self, body: JSON, ids: _Ids) -> list[JSON]:
        summarised = (body.get("reasoning") or {}).get("summary")
        sealed = "reasoning.encrypted_content" in (body.get("include") or ())
        if not (summarised or sealed):
            return []
        summary = [{"type": "summary_text", "text": "I have thought about it."}] if summarised else []
        item = {"id": ids("rs"), "type": "reasoning", "summary": summary}
        return [{**item, "encrypted_content": self._seal({"thought": item["id"]})} if sealed else item]

    def _answer(self, body: JSON, items: list[JSON], ids: _Ids) -> list[JSON]:
        asked = _last_text(items)
        tools = _tools_to_call(body, asked, answered=str(items[-1].get("type")) in OUTPUTS)
        if tools:
            said = [_message(ids, "Let me look.", body)] if "explain" in asked else []
            return said + [self._call(tool, number, ids) for number, tool in enumerate(tools)]
        if "refuse" in asked:
            content = [{"type": "refusal", "refusal": "I cannot help with that."}]
            return [
                {"id": ids("msg"), "type": "message", "status": "completed", "role": "assistant", "content": content}
            ]
        if "search" in asked and any(tool["type"].startswith("web_search") for tool in body.get("tools") or ()):
            return _searched(asked, ids, body)
        return [_message(ids, self._sentence(body, items), body)]

    def _call(self, tool: JSON, number: int, ids: _Ids) -> JSON:
        call_id = ids("call", self.call_id_length - len("call_"))
        if tool["type"] == "custom":
            item = {"id": ids("ctc"), "type": "custom_tool_call", "call_id": call_id, "name": tool["name"]}
            return {**item, "input": f"{tool['name']} number {number}"}
        arguments = orjson.dumps(_example(tool.get("parameters") or {}, number)).decode()
        item = {"id": ids("fc"), "type": "function_call", "status": "completed", "call_id": call_id}
        return {**item, "name": tool["name"], "arguments": arguments}

    def _sentence(self, body: JSON, items: list[JSON]) -> str:
        form = (body.get("text") or {}).get("format") or {"type": "text"}
        if form["type"] == "json_schema":
            return orjson.dumps(_example(form["schema"])).decode()
        if form["type"] == "json_object":
            return orjson.dumps({"you_said": _last_text(items)}).decode()
        results = [_output_text(item) for item in _trailing_outputs(items)]
        images = sum(part["type"] == "input_image" for item in items for part in _parts(item))
        memory = [text for item in items if item.get("type") == "compaction" for text in self._remembered(item)]
        return " ".join(
            [
                f"The tools said: {', '.join(results)}." if results else f"You said: {_last_text(items)}.",
                f"I have seen {len(items)} items.",
                *([f"I see {images} images."] if images else []),
                *([f"I remember: {'; '.join(memory)}."] if memory else []),
            ]
        )


def _check_model(name: Any, models: tuple[str, ...] | None, status: int) -> None:
    if not name:
        raise _Refusal(400, "Missing required parameter: 'model'.", "missing_required_parameter", "model")
    if models is not None and name not in models:
        param = "model" if status == 400 else None
        raise _Refusal(status, f"The requested model '{name}' does not exist.", "model_not_found", param)


def _check_parameters(body: JSON) -> None:
    limit = body.get("max_output_tokens")
    if limit is not None and limit < 16:
        raise _Refusal(
            400,
            "Invalid 'max_output_tokens': integer below minimum value. "
            f"Expected a value >= 16, but got {limit} instead.",
            "integer_below_min_value",
            "max_output_tokens",
        )
    if previous := body.get("previous_response_id"):
        raise _Refusal(
            400,
            f"Previous response with id '{previous}' not found.",
            "previous_response_not_found",
            "previous_response_id",
        )
    for name in ("conversation", "background", "background_options", "generate", "stream_id"):
        if body.get(name):
            raise _Refusal(400, f"Unknown parameter: '{name}'.", "unknown_parameter", name)


def _check_ids(item: JSON, kind: str, position: int) -> None:
    prefix, given = ITEM_IDS.get(kind), item.get("id")
    if prefix and given and not given.startswith(prefix):
        message = f"Invalid 'input[{position}].id': '{given}'. Expected an ID that begins with '{prefix}'."
        raise _Refusal(400, message, "invalid_value", f"input[{position}].id")
    length = len(item.get("call_id") or "")
    if length > 64:
        message = (
            f"Invalid 'input[{position}].call_id': string too long. "
            f"Expected a string with maximum length 64, but got a string with length {length} instead."
        )
        raise _Refusal(400, message, "string_above_max_length", f"input[{position}].call_id")


def _invalid_input(message: str) -> _Refusal:
    return _Refusal(400, message, None, "input")


def _as_items(body: JSON) -> list[JSON]:
    given = body.get("input")
    if not given:
        raise _Refusal(400, "Missing required parameter: 'input'.", "missing_required_parameter", "input")
    return [{"type": "message", "role": "user", "content": given}] if isinstance(given, str) else given


def _parts(item: JSON) -> list[JSON]:
    content = item.get("content") or []
    return [{"type": "input_text", "text": content}] if isinstance(content, str) else content


def _text(item: JSON) -> str:
    return " ".join(part["text"] for part in _parts(item) if part.get("text"))


def _last_text(items: list[JSON]) -> str:
    return next((_text(item) for item in reversed(items) if item.get("role") == "user"), "")


def _trailing_outputs(items: list[JSON]) -> list[JSON]:
    backwards = itertools.takewhile(lambda item: item.get("type") in OUTPUTS, reversed(items))
    return list(backwards)[::-1]


def _output_text(item: JSON) -> str:
    output = item["output"]
    return output if isinstance(output, str) else _text({"content": output})


def _compact_threshold(body: JSON) -> int | None:
    entries = body.get("context_management") or ()
    return next((entry["compact_threshold"] for entry in entries if entry["type"] == "compaction"), None)


def _tools_to_call(body: JSON, asked: str, answered: bool) -> list[JSON]:
    """Which tools a body of either format makes the model call. `answered`: the newest items are tool outputs."""
    tools = [_flat(tool) for tool in body.get("tools") or () if tool["type"] in ("function", "custom")]
    choice = body.get("tool_choice") or "auto"
    named = _chosen_names(choice)
    if named:
        tools = [tool for tool in tools if tool["name"] in named]
        if not tools:
            raise _Refusal(400, f"Tool choice '{named[0]}' not found in 'tools' parameter.", None, "tool_choice")
    demanded = choice == "required" or (
        isinstance(choice, dict) and (choice["type"] != "allowed_tools" or choice["mode"] == "required")
    )
    wanted = "weather" in asked and not answered and choice != "none"
    if not tools or not (demanded or wanted):
        return []
    both = "both" in asked and body.get("parallel_tool_calls") is not False
    return [tools[0], tools[-1]] if both else tools[:1]


def _chosen_names(choice: Any) -> list[str]:
    if not isinstance(choice, dict):
        return []
    chosen = choice["tools"] if choice["type"] == "allowed_tools" else [choice]
    return [_flat(tool)["name"] for tool in chosen if tool["type"] in ("function", "custom")]


def _flat(tool: JSON) -> JSON:
    """Chat completions put a function's fields one level down."""
    inner = tool.get(tool["type"])
    return {"type": tool["type"], **inner} if isinstance(inner, dict) else tool


def _example(schema: JSON, number: int = 0, root: JSON | None = None) -> Any:
    """A value that fits a JSON schema."""
    root = schema if root is None else root
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return _example(root["$defs"][name], number, root)
    if "const" in schema or "enum" in schema:
        return schema.get("const", schema.get("enum", [None])[0])
    if "anyOf" in schema:
        return _example(schema["anyOf"][0], number, root)
    kind = schema.get("type", "object")
    kind = kind[0] if isinstance(kind, list) else kind
    if kind == "object":
        return {name: _example(inner, number, root) for name, inner in schema.get("properties", {}).items()}
    if kind == "array":
        return [_example(schema.get("items", {"type": "string"}), number, root)]
    simple = {"string": ("Oslo", "Bergen")[number % 2], "boolean": True, "null": None}
    return simple.get(kind, schema.get("minimum", 7))


def _words(text: str) -> list[str]:
    return re.findall(r"\s*\S+|\s+\Z", text)


def _message(ids: _Ids, text: str, body: JSON, annotations: Iterable[JSON] = ()) -> JSON:
    limit = body.get("max_output_tokens")
    cut = limit is not None and limit <= 20
    said = "".join(_words(text)[:3]) if cut else text
    logged = "message.output_text.logprobs" in (body.get("include") or ())
    part = {"type": "output_text", "text": said, "annotations": list(annotations)}
    part["logprobs"] = _logprobs(said) if logged else []
    status = "incomplete" if cut else "completed"
    return {"id": ids("msg"), "type": "message", "status": status, "role": "assistant", "content": [part]}


def _logprobs(text: str) -> list[JSON]:
    return [{"token": word, "logprob": -0.5, "bytes": list(word.encode()), "top_logprobs": []} for word in _words(text)]


def _searched(asked: str, ids: _Ids, body: JSON) -> list[JSON]:
    action = {"type": "search", "query": asked, "queries": [asked]}
    cited = {"type": "url_citation", "start_index": 0, "end_index": 5, "title": "Found", "url": "https://example.org/"}
    call = {"id": ids("ws"), "type": "web_search_call", "status": "completed", "action": action}
    return [call, _message(ids, "Found one page.", body, [cited])]


def _snapshot(body: JSON) -> str:
    return f"{body['model']}-2026-01-01"


def _model_card(name: str) -> JSON:
    return {"id": name, "object": "model", "created": CREATED_AT, "owned_by": "scripted"}


def _usage(body: JSON, output: list[JSON]) -> JSON:
    """Counted from lengths, so that longer input costs more, always the same."""
    read = max(1, len(orjson.dumps([body.get("instructions"), body.get("input")])) // 4)
    thought = 8 * sum(item["type"] == "reasoning" for item in output)
    written = thought + max(1, len(orjson.dumps(output)) // 40)
    return {
        "input_tokens": read,
        "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
        "output_tokens": written,
        "output_tokens_details": {"reasoning_tokens": thought},
        "total_tokens": read + written,
    }


def _response(body: JSON, response_id: str, output: list[JSON], status: str) -> JSON:
    given = {name: body[name] for name in DEFAULTS if body.get(name) is not None}
    text = {"format": {"type": "text"}, "verbosity": "medium", **(body.get("text") or {})}
    return {
        "id": response_id,
        "object": "response",
        "created_at": CREATED_AT,
        "status": status,
        "completed_at": CREATED_AT + 2 if status == "completed" else None,
        "error": None,
        "incomplete_details": {"reason": "max_output_tokens"} if status == "incomplete" else None,
        "model": _snapshot(body),
        "output": output,
        "reasoning": {"effort": None, "summary": None, **(body.get("reasoning") or {})},
        "service_tier": "default",
        "text": text,
        "tools": [_echoed(tool) for tool in body.get("tools") or ()],
        "usage": _usage(body, output),
        **DEFAULTS,
        **given,
    }


def _echoed(tool: JSON) -> JSON:
    required = {"description": None, "parameters": None, "strict": True} if tool["type"] == "function" else {}
    return {**required, **tool}


# --- the events of a response -----------------------------------------------------------------------------------


def _events(final: JSON, obfuscated: bool) -> Iterator[JSON]:
    """The stream that ends in this response."""
    begun: JSON = {
        "status": "in_progress",
        "completed_at": None,
        "incomplete_details": None,
        "output": [],
        "usage": None,
    }
    started = {**final, **begun, "service_tier": "auto"}
    unnumbered = itertools.chain(
        [("response.created", {"response": started}), ("response.in_progress", {"response": started})],
        *(_item_events(item, index) for index, item in enumerate(final["output"])),
        [(f"response.{final['status']}", {"response": final})],
    )
    for number, (kind, fields) in enumerate(unnumbered):
        mask = {"obfuscation": "x" * (number % 7 + 1)} if obfuscated and kind.endswith(".delta") else {}
        yield {"type": kind, "sequence_number": number, **fields, **mask}


def _item_events(item: JSON, index: int) -> Iterator[tuple[str, JSON]]:
    opened, between = ITEM_EVENTS[item["type"]](item)
    yield "response.output_item.added", {"output_index": index, "item": opened}
    for kind, fields in between:
        yield f"response.{kind}", {"item_id": item["id"], "output_index": index, **fields}
    yield "response.output_item.done", {"output_index": index, "item": item}


_Between = list[tuple[str, JSON]]


def _message_events(item: JSON) -> tuple[JSON, _Between]:
    events: _Between = []
    for index, part in enumerate(item["content"]):
        at = {"content_index": index}
        kind, key = ("refusal", "refusal") if part["type"] == "refusal" else ("output_text", "text")
        empty: JSON = {"type": kind, key: ""} | ({"annotations": [], "logprobs": []} if key == "text" else {})
        events.append(("content_part.added", {**at, "part": empty}))
        for number, word in enumerate(_words(part[key])):
            logged = {"logprobs": part["logprobs"][number : number + 1]} if key == "text" else {}
            events.append((f"{kind}.delta", {**at, "delta": word, **logged}))
        for number, annotation in enumerate(part.get("annotations", ())):
            note = {**at, "annotation_index": number, "annotation": annotation}
            events.append(("output_text.annotation.added", note))
        logged = {"logprobs": part["logprobs"]} if key == "text" else {}
        events.append((f"{kind}.done", {**at, key: part[key], **logged}))
        events.append(("content_part.done", {**at, "part": part}))
    return {**item, "status": "in_progress", "content": []}, events


def _reasoning_events(item: JSON) -> tuple[JSON, _Between]:
    events: _Between = []
    for index, part in enumerate(item["summary"]):
        at = {"summary_index": index}
        events.append(("reasoning_summary_part.added", {**at, "part": {"type": "summary_text", "text": ""}}))
        events += [("reasoning_summary_text.delta", {**at, "delta": word}) for word in _words(part["text"])]
        events.append(("reasoning_summary_text.done", {**at, "text": part["text"]}))
        events.append(("reasoning_summary_part.done", {**at, "part": part}))
    return {**item, "summary": []}, events


def _function_call_events(item: JSON) -> tuple[JSON, _Between]:
    deltas = _fragments(item["arguments"])
    events: _Between = [("function_call_arguments.delta", {"delta": delta}) for delta in deltas]
    events.append(("function_call_arguments.done", {"arguments": item["arguments"]}))
    return {**item, "status": "in_progress", "arguments": ""}, events


def _custom_call_events(item: JSON) -> tuple[JSON, _Between]:
    events: _Between = [("custom_tool_call_input.delta", {"delta": delta}) for delta in _fragments(item["input"])]
    events.append(("custom_tool_call_input.done", {"input": item["input"]}))
    return {**item, "input": ""}, events


def _search_events(item: JSON) -> tuple[JSON, _Between]:
    steps: _Between = [(f"web_search_call.{step}", {}) for step in ("in_progress", "searching", "completed")]
    return {key: value for key, value in item.items() if key != "action"} | {"status": "in_progress"}, steps


def _compaction_events(item: JSON) -> tuple[JSON, _Between]:
    return item, []


ITEM_EVENTS = {
    "message": _message_events,
    "reasoning": _reasoning_events,
    "function_call": _function_call_events,
    "custom_tool_call": _custom_call_events,
    "web_search_call": _search_events,
    "compaction": _compaction_events,
}


def _fragments(text: str, size: int = 9) -> list[str]:
    return [text[start : start + size] for start in range(0, len(text), size)]


# --- chat completions -------------------------------------------------------------------------------------------

CHAT_PARTS = ("text", "image_url", "input_audio", "refusal", "file")


def _check_chat(body: JSON) -> None:
    if not body.get("messages"):
        raise _Refusal(400, "Missing required parameter: 'messages'.", "missing_required_parameter", "messages")
    if body.get("tools") == []:
        raise _Refusal(
            400, "Invalid 'tools': empty array. Expected an array with minimum length 1.", "empty_array", "tools"
        )
    for name in ("tool_choice", "parallel_tool_calls"):
        if name in body and not body.get("tools"):
            raise _Refusal(
                400, f"Invalid value for '{name}': '{name}' is only allowed when 'tools' are specified.", None, name
            )
    _check_turns(body["messages"])
    for position, message in enumerate(body["messages"]):
        for number, part in enumerate(_chat_parts(message)):
            if part["type"] not in CHAT_PARTS:
                listed = ", ".join(f"'{name}'" for name in CHAT_PARTS)
                at = f"messages[{position}].content[{number}].type"
                raise _Refusal(
                    400, f"Invalid value: '{part['type']}'. Supported values are: {listed}.", "invalid_value", at
                )


def _check_turns(messages: list[JSON]) -> None:
    """Each call is answered right after the message that made it, and nothing else is."""
    waiting: list[str] = []
    for position, message in enumerate([*messages, {"role": "end"}]):
        if message["role"] == "tool":
            if message["tool_call_id"] not in waiting:
                text = "messages with role 'tool' must be a response to a preceeding message with 'tool_calls'."
                raise _Refusal(400, f"Invalid parameter: {text}", None, f"messages[{position}].role")
            waiting.remove(message["tool_call_id"])
        elif waiting:
            text = "An assistant message with 'tool_calls' must be followed by tool messages responding to each"
            missing = f"The following tool_call_ids did not have response messages: {', '.join(waiting)}"
            raise _Refusal(400, f"{text} 'tool_call_id'. {missing}", None, f"messages[{position}].role")
        else:
            waiting = [call["id"] for call in message.get("tool_calls") or ()]


def _chat_parts(message: JSON) -> list[JSON]:
    content = message.get("content") or []
    return [{"type": "text", "text": content}] if isinstance(content, str) else content


def _chat_message(body: JSON, ids: _Ids, call_id_length: int) -> tuple[JSON, str]:
    messages = body["messages"]
    asked = next((_chat_text(message) for message in reversed(messages) if message["role"] == "user"), "")
    message: JSON = {"role": "assistant", "content": None, "refusal": None}
    if "think" in asked:
        message["reasoning_content"] = "I have thought about it."
    tools = _tools_to_call(body, asked, answered=messages[-1]["role"] == "tool")
    if tools:
        message["content"] = "Let me look." if "explain" in asked else None
        message["tool_calls"] = [_chat_call(tool, number, ids, call_id_length) for number, tool in enumerate(tools)]
        return message, "tool_calls"
    if "refuse" in asked:
        return {**message, "refusal": "I cannot help with that."}, "stop"
    text = _chat_sentence(body, asked)
    limit = body.get("max_completion_tokens") or body.get("max_tokens")
    if limit is not None and limit <= 20:
        return {**message, "content": "".join(_words(text)[:3])}, "length"
    return {**message, "content": text}, "stop"


def _chat_text(message: JSON) -> str:
    return " ".join(part["text"] for part in _chat_parts(message) if part.get("text"))


def _chat_call(tool: JSON, number: int, ids: _Ids, call_id_length: int) -> JSON:
    arguments = orjson.dumps(_example(tool.get("parameters") or {}, number)).decode()
    function = {"name": tool["name"], "arguments": arguments}
    return {"id": ids("call", call_id_length - len("call_")), "type": "function", "function": function}


def _chat_sentence(body: JSON, asked: str) -> str:
    form = body.get("response_format") or {"type": "text"}
    if form["type"] == "json_schema":
        return orjson.dumps(_example(form["json_schema"]["schema"])).decode()
    if form["type"] == "json_object":
        return orjson.dumps({"you_said": asked}).decode()
    messages = body["messages"]
    results = list(itertools.takewhile(lambda message: message["role"] == "tool", reversed(messages)))[::-1]
    images = sum(part["type"] == "image_url" for message in messages for part in _chat_parts(message))
    said = f"The tools said: {', '.join(map(_chat_text, results))}." if results else f"You said: {asked}."
    seen = f" I have seen {len(messages)} messages."
    return said + seen + (f" I see {images} images." if images else "")


def _chat_usage(body: JSON, message: JSON) -> JSON:
    read = max(1, len(orjson.dumps(body["messages"])) // 4)
    thought = 8 if "reasoning_content" in message else 0
    written = thought + max(1, len(orjson.dumps(message)) // 20)
    return {
        "prompt_tokens": read,
        "completion_tokens": written,
        "total_tokens": read + written,
        "prompt_tokens_details": {"cached_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": thought},
    }


def _chat_chunks(message: JSON, reason: str, logged: bool) -> list[JSON]:
    deltas: list[JSON] = [{"role": "assistant", "content": "", "refusal": None}]
    deltas += [{"reasoning_content": word} for word in _words(message.get("reasoning_content") or "")]
    words = _words(message["content"] or "")
    first = len(deltas)
    deltas += [{"content": word} for word in words]
    deltas += [{"refusal": word} for word in _words(message["refusal"] or "")]
    for index, call in enumerate(message.get("tool_calls", ())):
        function = {"name": call["function"]["name"], "arguments": ""}
        deltas.append({"tool_calls": [{"index": index, **call, "function": function}]})
        for fragment in _fragments(call["function"]["arguments"]):
            deltas.append({"tool_calls": [{"index": index, "function": {"arguments": fragment}}]})
    chunks: list[JSON] = [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": None} for delta in deltas]
    if logged:
        for chunk, word in zip(chunks[first:], words, strict=False):
            chunk["logprobs"] = {"content": _logprobs(word)}
    chunks.append({"index": 0, "delta": {}, "logprobs": None, "finish_reason": reason})
    return [{"choices": [chunk]} for chunk in chunks]


# --- by hand ----------------------------------------------------------------------------------------------------


ENDS = {signal.SIGINT, signal.SIGTERM}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.upstream", description="A scripted upstream, by hand.")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--sloppy", action="store_true", help="a dialect like llama.cpp's")
    parser.add_argument("--close-delimited", action="store_true", help="bodies end with the connection")
    parser.add_argument("--api-key", help="refuse any other key")
    parser.add_argument("--models", type=lambda names: names.split(","), help="refuse any other model")
    chosen = parser.parse_args()
    standing = [*([sloppy()] if chosen.sloppy else []), *([framed("close")] if chosen.close_delimited else [])]
    signal.pthread_sigmask(signal.SIG_BLOCK, ENDS)
    with ScriptedUpstream(models=chosen.models, api_key=chosen.api_key, port=chosen.port) as upstream:
        upstream.always(*standing)
        print(upstream.base_url, flush=True)
        signal.sigwait(ENDS)


if __name__ == "__main__":
    main()
