"""What operators have ordered of channels, shared by all workers: a channel has one row, so that the last word counts.
Times come from the database's clock only.
"""

from __future__ import annotations

from app.contract.pauses import Orders, Pause
from app.store.database import Database, Row, Session

#: Characters of a reason that are stored.
REASON = 200
NAME = 191
#: Seconds for which workers find the order to end a cooldown. Each of them reads every two seconds.
_ORDERED = 30

_COLUMNS = ("channel", "began_at", "ends_at", "actor", "reason")
_IN_FORCE = "(ends_at IS NULL OR ends_at > {now})"
#: The row of an order to end a cooldown has this end.
COOLDOWN_ENDED = 0
_SELECT = (
    f"SELECT {', '.join(_COLUMNS)}, {{now}} FROM channel_pause"
    f" WHERE {_IN_FORCE} OR (ends_at = {COOLDOWN_ENDED} AND began_at > {{now}} - {_ORDERED})"
)
_IS_OVER = f"ends_at <= {{now}} AND (ends_at > {COOLDOWN_ENDED} OR began_at <= {{now}} - {_ORDERED})"


class ChannelPauses:
    def __init__(self, database: Database) -> None:
        self._database = database
        now = database.dialect.now
        self._load = f"{_SELECT.format(now=now)} ORDER BY channel"
        self._remove = f"DELETE FROM channel_pause WHERE channel = ? OR ({_IS_OVER.format(now=now)})"
        self._resume = f"DELETE FROM channel_pause WHERE channel = ? AND {_IN_FORCE.format(now=now)}"
        self._paused = (
            f"SELECT 1 FROM channel_pause WHERE channel = ? AND {_IN_FORCE.format(now=now)}{database.dialect.hold}"
        )
        insert = database.dialect.insert("channel_pause", _COLUMNS)
        self._pause = insert.replace("?, ?, ?", f"?, {now}, {now} + ?", 1)
        self._drain = insert.replace("?, ?, ?", f"?, {now}, NULL", 1)
        self._end_cooldown = insert.replace("?, ?, ?", f"?, {now}, {COOLDOWN_ENDED}", 1)

    def read(self) -> Orders:
        """Everything that is in force. Raises StoreUnavailable."""
        rows = self._database.read(lambda session: session.rows(self._load))
        return Orders(
            [pause_of(row) for row in rows if row[2] != COOLDOWN_ENDED],
            {row[0]: int(row[1]) for row in rows if row[2] == COOLDOWN_ENDED},
        )

    def load(self) -> list[Pause]:
        """The pauses that have not ended, by channel. Raises StoreUnavailable."""
        return [*self.read().pauses]

    def pause(self, channel: str, seconds: int, by: str, reason: str = "") -> None:
        """Takes a channel out of service for a while, from now on."""
        self._write(self._pause, channel, (channel[:NAME], seconds, by[:NAME], reason[:REASON]))

    def drain(self, channel: str, by: str, reason: str = "") -> None:
        """Takes a channel out of service until it is resumed."""
        self._write(self._drain, channel, (channel[:NAME], by[:NAME], reason[:REASON]))

    def resume(self, channel: str) -> bool:
        """Ends the pause of a channel. False when it had none."""
        return self._database.transaction(lambda session: session.run(self._resume, (channel,))) > 0

    def end_cooldown(self, channel: str, by: str) -> bool:
        """Lets every worker try a channel in cooldown again now. False when the channel is out of service, which this
        does not change."""

        def write(session: Session) -> bool:
            if session.row(self._paused, (channel,)) is not None:
                return False
            self._replace(session, self._end_cooldown, channel, (channel[:NAME], by[:NAME], ""))
            return True

        return self._database.transaction(write)

    def _write(self, insert: str, channel: str, values: tuple[str | int, ...]) -> None:
        self._database.transaction(lambda session: self._replace(session, insert, channel, values))

    def _replace(self, session: Session, insert: str, channel: str, values: tuple[str | int, ...]) -> None:
        session.run(self._remove, (channel,))
        session.run(insert, values)


def pause_of(row: Row) -> Pause:
    channel, since, until, actor, reason, now = row
    left = None if until is None else float(max(0, until - now))
    return Pause(channel, int(since), None if until is None else int(until), actor, reason, left)
