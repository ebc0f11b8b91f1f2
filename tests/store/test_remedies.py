"""Remedies in the database: written behind the answer, read by every worker, gone after a day or on demand."""

from __future__ import annotations

from time import time

import pytest

from app.contract.remedies import LIFETIME, LearntRemedy, Remedy
from app.store.store import Store
from tests.relay.conftest import eventually

DROP = Remedy("drop", "temperature")
ALLOW = Remedy("allow", "reasoning_effort", ("low", "high"))
ORDER = Remedy("row", "message_order", "strict")


def learnt(
    remedy: Remedy = DROP, channel: str = "c", model: str = "m", digest: str = "d", age: int = 0
) -> LearntRemedy:
    return LearntRemedy(channel, model, digest, remedy, int(time()) - age)


def stored(store: Store, *remedies: LearntRemedy) -> None:
    """Stores them and waits for the writer."""
    for one in remedies:
        store.remedies.add(one)
    eventually(lambda: {one.key for one in remedies} <= {one.key for one in store.remedies.load()}, "the writer")


def test_a_remedy_comes_back_as_it_was(store: Store) -> None:
    given = [learnt(DROP, age=3), learnt(ALLOW, model="m" * 256, age=2), learnt(ORDER, channel="d", age=1)]
    stored(store, *given)
    assert store.remedies.load() == given


def test_the_same_remedy_is_stored_once(store: Store) -> None:
    stored(store, learnt(), learnt(), learnt(digest="other"))
    assert len(store.remedies.load()) == 2


def test_a_remedy_lasts_a_day(store: Store) -> None:
    store.remedies.add(learnt(ALLOW, age=LIFETIME + 1))
    stored(store, learnt(ORDER, age=LIFETIME - 60), learnt(DROP))
    assert [one.remedy for one in store.remedies.load()] == [ORDER, DROP]
    # The next one that is written removes the expired ones.
    assert store.remedies.forget("c") == 2


@pytest.mark.parametrize(("model", "left"), [(None, ["d"]), ("m", ["c", "d"]), ("unknown", ["c", "c", "d"])])
def test_a_channel_or_one_of_its_models_is_forgotten(store: Store, model: str | None, left: list[str]) -> None:
    stored(store, learnt(age=3), learnt(model="n", age=2), learnt(channel="d", age=1))
    assert store.remedies.forget("c", model) == 3 - len(left)
    assert [one.channel for one in store.remedies.load()] == left


@pytest.mark.parametrize("text", ['["later","x",null]', "{half"])
def test_what_this_version_cannot_read_is_skipped(store: Store, text: str) -> None:
    stored(store, learnt())
    store.database.transaction(lambda session: session.run("UPDATE remedy SET remedy = ?", (text,)))
    assert store.remedies.load() == []
