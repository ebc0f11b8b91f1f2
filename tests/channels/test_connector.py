"""Connections that cannot be opened: the name, the connect and the handshake are waited for with the client."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from time import monotonic
from typing import Any

import pytest

from app.channels.upstream import Upstream
from app.contract.channel import Channel, Timeouts
from app.errors import ClientGone, EndedElsewhere, UpstreamUnreachable
from tests.upstream import ScriptedUpstream, black_hole, mute

#: Seconds: never reached by what is seen in time.
LONG = 60.0
NAME = "models.example.test"


class Resolver:
    """getaddrinfo as it is for numbers; what it says of `NAME` waits until it is released."""

    def __init__(self) -> None:
        self.lookups = 0
        self.released = threading.Event()
        self.found: Callable[[], list[Any]] = list
        self._real = socket.getaddrinfo

    def __call__(self, host: str, port: int, *args: Any, flags: int = 0, **keys: Any) -> list[Any]:
        if host != NAME or flags & socket.AI_NUMERICHOST:
            return list(self._real(host, port, *args, flags=flags, **keys))
        self.lookups += 1
        assert self.released.wait(LONG)
        return self.found()


@dataclass
class Watching:
    """`due`: what a tick does."""

    client_fd: int | None = None
    due: Callable[[], None] = field(default=lambda: None)

    def pause(self) -> float:
        return 0.05

    def tick(self) -> None:
        self.due()


@pytest.fixture
def resolver(monkeypatch: pytest.MonkeyPatch) -> Iterator[Resolver]:
    resolver = Resolver()
    monkeypatch.setattr(socket, "getaddrinfo", resolver)
    yield resolver
    resolver.released.set()


@contextmanager
def unresolved() -> Iterator[str]:
    yield f"http://{NAME}:80/v1"


@pytest.fixture(params=[unresolved, black_hole, mute], ids=["name", "connect", "handshake"])
def unreachable(request: pytest.FixtureRequest, resolver: Resolver) -> Iterator[str]:
    with request.param() as base_url:
        yield base_url


def upstream(base_url: str, connect: float = LONG) -> Upstream:
    return Upstream(Channel("c", "responses", base_url, timeouts=Timeouts(connect=connect)), 4)


def ask(upstream: Upstream, watch: Watching | None = None) -> bytes:
    with closing(
        upstream.post("/responses", b'{"model":"m","input":"x"}', accept="application/json", watch=watch)
    ) as exchange:
        return exchange.read()


def test_a_client_that_leaves_is_seen(unreachable: str) -> None:
    client, ours = socket.socketpair()
    with ours, closing(upstream(unreachable)) as channel, client, ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(ask, channel, Watching(client_fd=ours.fileno()))
        client.close()
        with pytest.raises(ClientGone):
            waiting.result(LONG / 2)


def test_other_due_work_is_done_meanwhile(unreachable: str) -> None:
    ticks: list[float] = []

    def tick() -> None:
        ticks.append(monotonic())
        if len(ticks) == 3:
            raise EndedElsewhere

    with closing(upstream(unreachable)) as channel, pytest.raises(EndedElsewhere):
        ask(channel, Watching(due=tick))


def test_the_time_for_connecting_bounds_all_of_it(unreachable: str) -> None:
    with closing(upstream(unreachable, connect=0.2)) as channel, pytest.raises(UpstreamUnreachable) as caught:
        ask(channel)
    assert caught.value.cause == "errno=ETIMEDOUT"


def test_a_resolver_that_hangs_holds_one_thread_for_all_requests(resolver: Resolver) -> None:
    with ScriptedUpstream() as scripted, ThreadPoolExecutor(8) as pool:
        port = int(scripted.base_url.rpartition(":")[2].partition("/")[0])
        resolver.found = lambda: [address("127.0.0.1", port)]
        ticking = threading.Semaphore(0)
        with closing(upstream(f"http://{NAME}:{port}/v1")) as channel:
            answers = [pool.submit(ask, channel, Watching(due=ticking.release)) for _ in range(8)]
            for _ in answers:
                assert ticking.acquire(timeout=LONG)
            assert len([thread for thread in threading.enumerate() if thread.name == "resolver"]) == 1
            resolver.released.set()
            assert all(b"response" in answer.result(LONG) for answer in answers)
            assert resolver.lookups < len(answers)
            assert all(request.headers["host"] == f"{NAME}:{port}" for request in scripted.requests)


def test_an_address_that_is_dead_leaves_time_for_the_next(resolver: Resolver) -> None:
    with ScriptedUpstream() as scripted, black_hole() as dead:
        ports = [int(url.rpartition(":")[2].partition("/")[0]) for url in (dead, scripted.base_url)]
        resolver.found = lambda: [address("127.0.0.1", port) for port in ports]
        resolver.released.set()
        with closing(upstream(f"http://{NAME}:80/v1", connect=1)) as channel:
            assert b"response" in ask(channel)


@pytest.mark.parametrize("error", [socket.gaierror(socket.EAI_NONAME, "unknown"), UnicodeError("label too long")])
def test_a_name_that_is_unknown_is_an_unreachable_server(resolver: Resolver, error: Exception) -> None:
    def fail() -> list[Any]:
        raise error

    resolver.found = fail
    resolver.released.set()
    with closing(upstream(f"http://{NAME}:80/v1")) as channel:
        for _ in range(2):
            with pytest.raises(UpstreamUnreachable):
                ask(channel)
    assert resolver.lookups == 2


def address(host: str, port: int) -> Any:
    return (socket.AF_INET, socket.SOCK_STREAM, 6, "", (host, port))
