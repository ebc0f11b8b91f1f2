"""Pauses, remedies and newest failures of channels, read together."""

from __future__ import annotations

import pytest

from app.store.recent_errors import NEWEST
from app.store.store import Store
from tests.store.test_recent_errors import LIMITED, REFUSED, ended
from tests.store.test_remedies import ALLOW, DROP, learnt, stored


@pytest.fixture
def store(shared_store: Store) -> Store:
    return shared_store


def test_an_empty_database_has_none(store: Store) -> None:
    assert not any(store.channel_facts.read())


def test_they_are_what_each_part_reads_by_itself(store: Store) -> None:
    store.pauses.pause("a", 600, "ada", "ö <b>")
    store.pauses.drain("b", "bob")
    stored(store, learnt(DROP, age=3), learnt(ALLOW, channel="b", age=1))
    ended(store, LIMITED, request_id="req_1")
    ended(store, REFUSED)
    facts = store.channel_facts.read()
    for found, alone in zip(facts.pauses, store.pauses.load(), strict=True):
        assert (found.channel, found.until, found.by, found.reason) == (
            alone.channel,
            alone.until,
            alone.by,
            alone.reason,
        )
        assert (found.left is None) is (alone.left is None)
    assert facts.remedies == store.remedies.load()
    assert facts.errors == store.recent_errors.channels()
    assert facts.errors["a"][1].request == "req_1"


def test_no_more_failures_than_the_newest_are_read(store: Store) -> None:
    for _ in range(NEWEST + 2):
        ended(store, LIMITED)
    assert len(store.channel_facts.read().errors["a"]) == NEWEST


def test_one_statement_reads_them(store: Store) -> None:
    calls: list[str] = []
    store.database.on_call = lambda kind, seconds: calls.append(kind)
    store.channel_facts.read()
    assert calls == ["read"]
