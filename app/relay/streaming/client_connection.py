"""A client's connection that may be written to beside the server."""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

#: Bytes that may wait in the kernel for a client: more of a stream than that is better left upstream.
_UNSENT = 256 * 1024


def chunked(data: bytes) -> bytes:
    """As HTTP/1.1 frames a body of unknown length."""
    return b"%X\r\n%b\r\n" % (len(data), data)


def unframed(data: bytes) -> bytes:
    """As HTTP/1.0 does: the end of the connection is the end of the body."""
    return data


@dataclass(frozen=True, slots=True)
class ClientConnection:
    """A client's connection that may be written to beside the server, in the framing that the server has begun."""

    socket: socket.socket
    frame: Callable[[bytes], bytes]

    def set_write_timeout(self, seconds: float) -> None:
        """From now on a write that blocks fails after `stall` seconds, and little waits in the kernel."""
        with suppress(OSError):
            whole_seconds = int(seconds)
            timeout = struct.pack("ll", whole_seconds, int((seconds - whole_seconds) * 1_000_000))
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, timeout)
            if self.socket.family != socket.AF_UNIX:
                self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, _UNSENT)

    def abort(self) -> None:
        """Ends the connection at once: what the client has not taken is thrown away, and writing to it fails."""
        with suppress(OSError):
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.socket.shutdown(socket.SHUT_RDWR)
