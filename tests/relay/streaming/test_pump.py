"""The pump: many streams at once in one thread, every way an upstream frames its body, and faults that stay apart."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from app import sse
from app.contract.turn import Answer
from app.errors import ClientGone, EndedElsewhere, ShuttingDown, UpstreamBroken, UpstreamStalled
from app.relay.streaming.client_connection import ClientConnection, chunked, unframed
from app.relay.streaming.pump import Pump
from app.relay.streaming.transport import Flow, StreamTiming
from app.request_watch import Drain, Watch
from tests.gateway import Gateway, portions
from tests.relay.conftest import PROMPTLY, SOME_TEXT, eventually, read_until
from tests.response_contract import check_stream
from tests.sse_reader import follow
from tests.upstream import ScriptedUpstream, framed, self_signed, split_randomly, stalled

BODY = {"model": "m", "input": "Say something to me"}
MANY = 300
#: Of `MANY`, those who do not wait for the end.
LEAVING = 100

# --- through the whole gateway ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def upstream() -> Iterator[ScriptedUpstream]:
    with ScriptedUpstream() as upstream:
        yield upstream


@pytest.fixture(scope="module")
def secure(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Gateway, ScriptedUpstream]]:
    """A gateway whose upstream speaks TLS."""
    directory = tmp_path_factory.mktemp("secure")
    context, authority = self_signed(directory)
    with ScriptedUpstream(tls=context) as upstream:
        row = upstream.channel(ca_file=str(authority), timeout={"idle": 8}, cooldown={"after": 1000})
        with Gateway(directory, [row]) as gateway:
            yield gateway, upstream
            upstream.reset()


def test_many_streams_at_once_and_some_that_are_left(tmp_path: Path, upstream: ScriptedUpstream) -> None:
    upstream.always(stalled(SOME_TEXT))
    with Gateway(tmp_path, [upstream.channel()], threads=MANY + 50) as gateway:
        socks = [gateway.dial({**BODY, "stream": True}) for _ in range(MANY)]
        for sock in socks:
            read_until(sock, b'"delta":" said:"')
        for sock in socks[:LEAVING]:
            sock.close()
        upstream.wait_hangup(LEAVING)
        upstream.release(MANY - LEAVING)
        for sock in socks[LEAVING:]:
            assert b'"type":"response.completed"' in read_until(sock, b"\r\n0\r\n\r\n")
        upstream.reset()
        for sock in socks[LEAVING:]:
            sock.sendall(b"GET /healthz HTTP/1.1\r\nHost: here\r\n\r\n")
            assert sock.recv(65536).startswith(b"HTTP/1.1 200")
            sock.close()


@pytest.mark.parametrize("framing", ["chunked", "length", "close"])
def test_every_framing_is_understood_over_tls(secure: tuple[Gateway, ScriptedUpstream], framing: Any) -> None:
    gateway, upstream = secure
    for seed in range(5):
        upstream.enqueue(framed(framing), split_randomly(seed))
        check_stream(gateway.stream(BODY).content, status="completed")


def test_events_over_tls_arrive_one_by_one_and_the_connection_is_used_again(
    secure: tuple[Gateway, ScriptedUpstream],
) -> None:
    gateway, upstream = secure
    upstream.reset()
    for _ in range(3):
        upstream.enqueue(stalled(SOME_TEXT))
        events = follow(portions(gateway.stream(BODY)))
        assert [next(events).name for _ in range(SOME_TEXT)][-1] == "response.output_text.delta"
        upstream.release()
        assert [event.name for event in events][-2:] == ["response.completed", None]
    assert len({request.connection for request in upstream.requests}) == 1


def test_leaving_while_an_upstream_over_tls_is_silent(secure: tuple[Gateway, ScriptedUpstream]) -> None:
    gateway, upstream = secure
    upstream.reset()
    upstream.enqueue(stalled(SOME_TEXT))
    with gateway.dial({**BODY, "stream": True}) as sock:
        read_until(sock, b'"delta":" said:"')
    upstream.wait_hangup(timeout=PROMPTLY)


def test_a_generator_may_move_streams_instead_and_the_log_names_the_transport(
    tmp_path: Path, upstream: ScriptedUpstream
) -> None:
    upstream.reset()
    with Gateway(tmp_path, [upstream.channel()], mover="generator") as gateway:
        check_stream(gateway.stream(BODY).content, status="completed")
        assert gateway.log.count("streams are moved by the generator") == 1


# --- the pump by itself -----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Limits:
    idle: float = 20.0
    total: float = 20.0


class Body:
    """An upstream's body on a socket: raw bytes up to the end of the connection."""

    status = 200
    headers: dict[str, str] = {}

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self._socket = sock

    @property
    def descriptor(self) -> int:
        return self._socket.fileno()

    def fileno(self) -> int:
        return self._socket.fileno()

    def read(self) -> bytes:
        raise NotImplementedError

    def receive(self) -> bytes | None:
        try:
            return self._socket.recv(65536)
        except BlockingIOError:
            return None

    def close(self) -> None:
        self._socket.close()


