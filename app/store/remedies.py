"""Remedies that were learnt from refusals, shared by all workers. A row lasts a day; a lost one is learnt again."""

from __future__ import annotations

from time import time

import orjson

from app.contract.remedies import LIFETIME, LearntRemedy, Remedy
from app.store.database import Database, Row, Session
from app.store.grouped_writes import Group
from app.store.writer import Writer

_COLUMNS = ("hash", "channel", "model", "digest", "remedy", "learnt_at")
_LOAD = "SELECT channel, model, digest, remedy, learnt_at FROM remedy WHERE learnt_at > ? ORDER BY learnt_at, hash"


class Remedies:
    def __init__(self, database: Database, writer: Writer[Group]) -> None:
        self._database = database
        self._writer = writer

    def add(self, learnt: LearntRemedy) -> None:
        """Stores a remedy behind the answer, and removes the expired ones."""
        self._writer.post(lambda group: self._add(group.session, learnt))

    def load(self) -> list[LearntRemedy]:
        """The remedies that have not expired, oldest first. Raises StoreUnavailable."""
        rows = self._database.read(lambda session: list(session.rows(_LOAD, (int(time()) - LIFETIME,))))
        return [learnt for row in rows if (learnt := remedy_of(row)) is not None]

    def forget(self, channel: str, model: str | None = None) -> int:
        """Removes what was learnt for a channel, or for one model of its upstream. Returns the number of remedies."""
        return self._database.transaction(lambda session: _forget(session, channel, model))

    def _add(self, session: Session, learnt: LearntRemedy) -> None:
        session.run("DELETE FROM remedy WHERE hash = ? OR learnt_at <= ?", (learnt.key, learnt.learnt_at - LIFETIME))
        remedy = orjson.dumps(learnt.remedy.wire()).decode()
        values = (learnt.key, learnt.channel, learnt.model, learnt.digest, remedy, learnt.learnt_at)
        session.run(self._database.dialect.unless_there("remedy", _COLUMNS), values)


def _forget(session: Session, channel: str, model: str | None) -> int:
    if model is None:
        return session.run("DELETE FROM remedy WHERE channel = ?", (channel,))
    return session.run("DELETE FROM remedy WHERE channel = ? AND model = ?", (channel, model))


def remedy_of(row: Row) -> LearntRemedy | None:
    """The remedy of a row of channel, model, digest, remedy and time; None for one that this version cannot read."""
    channel, model, digest, text, at = row
    try:
        known = Remedy.of(orjson.loads(text))
    except ValueError:
        return None
    return LearntRemedy(channel, model, digest, known, at) if known else None
