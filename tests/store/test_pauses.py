"""Pauses of channels in the database: a pause ends by itself, a drain lasts until the channel is resumed."""

from __future__ import annotations

import pytest

from app.contract.pauses import DRAINING, PAUSED
from app.store.store import Store
from tests.store import rows


@pytest.fixture
def database_url(module_database_url: str) -> str:
    return module_database_url


@pytest.fixture
def store(shared_store: Store) -> Store:
    return shared_store


def test_a_pause_has_an_end_and_says_who_and_why(store: Store) -> None:
    store.pauses.pause("a", 600, "ada", "a new disk")
    (pause,) = store.pauses.load()
    assert (pause.channel, pause.state, pause.by, pause.reason) == ("a", PAUSED, "ada", "a new disk")
    assert pause.until is not None
    assert pause.until - pause.since == 600
    assert pause.left is not None
    assert 0 < pause.left <= 600
    assert pause.described().endswith("UTC by ada: a new disk")


def test_a_drain_has_no_end(store: Store) -> None:
    store.pauses.drain("a", "ada")
    (pause,) = store.pauses.load()
    assert (pause.state, pause.until, pause.left) == (DRAINING, None, None)


def test_the_last_word_counts(store: Store) -> None:
    store.pauses.drain("a", "ada")
    store.pauses.pause("a", 60, "bob")
    store.pauses.drain("b", "ada")
    assert [(pause.channel, pause.state, pause.by) for pause in store.pauses.load()] == [
        ("a", PAUSED, "bob"),
        ("b", DRAINING, "ada"),
    ]


def test_a_channel_is_resumed_once(store: Store) -> None:
    store.pauses.drain("a", "ada")
    assert store.pauses.resume("a")
    assert not store.pauses.resume("a")
    assert not store.pauses.resume("unknown")
    assert store.pauses.load() == []


def test_a_pause_that_has_ended_is_none(store: Store, database_url: str) -> None:
    store.pauses.pause("a", 60, "ada")
    rows.execute(database_url, "UPDATE channel_pause SET began_at = began_at - 60, ends_at = ends_at - 60")
    assert store.pauses.load() == []
    assert not store.pauses.resume("a")
    # The next one that is written removes it.
    store.pauses.pause("b", 60, "ada")
    assert rows.count(database_url, "channel_pause") == 1


def test_an_order_to_end_a_cooldown_is_no_pause_and_soon_gone(store: Store, database_url: str) -> None:
    assert store.pauses.end_cooldown("a", "ada")
    assert store.pauses.end_cooldown("a", "ada")
    # Another channel's order leaves it there until all workers have read it.
    store.pauses.pause("b", 60, "ada")
    found = store.pauses.read()
    assert ([pause.channel for pause in found.pauses], set(found.cooldowns_ended)) == (["b"], {"a"})
    assert [pause.channel for pause in store.pauses.load()] == ["b"]
    facts = store.channel_facts.read()
    assert ([pause.channel for pause in facts.pauses], facts.cooldowns_ended) == (["b"], {"a"})
    assert not store.pauses.resume("a")
    rows.execute(database_url, "UPDATE channel_pause SET began_at = began_at - 30 WHERE channel = 'a'")
    assert (store.pauses.read().cooldowns_ended, store.channel_facts.read().cooldowns_ended) == ({}, set())
    store.pauses.drain("c", "ada")
    assert rows.count(database_url, "channel_pause") == 2


def test_a_channel_out_of_service_stays_so(store: Store) -> None:
    store.pauses.drain("a", "ada")
    assert not store.pauses.end_cooldown("a", "bob")
    assert [(pause.state, pause.by) for pause in store.pauses.load()] == [(DRAINING, "ada")]
    assert store.pauses.end_cooldown("b", "bob")
    store.pauses.pause("b", 60, "ada")
    assert (len(store.pauses.load()), store.pauses.read().cooldowns_ended) == (2, {})


@pytest.mark.parametrize("text", ["ö" * 500, "'; DROP TABLE channel_pause; --", "<script>"])
def test_names_and_reasons_are_cut_and_come_back_as_they_were(store: Store, text: str) -> None:
    store.pauses.pause("a", 60, text, text)
    (pause,) = store.pauses.load()
    assert (pause.by, pause.reason) == (text[:191], text[:200])
