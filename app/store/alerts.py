"""The states of what alerts are about, so that of all processes one sends the alert of a change."""

from __future__ import annotations

import time
from collections.abc import Mapping

from app.store.database import Conflict, Database, Session

#: The state of the newest backup, and the time of it.
BACKUP = "backup"


class AlertStates:
    def __init__(self, database: Database) -> None:
        self._database = database
        self._insert = database.dialect.insert("alert", ["name", "state", "changed_at"])

    def all(self) -> Mapping[str, str]:
        rows = self._database.read(lambda session: session.rows("SELECT name, state FROM alert"))
        return dict(rows)

    def claim(self, name: str, state: str) -> bool:
        """Changes the state. True for the one process whose call changed it. Raises StoreUnavailable."""

        def write(session: Session) -> bool:
            now = int(time.time())
            changed = session.run(
                "UPDATE alert SET state = ?, changed_at = ? WHERE name = ? AND state <> ?", (state, now, name, state)
            )
            if changed:
                return True
            if session.row("SELECT 1 FROM alert WHERE name = ?", (name,)) is not None:
                return False
            try:
                session.insert(self._insert, (name, state, now))
            except Conflict:
                return False
            return True

        return self._database.transaction(write)

    def note(self, name: str, state: str) -> None:
        """Writes the state and the present time, whether it has changed or not. Raises StoreUnavailable."""

        def write(session: Session) -> None:
            values = (state, int(time.time()), name)
            if session.run("UPDATE alert SET state = ?, changed_at = ? WHERE name = ?", values) == 0:
                session.insert(self._insert, (name, *values[:2]))

        self._database.transaction(write)
