"""Reused connections to an upstream: when one serves again, and when it is closed."""

from __future__ import annotations

import os
import socket
import ssl
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from app.channels.upstream import Upstream
from app.contract.channel import Channel, Timeouts
from app.errors import UpstreamBroken
from tests.upstream import (
    FIN,
    HOLD,
    RESET,
    Act,
    Answer,
    Pause,
    Piece,
    Script,
    ScriptedUpstream,
    followed,
    framed,
    raw,
    self_signed,
    silent,
)

PATIENCE = 60.0
ANSWERS = {
    "sized": b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}",
    "empty": b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
    "without a body": b"HTTP/1.1 204 No Content\r\n\r\n",
    "chunked": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
    "framed twice": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 12\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
}
STRAY = b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nPOISON"


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[ssl.SSLContext, Path]:
    return self_signed(tmp_path_factory.mktemp("connections"))


@pytest.fixture(params=["plain", "tls"])
def scripted(request: pytest.FixtureRequest, certificate: tuple[ssl.SSLContext, Path]) -> Iterator[ScriptedUpstream]:
    with ScriptedUpstream(tls=certificate[0] if request.param == "tls" else None) as scripted:
        yield scripted


@pytest.fixture
def upstream(scripted: ScriptedUpstream, certificate: tuple[ssl.SSLContext, Path]) -> Iterator[Upstream]:
    limits = Timeouts(first_byte=PATIENCE, total=PATIENCE)
    row = Channel("c", "responses", scripted.base_url, ca_file=str(certificate[1]), timeouts=limits)
    with closing(Upstream(row, 4)) as upstream:
        yield upstream


def ask(upstream: Upstream) -> bytes:
    with closing(upstream.post("/responses", b'{"model":"m","input":"x"}', accept="application/json")) as exchange:
        return exchange.read()


@contextmanager
def before(function: str, act: Any) -> Iterator[None]:
    """Does something in this thread once, when it comes to a function of that name."""

    def look(frame: FrameType, event: str, argument: object) -> None:
        if event == "call" and frame.f_code.co_name == function:
            sys.setprofile(None)
            act()

    sys.setprofile(look)
    try:
        yield
    finally:
        sys.setprofile(None)


@contextmanager
def c_calls_before(function: str, act: Callable[[], None]) -> Iterator[set[str]]:
    """The names of the built-in functions that this thread calls until it comes to a function of that name; there `act`
    is called."""
    calls: set[str] = set()

    def look(frame: FrameType, event: str, argument: object) -> None:
        if event == "c_call":
            calls.add(getattr(argument, "__name__", ""))
        elif event == "call" and frame.f_code.co_name == function:
            sys.setprofile(None)
            act()

    sys.setprofile(look)
    try:
        yield calls
    finally:
        sys.setprofile(None)


def act_late(scripted: ScriptedUpstream, *pieces: Piece) -> Callable[[], None]:
    """The next answer is followed by these pieces, once the function that this gives is called."""
    written = threading.Event()
    scripted.enqueue(raw(200, b"{}"), followed(written, HOLD, *pieces))

    def act() -> None:
        scripted.release()
        assert written.wait(PATIENCE)

    return act


def test_bytes_between_the_look_and_the_request_are_no_answer(scripted: ScriptedUpstream, upstream: Upstream) -> None:
    late = act_late(scripted, STRAY)
    ask(upstream)
    # A real answer would arrive together with the stray one.
    scripted.always(silent())
    with before("send", late), pytest.raises(UpstreamBroken):
        ask(upstream)
    scripted.always()
    assert b"POISON" not in ask(upstream)


def test_an_end_between_the_look_and_the_request_is_made_good(scripted: ScriptedUpstream, upstream: Upstream) -> None:
    late = act_late(scripted, FIN)
    ask(upstream)
    with before("send", late):
        assert b"response" in ask(upstream)
    assert len(scripted.requests) == 2


def test_a_reset_of_an_idle_connection_costs_no_request(scripted: ScriptedUpstream, upstream: Upstream) -> None:
    written = threading.Event()
    scripted.enqueue(raw(200, b"{}"), followed(written, RESET))
    ask(upstream)
    assert written.wait(PATIENCE)
    assert b"response" in ask(upstream)
    assert len(scripted.requests) == 2


