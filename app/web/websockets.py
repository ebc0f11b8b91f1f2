"""The edge of WebSockets: the handshake, frames on the wire, pings, and the end of a connection.

The relay interprets the frames; see `app.relay.websocket_session`. A connection holds the thread of its request, which
runs its turns one after the other, and one more thread that reads.
"""

from __future__ import annotations

import base64
import binascii
import logging
import select
import socket
import ssl
import struct
import threading
from collections.abc import Mapping
from contextlib import closing, suppress
from functools import partial
from time import monotonic
from typing import Any, NoReturn

import simple_websocket
from flask import Response, request
from wsproto.events import AcceptConnection, BytesMessage, CloseConnection, Event, Ping, Request, TextMessage
from wsproto.frame_protocol import CloseReason
from wsproto.utilities import LocalProtocolError

from app import ids, trace_context
from app.contract.records import Token
from app.errors import (
    ClientGone,
    GatewayError,
    InvalidRequest,
    ShuttingDown,
    Unauthenticated,
    UpgradeRequired,
)
from app.gateway import Gateway
from app.memory import Budget, Share
from app.relay.request_context import RequestContext
from app.relay.websocket_session import WebSocketSession, error_frame
from app.request_bodies import COUNTED, SILENCE, is_too_slow
from app.web.access_log import AccessRecord, log_access
from app.web.client_names import client_name
from app.web.current_request import TRACE, TRACE_STATE, bearer_secret, this_request, token_of

log = logging.getLogger(__name__)

#: Seconds between two checks whether the worker stops or the connection has reached its lifetime.
_TICK = 1.0
#: Seconds to wait for the client's close frame.
_CLOSE_TIMEOUT = 1.0
#: Most messages that may wait for their turn.
_MAX_WAITING_FRAMES = 64
#: Bytes by which a growing message extends its share of the budget.
_AHEAD = 256 * 1024
#: The headers of the handshake beside the key. No extensions: compression costs 300 KiB a connection.
_HANDSHAKE = {
    "HTTP_HOST": "antiphon",
    "HTTP_CONNECTION": "Upgrade",
    "HTTP_UPGRADE": "websocket",
    "HTTP_SEC_WEBSOCKET_VERSION": "13",
}
_KEY_BYTES = 16

#: Errors of a lost connection. There is no client to report them to.
_CONNECTION_LOST = (simple_websocket.ConnectionClosed, LocalProtocolError, ConnectionError, ClientGone)


def serve() -> Response:
    """Answers turns over this request's connection, until one side closes it."""
    gateway = this_request().gateway
    client_socket = _accept(request.environ, gateway)
    client = client_name(request.environ.get("HTTP_USER_AGENT"))
    if not gateway.sockets.enter():
        # Codex turns to HTTP at once after a 426; after any other status it tries WebSockets five times more.
        raise UpgradeRequired("This server holds as many WebSockets as it can. Send POST /v1/responses.")
    try:
        with (
            suppress(*_CONNECTION_LOST),
            _Connection(client_socket, gateway, request.environ, client) as connection,
        ):
            connection.run()
    finally:
        client_socket.close()
        gateway.sockets.leave()
    return _NoResponse(status=101)


class _NoResponse(Response):
    """No HTTP response follows a WebSocket: the server only closes the connection."""

    def __call__(self, environ: Any, start_response: Any) -> NoReturn:
        self.close()
        raise StopIteration


# --- the handshake ----------------------------------------------------------------------------------------------


def _accept(environ: Mapping[str, Any], gateway: Gateway) -> _ClientSocket:
    """The connection, when it can become a WebSocket. Raises GatewayError."""
    sock = environ.get("gunicorn.socket")
    # TLS that the server itself ends: one thread cannot read it while another writes.
    if sock is None or isinstance(sock, ssl.SSLSocket) or gateway.sockets.limit == 0:
        raise UpgradeRequired("WebSockets are not served here. Send POST /v1/responses.")
    if environ.get("SERVER_PROTOCOL") != "HTTP/1.1" or environ.get("HTTP_SEC_WEBSOCKET_VERSION") != "13":
        raise UpgradeRequired("WebSockets of version 13 over HTTP/1.1 are served here.")
    key = environ.get("HTTP_SEC_WEBSOCKET_KEY", "")
    if not _is_key(key):
        raise InvalidRequest(f"Sec-WebSocket-Key is not {_KEY_BYTES} bytes in base64.")
    return _ClientSocket(sock, key, gateway.settings.client_write_timeout)


def _is_key(text: str) -> bool:
    with suppress(binascii.Error, ValueError):
        return len(base64.b64decode(text, validate=True)) == _KEY_BYTES
    return False


# --- the wire ---------------------------------------------------------------------------------------------------


