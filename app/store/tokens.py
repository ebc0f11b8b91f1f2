"""Tokens, with which people and programs authenticate. Only a keyed hash of the secret is stored, and a check costs a
query once a second.
"""

from __future__ import annotations

import hmac
import secrets
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from hashlib import blake2b
from shlex import quote
from typing import Any, NamedTuple
from unicodedata import category

import orjson

from app.contract.limits import UNSTATED, Limits
from app.contract.records import Token
from app.errors import ConfigurationError, StoreUnavailable
from app.store import models
from app.store.database import Conflict, Database, Row, Session
from app.store.dialects import Dialect
from app.store.grouped_writes import Group
from app.store.token_counters import USE_COLUMNS, Use, present_use, unused
from app.store.writer import Writer

PREFIX = "ap_"
SHOWN = 9
LONGEST = 256
LONGEST_NAME = 191
"""Characters, as the column has them."""
#: Unicode's categories of what no name holds: controls, halves of characters, separators of lines and paragraphs.
_CONTROLS = frozenset({"Cc", "Cs", "Zl", "Zp"})
FRESH = 1.8
"""Seconds for which an answer is taken from memory: within two, a revoked token is refused by every process."""
RENEWED = 0.9
"""Seconds after which one request reads the token again, while other requests use the cached answer."""
CACHED = 4096
USE_NOTED = 60.0
"""Seconds between two notes of a token's use by one program."""

COLUMNS = (
    "t.pk, t.name, t.owner, t.prefix, t.models, t.created_at, t.expires_at, t.revoked_at, t.last_used_at, t.keeps,"
    " t.tools, t.limits, t.retention, t.metrics, t.console"
)
# A secret is the token's own, or one from before a rotation, with the time at which it ends.
_BY_HASH = (
    f"SELECT t.hash, NULL, {COLUMNS} FROM token t WHERE t.hash IN ({{marks}})"
    f" UNION ALL SELECT f.hash, f.expires_at, {COLUMNS} FROM former_secret f JOIN token t ON t.pk = f.token"
    " WHERE f.hash IN ({marks})"
)
_ALL = f"SELECT {COLUMNS} FROM token t ORDER BY t.pk"
_BY_KEY = f"SELECT {COLUMNS} FROM token t WHERE t.pk = ?"
_END_SESSIONS = "UPDATE console_session SET ends_at = ? WHERE token = ? AND ends_at > ? AND hash <> ?"
_BY_NAME = f"SELECT {COLUMNS} FROM token t WHERE t.name = ? AND t.revoked_at IS NULL"

# One query for all that a list shows of each token.
_LISTED = (
    f"SELECT {COLUMNS}, t.last_client,"
    " (SELECT MAX(f.expires_at) FROM former_secret f WHERE f.token = t.pk AND f.expires_at > {now}), {now},"
    f" {', '.join(f'u.{name}' for name in USE_COLUMNS)} FROM token t LEFT JOIN token_use u ON u.token = t.pk"
    " WHERE (t.revoked_at IS NULL OR t.revoked_at >= ?)"
)
_LISTED_COLUMNS = len(COLUMNS.split(","))

Hashes = tuple[str, ...]


class RotatedToken(NamedTuple):
    token: Token
    secret: str
    """The new one."""
    earlier_until: int | None
    """When the secrets before it end at the latest; None if they have ended."""


class ListedToken(NamedTuple):
    token: Token
    client: str
    """The program that has used it last, as `client_names` knows it; empty if unknown."""
    earlier_secrets_until: int | None
    """When the last of its earlier secrets ends; None if none works."""
    use: Use
    """Zeros for a token that never had a limit."""


class Answer(NamedTuple):
    token: Token | None
    renewed: float
    deadline: float


