"""Workers that are killed or must end while they make background responses."""

from __future__ import annotations

import itertools
import os
import random
import signal
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field, replace
from typing import Any

import orjson
import pytest
import requests

from tests.conftest import MakeGateway
from tests.gateway import Gateway, portions
from tests.outages import outage
from tests.relay.background.conftest import await_post
from tests.relay.conftest import SOME_TEXT, eventually
from tests.response_contract import check_stream
from tests.sse_reader import SENTINEL, follow
from tests.store import rows
from tests.upstream import Answer, Exchange, Pause, Piece, ScriptedUpstream, silent, stalled

JSON = dict[str, Any]
LEASE = 4
#: What is promised for the responses of a worker that died, and a second run.
WITHIN = LEASE + 45
RUNS = 50
CLIENTS = 10
KILLS = 20
SEED = 20261122
BODY = {"model": "m", "background": True}


def ended(gateway: Gateway, response_id: str, within: float = WITHIN) -> JSON:
    def look() -> JSON | None:
        response: JSON = gateway.get(f"/responses/{response_id}").json()
        return None if response["status"] in ("queued", "in_progress") else response

    found: JSON = eventually(look, f"{response_id} to end", within)
    return found


# --- one worker that dies or ends -------------------------------------------------------------------------------


@pytest.fixture
def alone(gateway: MakeGateway, upstream: ScriptedUpstream) -> Gateway:
    """A gateway whose workers for background responses the test starts itself."""
    return gateway([upstream.channel()], lease=LEASE, drain=1)


def test_a_run_without_events_is_repeated_when_its_worker_dies(alone: Gateway, upstream: ScriptedUpstream) -> None:
    upstream.enqueue(silent())
    waiting = alone.post("/responses", {**BODY, "input": "hello"}).json()
    with alone.worker() as first:
        await_post(upstream)
        first.kill()
        first.wait()
    with alone.worker():
        assert ended(alone, waiting["id"])["status"] == "completed"
    assert len(upstream.bodies) == 2


def test_a_run_with_events_has_failed_when_its_worker_dies(alone: Gateway, upstream: ScriptedUpstream) -> None:
    upstream.always(stalled(after=SOME_TEXT))
    stream = alone.stream({**BODY, "input": "hello"})
    pieces, head = portions(stream), b""
    with alone.worker() as first:
        while b"output_text.delta" not in head:
            head += next(pieces)
        first.kill()
        first.wait()
    with alone.worker():
        rest = b"".join(pieces)
    failed = orjson.loads(list(follow([head + rest]))[-2].data)["response"]
    assert (failed["status"], failed["error"]["code"]) == ("failed", "gateway_interrupted")
    assert alone.get(f"/responses/{failed['id']}").json() == failed
    assert len(upstream.bodies) == 1


def test_a_run_that_kills_two_workers_is_not_tried_a_third_time(alone: Gateway, upstream: ScriptedUpstream) -> None:
    upstream.always(silent())
    waiting = alone.post("/responses", {**BODY, "input": "hello"}).json()
    for number in (1, 2):
        with alone.worker() as worker:
            eventually(lambda number=number: len(upstream.bodies) == number, "a request to the upstream", WITHIN)
            worker.kill()
            worker.wait()
    with alone.worker():
        assert ended(alone, waiting["id"])["error"]["code"] == "gateway_interrupted"
    assert len(upstream.bodies) == 2


def test_a_worker_that_must_end_gives_back_runs_without_events(alone: Gateway, upstream: ScriptedUpstream) -> None:
    upstream.enqueue(silent())
    waiting = alone.post("/responses", {**BODY, "input": "hello"}).json()
    with alone.worker() as first:
        await_post(upstream)
        first.terminate()
        assert first.wait(20) == 0
    assert alone.get(f"/responses/{waiting['id']}").json()["status"] == "queued"
    with alone.worker():
        assert ended(alone, waiting["id"])["status"] == "completed"


def test_a_worker_that_must_end_fails_runs_that_it_cannot_finish(alone: Gateway, upstream: ScriptedUpstream) -> None:
    upstream.enqueue(stalled(after=SOME_TEXT))
    waiting = alone.post("/responses", {**BODY, "input": "hello"}).json()
    with alone.worker() as first:
        await_post(upstream)
        eventually(lambda: _stored_events(alone, waiting["id"]) > 5, "stored events")
        first.terminate()
        assert first.wait(20) == 0
    failed = alone.get(f"/responses/{waiting['id']}").json()
    assert (failed["status"], failed["error"]["code"]) == ("failed", "server_shutting_down")
    assert failed["output"][0]["content"][0]["text"]


def _stored_events(gateway: Gateway, response_id: str) -> int:
    sql = "SELECT COALESCE(MAX(e.last), -1) FROM event e JOIN response r ON r.pk = e.response WHERE r.id = ?"
    ((last,),) = rows.execute(gateway.database_url, sql, (response_id,))
    return int(last)


