"""Leases of workers: which worker holds a response in progress, and the channel states that live workers report. Times
come from the database's clock only.
"""

from __future__ import annotations

import os
import secrets
import socket
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace

import orjson

from app.contract.records import ChannelStatus, WorkerStatus
from app.store import at_fork
from app.store.database import Database, Row, Session
from app.store.sums import SLOT_COUNTERS, SLOT_SECONDS

FORGOTTEN = 86_400

#: Condition: the worker with this name runs the response.
HELD = "status = 'in_progress' AND worker = (SELECT w.pk FROM worker w WHERE w.name = ?)"


class Leases:
    def __init__(self, database: Database, lease: int, server: Mapping[str, str]) -> None:
        """`lease`: seconds for which a worker counts as alive after its last renewal. `server`: the facts of its server
        that it reports.
        """
        self._database = database
        self._server = dict(server)
        self.lease = lease
        now = database.dialect.now
        # Another thread of this process may write the row at the same time.
        self._insert_row = database.dialect.unless_there("worker", ["name", "started", "lease_until"]).replace(
            "?, ?, ?", f"?, ?, {now} + {lease}"
        )
        self._renew_row = (
            f"UPDATE worker SET lease_until = {now} + {lease}, background = ?, status = ?, status_at = {now}"
            " WHERE name = ?"
        )
        self.background = 0
        """1 in a process that runs background responses."""
        self._note_cooldown = database.dialect.add("usage_slot", ["slot", "channel"], [*SLOT_COUNTERS, "cooldowns"])
        self._end_row = f"UPDATE worker SET lease_until = {now} - 1 WHERE name = ?"
        self._clock = f"SELECT {now}"
        self._live_rows = (
            f"SELECT name, status, status_at, {now} FROM worker"
            f" WHERE lease_until >= {now} AND status IS NOT NULL ORDER BY name"
        )
        self._forget_rows = f"DELETE FROM worker WHERE lease_until < {now} - {FORGOTTEN}"
        self.reset()
        at_fork.reset_after_fork(self)

    def reset(self) -> None:
        self._name = f"{socket.gethostname()[:100]}:{os.getpid()}:{secrets.token_hex(4)}"

    @property
    def name(self) -> str:
        return self._name

    def worker(self, session: Session) -> int:
        """The key of this process's row, which is created with its first response."""
        found = self._row(session)
        if found is None:
            session.run(self._insert_row, (self._name, int(time.time())))
            found = self._row(session) or (0,)
        return int(found[0])

    def _row(self, session: Session) -> Row | None:
        return session.row("SELECT pk FROM worker WHERE name = ?", (self._name,))

    def renew(self, status: Sequence[ChannelStatus] = ()) -> None:
        report = {"channels": [channel.wire() for channel in status], "server": self._server}
        text = orjson.dumps(report).decode()
        slot, nothing = int(time.time()) // SLOT_SECONDS, (0,) * len(SLOT_COUNTERS)
        cooling = sorted(channel.name for channel in status if channel.cooldown_left > 0)

        def write(session: Session) -> None:
            if session.run(self._renew_row, (self.background, text, self._name)) == 0:
                session.run(self._insert_row, (self._name, int(time.time())))
                session.run(self._renew_row, (self.background, text, self._name))
            for channel in cooling:
                session.run(self._note_cooldown, (slot, channel, *nothing, 1))

        self._database.transaction(write)

    def make_background(self) -> None:
        """Marks the lease as that of a background worker."""
        self.background = 1

    def end(self) -> None:
        """Ends the lease: from now on any worker may fail this worker's responses in progress."""
        self._database.transaction(lambda session: session.run(self._end_row, (self._name,)))

    def clock(self) -> int:
        row = self._database.read(lambda session: session.row(self._clock))
        return int(row[0]) if row else 0

    def statuses(self) -> list[WorkerStatus]:
        """The last report of each live worker, with the cooldowns shortened by its age."""
        rows = self._database.read(lambda session: session.rows(self._live_rows))
        return [status_of(*row) for row in rows]

    def forget(self, session: Session) -> None:
        """Removes the rows of workers whose lease ran out long ago."""
        session.run(self._forget_rows)


def status_of(worker: str, text: str, reported_at: int, now: int) -> WorkerStatus:
    """The report of a worker, with the cooldowns shortened by its age."""
    read = orjson.loads(text)
    # Workers of an older version do not report their server.
    channels, server = (read, {}) if isinstance(read, list) else (read["channels"], read["server"])
    reported = [ChannelStatus.of(channel) for channel in channels]
    # The clocks of a cluster's nodes differ.
    age = max(0, now - reported_at)
    return WorkerStatus(
        worker,
        age,
        tuple(replace(channel, cooldown_left=max(0.0, channel.cooldown_left - age)) for channel in reported),
        server,
    )
