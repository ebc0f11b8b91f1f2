"""Ports of the loopback for servers that tests start."""

from __future__ import annotations

import atexit
import socket


def reserve() -> socket.socket:
    """A socket that is bound to a free port and does not listen: clients are refused, and while it is open the kernel
    gives the port to no other process. A server can bind it all the same, as servers set SO_REUSEADDR.
    """
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.bind(("127.0.0.1", 0))
    return sock


def closed_port() -> int:
    """A port without a listener. It stays reserved until this process ends."""
    sock = reserve()
    atexit.register(sock.close)
    return number(sock)


def number(sock: socket.socket) -> int:
    return int(sock.getsockname()[1])