def test_a_worker_that_must_end_lets_runs_finish(alone: Gateway, upstream: ScriptedUpstream) -> None:
    upstream.enqueue(stalled(after=SOME_TEXT))
    waiting = alone.post("/responses", {**BODY, "input": "hello"}).json()
    with alone.worker() as first:
        await_post(upstream)
        first.terminate()
        upstream.release()
        assert first.wait(20) == 0
    assert alone.get(f"/responses/{waiting['id']}").json()["status"] == "completed"


def test_one_that_is_cancelled_before_a_worker_comes_is_never_made(alone: Gateway, upstream: ScriptedUpstream) -> None:
    first = alone.post("/responses", {**BODY, "input": "never"}).json()
    assert alone.post(f"/responses/{first['id']}/cancel", {}).json()["status"] == "cancelled"
    second = alone.post("/responses", {**BODY, "input": "hello"}).json()
    with alone.worker():
        assert ended(alone, second["id"])["status"] == "completed"
    assert len(upstream.bodies) == 1


def test_a_lost_job_is_queued_again(alone: Gateway) -> None:
    waiting = alone.post("/responses", {**BODY, "input": "hello"}).json()
    rows.execute(alone.database_url, "DELETE FROM huey_task")
    with alone.worker():
        assert ended(alone, waiting["id"])["status"] == "completed"


def test_a_reader_whose_worker_ends_gets_a_retryable_error(gateway: MakeGateway, upstream: ScriptedUpstream) -> None:
    running = gateway([upstream.channel()], lease=LEASE, drain=1)
    upstream.enqueue(stalled(after=SOME_TEXT))
    with running.worker():
        pieces, head = portions(running.stream({**BODY, "input": "hello"})), b""
        while b"output_text.delta" not in head:
            head += next(pieces)
        assert running.stop() == 0
        *seen, error = (orjson.loads(event.data) for event in follow([head + b"".join(pieces)]))
        assert (error["type"], error["error"]["code"]) == ("error", "server_shutting_down")
        assert error["sequence_number"] == seen[-1]["sequence_number"]
        running.start()
        upstream.release()
        response_id = seen[0]["response"]["id"]
        rest = running.get(f"/responses/{response_id}?stream=true&starting_after={error['sequence_number']}")
    *others, _ = follow([rest.content])
    numbers = [event["sequence_number"] for event in (*seen, *(orjson.loads(event.data) for event in others))]
    assert numbers == list(range(len(numbers)))


def test_a_stream_whose_events_are_gone_is_built_from_the_response(
    gateway: MakeGateway, upstream: ScriptedUpstream
) -> None:
    running = gateway([upstream.channel()], lease=LEASE, events_kept="1s")
    waiting = running.post("/responses", {**BODY, "input": "hello"}).json()
    with running.worker():
        done = ended(running, waiting["id"])
        eventually(lambda: rows.count(running.database_url, "event") == 0, "the events to go", WITHIN)
    path = f"/responses/{waiting['id']}?stream=true"
    assert check_stream(running.get(path).content, status="completed")[-1]["response"] == done
    (end, _) = follow([running.get(f"{path}&starting_after=5").content])
    assert orjson.loads(end.data) == {"type": "response.completed", "sequence_number": 6, "response": done}


def test_a_store_that_is_away_for_a_while_costs_no_answer(alone: Gateway, upstream: ScriptedUpstream) -> None:
    upstream.enqueue(stalled(after=SOME_TEXT))
    waiting = alone.post("/responses", {**BODY, "input": "hello"}).json()
    with alone.worker():
        eventually(lambda: _stored_events(alone, waiting["id"]) > 5, "stored events")
        with outage(alone.database_url):
            upstream.release()
            alone.wait_for_log("database error")
        assert ended(alone, waiting["id"])["status"] == "completed"
    check_stream(alone.get(f"/responses/{waiting['id']}?stream=true").content, status="completed")


def test_channels_that_are_busy_are_waited_for(gateway: MakeGateway, upstream: ScriptedUpstream) -> None:
    running = gateway([upstream.channel(max_concurrency=1)], lease=LEASE)
    upstream.enqueue(stalled(after=SOME_TEXT))
    with running.worker():
        first = running.post("/responses", {**BODY, "input": "hello"}).json()
        await_post(upstream)
        second = running.post("/responses", {**BODY, "input": "hello again"}).json()
        eventually(lambda: running.get(f"/responses/{second['id']}").json()["status"] == "in_progress", "its turn")
        upstream.release()
        assert {ended(running, each["id"])["status"] for each in (first, second)} == {"completed"}


# --- many, at random --------------------------------------------------------------------------------------------


