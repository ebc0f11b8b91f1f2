"""A client's connection that can be written to without going through the server."""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

#: Bytes that may wait in the kernel for a client. Beyond that, back-pressure should reach the upstream.
_UNSENT = 256 * 1024


def chunked(data: bytes) -> bytes:
    """HTTP/1.1 framing of a body of unknown length."""
    return b"%X\r\n%b\r\n" % (len(data), data)


def unframed(data: bytes) -> bytes:
    """HTTP/1.0 framing: the body ends with the connection."""
    return data


@dataclass(frozen=True, slots=True)
class ClientConnection:
    """A client's connection that can be written to without going through the server, in the server's framing."""

    socket: socket.socket
    frame: Callable[[bytes], bytes]

    def set_write_timeout(self, seconds: float) -> None:
        """Limits a blocking write to `seconds` and keeps the kernel's send buffer small."""
        with suppress(OSError):
            whole_seconds = int(seconds)
            timeout = struct.pack("ll", whole_seconds, int((seconds - whole_seconds) * 1_000_000))
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, timeout)
            if self.socket.family != socket.AF_UNIX:
                self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, _UNSENT)

    def abort(self) -> None:
        """Resets the connection: unread bytes are dropped, and further writes fail."""
        with suppress(OSError):
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.socket.shutdown(socket.SHUT_RDWR)
