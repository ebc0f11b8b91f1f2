"""Workers that are killed while they work: acknowledged responses are stored, and the others end as failed."""

from __future__ import annotations

import os
import random
import re
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import orjson
import pytest
import requests

from tests.conftest import MakeGateway, MakeUpstream
from tests.gateway import Gateway, portions
from tests.relay.conftest import SOME_TEXT, check_failed_stream, eventually, response_id_in
from tests.sse_reader import SENTINEL, follow
from tests.store import rows
from tests.upstream import ScriptedUpstream, stalled

JSON = dict[str, Any]
LEASE = 4
#: What is promised for the responses of a worker that died.
WITHIN = LEASE + 30
KILLS = 50
MANY_KILLS = 500
CLIENTS = 6
SEED = 20261122
ENOUGH = 0.8
"""Seconds for each kill, after which a slow machine has seen enough of them."""
FEWEST_KILLS = 10


def worker_of(gateway: Gateway, response_id: str) -> int:
    """The process that a response in progress belongs to."""
    ((name,),) = rows.execute(
        gateway.database_url,
        "SELECT w.name FROM worker w JOIN response r ON r.worker = w.pk WHERE r.id = ?",
        (response_id,),
    )
    return int(name.split(":")[-2])


def serving(gateway: Gateway) -> list[int]:
    """The workers that have begun a response."""
    names = rows.execute(gateway.database_url, "SELECT name FROM worker")
    return sorted({int(name.split(":")[-2]) for (name,) in names} & set(gateway.workers))


def statuses(gateway: Gateway) -> dict[str, int]:
    found: JSON = orjson.loads(gateway.command("db", "stats", "--json"))
    return dict(found["statuses"])


# --- one worker of two ------------------------------------------------------------------------------------------


@pytest.fixture
def stalling(make_upstream: MakeUpstream) -> ScriptedUpstream:
    upstream = make_upstream()
    upstream.always(stalled(after=SOME_TEXT))
    return upstream


@dataclass(frozen=True, slots=True)
class Held:
    """A stream whose upstream says nothing more for the moment."""

    answer: requests.Response
    pieces: Iterator[bytes]
    head: bytes
    id: str
    worker: int

    def rest(self) -> bytes:
        return self.head + b"".join(self.pieces)


def hold(gateway: Gateway) -> Held:
    answer = gateway.stream({"model": "m", "input": "Say something to me"})
    pieces, head = portions(answer), b""
    while b"output_text.delta" not in head:
        head += next(pieces)
    response_id = response_id_in(head)
    return Held(answer, pieces, head, response_id, worker_of(gateway, response_id))


def hold_on_both(gateway: Gateway) -> list[Held]:
    """Streams, at least one on each of two workers."""
    held = [hold(gateway)]
    while len({stream.worker for stream in held}) < 2:
        assert len(held) < 200, "one worker took them all"
        held.append(hold(gateway))
    return held


def test_the_streams_of_a_killed_worker_have_failed_within_its_lease_and_the_others_go_on(
    gateway: MakeGateway, stalling: ScriptedUpstream
) -> None:
    running = gateway([stalling.channel()], workers=2, threads=256, pin="off", lease=LEASE)
    held = hold_on_both(running)
    victim = held[0].worker
    os.kill(victim, signal.SIGKILL)
    killed = [stream for stream in held if stream.worker == victim]
    others = [stream for stream in held if stream.worker != victim]
    for stream in killed:
        with suppress(requests.ConnectionError, requests.exceptions.ChunkedEncodingError):
            assert b"response.completed" not in stream.rest()
    # Otherwise one of theirs may be what is released.
    stalling.wait_hangup(len(killed))
    stalling.release(len(others))
    for stream in others:
        assert b"response.completed" in stream.rest()
    for stream in killed:
        failed = eventually(lambda id=stream.id: _ended(running, id), "the responses of the dead to end", WITHIN)
        assert (failed["status"], failed["error"]["code"]) == ("failed", "gateway_interrupted")
        refused = running.post("/responses", {"model": "m", "input": "more", "previous_response_id": stream.id})
        assert refused.json()["error"]["code"] == "previous_response_failed"
    for stream in others:
        assert running.get(f"/responses/{stream.id}").json()["status"] == "completed"


def _ended(gateway: Gateway, response_id: str) -> JSON | None:
    response: JSON = gateway.get(f"/responses/{response_id}").json()
    return None if response["status"] == "in_progress" else response


def test_a_response_deleted_while_it_streams_ends_at_once_on_whatever_worker(
    gateway: MakeGateway, stalling: ScriptedUpstream
) -> None:
    running = gateway([stalling.channel()], workers=2, threads=256, pin="off")
    held = hold_on_both(running)
    for stream in held:
        assert running.delete(f"/responses/{stream.id}").status_code == 200
    # The upstream says nothing more: what ends these streams is the deletion.
    for stream in held:
        events = check_failed_stream(stream.rest(), "response_cancelled")
        assert events[-1]["response"]["id"] == stream.id
        assert running.get(f"/responses/{stream.id}").status_code == 404
    stalling.wait_hangup(len(held))


# --- many workers, one after the other --------------------------------------------------------------------------


