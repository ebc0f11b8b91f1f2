"""The server: real HTTP/1.1 on a loopback socket, in threads. Also ports and addresses that never answer."""

from __future__ import annotations

import contextlib
import ipaddress
import select
import socket
import ssl
import struct
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import TracebackType
from typing import Any, Self, cast

import orjson
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from tests.upstream import chat_completions, messages, responses
from tests.upstream.chat_completions import TOLERANT, Dialect
from tests.upstream.exchange import (
    FIN,
    HOLD,
    JSON,
    RESET,
    Act,
    Answer,
    Exchange,
    Format,
    Pause,
    Piece,
    Recorded,
    Refused,
    Script,
    json_answer,
)
from tests.upstream.model import Ids, model_card

PATIENCE = 60.0
#: The formats of the errors of these paths. Errors of all other paths are OpenAI's.
FORMATS = {"/v1/chat/completions": chat_completions, "/v1/messages": messages}


class _PeerGone(Exception):
    """The peer hung up before its answer was complete."""


class _Closing(Exception):
    """The test is over."""


class ScriptedUpstream:
    """The server. `base_url` ends in /v1, `requests` holds every POST, `listings` every other request. `cards` holds
    bodies of further GET requests, by path, and may replace the list of models."""

    def __init__(
        self,
        *,
        models: Iterable[str] | None = None,
        api_key: str | None = None,
        family: str | None = None,
        call_id_length: int = 29,
        dialect: Dialect = TOLERANT,
        port: int = 0,
        tls: ssl.SSLContext | None = None,
        nodelay: int = 1,
    ) -> None:
        """`family`: upstreams of one family read each other's opaque items; by default each is its own.
        `dialect`: how its chat completions deviate. `nodelay`: TCP_NODELAY; with 0, as many servers have it, the kernel
        holds a small write back until the one before it has been confirmed.
        """
        self._listener = socket.create_server(("127.0.0.1", port), backlog=128)
        self.port: int = self._listener.getsockname()[1]
        self.base_url = f"{'https' if tls else 'http'}://127.0.0.1:{self.port}/v1"
        self.models = None if models is None else tuple(models)
        self.api_key = api_key
        self.requests: list[Recorded] = []
        self.listings: list[Recorded] = []
        self.cards: dict[str, JSON] = {}
        self.hangups: list[Recorded] = []
        self.connections = 0
        family = family or f"family-{self.port}"
        model = responses.Model(family, call_id_length)
        self._answers: dict[str, Callable[[JSON, Ids], Answer]] = {
            "/v1/responses": model.respond,
            "/v1/responses/compact": model.compact,
            "/v1/chat/completions": chat_completions.Model(call_id_length, dialect).answer,
            "/v1/messages": messages.Model(family, call_id_length).answer,
        }
        self._tls = tls
        self._nodelay = nodelay
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
        """Ends every connection, those on hold included, and waits for the threads."""
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
        """Ends this many holds. Those that are left over end later holds."""
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
        """A row of the channel table for this upstream."""
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
        """Waits for the request of that number, counted from 1."""
        self._await(lambda: len(self.requests) >= number, timeout, f"{number} requests")
        return self.requests[number - 1]

    def wait_hangup(self, number: int = 1, timeout: float = PATIENCE) -> Recorded:
        """Waits until that many peers hung up before the end of their answer. Returns the request of the last one."""
        self._await(lambda: len(self.hangups) >= number, timeout, f"{number} hang-ups")
        return self.hangups[number - 1]

    def wait_connections(self, count: int, timeout: float = PATIENCE) -> None:
        """Waits until exactly this many connections are open, idle ones included."""
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
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, self._nodelay)
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
            # The gateway asks for the models whenever it likes, so that tests could not count such requests.
            recorded = self.requests if method == "POST" else self.listings
            request = Recorded(method, path, headers, raw, body, connection, len(recorded) + 1)
            recorded.append(request)
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
        exchange = Exchange(request, lambda body: self._by_itself(request, body), _format_of(request))
        answer = self._by_itself(request, request.body)
        if request.method != "POST":
            # Or the next request would find a used connection, depending on when the gateway asked.
            return replace(answer, headers={**answer.headers, "Connection": "close"}, trail=(*answer.trail, FIN))
        for script in self._next_scripts():
            answer = script(exchange, answer)
        return answer

    def _next_scripts(self) -> tuple[Script, ...]:
        with self._changed:
            return self._scripts.popleft() if self._scripts else self._standing

    def _by_itself(self, request: Recorded, body: Any) -> Answer:
        spoken = _format_of(request)
        try:
            spoken.admit(request.headers, self.api_key)
            return self._route(request, body, spoken)
        except Refused as refused:
            return json_answer(spoken.envelope(refused), refused.status)

    def _route(self, request: Recorded, body: Any, spoken: Format) -> Answer:
        path = _path_of(request)
        if request.method == "GET" and path in self.cards:
            return json_answer(self.cards[path])
        if (request.method, path) == ("GET", "/v1/models"):
            return json_answer({"object": "list", "data": [model_card(name) for name in self.models or ("m",)]})
        if request.method != "POST" or path not in self._answers:
            raise Refused(404, f"Invalid URL ({request.method} {path})")
        if not isinstance(body, dict):
            raise Refused(400, "We could not parse the JSON body of your request.")
        spoken.check_model(body.get("model"), self.models)
        return self._answers[path](body, Ids(f"{self.port}/{request.number}"))


def _path_of(request: Recorded) -> str:
    return request.path.partition("?")[0]


def _format_of(request: Recorded) -> Format:
    return cast(Format, FORMATS.get(_path_of(request), responses))


class _Connection(threading.Thread):
    """One connection: reads requests and answers them until either side closes it."""

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
    """A base_url whose connections are never established: the backlog is full, and nothing accepts from it."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(4):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(listener.getsockname())
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/v1"


@contextlib.contextmanager
def mute() -> Iterator[str]:
    """A base_url of a server that takes connections and says nothing, not even how TLS begins."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(64)
        yield f"https://127.0.0.1:{listener.getsockname()[1]}/v1"
