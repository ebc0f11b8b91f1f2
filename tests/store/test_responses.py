from __future__ import annotations

import sqlite3
import time
from pathlib import Path

import orjson
import pytest

from app.contract.records import Attempt
from app.contract.usage import Usage
from app.store.store import Store
from tests.store import rows
from tests.store.turns import OWNER, draft, outcome, turn

SECRET = "the-launch-code-is-0000"


def column(url: str, name: str, response_id: str) -> object:
    (row,) = rows.execute(url, f"SELECT {name} FROM response WHERE id = ?", (response_id,))
    return row[0]


def test_a_finished_response_is_read_back_as_it_was(store: Store) -> None:
    parent = turn(store)
    begun = draft(
        parent, settings=b'{"instructions":"be kind"}', echo=b'{"temperature":0.5}', streamed=True, input=b'[{"a":1}]'
    )
    ended = outcome(
        "incomplete",
        output='[{"text":"é😀\\u0000"}]'.encode(),
        usage=Usage(7, 1, 2, 9, 3, estimated=True),
        incomplete_details={"reason": "max_output_tokens"},
    )
    assert store.responses.finish(begun, ended)
    stored = store.responses.read(OWNER, begun.id)
    assert stored is not None
    assert (stored.id, stored.owner, stored.parent, stored.status) == (begun.id, OWNER, parent, "incomplete")
    assert (stored.settings, stored.echo) == (begun.settings, begun.echo)
    assert (stored.input, stored.output) == (begun.input, ended.output)
    assert stored.usage == ended.usage
    assert stored.incomplete_details == {"reason": "max_output_tokens"}
    assert (stored.created_at, stored.completed_at) == (begun.created_at, ended.completed_at)
    assert stored.streamed
    assert stored.error is None


def test_a_begun_response_is_seen_in_progress_and_then_ended(store: Store) -> None:
    begun = draft(echo=b'{"a":1}')
    store.responses.begin(begun)
    running = store.responses.read(OWNER, begun.id)
    assert running is not None
    assert (running.status, running.input, running.output, running.usage) == ("in_progress", begun.input, b"[]", None)
    ended = outcome(echo=b'{"a":2}')
    assert store.responses.finish(begun, ended)
    stored = store.responses.read(OWNER, begun.id)
    assert stored is not None
    assert (stored.status, stored.output, stored.echo) == ("completed", ended.output, b'{"a":2}')


def test_another_process_can_end_what_this_one_began(store: Store, database_url: str) -> None:
    begun = draft()
    store.responses.begin(begun)
    other = Store(database_url, peppers=[b"p"])
    assert other.responses.finish(begun, outcome())
    other.close()
    stored = store.responses.read(OWNER, begun.id)
    assert stored is not None
    assert stored.status == "completed"


def test_finishing_twice_counts_once(store: Store) -> None:
    begun, ended = draft(), outcome()
    assert store.responses.finish(begun, ended)
    assert store.responses.finish(begun, ended)
    assert store.usage.since("2000-01-01")[0]["requests"] == 1


def test_a_failure_keeps_its_error(store: Store) -> None:
    begun = draft()
    error = {"message": "no", "type": "server_error", "param": None, "code": "upstream_error"}
    store.responses.finish(begun, outcome("failed", error=error, output=b"[]", item_ids=(), usage=None))
    stored = store.responses.read(OWNER, begun.id)
    assert stored is not None
    assert (stored.error, stored.usage) == (error, None)


@pytest.mark.parametrize(
    ("attempts", "length"),
    [
        ((), None),
        ((Attempt("first", 12, 200, path="bytes"),), None),
        ((Attempt("first", 12, 200, dropped=("web_search",)),), 1),
        ((Attempt("first", 12, 200, adapted=("drop user",)),), 1),
        ((Attempt("first", 12, 200, shortened=True),), 1),
        ((Attempt("first", 3, 500, "upstream_error"), Attempt("second", 9, 200)), 2),
        ((Attempt("first", 3, 500, "upstream_error"),), 1),
    ],
)
def test_attempts_are_stored_when_they_hold_facts(
    store: Store, database_url: str, attempts: tuple[Attempt, ...], length: int | None
) -> None:
    begun = draft()
    store.responses.finish(begun, outcome(attempts=attempts))
    text = column(database_url, "attempts", begun.id)
    assert (len(orjson.loads(str(text))) if text else None) == length


