"""What the largest bodies take of two workers, when many come at once; the figures are printed."""

from __future__ import annotations

import socket
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import orjson
import pytest

from tests.footprint import MIB, memory_of
from tests.gateway import ExecutedGateway, Gateway
from tests.relay.conftest import eventually
from tests.upstream import ScriptedUpstream

pytestmark = [pytest.mark.faults, pytest.mark.timeout(300)]

#: Of the master and both workers, whatever comes.
PEAK = 800 * MIB
#: Of the same, when all has been answered; SQLite keeps the last text that it was given.
IDLE, IDLE_STORED = 150 * MIB, 230 * MIB
TIMES = 20
#: Seconds within which memory is back with the system.
SOON = 20.0


@pytest.fixture
def api(tmp_path: Path) -> Iterator[Gateway]:
    with (
        ScriptedUpstream() as upstream,
        ExecutedGateway(tmp_path, [upstream.channel()], workers=2, threads=512, stall=5) as gateway,
    ):
        eventually(lambda: gateway.log.count("streams are moved by") == 2, "both workers", SOON)
        yield gateway


@pytest.fixture
def report(capsys: pytest.CaptureFixture[str], request: pytest.FixtureRequest) -> Report:
    return Report(capsys, request.node.name)


class Report:
    def __init__(self, capsys: pytest.CaptureFixture[str], name: str) -> None:
        self._capsys = capsys
        self._name = name

    def add(self, **figures: object) -> None:
        with self._capsys.disabled():
            print(f"\n{self._name}:", ", ".join(f"{name} {figure}" for name, figure in figures.items()))


def body(items: list[object], store: bool) -> bytes:
    last = {"role": "user", "content": "What did I say?"}
    return orjson.dumps({"model": "m", "store": store, "input": [*items, last]})


def rows() -> list[object]:
    """57 MiB: a long conversation."""
    return [{"role": "user", "content": "a" * 5900}] * 9990


def images() -> list[object]:
    """56 MiB: four large pictures."""
    picture = {"type": "input_image", "image_url": "data:image/png;base64," + "A" * (14 * MIB)}
    return [{"role": "user", "content": [picture]}] * 4


def parts() -> list[object]:
    """7 MiB: as many small objects as a body of that size can have."""
    return [{"role": "user", "content": [{"type": "input_text", "text": "ab"}] * 20}] * 9990


@pytest.mark.parametrize("store", [False, True], ids=["unstored", "stored"])
@pytest.mark.parametrize("shape", [rows, images, parts], ids=lambda shape: shape.__name__)
def test_many_large_bodies_at_once_are_answered_or_refused_within_bounds(
    api: Gateway, report: Report, shape: object, store: bool
) -> None:
    assert callable(shape)
    data = body(shape(), store)
    began, idle = time.monotonic(), IDLE_STORED if store else IDLE
    start = memory(api)
    with ThreadPoolExecutor(TIMES) as pool:
        answers = [pool.submit(status, api, data) for _ in range(TIMES)]
        peak = highest(api, answers)
    answered = Counter(answer.result() for answer in answers)
    took = time.monotonic() - began
    eventually(lambda: memory(api) < idle or time.monotonic() - began > took + SOON / 2, "the trim", SOON)
    left = memory(api)
    report.add(
        size=mib(len(data)), start=mib(start), peak=mib(peak), idle=mib(left), seconds=f"{took:.1f}", answers=answered
    )
    assert answered.keys() <= {200, 503}
    assert answered[200] > 0
    assert peak < PEAK
    assert left < idle


@pytest.mark.parametrize("item", [b'{"a":1}', b"[]", b"0", b'""'], ids=["objects", "arrays", "numbers", "texts"])
def test_bodies_that_swell_when_they_are_parsed_are_refused(api: Gateway, report: Report, item: bytes) -> None:
    many = b",".join([item] * (57 * MIB // (len(item) + 1)))
    data = b'{"model":"m","input":"short","x":[%b]}' % many
    with ThreadPoolExecutor(4) as pool:
        answers = [pool.submit(status, api, data) for _ in range(4)]
        peak = highest(api, answers)
    answered = Counter(answer.result() for answer in answers)
    report.add(size=mib(len(data)), peak=mib(peak), answers=answered)
    assert answered.keys() <= {413, 503}
    assert peak < PEAK


def test_uploads_that_fall_silent_hold_little_and_not_for_long(api: Gateway, report: Report) -> None:
    start = memory(api)
    with ExitStack() as stack:
        for _ in range(12):
            upload(api, stack)
        held = memory(api)
        assert api.post("/responses", {"model": "m", "input": "small"}).status_code == 200
        eventually(lambda: memory(api) < start + 30 * MIB, "silent uploads to be given up", 60)
    report.add(start=mib(start), held=mib(held))
    assert held < PEAK


def upload(api: Gateway, stack: ExitStack) -> None:
    """58 of 60 MiB, or as much as the gateway takes."""
    sock = stack.enter_context(socket.create_connection(("127.0.0.1", api.port), timeout=10))
    head = f"POST /v1/responses HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {api.token}\r\n"
    sock.sendall(f"{head}Content-Length: {60 * MIB}\r\n\r\n".encode())
    sock.sendall(b" " * (58 * MIB))


def status(api: Gateway, data: bytes) -> int:
    return api.request("POST", "/responses", data=data, timeout=120).status_code


def highest(api: Gateway, answers: list[Future[int]]) -> int:
    peak = 0
    while not all(answer.done() for answer in answers):
        peak = max(peak, memory(api))
        time.sleep(0.02)
    return peak


def memory(api: Gateway) -> int:
    return memory_of([api.pid, *api.workers])


def mib(size: int) -> str:
    return f"{size / MIB:.0f} MiB"
