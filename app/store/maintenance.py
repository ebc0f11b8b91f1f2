"""Operators' work on the database while the gateway runs: statistics, pruning, erasing an owner, a backup."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from app.store import backup, erasure, idempotency, pruning, stats
from app.store.database import Database
from app.store.erasure import Owned
from app.store.export import Export
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

    @property
    def waiting(self) -> int:
        """Jobs that wait for this process's writer."""
        return self._writer.waiting

    @property
    def dropped(self) -> int:
        """Rows of metadata that this process's writer has dropped."""
        return self._writer.dropped

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

    def owned(self, owner: str) -> Owned:
        """Counts what the database has of an owner."""
        return erasure.count(self._database, owner)

    def export(self, owner: str, since: int) -> Export:
        """What the database has of an owner since a time (unix seconds)."""
        return Export(self._database, owner, since)

    def revoke_all(self, owner: str) -> int:
        """Revokes the tokens of an owner; how many were not revoked before."""
        return erasure.revoke(self._database, owner)

    def erase(self, owner: str, pseudonym: str) -> Iterator[Owned]:
        """Removes everything of an owner, whose tokens are revoked; the sums stay under the pseudonym. Yields what each
        step has removed; other work goes on meanwhile.
        """
        return erasure.erase(self._database, owner, pseudonym)

    def scrub(self) -> bool:
        """Removes remnants of deleted rows from SQLite's files, by rewriting them. False when a reader has kept the
        log from being emptied. Nothing to do on a server.
        """
        return erasure.scrub(self._database)

    def backup(self, file: Path) -> None:
        """Writes a consistent copy of the database into a new file. Raises ConfigurationError where a server's own
        program makes the copy.
        """
        backup.copy(self._database, file)
