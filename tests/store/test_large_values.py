"""SQLite copies each value that a statement binds, and frees the copy with the statement."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from app import ids
from app.contract.records import Conversation, ConversationTurn, EventBatch
from app.store.store import Store
from tests.store.turns import OWNER, draft, outcome, turn

LARGE = "a" * (2 * 1024 * 1024)
EVENTS = EventBatch(0, 1, b"event: response.created\ndata: {}\n\n")


def open_files(database: Path) -> int:
    """How often this process has a database file open."""
    links = [entry for entry in Path("/proc/self/fd").iterdir() if entry.is_symlink()]
    return sum(os.readlink(link) == str(database) for link in links if link.is_symlink())


def write_turn(store: Store, text: str) -> None:
    turn(store, says=text)


def write_answer(store: Store, text: str) -> None:
    begun = draft()
    store.responses.begin(begun)
    store.responses.finish(begun, outcome(says=text))


def write_settings(store: Store, text: str) -> None:
    turn(store, settings=b'{"instructions":"%s"}' % text.encode())


def write_job(store: Store, text: str) -> None:
    store.jobs.enqueue(draft(background=True), text.encode(), EVENTS, lambda _: None)


def write_events(store: Store, text: str) -> None:
    batch = EventBatch(0, 1, b"event: response.created\ndata: %s\n\n" % text.encode())
    store.jobs.enqueue(draft(background=True), b"sealed", batch, lambda _: None)


def write_conversation(store: Store, text: str) -> None:
    added = ConversationTurn(created_at=1, input=b'[{"type":"message","id":"msg_1","content":"%s"}]' % text.encode())
    store.conversations.create(OWNER, Conversation(ids.new("conv"), 1, {}), added)


@pytest.mark.parametrize(
    "write", [write_turn, write_answer, write_settings, write_job, write_events, write_conversation]
)
def test_no_connection_keeps_a_large_value(tmp_path: Path, write: Callable[[Store, str], None]) -> None:
    database = tmp_path / "a.db"
    store = Store(f"sqlite:///{database}", peppers=[b"p"])
    store.schema.upgrade()
    write(store, "small")
    assert open_files(database) > 0
    write(store, LARGE)
    assert open_files(database) == 0
    store.close()
