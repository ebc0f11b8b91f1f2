"""Idempotency-Keys: the first request with a key claims it, later ones get the response of the first. A claim holds for
a day; the next request takes it over when the response failed or its worker died. A form that must not be sent twice is
a key as well.
"""

from __future__ import annotations

import hashlib
import secrets
import time
from contextlib import suppress
from functools import partial

from app.contract.records import Claim, Claimed
from app.errors import StoreUnavailable
from app.store.database import Conflict, Database, Row, Session
from app.store.grouped_writes import Group
from app.store.leases import Leases
from app.store.unwritten import Unwritten

LIFETIME = 86_400
"""Seconds for which a key is remembered."""
FORGOTTEN = 500
"""Claims that one transaction removes."""
TRIES = 10
"""How often a claim is read again that another request changes at the same time."""

_RUNNING = frozenset({None, "queued", "in_progress"})
_FAILED = frozenset({"failed", "cancelled"})


class IdempotencyKeys:
    def __init__(self, database: Database, leases: Leases, unwritten: Unwritten) -> None:
        self._database = database
        self._leases = leases
        self._unwritten = unwritten
        self._insert = database.dialect.insert(
            "claim", ["token", "hash", "fingerprint", "response", "worker", "created_at"]
        )
        self._read = (
            "SELECT c.fingerprint, c.response, c.created_at, r.status,"
            f" COALESCE(w.lease_until, 0) >= {database.dialect.now}, j.response IS NOT NULL"
            " FROM claim c LEFT JOIN response r ON r.id = c.response LEFT JOIN worker w ON w.pk = c.worker"
            " LEFT JOIN job j ON j.response = r.pk"
            " WHERE c.token = ? AND c.hash = ?"
        )

    def claim(self, token: int, claim: Claim, response_id: str) -> Claimed | None:
        """Claims the key for the response. Returns None, or the response that has the key already."""
        try:
            return self._try_to_take(token, claim, response_id)
        except StoreUnavailable:
            # The claim may have been committed nevertheless.
            self._release_later(token, claim, response_id)
            raise

    def spend(self, token: int, form: str) -> bool:
        """Spends the single use of a form that a person with this token was shown. False if it was spent before: the
        form was sent twice."""
        hash, use = _hash(f"form {form}"), secrets.token_hex(16)

        def insert(session: Session) -> None:
            session.insert(self._insert, (token, hash, use, "", None, int(time.time())))

        try:
            self._database.transaction(insert)
        except Conflict:
            # A retry after a commit whose answer was lost finds its own row.
            sql = "SELECT fingerprint FROM claim WHERE token = ? AND hash = ?"
            return self._database.read(lambda session: session.row(sql, (token, hash))) == (use,)
        return True

    def release(self, token: int, claim: Claim, response_id: str) -> None:
        """Frees the key of a response that failed, at the latest when the database is back."""
        try:
            self._database.transaction(partial(_release, token=token, claim=claim, response_id=response_id))
        except StoreUnavailable:
            self._release_later(token, claim, response_id)

    def _release_later(self, token: int, claim: Claim, response_id: str) -> None:
        def write(group: Group) -> None:
            _release(group.session, token, claim, response_id)

        self._unwritten.add(f"the key of {response_id}", write, write, 0)

    def _try_to_take(self, token: int, claim: Claim, response_id: str) -> Claimed | None:
        for _ in range(TRIES):
            with suppress(Conflict):
                return self._database.transaction(lambda session: self._claim(session, token, claim, response_id))
        raise StoreUnavailable("Too many requests use this Idempotency-Key at once. Please try again.")

    def _claim(self, session: Session, token: int, claim: Claim, response_id: str) -> Claimed | None:
        """Raises Conflict if another request changes the claim at the same time."""
        key = (token, _hash(claim.key))
        worker, now = self._leases.worker(session), int(time.time())
        found = session.row(self._read, key)
        if found is None:
            session.insert(self._insert, (*key, claim.fingerprint, response_id, worker, now))
            return None
        earlier, expired = _claimed(found), found[2] < now - LIFETIME
        if earlier.response == response_id:
            # A retry after a commit whose answer was lost finds its own claim.
            return None
        if not expired and (earlier.fingerprint != claim.fingerprint or not _is_free(earlier)):
            return earlier
        taken = session.run(
            "UPDATE claim SET fingerprint = ?, response = ?, worker = ?, created_at = ?"
            " WHERE token = ? AND hash = ? AND response = ?",
            (claim.fingerprint, response_id, worker, now, *key, earlier.response),
        )
        if not taken:
            # It was released, or another request took it over: what was read of it is no answer.
            raise Conflict
        return None


def _release(session: Session, token: int, claim: Claim, response_id: str) -> None:
    sql = "DELETE FROM claim WHERE token = ? AND hash = ? AND response = ?"
    session.run(sql, (token, _hash(claim.key), response_id))


def forget(database: Database) -> None:
    """Removes the expired claims, some at a time: other writers wait for each transaction."""
    before = int(time.time()) - LIFETIME
    while database.transaction(partial(_forget_some, before=before)):
        pass


def _forget_some(session: Session, before: int) -> int:
    expired = session.rows(f"SELECT token, hash FROM claim WHERE created_at < ? LIMIT {FORGOTTEN}", (before,))
    # A key may have been claimed again meanwhile.
    rows = [(*key, before) for key in sorted(expired)]
    if rows:
        session.run_many("DELETE FROM claim WHERE token = ? AND hash = ? AND created_at < ?", rows)
    return len(rows)


def _claimed(row: Row) -> Claimed:
    fingerprint, response, _, status, alive, waiting = row
    running = status in _RUNNING and bool(alive or waiting)
    return Claimed(fingerprint, response, status, running, background=bool(waiting))


def _is_free(claimed: Claimed) -> bool:
    return claimed.status in _FAILED or (claimed.status in _RUNNING and not claimed.running)


def _hash(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()
