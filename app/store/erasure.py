"""Erasing an owner: everything that the owner's requests left is removed, and the sums stay under a pseudonym.
Transactions are short, so that the gateway may run meanwhile. An erasure that broke off is repeated from the start.

On SQLite the file is rewritten afterwards (`scrub`): rows that moved between pages have left copies of themselves,
which `secure_delete` does not overwrite. A MySQL server overwrites its pages in its own time.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import peewee

from app.store.database import Database, Session
from app.store.dialects import SQLITE
from app.store.models import TABLES
from app.store.responses import forget_settings

T = TypeVar("T")

WINDOW = 100
"""Rows that one transaction removes."""
SCANNED = 5000
"""Rows that are read at a time: no index leads from an owner to the responses."""
RETRY_SECONDS = 30.0
CHECKPOINT_SECONDS = 10.0
"""How long the truncation of the log waits for readers."""
POLL = 0.05

_BY_TOKEN = ("claim", "prefix", "former_secret", "console_session", "sign_in_code")
_WITH_KEYS = ("response", "conversation", "setting", "token")
"""Tables of owners whose rows other tables refer to by a key."""
_EMPTIED = ("parent", "inferred", "root", "token", "request_id", "settings", "echo", "conversation", "seen", "worker")
"""Columns of a response that has not ended; the others are empty until then."""
_BURY = (
    "UPDATE response SET deleted_at = ?, owner = ?, status = 'cancelled', "
    + ", ".join(f"{column} = NULL" for column in _EMPTIED)
    + " WHERE pk = ?"
)


@dataclass(frozen=True, slots=True)
class Owned:
    """Rows of an owner: what there is, or what a step of an erasure has removed."""

    tokens: int = 0
    responses: int = 0
    """With those that have no content."""
    conversations: int = 0
    running: int = 0
    """Of the responses, those that were still being made. They are cancelled, and an empty record of each stays under
    the pseudonym until it is pruned, so that its worker writes nothing more."""

    def __add__(self, other: Owned) -> Owned:
        return Owned(
            self.tokens + other.tokens,
            self.responses + other.responses,
            self.conversations + other.conversations,
            self.running + other.running,
        )

    def __bool__(self) -> bool:
        return bool(self.tokens or self.responses or self.conversations)


def count(database: Database, owner: str) -> Owned:
    tokens, responses, conversations = (
        sum(map(len, owned_keys(database, table, owner))) for table in ("token", "response", "conversation")
    )
    return Owned(tokens, responses, conversations)


def revoke(database: Database, owner: str) -> int:
    """Revokes the owner's tokens, so that no request begins any more; how many were not revoked before."""
    sql = "UPDATE token SET revoked_at = ? WHERE owner = ? AND revoked_at IS NULL"
    return _write(database, lambda session: session.run(sql, (int(time.time()), owner)))


def erase(database: Database, owner: str, pseudonym: str) -> Iterator[Owned]:
    """Removes what the owner has, whose tokens are revoked. Yields what each step has removed."""
    hold = database.dialect.hold
    for keys in owned_keys(database, "response", owner):
        yield _write(database, partial(_remove_responses, keys=keys, pseudonym=pseudonym, hold=hold))
    for keys in owned_keys(database, "conversation", owner):
        yield _write(database, partial(_remove_conversations, keys=keys))
    for model in TABLES:
        if "owner" in model._meta.fields and model._meta.table_name not in _WITH_KEYS:
            while _write(database, partial(_remove_some, model=model, owner=owner)):
                yield Owned()
    _write(database, partial(_rename_actor, owner=owner, pseudonym=pseudonym))
    for keys in owned_keys(database, "setting", owner):
        _write(database, partial(forget_settings, dialect=database.dialect, keys=keys))
    for keys in owned_keys(database, "token", owner):
        yield _write(database, partial(_rename_tokens, keys=keys, pseudonym=pseudonym))


def new_pseudonym() -> str:
    """Random: it cannot be computed from the owner's name."""
    return f"erased-{secrets.token_hex(6)}"


def scrub(database: Database) -> bool:
    """Rewrites SQLite's file and empties its log, so that neither holds what was removed. Writers wait meanwhile.
    False when a reader has kept the log from being emptied. Nothing to do on a server.
    """
    if database.dialect is not SQLITE:
        return True
    database.read(lambda session: session.run("VACUUM"))
    deadline = time.monotonic() + CHECKPOINT_SECONDS
    while not database.read(_empty_log):
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL)
    return True


