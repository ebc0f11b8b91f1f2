"""The one check of an upstream's answer: 200, or the error that its body names."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import closing

from app.channels.upstream import Exchange
from app.errors import UpstreamError

#: The error that a status, headers and body stand for; formats have one each.
DecodeError = Callable[[int, Mapping[str, str], bytes], UpstreamError]


def checked(exchange: Exchange, decode_error: DecodeError) -> Exchange:
    """The exchange if its status is 200. Raises UpstreamError and closes it for any other."""
    if exchange.status == 200:
        return exchange
    with closing(exchange):
        raise decode_error(exchange.status, exchange.headers, exchange.read())
