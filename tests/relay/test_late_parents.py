"""The row of an unstored turn is written after its answer, by the worker that answered. The next turn, on another
worker, may be traced before it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from typing import Any

import pytest

from app.contract.records import Token
from app.contract.response import Echo
from app.contract.turn import Turn
from app.relay.client_thread import ThreadNames
from app.relay.inferred_parents import InferredParents
from app.relay.prompts import Prompts
from app.sealing import OwnerDigests
from app.store.chain import Chain
from app.store.store import Store
from tests.relay.conftest import eventually
from tests.store import rows
from tests.store.conftest import PEPPER
from tests.store.turns import OWNER, draft, outcome

Item = dict[str, Any]

TOKEN = Token(1, "laptop", OWNER, "sk-1")
NAMES = ThreadNames("one conversation", {"session_id": "s"}, {})
OFTEN = (0.02,) * 3000
NEVER = (3600.0,)
_LINKS = (
    "SELECT r.id, p.id FROM thread_turn t"
    " JOIN response r ON r.pk = t.response LEFT JOIN response p ON p.pk = r.inferred"
)


class Worker:
    """The part of a process that traces the turns it has answered."""

    def __init__(self, url: str, waits: Sequence[float]) -> None:
        self._store = Store(url, peppers=[PEPPER])
        self._prompts = Prompts(OwnerDigests(b"p" * 32))
        self._parents = InferredParents(self._store, self._prompts, waits)

    def answer(self, number: int) -> str:
        """Answers the turn with this number of the conversation; its id."""
        begun, ended = draft(stored=False, token=TOKEN.key), outcome(says=_answer(number))
        items: list[Item] = []
        for earlier in range(number):
            items += [_message("user", f"question {earlier}"), _message("assistant", _answer(earlier))]
        items.append(_message("user", f"question {number}"))
        traced = self._parents.track(_turn(begun.id, items), TOKEN, NAMES)
        self._store.responses.note(begun, ended)
        assert traced is not None
        traced(ended)
        return begun.id

    def close(self) -> None:
        self._parents.close()
        self._store.close()


def _answer(number: int) -> str:
    return f"answer {number}"


def _message(role: str, text: str) -> Item:
    return {"type": "message", "role": role, "content": text}


def _turn(response_id: str, items: list[Item]) -> Turn:
    request = {"model": "small", "input": items}
    return Turn(
        id=response_id,
        owner=OWNER,
        created_at=1,
        model="small",
        request=request,
        input=items,
        echo=Echo.of(request, store=False),
        chain=Chain(),
        stream=False,
    )


@pytest.fixture
def url(database_url: str) -> str:
    with closing(Store(database_url, peppers=[PEPPER])) as store:
        store.schema.upgrade()
    return database_url


@pytest.fixture
def worker(url: str) -> Iterator[Callable[[Sequence[float]], Worker]]:
    """Makes workers of one gateway."""
    workers: list[Worker] = []

    def start(waits: Sequence[float]) -> Worker:
        workers.append(Worker(url, waits))
        return workers[-1]

    yield start
    for one in workers:
        one.close()


MakeWorker = Callable[[Sequence[float]], Worker]


def links(url: str) -> dict[str, str | None]:
    """The turns that were traced, with the inferred parent of each."""
    return dict(rows.execute(url, _LINKS))


@pytest.mark.parametrize("known", [0, 1, 2])
def test_a_turn_waits_for_the_one_that_it_goes_on_from(url: str, worker: MakeWorker, known: int) -> None:
    first, second = worker(OFTEN), worker(OFTEN)
    turns = [first.answer(number) for number in range(known)]
    eventually(lambda: len(links(url)) == known, "the known turns")
    early = [second.answer(number) for number in range(known + 1, known + 4)]
    turns.append(first.answer(known))
    turns += early
    eventually(lambda: len(links(url)) == len(turns), "all turns")
    assert links(url) == dict(zip(turns, [None, *turns], strict=False))


def test_a_turn_whose_history_nobody_knows_is_traced_in_the_end(url: str, worker: MakeWorker) -> None:
    one = worker(OFTEN[:3])
    turns = [one.answer(2)]
    eventually(lambda: links(url) == {turns[0]: None}, "the first turn")
    turns.append(one.answer(3))
    eventually(lambda: links(url) == {turns[0]: None, turns[1]: turns[0]}, "the second turn")


def test_turns_that_wait_are_traced_when_the_process_ends(url: str, worker: MakeWorker) -> None:
    one = worker(NEVER)
    turns = [one.answer(number) for number in (0, 2, 3)]
    one.close()
    traced = links(url)
    assert traced.keys() == set(turns)
    assert traced[turns[1]] == turns[0]
