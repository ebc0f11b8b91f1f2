"""What people did in the console that others may ask about: operators' actions, and every look at another's content."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from time import time

from app.contract.records import Token
from app.store.database import Database, Session

KEPT = 365 * 86_400
"""Seconds for which a row is stored."""
LONGEST = 191
"""Characters of a subject."""
LONGEST_REASON = 2000
MOST = 200

_COLUMNS = ("at", "actor", "token", "action", "subject", "owner", "reason")
_INSERT = f"INSERT INTO audit ({', '.join(_COLUMNS)}) VALUES (?, ?, ?, ?, ?, ?, ?)"
_EXPIRE = "DELETE FROM audit WHERE at < ?"


@dataclass(frozen=True, slots=True)
class AuditRow:
    key: int
    at: int
    actor: str
    """The owner whose token it was."""
    token: str
    """Its name at that time."""
    action: str
    subject: str
    """What it was done to: a response's id, a channel, a token."""
    owner: str | None
    """The owner whom it concerns."""
    reason: str | None


class Audit:
    def __init__(self, database: Database) -> None:
        self._database = database

    def record(
        self, by: Token, action: str, subject: str, *, owner: str | None = None, reason: str | None = None
    ) -> None:
        """Returns when the row is committed, so that what it is about can follow. Raises StoreUnavailable."""
        now = int(time())
        values = (now, by.owner, by.name, action, subject[:LONGEST], owner, reason[:LONGEST_REASON] if reason else None)

        def write(session: Session) -> None:
            session.run(_EXPIRE, (now - KEPT,))
            session.insert(_INSERT, values)

        self._database.transaction(write)

    def rows(
        self, scope: str | None, *, before: int | None = None, filters: Mapping[str, str] | None = None, limit: int = 50
    ) -> Sequence[AuditRow]:
        """The newest rows first, from below the key `before`. `scope`: the owner who asks, and reads what concerns or
        was done by them; None for an operator. `filters`: values of `actor`, `action` or `owner`.
        """
        conditions = ["pk < ?"]
        values: list[object] = [2**63 - 1 if before is None else before]
        if scope is not None:
            conditions.append("(owner = ? OR actor = ?)")
            values += [scope, scope]
        for column in ("actor", "action", "owner"):
            if filters and filters.get(column):
                conditions.append(f"{column} = ?")
                values.append(filters[column])
        sql = (
            f"SELECT pk, {', '.join(_COLUMNS)} FROM audit WHERE {' AND '.join(conditions)}"
            f" ORDER BY pk DESC LIMIT {min(limit, MOST)}"
        )
        return [AuditRow(*row) for row in self._database.read(lambda session: session.rows(sql, tuple(values)))]
