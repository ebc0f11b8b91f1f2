"""The trace that the request of this thread belongs to, after W3C Trace Context, and what its upstreams get of it."""

from __future__ import annotations

import hashlib
import re
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from time import time_ns

HEADER = "traceparent"
STATE_HEADER = "tracestate"

#: Version, trace, span, flags; a later version may append more.
_PARENT = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-[\x21-\x7e]*)?", re.ASCII)
_STATE = re.compile(r"[\x20-\x7e]{1,512}", re.ASCII)
_NO_VERSION = "ff"
_SAMPLED = 0x01


@dataclass(frozen=True, slots=True)
class TraceContext:
    """Ids and flags are hex digits."""

    trace: str
    parent: str
    """The client's span; empty in a trace that begins here."""
    flags: str
    state: str = ""
    """The client's `tracestate`."""
    span: str = ""
    """The span of the response; empty when the gateway makes none."""
    started_at: int = 0
    """Unix time in nanoseconds."""

    @property
    def is_sampled(self) -> bool:
        return bool(int(self.flags, 16) & _SAMPLED)

    def headers(self, span: str = "") -> tuple[tuple[str, str], ...]:
        """The headers of a request that `span` sends; without one it comes from the response's span, or from the
        client's."""
        parent = (HEADER, f"00-{self.trace}-{span or self.span or self.parent}-{self.flags}")
        return (parent, (STATE_HEADER, self.state)) if self.state else (parent,)

    def span_of(self, name: str) -> str:
        """The span of a part of the response, made from the part's name: a tool server gets it before the part ends."""
        return hashlib.sha256(f"{self.trace}{self.span}{name}".encode()).hexdigest()[:16]

    def head_lines(self, span: str = "") -> bytes:
        """The same, as lines of HTTP."""
        return "".join(f"{name}: {value}\r\n" for name, value in self.headers(span)).encode()


#: Reads `traceparent` and `tracestate` of a client.
ReadTrace = Callable[[str | None, str | None], TraceContext | None]

#: Whether spans of a trace are made; beside its id, the client's trace if there is one.
IsSampled = Callable[[str, TraceContext | None], bool]


def passed_on(parent: str | None, state: str | None) -> TraceContext | None:
    """The client's trace, in which the gateway itself has no span; None without a valid one."""
    match = _PARENT.fullmatch(parent.strip()) if parent else None
    if match is None:
        return None
    version, trace, span, flags, more = match.groups()
    if version == _NO_VERSION or (version == "00" and more is not None) or not (int(trace, 16) and int(span, 16)):
        return None
    return TraceContext(trace, span, flags, state if state and _STATE.fullmatch(state) else "")


def traced(parent: str | None, state: str | None, is_sampled: IsSampled) -> TraceContext:
    """The client's trace, or a new one, with a span of the gateway if it is sampled."""
    found = passed_on(parent, state)
    begun = found or TraceContext(secrets.token_hex(16), "", "00")
    flags = int(begun.flags, 16)
    if is_sampled(begun.trace, found):
        return replace(begun, flags=f"{flags | _SAMPLED:02x}", span=new_span(), started_at=time_ns())
    # Upstreams get a span that is sent nowhere: with it they know that the trace is not sampled.
    return replace(begun, flags=f"{flags & ~_SAMPLED:02x}", parent=begun.parent or new_span())


def new_span() -> str:
    return secrets.token_hex(8)


_current: ContextVar[TraceContext | None] = ContextVar("trace", default=None)


def enter(context: TraceContext | None) -> None:
    """The work of this thread, and the calls of tools that it starts, belong to this trace from now on."""
    _current.set(context)


def current() -> TraceContext | None:
    return _current.get()


def received() -> tuple[str | None, str | None]:
    """`traceparent` and `tracestate` of the client, for a part of the request that runs later; None without them."""
    trace = _current.get()
    if trace is None or not trace.parent:
        return None, None
    return f"00-{trace.trace}-{trace.parent}-{trace.flags}", trace.state or None


@contextmanager
def within(name: str) -> Iterator[None]:
    """What starts here is sent by the span of the part with this name, if the gateway makes spans."""
    trace = _current.get()
    if trace is None or not trace.span:
        yield
        return
    token = _current.set(replace(trace, span=trace.span_of(name)))
    try:
        yield
    finally:
        _current.reset(token)
