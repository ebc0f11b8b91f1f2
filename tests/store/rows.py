"""Rows put into a database by hand: many at once, or damaged ones."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from app import ids
from app.store.database import Database, Row, Session
from tests.store.turns import OWNER

_RESPONSE = (
    "INSERT INTO response (pk, id, owner, parent, branch, depth, since, status, kept, model, created_at)"
    " VALUES (?, ?, ?, ?, ?, ?, 0, 'completed', 1, 'small', 1)"
)


def execute(url: str, sql: str, parameters: Sequence[Any] = ()) -> list[Row]:
    database = Database(url)
    try:
        return database.transaction(
            lambda session: (
                session.rows(sql, parameters) if sql.startswith("SELECT") else _run(session, sql, parameters)
            )
        )
    finally:
        database.close()


def execute_many(url: str, sql: str, values: Sequence[Sequence[Any]]) -> None:
    """The same statement for each of many rows, in one transaction."""
    database = Database(url)
    try:
        database.transaction(lambda session: session.run_many(sql, values))
    finally:
        database.close()


def age(url: str, response_ids: Sequence[str], days: int) -> None:
    """Makes responses older than they are."""
    for response_id in response_ids:
        execute(url, "UPDATE response SET created_at = created_at - ? WHERE id = ?", (days * 86_400, response_id))


def count(url: str, table: str) -> int:
    ((number,),) = execute(url, f"SELECT COUNT(*) FROM {table}")
    return int(number)


def line(url: str, length: int) -> list[str]:
    """A conversation in one branch of an empty database; the ids, oldest first."""
    return _insert(url, [(1, None, None)], [1] * length)


def forks(url: str, count: int) -> list[str]:
    """A conversation whose every turn lies in a branch of its own."""
    branches = [(number, number - 1 or None, number - 1 or None) for number in range(1, count + 1)]
    return _insert(url, branches, list(range(1, count + 1)))


def copy_turns(url: str, count: int) -> None:
    """Repeats the first turn of the only conversation so many times behind it."""
    numbers = [(position,) for position in range(2, count + 2)]
    copy = (
        "INSERT INTO conversation_turn (conversation, position, seen, status, created_at, input, output)"
        " SELECT conversation, ?, 0, status, created_at, '[]', '[]' FROM conversation_turn WHERE position = 1"
    )
    database = Database(url)
    try:
        database.transaction(lambda session: session.run_many(copy, numbers))
        database.transaction(lambda session: session.run("UPDATE conversation SET newest = ?", (count + 1,)))
    finally:
        database.close()


def _insert(url: str, branches: list[tuple[int, int | None, int | None]], branch_of: list[int]) -> list[str]:
    names = [ids.new("resp") for _ in branch_of]
    responses = [
        (place, name, OWNER, place - 1 or None, branch, place)
        for place, (name, branch) in enumerate(zip(names, branch_of, strict=True), 1)
    ]

    def write(session: Session) -> None:
        session.run_many("INSERT INTO branch (pk, parent, fork) VALUES (?, ?, ?)", branches)
        session.run_many(_RESPONSE, responses)
        session.run_many(
            "INSERT INTO content (response, input, output) VALUES (?, ?, ?)",
            [(row[0], f'[{{"n":{row[0]}}}]', "[]") for row in responses],
        )

    database = Database(url)
    try:
        database.transaction(write)
    finally:
        database.close()
    return names


def _run(session: Session, sql: str, parameters: Sequence[Any]) -> list[Row]:
    session.run(sql, parameters)
    return []