def test_a_reused_connection_is_checked_without_giving_up_the_interpreter(
    scripted: ScriptedUpstream, upstream: Upstream
) -> None:
    """A poll or a recv would let another thread run, and wait for its turn again."""
    ask(upstream)
    scripted.enqueue(lambda exchange, whole: Answer(lead=(HOLD, ANSWERS["sized"])))
    with c_calls_before("read_head", scripted.release) as calls:
        assert ask(upstream) == b"{}"
    assert "getsockopt" in calls
    assert calls.isdisjoint({"poll", "recv", "recvmsg", "ioctl"})
    first, second = scripted.requests
    assert first.connection == second.connection


@pytest.mark.parametrize("kernel", [0, 1 << 20], ids=["shows the memory of a socket", "does not"])
@pytest.mark.parametrize("stray", [STRAY, FIN])
def test_a_connection_with_something_to_read_is_not_used_again(
    scripted: ScriptedUpstream, upstream: Upstream, stray: Piece, kernel: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    if kernel:
        monkeypatch.setattr("app.channels.connections._MEMORY", kernel)
    written = threading.Event()
    scripted.enqueue(raw(200, b"{}"), followed(written, stray))
    ask(upstream)
    assert written.wait(PATIENCE)
    for _ in range(2):
        assert b"POISON" not in ask(upstream)
    first, second, third = (request.connection for request in scripted.requests)
    assert first != second == third


@pytest.mark.parametrize("how", [FIN, RESET])
@pytest.mark.parametrize(
    "begun", [b"H", b"HTTP/1.1 2", b"HTTP/1.1 200 OK\r\nContent-", b"HTTP/1.1 100 Continue\r\n\r\n"]
)
def test_an_answer_that_breaks_in_its_head_is_not_requested_again(
    scripted: ScriptedUpstream, upstream: Upstream, begun: bytes, how: Act
) -> None:
    """The other side has read the request: it may be at work on it."""
    ask(upstream)
    scripted.enqueue(_breaking(begun, how))
    with pytest.raises(UpstreamBroken):
        ask(upstream)
    first, second = scripted.requests
    assert first.connection == second.connection


@pytest.mark.parametrize("answer", ["sized", "empty", "without a body", "chunked", "framed twice"])
def test_bytes_behind_an_answer_end_its_connection(scripted: ScriptedUpstream, upstream: Upstream, answer: str) -> None:
    """They come in the same piece as the answer, so no look at the socket shows them."""
    scripted.enqueue(lambda exchange, whole: Answer(lead=(ANSWERS[answer] + STRAY[:30], HOLD)))
    ask(upstream)
    ask(upstream)
    first, second = scripted.requests
    assert first.connection != second.connection


def test_a_clean_answer_keeps_its_connection(scripted: ScriptedUpstream, upstream: Upstream) -> None:
    scripted.enqueue(raw(200, b"{}"))
    scripted.enqueue(raw(200, b""))
    scripted.enqueue(raw(204))
    scripted.enqueue(framed("chunked"))
    for _ in range(5):
        ask(upstream)
    assert len({request.connection for request in scripted.requests}) == 1


def test_a_connection_that_is_dead_is_ended_within_a_minute(scripted: ScriptedUpstream, upstream: Upstream) -> None:
    with closing(upstream.post("/responses", b'{"model":"m","input":"x"}', accept="application/json")) as exchange:
        assert exchange.descriptor is not None
        with socket.socket(fileno=os.dup(exchange.descriptor)) as sock:
            assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
            after, every, times, unanswered = (
                sock.getsockopt(socket.IPPROTO_TCP, option)
                for option in (
                    socket.TCP_KEEPIDLE,
                    socket.TCP_KEEPINTVL,
                    socket.TCP_KEEPCNT,
                    socket.TCP_USER_TIMEOUT,
                )
            )
        exchange.read()
    assert 0 < after + every * times <= 60
    assert 0 < unanswered <= 60_000


def _breaking(begun: bytes, how: Act) -> Script:
    # A RST throws away what was not read yet: what was begun has to arrive first.
    return lambda exchange, answer: Answer(lead=(begun, Pause(0.2), how))
