"""The states of what alerts are about, so that of all processes one sends the alert of a change."""

from __future__ import annotations

from collections.abc import Mapping

from app.store.database import Conflict, Database, Session


class AlertStates:
    def __init__(self, database: Database) -> None:
        self._database = database
        self._insert = database.dialect.insert("alert", ["name", "state"])

    def all(self) -> Mapping[str, str]:
        rows = self._database.read(lambda session: session.rows("SELECT name, state FROM alert"))
        return dict(rows)

    def claim(self, name: str, state: str) -> bool:
        """Changes the state. True for the one process whose call changed it. Raises StoreUnavailable."""

        def write(session: Session) -> bool:
            if session.run("UPDATE alert SET state = ? WHERE name = ? AND state <> ?", (state, name, state)):
                return True
            if session.row("SELECT 1 FROM alert WHERE name = ?", (name,)) is not None:
                return False
            try:
                session.insert(self._insert, (name, state))
            except Conflict:
                return False
            return True

        return self._database.transaction(write)
