"""Operators' work on the database while the gateway runs: statistics, pruning, a backup."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from app.store import backup, idempotency, pruning, stats
from app.store.database import Database
from app.store.grouped_writes import Group
from app.store.pruning import Pruned
from app.store.unwritten import Unwritten
from app.store.writer import Writer


class Maintenance:
    def __init__(self, database: Database, writer: Writer[Group], unwritten: Unwritten) -> None:
        self._database = database
        self._writer = writer
        self._unwritten = unwritten

    def stats(self) -> dict[str, Any]:
        """Rows and bytes of the database, and the queue of this process's writer."""
        return {
            **stats.gather(self._database),
            "writer": {
                "waiting": self._writer.waiting,
                "dropped": self._writer.dropped,
                "unwritten": len(self._unwritten.names()),
            },
        }

    def prunable(self, before: int) -> Pruned:
        """Counts the rows that `prune` would remove now."""
        return pruning.count(self._database, before)

    def prune(self, before: int) -> Iterator[Pruned]:
        """Removes responses last used before a time (unix seconds), unless a younger one continues from them. Yields
        its progress after each window of rows; other work goes on meanwhile. Raises ConfigurationError for a time less
        than a day ago.
        """
        idempotency.forget(self._database)
        return pruning.prune(self._database, before)

    def backup(self, file: Path) -> None:
        """Writes a consistent copy of the database into a new file. Raises ConfigurationError where a server's own
        program makes the copy.
        """
        backup.copy(self._database, file)
