"""What a look at the database sees, and what a page is told of it."""

from __future__ import annotations

from typing import Any

import pytest

from app.console.live import Live, _Known
from app.contract.records import ChannelStatus
from app.errors import StoreUnavailable, Unavailable
from app.request_watch import wait_ready
from app.store.changes import LOOK_BACK, Look
from app.store.console_sessions import IDLE
from app.store.database import Session
from app.store.store import Store
from tests.store import rows
from tests.store.test_jobs import enqueue
from tests.store.turns import OWNER, draft, outcome, turn


def session_of(store: Store, owner: str = OWNER, role: str = "owner", **keys: int) -> str:
    token, _ = store.tokens.create(f"{owner}-{role}", owner, console=role, **keys)
    found = store.console_sessions.find(store.console_sessions.open(token))
    assert found is not None
    return found.hash


class Watched:
    """The looks of one worker, one after the other."""

    def __init__(self, store: Store, *roots: str) -> None:
        self._store, self._roots, self._known = store, roots, _Known()
        self.topics()

    def topics(self) -> dict[str | None, set[str]]:
        """What has changed since the last look, for everyone, for the owner and for another."""
        look = self._store.changes.look(self._known.after, ["none"], self._roots)
        changed = self._known.compared(look)
        topics = ["flight", "requests", *(f"tree:{root}" for root in self._roots)]
        return {scope: {topic for topic in topics if changed.has(topic, scope)} for scope in (None, OWNER, "bob")}


def test_sessions_that_hold_have_their_owner_and_role(store: Store, database_url: str) -> None:
    own, operators = session_of(store), session_of(store, "ops", "operator")
    look = store.changes.look(None, [own, operators, "unknown"])
    assert look.sessions == {own: (OWNER, "owner"), operators: ("ops", "operator")}
    store.tokens.revoke("ops-operator")
    assert store.changes.look(None, [own, operators]).sessions == {own: (OWNER, "owner")}
    rows.execute(database_url, "UPDATE console_session SET used_at = used_at - ?", (IDLE,))
    assert store.changes.look(None, [own]).sessions == {}


@pytest.mark.parametrize("column", ["console = NULL", "expires_at = 1"])
def test_a_session_ends_with_the_rights_of_its_token(store: Store, database_url: str, column: str) -> None:
    own = session_of(store)
    rows.execute(database_url, f"UPDATE token SET {column}")
    assert store.changes.look(None, [own]).sessions == {}


def test_a_look_is_one_query(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    root = turn(store)
    statements: list[str] = []
    read = Session.rows

    def counted(session: Session, sql: str, parameters: object = ()) -> object:
        statements.append(sql)
        return read(session, sql, parameters)  # type: ignore[arg-type]

    monkeypatch.setattr(Session, "rows", counted)
    look = store.changes.look(0, ["a", "b"], [root])
    assert len(statements) == 1
    assert (look.newest, look.roots) == (1, {root: OWNER})


def test_a_response_at_work_is_told_to_its_owner_and_to_operators(store: Store) -> None:
    watched, begun = Watched(store), draft()
    store.responses.begin(begun)
    assert watched.topics() == {None: {"flight", "requests"}, OWNER: {"flight", "requests"}, "bob": set()}
    assert watched.topics() == {None: set(), OWNER: set(), "bob": set()}
    store.responses.finish(begun, outcome())
    assert watched.topics()[OWNER] == {"flight", "requests"}


def test_a_queued_response_is_told_once_it_starts(store: Store) -> None:
    watched, waiting = Watched(store), enqueue(store)
    assert "flight" in watched.topics()[OWNER]
    store.jobs.claim(waiting)
    assert "flight" in watched.topics()[OWNER]
    assert watched.topics()[OWNER] == set()


def test_a_turn_without_a_row_of_its_own_beginning_is_new(store: Store) -> None:
    """Also after more rows than a look reads again."""
    watched = Watched(store)
    turn(store)
    assert watched.topics() == {None: {"requests"}, OWNER: {"requests"}, "bob": set()}
    for _ in range(3):
        turn(store, owner="bob")
    assert watched.topics() == {None: {"requests"}, OWNER: set(), "bob": {"requests"}}


def test_a_row_that_becomes_visible_late_is_new(store: Store, database_url: str) -> None:
    ids = [turn(store) for _ in range(3)]
    rows.execute(database_url, "UPDATE response SET pk = pk + 1000 WHERE id = ?", (ids[2],))
    watched = Watched(store)
    rows.execute(database_url, f"UPDATE response SET pk = {1003 - LOOK_BACK + 5} WHERE id = ?", (ids[0],))
    rows.execute(database_url, "UPDATE response SET id = 'resp_late' WHERE id = ?", (ids[0],))
    assert watched.topics()[OWNER] == {"requests"}


def test_a_tree_is_told_again_after_a_moment(store: Store) -> None:
    """The parent that is inferred for a turn is written after its row."""
    root = turn(store)
    watched = Watched(store, root, "resp_unknown")
    turn(store, root)
    topic = f"tree:{root}"
    assert watched.topics() == {None: {"requests", topic}, OWNER: {"requests", topic}, "bob": set()}
    assert watched.topics() == {None: {topic}, OWNER: {topic}, "bob": set()}
    assert watched.topics()[OWNER] == set()


def test_operators_are_told_of_channels(store: Store) -> None:
    store.leases.renew([ChannelStatus("first")])
    watched = Watched(store)
    store.leases.renew([ChannelStatus("first", cooldown_left=5.0)])
    assert watched.topics() == {None: {"flight"}, OWNER: set(), "bob": set()}
    store.leases.renew([ChannelStatus("first", cooldown_left=3.0)])
    assert watched.topics()[None] == set()


FLIGHT = (frozenset({"flight"}), OWNER, "owner", OWNER)


def test_a_page_that_comes_while_the_database_is_away_learns_of_everything_later(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    look, answers = store.changes.look, iter([StoreUnavailable("It is away.")])

    def away_at_first(*arguments: Any) -> Look:
        for error in answers:
            raise error
        return look(*arguments)

    monkeypatch.setattr(store.changes, "look", away_at_first)
    live, session = Live(store.changes, 1), session_of(store)
    page = live.enter(*FLIGHT, session)
    with pytest.raises(Unavailable):
        live.enter(*FLIGHT, session)
    wait_ready(page.bell.fileno(), None, 30)
    assert page.take() == ["flight"]
    assert page.take() == []
    live.leave(page)


def test_pages_that_come_and_go_cause_no_more_looks(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.console.live.CHECK_SECONDS", 1000.0)
    looks: list[int] = []
    look = store.changes.look
    monkeypatch.setattr(store.changes, "look", lambda *arguments: looks.append(1) or look(*arguments))
    live, session = Live(store.changes, 1), session_of(store)
    page = live.enter(*FLIGHT, session)
    wait_ready(page.bell.fileno(), None, 30)
    live.leave(page)
    for _ in range(5):
        live.leave(live.enter(*FLIGHT, session))
    assert looks == [1]
