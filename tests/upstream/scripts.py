"""Functions that return a `Script`, which changes an upstream's answer."""

from __future__ import annotations

import gzip
import itertools
import random
import re
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace

import orjson

from tests.upstream.exchange import (
    FIN,
    HOLD,
    JSON,
    STREAM_HEADERS,
    Act,
    Answer,
    Exchange,
    Framing,
    Pause,
    Piece,
    Refused,
    Script,
    event_bytes,
    is_event,
    parsed,
)


def raw(status: int, body: bytes = b"", content_type: str = "application/json", **headers: str) -> Script:
    """Exactly this status and body. Underscores in header names become dashes."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return lambda exchange, answer: Answer(status, {"Content-Type": content_type, **named}, (body,))


def refusal(
    status: int, message: str = "No.", code: str | None = None, param: str | None = None, **headers: str
) -> Script:
    """An error in the format's own envelope."""

    def script(exchange: Exchange, answer: Answer) -> Answer:
        body = exchange.format.envelope(Refused(status, message, code, param))
        return raw(status, orjson.dumps(body), **headers)(exchange, answer)

    return script


def too_long() -> Script:
    """A refusal of the context's length, in the format's own words."""

    def script(exchange: Exchange, answer: Answer) -> Answer:
        refused = exchange.format.too_long()
        return raw(refused.status, orjson.dumps(exchange.format.envelope(refused)))(exchange, answer)

    return script


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
    """Sends nothing more after that many events, until it is released."""
    return lambda exchange, answer: replace(
        answer, pieces=(*_first(answer, after), HOLD, *itertools.islice(answer.pieces, after, None))
    )


def stepped() -> Script:
    """Waits for a release before each event."""
    return lambda exchange, answer: replace(
        answer, pieces=tuple(part for piece in answer.pieces for part in (HOLD, piece))
    )


def dropped(after: int, how: Act = FIN) -> Script:
    """The connection breaks after that many events; a chunked body is left without its last chunk."""
    return lambda exchange, answer: replace(answer, pieces=(*_first(answer, after), how))


def ended(after: int) -> Script:
    """The body ends properly after that many events, as if the stream were complete."""
    return lambda exchange, answer: replace(answer, pieces=_first(answer, after))


def unterminated() -> Script:
    """The stream without its last events, ended properly."""
    return lambda exchange, answer: replace(answer, pieces=tuple(answer.pieces)[: -answer.ending])


def continued(*extra: Piece) -> Script:
    """Sends more after the last event."""
    return lambda exchange, answer: replace(answer, pieces=(*answer.pieces, *extra))


def failing(after: int, code: str = "server_error", message: str = "The model broke.") -> Script:
    """The events of a failed stream in this format, after that many events, at least one."""

    def script(exchange: Exchange, answer: Answer) -> Answer:
        head = _first(answer, after)
        failure = exchange.format.failure(head, Refused(500, message, code))
        return replace(answer, pieces=(*head, *map(event_bytes, failure)))

    return script


def failing_at_once(code: str = "server_error", message: str = "The model broke.") -> Script:
    """A 200 with the error as its first event."""

    def script(exchange: Exchange, answer: Answer) -> Answer:
        failure = exchange.format.failure((), Refused(500, message, code))
        return sse(*map(event_bytes, failure))(exchange, answer)

    return script


def rewritten(change: Callable[[JSON], JSON | None]) -> Script:
    """Each event, or the one JSON body, passed through `change`; None leaves an event out."""

    def script(exchange: Exchange, answer: Answer) -> Answer:
        if not answer.streams:
            return replace(answer, pieces=(orjson.dumps(change(orjson.loads(answer.body))),))
        changed = ((piece, change(parsed(piece)) if is_event(piece) else None) for piece in answer.pieces)
        return replace(
            answer,
            pieces=tuple(
                event_bytes(event) if event is not None else piece
                for piece, event in changed
                if event is not None or not is_event(piece)
            ),
        )

    return script


def retold(change: Callable[[JSON], JSON]) -> Script:
    """The whole answer passed through `change`, in one piece or as the stream that says the same."""

    def script(exchange: Exchange, answer: Answer) -> Answer:
        whole = json_instead()(exchange, answer) if answer.streams else answer
        body = change(orjson.loads(whole.body))
        return replace(answer, pieces=exchange.format.stream(body) if answer.streams else (orjson.dumps(body),))

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
    """Bytes that are no event after that many events."""
    return lambda exchange, answer: replace(
        answer, pieces=(*_first(answer, after), data, *itertools.islice(answer.pieces, after, None))
    )


def invalid_utf8() -> Script:
    """A byte that is invalid in UTF-8, inside the first delta's text."""
    return respelled(lambda body: re.sub(rb'("(?:delta|text|content)":")(?=[^"])', b"\\1\xff", body, count=1))


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
    """Announces the end of the connection, and closes it."""
    return lambda exchange, answer: replace(
        answer, headers={**answer.headers, "Connection": "close"}, trail=(*answer.trail, FIN)
    )


def going_stale() -> Script:
    """Closes the connection after the answer without announcing it.

    The next request may meet a closed connection or one about to close; `slammed()` for that one is always the latter.
    """
    return lambda exchange, answer: replace(answer, trail=(*answer.trail, FIN))


def followed(written: threading.Event, *pieces: Piece) -> Script:
    """More on the connection after an answer that was over; `written` is set when it has been sent."""

    def trail(answer: Answer) -> Iterator[Piece]:
        try:
            yield from answer.trail
            yield from pieces
        finally:
            written.set()

    return lambda exchange, answer: replace(answer, trail=trail(answer))


def json_instead() -> Script:
    """A JSON body although the request wants a stream."""

    def script(exchange: Exchange, answer: Answer) -> Answer:
        # Anthropic's API does not know these options, and no API takes them without a stream.
        asked = {name: value for name, value in exchange.request.body.items() if name != "stream_options"}
        return exchange.reply({**asked, "stream": False})

    return script


def stream_instead() -> Script:
    """A stream although the request wants JSON."""
    return lambda exchange, answer: exchange.reply({**exchange.request.body, "stream": True})


def endless_line(after: int = 2) -> Script:
    """An endless event, as fast as the peer reads it."""
    return lambda exchange, answer: replace(
        answer, pieces=itertools.chain(_first(answer, after), [b"data: "], itertools.repeat(b"x" * 65536))
    )


def dripping(after: int = 2, interval: float = 0.02) -> Script:
    """An endless event, one byte at a time with pauses."""
    drops = _drops(interval)
    return lambda exchange, answer: replace(answer, pieces=itertools.chain(_first(answer, after), [b"data: "], drops))


def dripping_head(interval: float = 0.02) -> Script:
    """An endless header line, one byte at a time with pauses."""
    drops = _drops(interval)
    return lambda exchange, answer: Answer(lead=itertools.chain([b"HTTP/1.1 200 OK\r\nX-Slow: "], drops))


def zipped() -> Script:
    """gzip, although the request does not accept it."""
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
    members = ("id", "object", "created_at", "completed_at", "status", "model", "error", "incomplete_details")
    usage = body["usage"] and {key: body["usage"][key] for key in ("input_tokens", "output_tokens", "total_tokens")}
    return {
        **{key: body[key] for key in members if body[key] is not None},
        "output": [_sloppy_item(item) for item in body["output"]],
        "usage": usage,
    }