class Tokens:
    def __init__(self, database: Database, writer: Writer[Group], peppers: Sequence[bytes]) -> None:
        """`peppers`: the key for new tokens, then earlier keys, whose tokens are still valid."""
        self._database = database
        self._writer = writer
        self._peppers = tuple(peppers)
        self._by_hash = _BY_HASH.format(marks=", ".join("?" * len(self._peppers)))
        self._digest_key = secrets.token_bytes(32)
        # Two, so that a flood of wrong secrets does not push out the right ones. Both are keyed by `_digest`.
        self._good: dict[bytes, Answer] = {}
        self._bad: dict[bytes, Answer] = {}
        self._noted: dict[tuple[int, str], float] = {}

    def create(
        self,
        name: str,
        owner: str,
        *,
        models: Sequence[str] | None = None,
        tools: Sequence[str] | None = None,
        expires_at: int | None = None,
        stores: bool = True,
        limits: Limits = UNSTATED,
        retention: int | None = None,
        metrics: bool = False,
        console: str | None = None,
    ) -> tuple[Token, str]:
        """Returns the token and its secret, which is not stored. Without `models` the token may use every model,
        without `tools` no tool server."""
        _check_name("name", name)
        _check_name("owner", owner)
        _check_names("models", models)
        _check_names("tools", tools)
        secret = _new_secret()
        row = {
            "name": name,
            "owner": owner,
            "hash": self._hashes(secret)[0],
            "prefix": secret[:SHOWN],
            "models": orjson.dumps(list(models or ())).decode(),
            "created_at": int(time.time()),
            "expires_at": expires_at,
            "keeps": stores,
            "tools": None if tools is None else orjson.dumps(list(tools)).decode(),
            "limits": _limits_column(limits),
            "retention": retention,
            "metrics": int(metrics),
            "console": console,
        }
        try:
            self._database.transaction(lambda session: _insert(session, row))
        except Conflict:
            raise ConfigurationError(
                f"There is already a token named '{name}'.",
                fix=f"Choose another name, or: antiphon tokens revoke {quote(name)}",
            ) from None
        self._bad.clear()
        found = self._find(self._hashes(secret))
        assert found is not None, "a token that was committed is there"
        return found, secret

    def all(self) -> list[Token]:
        return [token_of_row(row) for row in self._database.read(lambda session: session.rows(_ALL))]

    def listed(self, owner: str | None, revoked_since: int) -> list[ListedToken]:
        """All tokens, or those of an owner, by owner and name; of the revoked ones those since a unix time, behind the
        others."""
        sql = _LISTED.format(now=self._database.dialect.now)
        parameters: list[Any] = [revoked_since]
        if owner is not None:
            sql, parameters = f"{sql} AND t.owner = ?", [*parameters, owner]
        rows = self._database.read(lambda session: session.rows(sql, parameters))
        return sorted(map(_listed, rows), key=lambda one: (bool(one.token.revoked_at), one.token.owner, one.token.name))

    def of_key(self, key: int) -> Token | None:
        """The token with this key, also a revoked one."""
        row = self._database.read(lambda session: session.row(_BY_KEY, (key,)))
        return token_of_row(row) if row else None

    def named(self, name: str) -> Token | None:
        """The token with this name that is not revoked."""
        row = self._database.read(lambda session: session.row(_BY_NAME, (name,)))
        return token_of_row(row) if row else None

    def update(self, token: Token) -> bool:
        """Gives the token with this key these models, tools, limits, expiry, retention and rights. Every process
        knows them within two seconds. False when it was revoked meanwhile."""
        known = models.Token
        query = known.update(
            models=orjson.dumps(list(token.models)).decode(),
            tools=orjson.dumps(list(token.tools)).decode() if token.tools else None,
            expires_at=token.expires_at,
            keeps=token.stores,
            limits=_limits_column(token.limits),
            retention=token.retention,
            metrics=int(token.metrics),
            console=token.console,
        ).where(known.pk == token.key, known.revoked_at.is_null())
        changed = self._database.transaction(lambda session: int(session.execute(query)))
        self._good.clear()
        return changed > 0

    def revoke(self, name: str) -> bool:
        query = models.Token.update(revoked_at=int(time.time())).where(
            models.Token.name == name, models.Token.revoked_at.is_null()
        )
        changed = self._database.transaction(lambda session: int(session.execute(query)))
        self._good.clear()
        return changed > 0

    def rotate(self, name: str, overlap: int, *, by: str = "") -> RotatedToken | None:
        """Gives the token another secret, which is returned and not stored. Earlier secrets, and the console's sessions
        that they have opened, end after `overlap` seconds at the latest. `by`: the hash of the session that asks for
        it, which stays. None when there is no such token."""
        secret = _new_secret()
        hash, until = self._hashes(secret)[0], int(time.time()) + overlap

        def write(session: Session) -> None:
            key = _rotate(session, self._database.dialect, name, hash, secret[:SHOWN], until)
            if key is not None:
                session.run(_END_SESSIONS, (until, key, until, by))

        self._database.transaction(write)
        self._good.clear()
        self._bad.clear()
        token = self._find(self._hashes(secret))
        return None if token is None else RotatedToken(token, secret, until if overlap else None)

    def earlier_secrets(self) -> dict[int, int]:
        """For each token whose earlier secrets still work, by its key: when the last of them ends."""
        sql = "SELECT token, MAX(expires_at) FROM former_secret WHERE expires_at > ? GROUP BY token"
        return {int(key): int(until) for key, until in self._database.read(lambda s: s.rows(sql, (int(time.time()),)))}

    def check(self, secret: str, client: str = "") -> Token | None:
        """The token of a secret that is valid. `client`: the program that sends it, which is noted with the use."""
        if not 0 < len(secret) <= LONGEST:
            return None
        token = self._answer(secret)
        if token is None or not token.is_valid:
            return None
        self._note_use(token, client)
        return token

    def _answer(self, secret: str) -> Token | None:
        now, digest = time.monotonic(), self._digest(secret)
        known = self._good.get(digest) or self._bad.get(digest)
        if known is not None and known.deadline > now:
            if known.renewed > now or known.token is None:
                return known.token
            # Only this request renews the answer. While the database is unavailable, it holds until its deadline.
            self._good[digest] = known._replace(renewed=known.deadline)
            with suppress(StoreUnavailable):
                return self._read(secret, digest, now)
            return known.token
        return self._read(secret, digest, now)

    def _read(self, secret: str, digest: bytes, now: float) -> Token | None:
        token = self._find(self._hashes(secret))
        cache, other = (self._good, self._bad) if token is not None else (self._bad, self._good)
        other.pop(digest, None)
        if len(cache) >= CACHED:
            cache.clear()
        cache[digest] = Answer(token, now + RENEWED, now + FRESH)
        return token

    def _find(self, hashes: Hashes) -> Token | None:
        row = self._database.read(lambda session: session.row(self._by_hash, (*hashes, *hashes)))
        if row is None or not any(hmac.compare_digest(row[0], hash) for hash in hashes):
            return None
        token = token_of_row(row[2:])
        return token if row[1] is None else _until(token, row[1])

    def _note_use(self, token: Token, client: str) -> None:
        now, use = time.monotonic(), (token.key, client)
        if now - self._noted.get(use, -USE_NOTED) >= USE_NOTED:
            self._noted[use] = now
            used_at = int(time.time())
            self._writer.post(lambda group: group.touch_token(token.key, used_at, client))

    def _digest(self, secret: str) -> bytes:
        """Stands for the secret in this process's memory. It costs a quarter of the stored hash."""
        return blake2b(_encoded(secret), key=self._digest_key, digest_size=32).digest()

    def _hashes(self, secret: str) -> Hashes:
        """The one under which a new token is kept, then those of before."""
        text = _encoded(secret)
        return tuple(hmac.digest(pepper, text, "sha256").hex() for pepper in self._peppers)