def test_an_attempt_writes_only_set_members() -> None:
    assert Attempt("first", 12, 200).wire() == {"channel": "first", "ms": 12, "status": 200, "error": None}
    attempt = Attempt("first", 12, 200, path="translated", dropped=("web_search",)).wire()
    assert (attempt["path"], attempt["dropped"]) == ("translated", ["web_search"])


def test_settings_that_repeat_are_stored_once_for_each_owner(store: Store, database_url: str) -> None:
    settings = b'{"instructions":"always the same"}'
    for owner in (OWNER, OWNER, "bob"):
        turn(store, owner=owner, settings=settings)
    assert rows.execute(database_url, "SELECT COUNT(*) FROM setting") == [(2,)]


def test_another_owner_neither_reads_nor_ends_a_response(store: Store) -> None:
    theirs = turn(store, owner="bob")
    running = draft(owner="bob")
    store.responses.begin(running)
    for response_id in (theirs, running.id):
        assert store.responses.read(OWNER, response_id) is None
        assert not store.responses.delete(OWNER, response_id)
        assert not store.responses.cancel(OWNER, response_id)
        assert store.responses.read("bob", response_id) is not None


def test_an_id_is_exact_when_read(store: Store) -> None:
    response_id = turn(store)
    for wrong in (response_id.upper(), response_id + " ", "", "é" * 10, "\x00", "x" * 1000, "a'b\"c\\%s"):
        assert store.responses.read(OWNER, wrong) is None
        assert not store.responses.delete(OWNER, wrong)
        assert not store.responses.cancel(OWNER, wrong)
    assert store.responses.read(OWNER, response_id) is not None


def test_a_cancel_is_never_overwritten(store: Store) -> None:
    begun = draft()
    store.responses.begin(begun)
    assert store.responses.cancel(OWNER, begun.id)
    assert not store.responses.cancel(OWNER, begun.id)
    assert not store.responses.finish(begun, outcome(usage=Usage(input_tokens=11)))
    stored = store.responses.read(OWNER, begun.id)
    assert stored is not None
    assert (stored.status, stored.output) == ("cancelled", b"[]")
    assert store.usage.since("2000-01-01")[0]["input_tokens"] == 11


def test_a_finished_response_cannot_be_cancelled(store: Store) -> None:
    response_id = turn(store)
    assert not store.responses.cancel(OWNER, response_id)
    stored = store.responses.read(OWNER, response_id)
    assert stored is not None
    assert stored.status == "completed"


def test_a_deleted_response_is_gone_and_its_row_remains(store: Store, database_url: str) -> None:
    root = turn(store)
    child = turn(store, root, settings=b'{"instructions":"%s"}' % SECRET.encode(), echo=b'{"metadata":{"a":"b"}}')
    assert store.responses.delete(OWNER, child)
    assert not store.responses.delete(OWNER, child)
    assert store.responses.read(OWNER, child) is None
    assert rows.execute(database_url, "SELECT COUNT(*) FROM content") == [(1,)]
    assert rows.execute(database_url, "SELECT COUNT(*) FROM setting") == [(0,)]
    (row,) = rows.execute(
        database_url,
        "SELECT owner, branch, depth, model, total_ms, echo, settings FROM response WHERE id = ?",
        (child,),
    )
    assert row == (OWNER, 1, 2, "small", 12, None, None)