class _ClientSocket:
    """A client's connection, with the methods that simple-websocket uses. Several threads may send; each frame leaves
    whole. The server closes the descriptor."""

    def __init__(self, sock: socket.socket, key: str, write_timeout: float) -> None:
        """`write_timeout`: seconds without progress of a write, or without a pong, until the client is dropped."""
        self.key = key
        self.write_timeout = write_timeout
        self._sock = sock
        self._sending = threading.Lock()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", max(1, round(write_timeout)), 0))

    def fileno(self) -> int:
        return self._sock.fileno()

    def recv(self, size: int) -> bytes:
        return self._sock.recv(size)

    def send(self, data: bytes) -> None:
        try:
            with self._sending:
                self._sock.sendall(data)
        except OSError as error:
            # Half a frame may have left: the client could not parse any further frame.
            self.close()
            raise ConnectionAbortedError from error

    def discard(self, seconds: float) -> None:
        """Reads and drops what the client sends until it closes. A reset could destroy our close frame on its way."""
        deadline = monotonic() + seconds
        poll = select.poll()
        poll.register(self._sock, select.POLLIN)
        with suppress(OSError):
            while poll.poll(max(0.0, deadline - monotonic()) * 1000) and self._sock.recv(65536):
                pass

    def close(self) -> None:
        """Shuts the connection down. A turn that watches the descriptor sees it at once."""
        with suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)


class _Message:
    """A message of the client, as its pieces arrive. A text message is kept as bytes."""

    __slots__ = ("_began", "_last_read", "data", "is_text", "share")

    def __init__(self, is_text: bool, share: Share) -> None:
        self.is_text = is_text
        self.data = bytearray()
        self.share = share
        self._began = self._last_read = monotonic()

    def add(self, data: bytes | bytearray) -> None:
        """Raises PayloadTooLarge and Overloaded."""
        size = len(self.data) + len(data)
        if size >= COUNTED and size > self.share.size:
            # Takes more than this piece needs, so that not every piece locks the budget.
            self.share.grow(max(size - self.share.size, _AHEAD), max_wait=0.0)
        self.data += data
        self._last_read = monotonic()

    def is_late(self, now: float, silence: float) -> bool:
        return now - self._last_read > silence or is_too_slow(len(self.data), now - self._began - silence)


class _Wire(simple_websocket.Server):  # type: ignore[misc]
    """Limits the waiting messages and the time that a message may take to arrive. Late pongs are accepted, because a
    busy client answers late."""

    _last_pong = 0.0

    def __init__(self, environ: Mapping[str, Any], budget: Budget, silence: float, **options: Any) -> None:
        """`silence`: seconds for which an unfinished message may bring no bytes."""
        self._budget = budget
        self._silence = silence
        self._incoming: _Message | None = None
        super().__init__(environ, **options)

    @property
    def pong_received(self) -> bool:
        silence: float = monotonic() - self._last_pong
        return bool(silence < self.sock.write_timeout) and not self._is_late()

    @pong_received.setter
    def pong_received(self, received: bool) -> None:
        if received:
            self._last_pong = monotonic()

    def discard_waiting(self) -> None:
        """Drops the messages that will get no answer, and frees their memory."""
        for message in (*self.input_buffer, self._incoming):
            if message is not None:
                message.share.close()
        self.input_buffer.clear()
        self._incoming = None

    def _handle_events(self) -> bool:
        # A client cannot answer pings while it sends a large frame.
        self._last_pong = monotonic()
        try:
            going = all(map(self._handle, self.ws.events()))
        except LocalProtocolError:
            self.event.set()
            return False
        if going and self._is_late():
            return self._refuse(CloseReason.POLICY_VIOLATION, "The message did not arrive in time.")
        return going

    def _handle(self, event: Event) -> bool:
        """False when the connection has ended."""
        if isinstance(event, TextMessage | BytesMessage):
            return self._take(event)
        if isinstance(event, Request):
            self.sock.send(self.ws.send(AcceptConnection()))
        elif isinstance(event, Ping):
            self.sock.send(self.ws.send(event.response()))
        elif isinstance(event, CloseConnection):
            self.sock.send(self.ws.send(event.response()))
            self.close_reason, self.close_message = event.code, event.reason
            self.connected = False
            self.event.set()
            return False
        return True

    def _take(self, event: TextMessage | BytesMessage) -> bool:
        """Adds a piece to the message; False when the message was refused."""
        message = self._incoming or _Message(isinstance(event, TextMessage), Share(self._budget))
        self._incoming = message
        data = event.data.encode() if isinstance(event, TextMessage) else event.data
        longest = self.max_message_size
        if len(message.data) + len(data) + self._still_announced() > longest:
            return self._refuse(CloseReason.MESSAGE_TOO_BIG, "Message is too big")
        try:
            message.add(data)
        except GatewayError as error:
            return self._refuse(CloseReason.TRY_AGAIN_LATER, error.message)
        if not event.message_finished:
            return True
        self._incoming = None
        waiting = self.input_buffer
        waiting.append(message)
        self.event.set()
        if len(waiting) > _MAX_WAITING_FRAMES or sum(len(each.data) for each in waiting) > longest:
            return self._refuse(CloseReason.POLICY_VIOLATION, "Too many frames wait for their turn.")
        return True

    def _still_announced(self) -> int:
        """Bytes of the present frame that have not arrived yet. wsproto has no public name for it."""
        decoder = getattr(getattr(self.ws.connection, "_proto", None), "_frame_decoder", None)
        if decoder is None or decoder.header is None:
            return 0
        return int(decoder.header.payload_len - decoder.payload_consumed)

    def _is_late(self) -> bool:
        return self._incoming is not None and self._incoming.is_late(monotonic(), self._silence)

    def _refuse(self, reason: CloseReason, why: str) -> bool:
        self.close(reason, why)
        self.event.set()
        self.sock.discard(_CLOSE_TIMEOUT)
        return False