def _encoded(secret: str) -> bytes:
    return secret.encode("utf-8", "surrogatepass")


def _new_secret() -> str:
    return PREFIX + secrets.token_urlsafe(32)


def _rotate(session: Session, dialect: Dialect, name: str, hash: str, prefix: str, until: int) -> int | None:
    """Returns the key of the token; None when there is none, or it has this secret already."""
    row = session.row(f"SELECT pk, hash FROM token WHERE name = ? AND revoked_at IS NULL{dialect.hold}", (name,))
    # A retry after a commit whose answer was lost finds its own secret.
    if row is None or row[1] == hash:
        return None
    pk, earlier = row
    session.insert("INSERT INTO former_secret (hash, token, expires_at) VALUES (?, ?, ?)", (earlier, pk, until))
    session.run("UPDATE former_secret SET expires_at = ? WHERE token = ? AND expires_at > ?", (until, pk, until))
    session.run("DELETE FROM former_secret WHERE token = ? AND expires_at <= ?", (pk, int(time.time())))
    session.run("UPDATE token SET hash = ?, prefix = ? WHERE pk = ?", (hash, prefix, pk))
    return int(pk)


def _until(token: Token, end: int) -> Token:
    """The token as a client has it whose secret ends at a time."""
    return replace(token, expires_at=end if token.expires_at is None else min(end, token.expires_at))


