"""A client of the gateway's WebSockets: frames out, frames in, and whole turns that keep the contract."""

from __future__ import annotations

import contextlib
import itertools
import json
import secrets
import socket
from base64 import b64encode
from collections.abc import Mapping
from typing import Any

import orjson
from websockets.exceptions import ConnectionClosedError
from websockets.sync.client import ClientConnection, connect

from tests.gateway import STOP_WITHIN, Gateway
from tests.response_contract import SENTINEL, check_stream
from tests.upstream import event_bytes

JSON = dict[str, Any]
TERMINAL = frozenset({"error", "response.completed", "response.failed", "response.incomplete"})
CREATE = {"type": "response.create", "model": "m", "input": "Say something to me"}


class Socket(contextlib.AbstractContextManager["Socket"]):
    """`wire` is the connection as its library gives it, which takes `options`."""

    def __init__(
        self,
        gateway: Gateway,
        token: str | None = None,
        headers: Mapping[str, str] | None = None,
        **options: Any,
    ) -> None:
        headers = {"Authorization": f"Bearer {token or gateway.token}", **(headers or {})}
        url = f"{gateway.base_url.replace('http', 'ws', 1)}/responses"
        self.wire: ClientConnection = connect(url, additional_headers=headers, proxy=None, **options)

    def __exit__(self, *_: object) -> None:
        self.wire.close()

    def ask(self, **keys: Any) -> None:
        self.send({**CREATE, **keys})

    def send(self, frame: Any) -> None:
        self.wire.send(frame if isinstance(frame, str | bytes) else orjson.dumps(frame).decode())

    def receive(self) -> JSON:
        frame: JSON = json.loads(self.wire.recv(STOP_WITHIN))
        return frame

    def rest(self) -> list[JSON]:
        """The frames up to the one that ends a turn."""
        frames = [self.receive()]
        while frames[-1]["type"] not in TERMINAL:
            frames.append(self.receive())
        return frames

    def turn(self, **keys: Any) -> list[JSON]:
        self.ask(**keys)
        return self.rest()

    def answer(self, **keys: Any) -> JSON:
        """The response of a turn that is completed, its events as the contract wants them."""
        frames = self.turn(**keys)
        check_frames(frames, status="completed")
        return dict(frames[-1]["response"])

    def refused(self, **keys: Any) -> JSON:
        """The error of a turn that is answered by an error alone."""
        self.ask(**keys)
        return check_error_frame(self.receive())

    def hear(self, kind: str) -> JSON:
        """The next event of that type."""
        return next(frame for frame in iter(self.receive, None) if frame["type"] == kind)

    def ended(self) -> tuple[list[JSON], int]:
        """What still comes, and the code that the gateway closes with."""
        frames = []
        with contextlib.suppress(ConnectionClosedError):
            frames.extend(orjson.loads(frame) for frame in self.wire)
        received = self.wire.protocol.close_rcvd
        assert received is not None, "the connection broke off"
        return frames, received.code


def check_frames(frames: list[JSON], **expected: Any) -> list[JSON]:
    """The frames of a turn are the events of a stream; a failure is one frame."""
    streamed = list(frames)
    if frames[-1]["type"] == "response.failed":
        number, error = frames[-1]["sequence_number"], frames[-1]["response"]["error"]
        pair = {"type": "server_error", "param": None, **error}
        assert number == frames[-2]["sequence_number"] + 2, "the number of the event that is left out is free"
        streamed.insert(-1, {"type": "error", "sequence_number": number - 1, "error": pair})
    raw = b"".join(map(event_bytes, streamed)) + f"data: {SENTINEL}\n\n".encode()
    check_stream(raw, **expected)
    return frames


def check_error_frame(frame: JSON) -> JSON:
    assert frame["type"] == "error", frame
    assert frame.keys() <= {"type", "status", "error", "stream_id"}
    assert type(frame["status"]) is int
    error = frame["error"]
    assert {"message", "type", "param", "code"} <= error.keys() <= {"message", "type", "param", "code", "headers"}
    assert error["code"]
    return dict(error)


def dial(gateway: Gateway) -> socket.socket:
    """A bare connection just after its handshake. Raises AssertionError, and closes it, where that is refused."""
    sock = socket.create_connection(("127.0.0.1", gateway.port), timeout=STOP_WITHIN)
    with contextlib.ExitStack() as refused:
        refused.enter_context(sock)
        key = b64encode(secrets.token_bytes(16)).decode()
        head = f"GET /v1/responses HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {gateway.token}\r\n"
        head += (
            f"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n"
        )
        sock.sendall(head.encode() + b"\r\n")
        answer = b""
        while not answer.endswith(b"\r\n\r\n"):
            answer += _exactly(sock, 1)
        assert answer.startswith(b"HTTP/1.1 101 "), answer
        refused.pop_all()
    return sock


def frame_bytes(payload: bytes, opcode: int = 1, *, final: bool = True, reserved: int = 0) -> bytes:
    """A client's frame, masked, of less than 64 KiB."""
    mask = secrets.token_bytes(4)
    first = (final << 7) | (reserved << 4) | opcode
    size = bytes([0x80 | len(payload)]) if len(payload) < 126 else b"\xfe" + len(payload).to_bytes(2, "big")
    return bytes([first]) + size + mask + bytes(a ^ b for a, b in zip(payload, itertools.cycle(mask), strict=False))


def read_frame(sock: socket.socket) -> tuple[int, bytes]:
    """Opcode and payload of the server's next frame."""
    first, size = _exactly(sock, 2)
    if size >= 126:
        size = int.from_bytes(_exactly(sock, 2 if size == 126 else 8), "big")
    return first & 0x0F, _exactly(sock, size)


def _exactly(sock: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        piece = sock.recv(size - len(data))
        assert piece, "the connection has ended"
        data += piece
    return data