def _empty_log(session: Session) -> bool:
    row = session.row("PRAGMA wal_checkpoint(TRUNCATE)")
    return row is not None and row[0] == 0


# --- what there is ----------------------------------------------------------------------------------------------


def owned_keys(database: Database, table: str, owner: str) -> Iterator[Sequence[int]]:
    """The keys of the owner's rows, some at a time."""
    sql = f"SELECT pk, owner FROM {table} WHERE pk > ? ORDER BY pk LIMIT {SCANNED}"
    after = -(2**63)
    while rows := database.read(partial(Session.rows, sql=sql, parameters=(after,))):
        after = rows[-1][0]
        found = [int(pk) for pk, its_owner in rows if its_owner == owner]
        yield from (found[start : start + WINDOW] for start in range(0, len(found), WINDOW))


def _of_responses() -> Iterator[str]:
    """The tables that refer to a response by its key."""
    for model in TABLES:
        if isinstance(model._meta.fields.get("response"), peewee.BigIntegerField):
            yield model._meta.table_name


# --- one step ---------------------------------------------------------------------------------------------------


def _write(database: Database, step: Callable[[Session], T]) -> T:
    started = time.monotonic()
    done = database.transaction(step, started + RETRY_SECONDS)
    # SQLite has no queue for its lock: waiting writers must find it free now and then.
    time.sleep(time.monotonic() - started)
    return done


def _remove_responses(session: Session, *, keys: Sequence[int], pseudonym: str, hold: str) -> Owned:
    marks = _marks(keys)
    running = session.rows(
        f"SELECT pk FROM response WHERE pk IN ({marks}) AND status IN ('queued', 'in_progress')"
        f" AND deleted_at IS NULL ORDER BY pk{hold}",
        keys,
    )
    for table in _of_responses():
        session.run(f"DELETE FROM {table} WHERE response IN ({marks})", keys)
    # All in them is the owner's.
    session.run(f"DELETE FROM tree WHERE root IN ({marks})", keys)
    for (pk,) in running:
        session.run(_BURY, (int(time.time()), pseudonym, pk))
    ended = sorted({*keys}.difference(pk for (pk,) in running))
    if ended:
        session.run(f"DELETE FROM response WHERE pk IN ({_marks(ended)})", ended)
    return Owned(responses=len(keys), running=len(running))


def _remove_conversations(session: Session, *, keys: Sequence[int]) -> Owned:
    marks = _marks(keys)
    session.run(f"DELETE FROM conversation WHERE pk IN ({marks})", keys)
    session.run(f"DELETE FROM conversation_turn WHERE conversation IN ({marks})", keys)
    session.run(f"DELETE FROM removed_item WHERE conversation IN ({marks})", keys)
    return Owned(conversations=len(keys))


def _remove_some(session: Session, *, model: Any, owner: str) -> int:
    """Removes some rows of an owner from a table whose rows are found by their owner; their number."""
    table, key = model._meta.table_name, model._meta.get_primary_keys()
    columns = ", ".join(field.column_name for field in key)
    rows = session.rows(f"SELECT {columns} FROM {table} WHERE owner = ? LIMIT {WINDOW}", (owner,))
    if rows:
        condition = " AND ".join(f"{field.column_name} = ?" for field in key)
        session.run_many(f"DELETE FROM {table} WHERE {condition}", sorted(rows))
    return len(rows)


def _rename_actor(session: Session, *, owner: str, pseudonym: str) -> None:
    """What the owner did to others stays recorded."""
    session.run("UPDATE audit SET actor = ?, token = ?, reason = NULL WHERE actor = ?", (pseudonym, pseudonym, owner))


def _rename_tokens(session: Session, *, keys: Sequence[int], pseudonym: str) -> Owned:
    """The rows stay, because sums refer to them."""
    for key in keys:
        for table in _BY_TOKEN:
            session.run(f"DELETE FROM {table} WHERE token = ?", (key,))
        session.run(
            "UPDATE token SET name = ?, owner = ?, hash = ?, prefix = '', models = '[]', tools = NULL, limits = NULL,"
            " console = NULL"
            " WHERE pk = ?",
            (f"{pseudonym}-{key}", pseudonym, secrets.token_hex(32), key),
        )
    return Owned(tokens=len(keys))


def _marks(values: Sequence[object]) -> str:
    return ", ".join("?" * len(values))