def _insert(session: Session, row: dict[str, Any]) -> None:
    _free(session, row["name"])
    session.execute(models.Token.insert(row))


def _free(session: Session, name: str) -> None:
    """Frees the name of a revoked token: its row gets another name and stays, because other rows refer to it."""
    known = models.Token
    revoked = known.select(known.pk).where(known.name == name, known.revoked_at.is_null(False)).tuples()
    for (pk,) in list(session.execute(revoked)):
        mark = f" (revoked, {pk})"
        session.execute(known.update(name=name[: LONGEST_NAME - len(mark)].rstrip() + mark).where(known.pk == pk))


def has_controls(name: str) -> bool:
    """Whether a name has a character that would forge a line of the log or of a terminal."""
    return any(category(character) in _CONTROLS for character in name)


def _check_name(what: str, value: str) -> None:
    # Trailing spaces do not count in MySQL's comparisons.
    if has_controls(value) or not value or value != value.strip() or len(value) > LONGEST_NAME:
        raise ConfigurationError(
            f"The {what} of a token cannot be {value!r}.",
            fix=f"Use 1 to {LONGEST_NAME} characters, without control characters, and without a space at either end.",
        )


def _check_names(what: str, names: Sequence[str] | None) -> None:
    """A row without models may use all of them, so an empty list must not become one."""
    if names is not None and not (names and all(name.strip() for name in names)):
        raise ConfigurationError(
            f"The {what} of a token cannot be an empty list or hold an empty name.",
            fix="Name at least one, or give no list: then it may use every model, and no tool server.",
        )


def token_of_row(row: Row) -> Token:
    """`row` holds `COLUMNS`."""
    key, name, owner, prefix, names, created_at, expires_at, revoked_at, last_used_at, stores, tools, *rest = row
    limits, retention, metrics, console = rest
    return Token(
        key=key,
        name=name,
        owner=owner,
        prefix=prefix,
        models=_names(names),
        created_at=created_at,
        expires_at=expires_at,
        revoked_at=revoked_at,
        last_used_at=last_used_at,
        stores=bool(stores),
        tools=_names(tools),
        limits=Limits.of(orjson.loads(limits)) if limits else UNSTATED,
        retention=retention,
        metrics=bool(metrics),
        console=console,
    )


def _listed(row: Row) -> ListedToken:
    client, until, now, *counted = row[_LISTED_COLUMNS:]
    use = unused(now) if counted[0] is None else present_use((now, *counted))
    return ListedToken(token_of_row(row[:_LISTED_COLUMNS]), client or "", until, use)


def _limits_column(limits: Limits) -> str | None:
    stated = limits.wire()
    return orjson.dumps(stated).decode() if stated else None


def _names(column: str | None) -> tuple[str, ...]:
    return tuple(orjson.loads(column)) if column else ()