def test_shared_settings_outlive_a_delete(store: Store) -> None:
    settings = b'{"instructions":"shared"}'
    first, second = turn(store, settings=settings), turn(store, settings=settings)
    store.responses.delete(OWNER, first)
    stored = store.responses.read(OWNER, second)
    assert stored is not None
    assert stored.settings == settings


def test_a_response_deleted_while_it_ran_stays_deleted(store: Store, database_url: str) -> None:
    begun = draft(says=SECRET)
    store.responses.begin(begun)
    assert store.responses.delete(OWNER, begun.id)
    assert not store.responses.finish(begun, outcome(says=SECRET))
    assert store.responses.read(OWNER, begun.id) is None
    assert rows.execute(database_url, "SELECT COUNT(*) FROM content") == [(0,)]
    assert rows.execute(database_url, "SELECT COUNT(*) FROM item") == [(0,)]


@pytest.mark.parametrize("written", ["finish", "note", "begin and finish"])
def test_an_unstored_response_leaves_no_content(store: Store, database_url: str, written: str) -> None:
    secret = draft(
        stored=False,
        says=SECRET,
        settings=orjson.dumps({"instructions": SECRET}),
        echo=orjson.dumps({"metadata": {"a": SECRET}}),
        item_ids=("msg_" + SECRET,),
    )
    ended = outcome(
        "failed", says=SECRET, echo=orjson.dumps({"user": SECRET}), error={"message": SECRET, "type": "t", "code": "c"}
    )
    if written == "note":
        store.responses.note(secret, ended)
    else:
        if written == "begin and finish":
            store.responses.begin(secret)
        assert store.responses.finish(secret, ended)
    store.close()
    assert column(database_url, "status", secret.id) == "failed"
    for table in ("response", "content", "setting", "item", "usage_day"):
        assert SECRET not in repr(rows.execute(database_url, f"SELECT * FROM {table}"))
    assert rows.execute(database_url, "SELECT COUNT(*) FROM content") == [(0,)]
    assert Store(database_url, peppers=[b"p"]).responses.read(OWNER, secret.id) is None


def test_the_sqlite_file_holds_no_unstored_or_deleted_content(tmp_path: Path) -> None:
    store = Store(f"sqlite:///{tmp_path}/grep.db", peppers=[b"p"])
    store.schema.upgrade()
    store.responses.note(draft(stored=False, says=SECRET), outcome(says=SECRET))
    stored = turn(store, says=SECRET, settings=orjson.dumps({"instructions": SECRET}))
    store.responses.delete(OWNER, stored)
    store.close()
    connection = sqlite3.connect(tmp_path / "grep.db")
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()
    for file in tmp_path.iterdir():
        assert SECRET.encode() not in file.read_bytes(), file.name


def test_a_note_can_follow_a_begin(store: Store, database_url: str) -> None:
    begun = draft(stored=False)
    store.responses.begin(begun)
    store.responses.note(begun, outcome("cancelled"))
    store.close()
    assert column(database_url, "status", begun.id) == "cancelled"


def test_a_name_that_is_too_long_is_clipped_and_not_refused(store: Store) -> None:
    begun = draft(model="m" * 500, request_id="r" * 500)
    assert store.responses.finish(begun, outcome(upstream_id="u" * 500, upstream_model="v" * 500, channel="c" * 500))


def test_megabytes_go_in_and_out_unchanged(store: Store) -> None:
    begun = draft(input=orjson.dumps([{"text": "0123456789\"\\'é" * 200_000}]))
    assert store.responses.finish(begun, outcome())
    stored = store.responses.read(OWNER, begun.id)
    assert stored is not None
    assert stored.input == begun.input


def test_times_are_whole_seconds(store: Store) -> None:
    before = int(time.time())
    begun = draft()
    store.responses.begin(begun)
    store.responses.cancel(OWNER, begun.id)
    stored = store.responses.read(OWNER, begun.id)
    assert stored is not None
    assert stored.completed_at is not None
    assert before <= stored.completed_at <= int(time.time())