@dataclass
class Acknowledged:
    """The events that clients received, under one lock."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    begun: set[str] = field(default_factory=set)
    parents: dict[str, str | None] = field(default_factory=dict)
    """Of each response that was seen to be completed."""

    def begin(self, response_id: str) -> None:
        with self.lock:
            self.begun.add(response_id)

    def complete(self, response_id: str, parent: str | None) -> None:
        with self.lock:
            self.parents[response_id] = parent

    def depth(self, response_id: str) -> int:
        parent = self.parents[response_id]
        return 1 if parent is None else 1 + self.depth(parent)

    def tips(self) -> set[str]:
        return set(self.parents) - set(self.parents.values())


class Client(threading.Thread):
    """Holds conversations, streamed and not; a break continues from the last acknowledged response."""

    def __init__(self, gateway: Gateway, acknowledged: Acknowledged, seed: int, over: threading.Event) -> None:
        super().__init__(daemon=True)
        self._gateway = gateway
        self._acknowledged = acknowledged
        self._random = random.Random(seed)
        self._over = over
        self._session = requests.Session()
        self._session.trust_env = False
        self.faults: list[str] = []

    def run(self) -> None:
        parent: str | None = None
        while not self._over.is_set():
            with suppress(requests.RequestException):
                parent = self._turn(parent) or parent
                if parent is not None and self._acknowledged.depth(parent) == 20:
                    parent = None
        self._session.close()

    def _turn(self, parent: str | None) -> str | None:
        streamed = self._random.random() < 0.6
        body = {"model": "m", "input": "go on", "stream": streamed, "previous_response_id": parent}
        with self._session.post(
            f"{self._gateway.base_url}/responses",
            json=body,
            headers={"Authorization": f"Bearer {self._gateway.token}"},
            stream=True,
            timeout=20,
        ) as answer:
            if answer.status_code != 200:
                self.faults.append(answer.text)
                return None
            response = self._end_of_stream(answer) if streamed else answer.json()
        if response is None:
            return None
        self._acknowledged.complete(response["id"], parent)
        return str(response["id"])

    def _end_of_stream(self, answer: requests.Response) -> JSON | None:
        for event in follow(portions(answer)):
            if event.name == "response.created":
                self._acknowledged.begin(orjson.loads(event.data)["response"]["id"])
            elif event.name == "response.completed":
                return dict(orjson.loads(event.data)["response"])
            elif event.data != SENTINEL and event.name == "response.failed":
                self.faults.append(event.data)
        return None


@pytest.mark.parametrize(
    "kills",
    [
        pytest.param(KILLS, marks=pytest.mark.release),
        pytest.param(MANY_KILLS, marks=[pytest.mark.faults, pytest.mark.timeout(900)]),
    ],
)
def test_no_completed_response_is_lost_to_many_kills_under_load(
    gateway: MakeGateway, upstream: ScriptedUpstream, capsys: pytest.CaptureFixture[str], kills: int
) -> None:
    running = gateway([upstream.channel()], workers=2, lease=LEASE)
    acknowledged, over = Acknowledged(), threading.Event()
    clients = [Client(running, acknowledged, SEED + number, over) for number in range(CLIENTS)]
    for client in clients:
        client.start()
    try:
        killed = _kill_again_and_again(running, acknowledged, kills)
    finally:
        over.set()
        for client in clients:
            client.join(30)
    assert killed >= FEWEST_KILLS
    assert acknowledged.begun - set(acknowledged.parents), "nothing was interrupted"
    assert [fault for client in clients for fault in client.faults] == []
    eventually(lambda: "in_progress" not in statuses(running), "all that was begun to end", WITHIN)
    _check_completed(running, upstream, acknowledged)
    _check_interrupted(running, acknowledged)
    completed = set(acknowledged.parents)
    with capsys.disabled():
        print(f"\n{killed} kills: {len(completed)} responses completed, {len(acknowledged.begun - completed)} not")


def _kill_again_and_again(gateway: Gateway, acknowledged: Acknowledged, kills: int) -> int:
    """Some turns after the last kill one of the workers that serve is killed; how often."""
    chance, until, killed = random.Random(SEED), time.monotonic() + ENOUGH * kills, 0
    while killed < kills and time.monotonic() < until:
        enough = len(acknowledged.parents) + chance.randrange(1, 6)
        eventually(lambda enough=enough: len(acknowledged.parents) >= enough, "turns to complete")
        victim = chance.choice(eventually(lambda: serving(gateway), "a worker to serve"))
        os.kill(victim, signal.SIGKILL)
        eventually(lambda victim=victim: victim not in gateway.workers, "the master to notice")
        killed += 1
    return killed


def _check_completed(gateway: Gateway, upstream: ScriptedUpstream, acknowledged: Acknowledged) -> None:
    """Every response is stored, and every conversation goes on with its whole history."""
    for response_id in acknowledged.parents:
        assert gateway.get(f"/responses/{response_id}").json()["status"] == "completed"
    for tip in acknowledged.tips():
        answer = gateway.post("/responses", {"model": "m", "input": "once more", "previous_response_id": tip})
        assert answer.status_code == 200
        items = upstream.bodies[-1]["input"]
        assert len(items) == 2 * acknowledged.depth(tip) + 1
        seen = [int(number) for item in items for number in re.findall(r"I have seen (\d+) items", str(item))]
        assert seen == list(range(1, 2 * acknowledged.depth(tip), 2))


def _check_interrupted(gateway: Gateway, acknowledged: Acknowledged) -> None:
    """A response that began and was not acknowledged as completed has an end all the same."""
    for response_id in acknowledged.begun - set(acknowledged.parents):
        status = gateway.get(f"/responses/{response_id}").json()["status"]
        assert status in ("failed", "cancelled", "completed")
