"""The last border of a stream: whatever a format, the spelling of an event or the writing of a row raises, the client
gets a terminal event, the row ends and the upstream is let go. The format here is one that has faults.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, cast

import orjson
import pytest

from app.channels.upstream import LocalExchange
from app.contract.records import Token
from app.contract.turn import Answer
from app.errors import UpstreamBroken
from app.formats import demo
from app.gateway import Gateway, build
from app.last_good import LastGood
from app.memory import Share
from app.relay.request_context import RequestContext
from app.relay.runs import run_of_request
from app.relay.websocket_session import WebSocketSession
from app.schemas.create import read_create
from app.settings import Settings
from app.store.store import Store
from tests.relay.conftest import check_failed_stream
from tests.upstream import event_bytes

JSON = dict[str, Any]
TABLE = "version: 1\nchannels:\n  - {name: demo, format: demo, models: [demo], cooldown: {after: 1000}}\n"


def deep() -> JSON:
    """An item that orjson does not write."""
    item: JSON = {"id": "msg_1", "type": "message", "role": "assistant", "status": "completed", "content": []}
    for _ in range(300):
        item = {**item, "content": [item]}
    return item


def lone() -> JSON:
    """Another one: half of a surrogate pair."""
    part = {"type": "output_text", "text": "\ud83d", "annotations": []}
    return {"id": "msg_1", "type": "message", "role": "assistant", "status": "completed", "content": [part]}


class Faulty:
    """A decoder that says something and then meets its fault."""

    answer: Answer | None = None
    path = ""

    def __init__(self, fault: Fault, sequence: int) -> None:
        self.accepted = self.started = True
        self.defaults: JSON = {}
        self.sequence = sequence
        self._fault = fault
        self._written = False

    def feed(self, data: bytes) -> bytes:
        if self._written:
            self.answer = self._fault.ends()
            return b""
        self._written = True
        item = {"type": "message", "id": "msg_1", "role": "assistant", "status": "in_progress", "content": []}
        place = {"sequence_number": self.sequence, "output_index": 0}
        self.sequence += 1
        return event_bytes({"type": "response.output_item.added", **place, "item": item})

    def finish(self) -> None:
        raise UpstreamBroken("It broke off.")

    def partial(self) -> list[JSON]:
        return self._fault.partial()


class Fault:
    """How such a decoder ends: its answer, or what it raises; and what it has until then."""

    def __init__(self, ends: Callable[[], Answer | None], partial: Callable[[], list[JSON]]) -> None:
        self.ends = ends
        self.partial = partial


def raising(error: BaseException) -> Callable[[], Any]:
    def fail() -> Any:
        raise error

    return fail


def breaking_off() -> None:
    """The stream ends before the response has."""


def answering(*output: JSON, **members: Any) -> Callable[[], Answer]:
    return lambda: Answer("completed", list(output), **members)


FAULTS: dict[str, Fault] = {
    "a bug": Fault(raising(ZeroDivisionError()), list),
    "a bug, and another one in what came": Fault(raising(ZeroDivisionError()), raising(ZeroDivisionError())),
    "a bug, and what came is too deep": Fault(raising(ZeroDivisionError()), lambda: [deep()]),
    "it breaks off, and what came is too deep": Fault(breaking_off, lambda: [deep()]),
    "it breaks off, and what came is no UTF-8": Fault(breaking_off, lambda: [lone()]),
    "an error that is no UTF-8": Fault(raising(UpstreamBroken("It sent \ud83d.")), list),
    "an answer that is too deep": Fault(answering(deep()), lambda: [deep()]),
    "an answer that is no UTF-8": Fault(answering(lone()), lambda: [lone()]),
}
every_fault = pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)


@pytest.fixture(scope="module")
def process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """The parts of one process, as they are put together; nothing in it runs by itself."""
    directory: Path = tmp_path_factory.mktemp("border")
    url = f"sqlite:///{directory / 'antiphon.db'}"
    store = Store(url, peppers=[b"p"])
    store.schema.upgrade()
    store.close()
    table = directory / "channels.yaml"
    table.write_text(TABLE)
    gateway = build(LastGood.of(Settings(channels=table, database_url=url, secret_key="s" * 43)))
    yield gateway
    gateway.close()


@pytest.fixture(scope="module")
def token(process: Gateway) -> Token:
    return process.store.tokens.create("laptop", "ada")[0]


@pytest.fixture
def closed(fault: Fault, monkeypatch: pytest.MonkeyPatch) -> list[LocalExchange]:
    """The exchanges that were let go; the demo's format has the fault."""
    exchanges: list[LocalExchange] = []
    # The faults are logged with their words, of which some are no text that a report could carry.
    monkeypatch.setattr(logging.root.manager, "disable", logging.CRITICAL)
    monkeypatch.setattr(demo, "decoder", lambda turn, sequence: Faulty(fault, sequence))
    monkeypatch.setattr(LocalExchange, "close", lambda exchange: exchanges.append(exchange))
    return exchanges


def ask(**keys: Any) -> JSON:
    return dict(read_create({"model": "demo", "input": "hello", "stream": True, **keys}))


def status(process: Gateway, response_id: str) -> str:
    stored = process.store.responses.read("ada", response_id)
    assert stored is not None
    return stored.status


@every_fault
def test_a_stream_ends_with_a_terminal_event(process: Gateway, token: Token, closed: list[LocalExchange]) -> None:
    with closing(cast(Any, run_of_request(process.turns, token, ask(), RequestContext("req_1")).stream())) as stream:
        events = check_failed_stream(b"".join(stream))
    assert status(process, events[0]["response"]["id"]) == "failed"
    assert len(closed) == 1
    assert process.turns.running.ids() == set()
    assert [one.in_flight for one in process.channels.statuses()] == [0]


@every_fault
def test_a_web_socket_gets_its_last_frame(process: Gateway, token: Token, closed: list[LocalExchange]) -> None:
    session = WebSocketSession(process.turns, Share(process.budget))
    frame = bytearray(orjson.dumps({"type": "response.create", "model": "demo", "input": "hello"}))
    answer = session.answer(token, frame, RequestContext("req_1"), list[str]().append, orjson.loads)
    frames = [orjson.loads(text) for text in answer]
    kinds = [frame["type"] for frame in frames]
    assert kinds[-1] == "response.failed"
    assert "error" not in kinds
    assert status(process, frames[0]["response"]["id"]) == "failed"
    assert len(closed) == 1


@every_fault
def test_a_background_run_ends(process: Gateway, token: Token, closed: list[LocalExchange]) -> None:
    response_id = process.background.create(token, ask(background=True), RequestContext(""))["id"]
    process.background.run(response_id)
    stored = process.store.responses.read("ada", response_id)
    assert stored is not None
    assert stored.status == "failed"
    assert (stored.error or {})["code"] != "response_cancelled"
    events = process.background.events_after(token, response_id, None, None)
    check_failed_stream(b"".join(events))
    assert len(closed) == 1


@every_fault
def test_a_client_that_leaves_leaves_nothing_behind(
    process: Gateway, token: Token, closed: list[LocalExchange], fault: Fault
) -> None:
    with closing(cast(Any, run_of_request(process.turns, token, ask(), RequestContext("req_1")).stream())) as stream:
        head = next(iter(stream))
    response_id = orjson.loads(head.split(b"\n")[1].removeprefix(b"data: "))["response"]["id"]
    assert status(process, response_id) == "cancelled"
    assert len(closed) == 1
    assert [one.in_flight for one in process.channels.statuses()] == [0]
