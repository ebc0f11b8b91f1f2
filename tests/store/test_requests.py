"""Single requests for pages: newest first, filtered among the newest ten thousand, each owner's own."""

from __future__ import annotations

from typing import Any

import pytest

from app.contract.records import Attempt
from app.contract.usage import Usage
from app.store import requests
from app.store.requests import Wanted
from app.store.store import Store
from tests.store.turns import OWNER, draft, outcome

FAILED = Attempt("a", 3, 429, "rate_limit_exceeded", upstream_message="slow down")


@pytest.fixture
def database_url(module_database_url: str) -> str:
    return module_database_url


@pytest.fixture
def store(shared_store: Store) -> Store:
    return shared_store


def made(store: Store, status: str = "completed", *, owner: str = OWNER, stored: bool = True, **fields: Any) -> str:
    names = {"model", "client", "request_id", "streamed", "parent"}
    begun = draft(
        fields.pop("parent", None), owner=owner, stored=stored, **{name: fields.pop(name) for name in names & {*fields}}
    )
    store.responses.finish(begun, outcome(status, **fields))
    return begun.id


def ids(store: Store, scope: str | None = None, count: int = 50, **wanted: str) -> list[str]:
    return [row.id for row in store.requests.page(scope, Wanted(**wanted), count).rows]


def test_the_newest_come_first_in_pages(store: Store) -> None:
    every = [made(store) for _ in range(5)][::-1]
    found, before = [], None
    while True:
        page = store.requests.page(None, Wanted(), 2, before)
        found += [row.id for row in page.rows]
        before = page.before
        if before is None:
            break
    assert found == every
    assert not page.searched


def test_a_row_says_what_is_known(store: Store) -> None:
    parent = made(store, channel="b")
    child = made(
        store,
        parent=parent,
        channel="b",
        request_id="req_1",
        client="codex",
        streamed=True,
        usage=Usage(10, 4, 0, 3, 1, cost=70),
        attempts=(FAILED, Attempt("b", 9, 200)),
        first_byte_ms=5,
        total_ms=12,
    )
    row = store.requests.find(None, child)
    assert row is not None
    assert row == store.requests.page(None, Wanted(), 1).rows[0]
    assert (row.parent, row.parent_channel, row.request_id, row.client) == (parent, "b", "req_1", "codex")
    assert (row.input_tokens, row.cached_tokens, row.output_tokens, row.reasoning_tokens, row.cost) == (10, 4, 3, 1, 70)
    assert [attempt["channel"] for attempt in row.attempts] == ["a", "b"]
    assert row.has_content
    assert not row.running


def test_each_filter_finds_its_rows(store: Store) -> None:
    plain = made(store, model="m", channel="b")
    failed = made(store, "failed", error={"code": "upstream_error"}, attempts=(FAILED,), channel="a", stored=False)
    retried = made(store, channel="b", attempts=(FAILED, Attempt("b", 1, 200)), client="codex", streamed=True)
    compacted = made(store, compaction={"strategy": "summary"}, request_id="req_c")
    unfinished = made(store, "incomplete", incomplete_details={"reason": "max_output_tokens"})
    begun = draft()
    store.responses.begin(begun)
    assert ids(store, status="failed") == [failed]
    assert ids(store, status="2nd try or later") == [retried]
    assert ids(store, status="incomplete") == [unfinished]
    assert ids(store, status="in flight") == [begun.id]
    assert ids(store, kind="compaction") == [compacted]
    assert ids(store, kind="not stored") == [failed]
    assert ids(store, kind="streamed") == [retried]
    assert ids(store, channel="a") == [retried, failed]
    assert ids(store, channel="b") == [retried, plain]
    assert ids(store, client="codex") == [retried]
    assert ids(store, request="req_c") == [compacted]
    assert ids(store, channel="b", kind="JSON") == [plain]
    assert ids(store, token="unknown") == []
    assert len(ids(store)) == 6


@pytest.mark.parametrize("value", ["' OR 1=1 --", "%", "_", '"', "ö" * 300])
def test_a_filter_is_a_value_and_never_sql(store: Store, value: str) -> None:
    made(store, channel="a", attempts=(FAILED,))
    for name in ("request", "owner", "token", "model", "channel", "client"):
        assert ids(store, **{name: value}) == []


def test_an_owner_sees_their_own_and_no_filter_changes_that(store: Store) -> None:
    own, other = made(store), made(store, owner="eve")
    assert ids(store, OWNER) == [own]
    assert ids(store, OWNER, owner="eve") == [own]
    assert ids(store, owner="eve") == [other]
    assert store.requests.find(OWNER, other) is None
    assert store.requests.page(OWNER, Wanted(), 50, selected=other).selected is None
    assert store.requests.page("eve", Wanted(), 50, selected=other).selected is not None


def test_the_selected_one_is_read_wherever_it_is(store: Store) -> None:
    old, new = made(store), made(store)
    page = store.requests.page(None, Wanted(), 1, selected=old)
    assert [row.id for row in page.rows] == [new]
    assert page.selected is not None
    assert page.selected.id == old
    page = store.requests.page(None, Wanted(), 2, selected=new)
    assert [row.id for row in page.rows] == [new, old]
    assert page.selected == page.rows[0]
    assert store.requests.page(None, Wanted(), 2, selected="resp_unknown").selected is None
    assert store.requests.page(None, Wanted(), 2, selected="").selected is None


@pytest.mark.parametrize("scope", [None, OWNER])
def test_a_filter_searches_the_newest_and_says_where_it_stopped(
    store: Store, monkeypatch: pytest.MonkeyPatch, scope: str | None
) -> None:
    monkeypatch.setattr(requests, "MOST", 3)
    old = made(store, model="rare")
    for _ in range(4):
        made(store)
    page = store.requests.page(scope, Wanted(model="rare"), 50)
    assert (list(page.rows), page.searched) == ([], True)
    page = store.requests.page(scope, Wanted(model="rare"), 50, page.before)
    assert ([row.id for row in page.rows], page.before, page.searched) == ([old], None, False)
    # Without a filter nothing is left out.
    assert len(store.requests.page(None, Wanted(), 50).rows) == 5


def test_an_owner_whose_requests_are_rare_is_searched_for_as_well(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(requests, "MOST", 3)
    own = made(store, owner="eve")
    for _ in range(4):
        made(store)
    page = store.requests.page("eve", Wanted(), 50)
    assert (list(page.rows), page.searched) == ([], True)
    page = store.requests.page("eve", Wanted(), 50, page.before)
    assert [row.id for row in page.rows] == [own]


def test_a_deleted_response_is_listed_without_its_content(store: Store) -> None:
    response = made(store, "failed", error={"code": "invalid_value", "message": "the secret"})
    store.responses.delete(OWNER, response)
    (row,) = store.requests.page(None, Wanted(), 50).rows
    assert not row.has_content
    assert "secret" not in str(row)