class Echo:
    """A decoder that sends everything on, up to a full stop. What it cannot bear is the letter x."""

    accepted = started = True
    answer: Answer | None = None
    defaults: dict[str, object] = {}
    sequence = 0

    def feed(self, data: bytes) -> bytes:
        if b"x" in data:
            raise ZeroDivisionError
        if data.endswith(b"."):
            self.answer = Answer("completed", ())
        return data.removesuffix(b".")

    def finish(self) -> None:
        pass

    def partial(self) -> list[dict[str, Any]]:
        return []


class Line:
    """A stream between two sockets that a test holds the other ends of."""

    def __init__(self, pump: Pump, limits: Limits, frame: Any = unframed) -> None:
        self.upstream, theirs = socket.socketpair()
        self.client, ours = socket.socketpair()
        self.client.settimeout(PROMPTLY)
        self.flow = Flow(Body(theirs), Echo(), limits, Watch(ours.fileno(), Drain()), ClientConnection(ours, frame))
        self._ends = [self.upstream, self.client, theirs, ours]
        self._pool = ThreadPoolExecutor(1)
        self._moved = self._pool.submit(lambda: list(pump.transfer(self.flow)))

    def outcome(self) -> BaseException | None:
        """Waits for the end; what the request's thread would meet."""
        return self._moved.exception(PROMPTLY)

    def close(self) -> None:
        for end in self._ends:
            end.close()
        self._pool.shutdown()


@pytest.fixture
def pump() -> Iterator[Pump]:
    pump = Pump(StreamTiming(heartbeat=20.0, drain=Drain(), client_write_timeout=20.0))
    pump.start()
    yield pump
    pump.close()


@pytest.fixture
def line(pump: Pump) -> Iterator[Any]:
    lines: list[Line] = []

    def lay(limits: Limits = Limits(), frame: Any = unframed, through: Pump = pump) -> Line:
        lines.append(Line(through, limits, frame))
        return lines[-1]

    yield lay
    for laid in lines:
        laid.close()


def test_leading_items_are_sent_before_the_thread_goes_on(line: Any) -> None:
    laid = line(frame=chunked)
    laid.upstream.sendall(b"hello")
    assert laid.client.recv(100) == b"5\r\nhello\r\n"
    laid.upstream.sendall(b"!.")
    assert laid.outcome() is None
    assert laid.client.recv(100) == b"1\r\n!\r\n"


def test_a_client_that_is_behind_gets_the_rest_before_the_thread_goes_on(line: Any) -> None:
    laid = line()
    sender = threading.Thread(target=laid.upstream.sendall, args=(b"a" * 2_000_000 + b".",))
    sender.start()
    received = b""
    while len(received) < 2_000_000:
        received += laid.client.recv(1 << 20)
    assert laid.outcome() is None
    sender.join()