# --- the connection ---------------------------------------------------------------------------------------------


class _Connection:
    def __init__(self, client_socket: _ClientSocket, gateway: Gateway, environ: Mapping[str, Any], client: str) -> None:
        settings = gateway.settings
        self._client_socket = client_socket
        self._gateway = gateway
        self._secret = bearer_secret(environ)
        self._trace = environ.get(TRACE), environ.get(TRACE_STATE)
        """The headers of the handshake, which hold for each turn."""
        self._client = client
        self._session = WebSocketSession(gateway.turns, Share(gateway.budget))
        self._minutes = round(settings.socket_lifetime / 60)
        self._deadline = monotonic() + settings.socket_lifetime
        self._wire = _Wire(
            {**_HANDSHAKE, "HTTP_SEC_WEBSOCKET_KEY": client_socket.key, "gunicorn.socket": client_socket},
            gateway.budget,
            min(SILENCE, settings.client_write_timeout),
            receive_bytes=65536,
            ping_interval=settings.heartbeat,
            max_message_size=settings.max_body,
            thread_class=partial(threading.Thread, daemon=True),
        )

    def __enter__(self) -> _Connection:
        return self

    def __exit__(self, *_: object) -> None:
        """The reading thread may still answer a close frame, or wait for one."""
        self._session.close()
        self._wire.thread.join(_CLOSE_TIMEOUT)
        self._wire.discard_waiting()

    def run(self) -> None:
        """Answers messages in the order of their arrival. Raises the errors of `_CONNECTION_LOST`."""
        while True:
            message: _Message | None = self._wire.receive(timeout=_TICK)
            if self._gateway.drain.begun:
                return self._end(CloseReason.GOING_AWAY, ShuttingDown(), message)
            if monotonic() >= self._deadline:
                return self._expire(message)
            if message is None:
                continue
            try:
                token = token_of(self._gateway, self._secret)
            except Unauthenticated as error:
                return self._end(CloseReason.POLICY_VIOLATION, error, message)
            except GatewayError as error:
                self._refuse(message, error)
            else:
                with closing(message.share):
                    self._answer(token, message)

    def _answer(self, token: Token, message: _Message) -> None:
        started_at, size = monotonic(), len(message.data)
        trace_context.enter(self._gateway.turns.read_trace(*self._trace))
        context = RequestContext(
            ids.new_request_id(), self._client_socket.fileno(), client=self._client, share=message.share, size=size
        )
        data = message.data if message.is_text else bytes(message.data)
        parse = partial(self._gateway.bodies.parse, share=message.share)
        try:
            with closing(self._session.answer(token, data, context, self._send, parse)) as frames:
                for frame in frames:
                    self._wire.send(frame)
        finally:
            log_access(AccessRecord(context.request_id, started_at, "WS", request.path, 101, token), context.facts)

    def _send(self, frame: str) -> None:
        """Raises ClientGone, because the relay does not know the errors of WebSockets."""
        try:
            self._wire.send(frame)
        except _CONNECTION_LOST as error:
            raise ClientGone from error

    def _refuse(self, message: _Message, error: GatewayError) -> None:
        with closing(message.share):
            data = message.data if message.is_text else bytes(message.data)
            self._wire.send(self._session.refuse(data, error))

    def _expire(self, message: _Message | None) -> None:
        error = InvalidRequest(
            f"Responses websocket connection limit reached ({self._minutes} minutes). Create a new websocket "
            "connection to continue.",
            code="websocket_connection_limit_reached",
        )
        if message is None:
            self._wire.send(error_frame(error))
        self._end(CloseReason.NORMAL_CLOSURE, error, message)

    def _end(self, reason: CloseReason, error: GatewayError, message: _Message | None) -> None:
        """Answers the waiting messages with `error`, then closes."""
        while message is not None:
            self._refuse(message, error)
            message = self._wire.receive(timeout=0)
        self._wire.close(reason)
