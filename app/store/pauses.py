"""Pauses of channels, shared by all workers. Their times come from the database's clock only."""

from __future__ import annotations

from app.contract.pauses import Pause
from app.store.database import Database, Row, Session

#: Characters of a reason that are stored.
REASON = 200
NAME = 191

_COLUMNS = ("channel", "began_at", "ends_at", "actor", "reason")
_SELECT = f"SELECT {', '.join(_COLUMNS)}, {{now}} FROM channel_pause WHERE ends_at IS NULL OR ends_at > {{now}}"


class ChannelPauses:
    def __init__(self, database: Database) -> None:
        self._database = database
        now = database.dialect.now
        self._load = f"{_SELECT.format(now=now)} ORDER BY channel"
        self._remove_ended = f"DELETE FROM channel_pause WHERE channel = ? OR ends_at <= {now}"
        self._resume = f"DELETE FROM channel_pause WHERE channel = ? AND (ends_at IS NULL OR ends_at > {now})"
        insert = database.dialect.insert("channel_pause", _COLUMNS)
        self._pause = insert.replace("?, ?, ?", f"?, {now}, {now} + ?", 1)
        self._drain = insert.replace("?, ?, ?", f"?, {now}, NULL", 1)

    def load(self) -> list[Pause]:
        """The pauses that have not ended, by channel. Raises StoreUnavailable."""
        return [pause_of(row) for row in self._database.read(lambda session: session.rows(self._load))]

    def pause(self, channel: str, seconds: int, by: str, reason: str = "") -> None:
        """Takes a channel out of service for a while, from now on."""
        self._write(self._pause, channel, (channel[:NAME], seconds, by[:NAME], reason[:REASON]))

    def drain(self, channel: str, by: str, reason: str = "") -> None:
        """Takes a channel out of service until it is resumed."""
        self._write(self._drain, channel, (channel[:NAME], by[:NAME], reason[:REASON]))

    def resume(self, channel: str) -> bool:
        """Ends the pause of a channel. False when it had none."""
        return self._database.transaction(lambda session: session.run(self._resume, (channel,))) > 0

    def _write(self, insert: str, channel: str, values: tuple[str | int, ...]) -> None:
        def write(session: Session) -> None:
            session.run(self._remove_ended, (channel,))
            session.run(insert, values)

        self._database.transaction(write)


def pause_of(row: Row) -> Pause:
    channel, since, until, actor, reason, now = row
    left = None if until is None else float(max(0, until - now))
    return Pause(channel, int(since), None if until is None else int(until), actor, reason, left)