def test_a_fault_in_one_stream_is_raised_in_its_own_thread_and_the_others_go_on(line: Any) -> None:
    first, second = line(), line()
    first.upstream.sendall(b"x")
    assert isinstance(first.outcome(), ZeroDivisionError)
    second.upstream.sendall(b"and on.")
    assert second.client.recv(100) == b"and on"
    assert second.outcome() is None


def test_an_upstream_that_closes_has_broken(line: Any) -> None:
    laid = line()
    laid.upstream.close()
    assert isinstance(laid.outcome(), UpstreamBroken)


def test_a_client_that_closes_has_gone_and_cannot_be_written_to_any_more(line: Any) -> None:
    laid = line()
    laid.client.close()
    assert isinstance(laid.outcome(), ClientGone)
    with pytest.raises(BrokenPipeError):
        laid.flow.connection.socket.send(b"0\r\n\r\n")


@pytest.mark.parametrize("limits", [Limits(idle=0.1), Limits(total=0.1)])
def test_the_clocks_of_a_silent_stream_run_out(line: Any, limits: Limits) -> None:
    assert isinstance(line(limits).outcome(), UpstreamStalled)


def test_a_stream_that_keeps_talking_runs_out_of_its_total_time(line: Any) -> None:
    laid = line(Limits(idle=20, total=0.3))
    # Nothing reads the upstream's bytes once the pump has stopped: a blocking send could wait for ever.
    laid.upstream.setblocking(False)
    laid.client.setblocking(False)
    while not laid._moved.done():
        with suppress(BlockingIOError):
            laid.upstream.send(b"a")
        with suppress(BlockingIOError):
            laid.client.recv(100)
    assert isinstance(laid.outcome(), UpstreamStalled)


def test_a_stop_takes_effect_at_once(line: Any) -> None:
    laid = line()
    laid.upstream.sendall(b"begun")
    assert laid.client.recv(100) == b"begun"
    laid.flow.stop.request()
    assert isinstance(laid.outcome(), EndedElsewhere)


def test_an_earlier_stop_takes_effect_too(pump: Pump, line: Any) -> None:
    laid = line()
    laid.flow.stop.request()
    assert isinstance(laid.outcome(), EndedElsewhere)


def test_silence_is_filled_with_comments(line: Any) -> None:
    pump = Pump(StreamTiming(heartbeat=0.05, drain=Drain()))
    pump.start()
    laid = line(through=pump)
    assert read_until(laid.client, sse.HEARTBEAT * 3) == sse.HEARTBEAT * 3
    laid.upstream.sendall(b".")
    assert laid.outcome() is None
    pump.close()


def test_a_drain_that_is_over_ends_every_stream(line: Any) -> None:
    alive = True
    pump = Pump(StreamTiming(heartbeat=20, drain=Drain(grace=0.0, alive=lambda: alive)))
    pump.start()
    lines = [line(through=pump) for _ in range(3)]
    for laid in lines:
        laid.upstream.sendall(b"begun")
        assert laid.client.recv(100) == b"begun"
    alive = False
    assert all(isinstance(laid.outcome(), ShuttingDown) for laid in lines)
    pump.close()


def test_a_closed_pump_ends_its_streams_and_later_ones_are_moved_by_their_threads(pump: Pump, line: Any) -> None:
    before = line()
    before.upstream.sendall(b"begun")
    assert before.client.recv(100) == b"begun"
    pump.close()
    assert isinstance(before.outcome(), ShuttingDown)
    after = line()
    after.upstream.sendall(b"still.")
    assert after._moved.result(PROMPTLY) == [b"still"]


def test_streams_that_have_ended_leave_nothing_in_the_pump(pump: Pump, line: Any) -> None:
    for _ in range(20):
        laid = line()
        laid.upstream.sendall(b"all.")
        assert laid.outcome() is None
    eventually(lambda: not (pump._streams or pump._watched or pump._timed or pump._buffered), "an empty pump")