@dataclass
class Watch:
    """A slow upstream that notes which responses it makes, and which of them twice at once."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    open: Counter[str] = field(default_factory=Counter)
    started: Counter[str] = field(default_factory=Counter)
    twice: set[str] = field(default_factory=set)

    def __call__(self, exchange: Exchange, answer: Answer) -> Answer:
        text = str(exchange.request.body["input"][-1]["content"])
        return replace(answer, pieces=self._pieces(text, answer))

    def _pieces(self, text: str, answer: Answer) -> Iterator[Piece]:
        with self.lock:
            self.open[text] += 1
            self.started[text] += 1
            if self.open[text] > 1:
                self.twice.add(text)
        try:
            for piece in answer.pieces:
                yield Pause(0.06)
                yield piece
        finally:
            with self.lock:
                self.open[text] -= 1


class Reader(threading.Thread):
    """Requests responses, one after the other, and follows each to its end, however often that breaks off."""

    def __init__(self, gateway: Gateway, number: int, enough: threading.Event) -> None:
        """`enough`: it has seen the kills that the test is about, and need not go on after its share of RUNS."""
        super().__init__(daemon=True)
        self._enough = enough
        self._gateway = gateway
        self._number = number
        self._session = requests.Session()
        self._session.trust_env = False
        self._session.headers["Authorization"] = f"Bearer {gateway.token}"
        self.seen: dict[str, list[JSON]] = {}
        self.breaks = 0

    def run(self) -> None:
        for turn in itertools.count():
            if turn >= RUNS // CLIENTS and self._enough.is_set():
                break
            response_id = self._create(f"run {self._number}.{turn}")
            self.seen[response_id] = []
            while not self._follow(response_id):
                self.breaks += 1
        self._session.close()

    def _create(self, text: str) -> str:
        """The id of a new response. A server that is killed before it answers may have begun one, so that every try has
        a text of its own.
        """
        for number in itertools.count():
            body = {**BODY, "input": f"{text}, try {number}"}
            with suppress(requests.RequestException):
                answer = self._session.post(f"{self._gateway.base_url}/responses", json=body)
                if answer.status_code == 200:
                    return str(answer.json()["id"])
        raise AssertionError("unreachable")

    def _follow(self, response_id: str) -> bool:
        events = self.seen[response_id]
        after = f"&starting_after={events[-1]['sequence_number']}" if events else ""
        url = f"{self._gateway.base_url}/responses/{response_id}?stream=true{after}"
        with suppress(requests.RequestException), self._session.get(url, stream=True, timeout=WITHIN) as answer:
            for event in follow(portions(answer)):
                if event.data == SENTINEL:
                    return True
                events.append(orjson.loads(event.data))
        return False


@pytest.mark.release
def test_fifty_responses_survive_kills_at_random(gateway: MakeGateway, upstream: ScriptedUpstream) -> None:
    running = gateway([upstream.channel(cooldown={"after": 1000})], workers=2, lease=LEASE)
    watch = Watch()
    upstream.always(watch)
    enough = threading.Event()
    readers = [Reader(running, number, enough) for number in range(CLIENTS)]
    with ExitStack() as stack:
        for reader in readers:
            reader.start()
        killed = _kill_again_and_again(running, readers, enough, stack)
        for reader in readers:
            reader.join(WITHIN)
    assert not any(reader.is_alive() for reader in readers), "a reader still waits"
    assert min(killed["worker"], killed["server"]) >= 2
    assert sum(reader.breaks for reader in readers), "no stream broke off"
    assert watch.twice == set()
    assert max(watch.started.values()) <= 2
    statuses = Counter(_check_seen(running, *seen) for reader in readers for seen in reader.seen.items())
    assert sum(statuses.values()) >= RUNS
    assert statuses["completed"]


def _kill_again_and_again(
    gateway: Gateway, readers: list[Reader], enough: threading.Event, stack: ExitStack
) -> Counter[str]:
    """Now one of two workers for background responses, now one of two that serve, until streams have broken off."""
    chance, killed = random.Random(SEED), Counter[str]()
    workers: list[subprocess.Popen[bytes]] = [stack.enter_context(gateway.worker()) for _ in range(2)]
    latest = time.monotonic() + WITHIN
    while any(reader.is_alive() for reader in readers) and time.monotonic() < latest:
        if killed.total() >= KILLS and enough.is_set():
            break
        time.sleep(chance.uniform(0.2, 1.0))
        if killed.total() % 2:
            workers.pop(chance.randrange(2)).kill()
            workers.append(stack.enter_context(gateway.worker()))
            killed["worker"] += 1
        else:
            os.kill(chance.choice(eventually(lambda: gateway.workers, "a worker to serve")), signal.SIGKILL)
            killed["server"] += 1
        if min(killed["worker"], killed["server"]) >= 2 and any(reader.breaks for reader in readers):
            enough.set()
    enough.set()
    return killed


def _check_seen(gateway: Gateway, response_id: str, events: list[JSON]) -> str:
    """Every event once and in order, and the end is what is stored."""
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    response = gateway.get(f"/responses/{response_id}").json()
    assert events[-1]["response"] == response
    return str(response["status"])
