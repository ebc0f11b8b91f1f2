"""The sessions of the console and the codes of its sign-in links. Cookies and codes are random; only their hashes are
stored. A session belongs to a token: it ends with the token, and has the token's rights of the moment.
"""

from __future__ import annotations

import hashlib
import secrets
from dataclasses import dataclass
from time import time

from app.contract.records import Token
from app.store.database import Database, Session
from app.store.tokens import COLUMNS, token_of_row

IDLE = 30 * 60
"""Seconds without a request after which a session ends."""
LIFETIME = 12 * 3600
"""Seconds after which a session ends, however much it is used."""
CODE_LIFETIME = 60
"""Seconds for which a sign-in link can be used."""
LONGEST = 128
USE_NOTED = 60
"""Seconds between two notes of a session's use."""

_FIND = f"SELECT s.used_at, s.ends_at, {COLUMNS} FROM console_session s JOIN token t ON t.pk = s.token WHERE s.hash = ?"


@dataclass(frozen=True, slots=True)
class ConsoleSession:
    hash: str
    used_at: int
    """When its use was noted last."""
    token: Token
    """As it is now. It has a role in the console, and is neither revoked nor expired."""


class ConsoleSessions:
    def __init__(self, database: Database) -> None:
        self._database = database

    def open(self, token: Token) -> str:
        """Returns the secret of a new session, which is not stored. It ends with the secret that has opened it: `token`
        expires then."""
        secret, now = secrets.token_urlsafe(32), int(time())
        ends_at = min(now + LIFETIME, token.expires_at or now + LIFETIME)

        def write(session: Session) -> None:
            session.run(
                "DELETE FROM console_session WHERE ends_at <= ? OR (token = ? AND used_at <= ?)",
                (now, token.key, now - IDLE),
            )
            session.insert(
                "INSERT INTO console_session (hash, token, created_at, used_at, ends_at) VALUES (?, ?, ?, ?, ?)",
                (_hash(secret), token.key, now, now, ends_at),
            )

        self._database.transaction(write)
        return secret

    def find(self, secret: str) -> ConsoleSession | None:
        """The session of a secret; None when it has ended."""
        if not 0 < len(secret) <= LONGEST:
            return None
        hash, now = _hash(secret), int(time())
        row = self._database.read(lambda session: session.row(_FIND, (hash,)))
        if row is None:
            return None
        used_at, ends_at, token = row[0], row[1], token_of_row(row[2:])
        if ends_at <= now or used_at <= now - IDLE or token.console is None or not token.is_valid:
            return None
        return ConsoleSession(hash, used_at, token)

    def note_use(self, used: ConsoleSession) -> None:
        """Keeps it from ending as an idle one."""
        now = int(time())
        if used.used_at <= now - USE_NOTED:
            sql = "UPDATE console_session SET used_at = ? WHERE hash = ? AND used_at < ?"
            self._database.transaction(lambda session: session.run(sql, (now, used.hash, now)))

    def end(self, secret: str) -> None:
        sql = "DELETE FROM console_session WHERE hash = ?"
        self._database.transaction(lambda session: session.run(sql, (_hash(secret),)))

    # --- sign-in links

    def new_code(self, token: Token) -> str:
        """The code of a sign-in link for the token. It can be used once, within CODE_LIFETIME seconds."""
        code, now = secrets.token_urlsafe(24), int(time())

        def write(session: Session) -> None:
            session.run("DELETE FROM sign_in_code WHERE expires_at <= ?", (now,))
            session.insert(
                "INSERT INTO sign_in_code (hash, token, expires_at) VALUES (?, ?, ?)",
                (_hash(code), token.key, now + CODE_LIFETIME),
            )

        self._database.transaction(write)
        return code

    def spend_code(self, code: str) -> int | None:
        """Ends the code and returns the key of its token; None when it was used before or has expired."""
        hash = _hash(code)

        def write(session: Session) -> int | None:
            row = session.row(
                f"SELECT token, expires_at FROM sign_in_code WHERE hash = ?{self._database.dialect.hold}", (hash,)
            )
            if row is None or session.run("DELETE FROM sign_in_code WHERE hash = ?", (hash,)) != 1:
                return None
            return int(row[0]) if row[1] > time() else None

        return self._database.transaction(write)


def _hash(secret: str) -> str:
    return hashlib.sha256(secret.encode("utf-8", "surrogatepass")).hexdigest()
