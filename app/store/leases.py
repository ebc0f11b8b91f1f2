"""Which worker a response in progress belongs to, and what becomes of the responses of one that died. Time is read on
the database's clock only.
"""

from __future__ import annotations

import os
import secrets
import socket
import time

import orjson

from app.store import forks
from app.store.database import Database, Session

FORGOTTEN = 86_400

INTERRUPTED = {
    "message": "The gateway was interrupted while it worked on this response.",
    "type": "server_error",
    "param": None,
    "code": "gateway_interrupted",
}


class Leases:
    def __init__(self, database: Database, lease: int) -> None:
        """`lease`: seconds for which a worker is believed to be alive after it last said so."""
        self._database = database
        self.lease = lease
        now = database.dialect.now
        self._take = database.dialect.insert("worker", ["name", "started", "lease_until"]).replace(
            "?, ?, ?", f"?, ?, {now} + {lease}"
        )
        self._extend = f"UPDATE worker SET lease_until = {now} + {lease} WHERE name = ?"  # noqa: S608
        self._dead = f"SELECT pk FROM worker WHERE lease_until < {now}"  # noqa: S608
        self._forget = f"DELETE FROM worker WHERE lease_until < {now} - {FORGOTTEN}"  # noqa: S608
        self.renew()
        forks.watch(self)

    def renew(self) -> None:
        self._name = f"{socket.gethostname()[:100]}:{os.getpid()}:{secrets.token_hex(4)}"

    @property
    def name(self) -> str:
        return self._name

    def worker(self, session: Session) -> int:
        """The key of this process's row, which is made when it first has a response to answer for."""
        found = session.row("SELECT pk FROM worker WHERE name = ?", (self._name,))
        return int(found[0]) if found else session.insert(self._take, (self._name, int(time.time())))

    def extend(self) -> None:
        def write(session: Session) -> None:
            if session.run(self._extend, (self._name,)) == 0:
                session.insert(self._take, (self._name, int(time.time())))

        self._database.transaction(write)

    def running(self) -> set[str]:
        """Ids of this worker's responses that nobody has ended."""
        rows = self._database.read(
            lambda session: session.rows(
                "SELECT r.id FROM response r JOIN worker w ON w.pk = r.worker"
                " WHERE w.name = ? AND r.status IN ('queued', 'in_progress') AND r.deleted_at IS NULL",
                (self._name,),
            )
        )
        return {response_id for (response_id,) in rows}

    def reap(self) -> int:
        """Fails what workers left behind whose lease has ended; how many responses those were."""
        return self._database.transaction(self._reap)

    def _reap(self, session: Session) -> int:
        failed = 0
        for (worker,) in session.rows(self._dead):
            failed += session.run(
                "UPDATE response SET status = 'failed', worker = NULL, completed_at = ?, error = ?"
                " WHERE worker = ? AND status = 'in_progress'",
                (int(time.time()), orjson.dumps(INTERRUPTED).decode(), worker),
            )
        session.run(self._forget)
        return failed
