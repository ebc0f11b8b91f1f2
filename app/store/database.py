"""Access to the database: a pool for each process, a session for each store call, and retries of whole transactions.
Errors of the drivers end here. This module knows no table.
"""

from __future__ import annotations

import logging
import os
import random
import sqlite3
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from typing import Any, TypeVar
from urllib.parse import SplitResult, unquote, urlsplit

import peewee
from playhouse.pool import MaxConnectionsExceeded, PooledDatabase

from app import lone_surrogates
from app.errors import AntiphonError, ConfigurationError, StoreUnavailable
from app.memory import Budget, Share
from app.store import at_fork, packets
from app.store.dialects import MYSQL, SQLITE

T = TypeVar("T")
Row = tuple[Any, ...]

log = logging.getLogger(__name__)

MAX_ATTEMPTS = 5
BACKOFF = 0.05
RETRY_SECONDS = 2.0
"""Seconds after which no further retry begins, unless the caller sets a deadline of its own."""
RECONNECT_SECONDS = 1.0
"""Seconds after a failed connection before the next attempt to connect."""
POOL = 20
POOL_WAIT = 5
SQLITE_WAIT_MS = 1000
MYSQL_WAIT = 3
RECURSION = 20_000
_COUNTED = 256 * 1024
"""Bytes of large rows that are counted at once."""
_LARGE = 1024 * 1024
"""Bytes of one bound value after which SQLite's connection is closed."""
_ROOM_WITHIN = 0.5
PRIVATE = 0o600

#: Lock conflicts (1213, 1205, 1020), a cluster node that cannot take it now (1180, 1047), a lost connection.
_PASSING = frozenset({1213, 1205, 1020, 1180, 1047, 2006, 2013, 0})
_LOST = frozenset({2006, 2013, 0})
_UNREACHABLE = frozenset({1040, 1045, 2002, 2003, 2005})
_BUSY = frozenset(
    {"SQLITE_BUSY", "SQLITE_BUSY_SNAPSHOT", "SQLITE_BUSY_RECOVERY", "SQLITE_BUSY_TIMEOUT", "SQLITE_PROTOCOL"}
)

#: A duplicate key: the only foreign error that leaves this file, for callers that expect it.
Conflict = peewee.IntegrityError
_translated = peewee.__exception_wrapper__  # type: ignore[attr-defined]
"""Turns the drivers' exceptions into peewee's, as its own statements do."""
_Foreign = (peewee.PeeweeException, MaxConnectionsExceeded, OverflowError)
_NeverWritten = (peewee.DataError, OverflowError)


class Refused(StoreUnavailable):
    """The database answers and refuses the statement: a statement for another row may succeed."""


class Unwritable(AntiphonError):
    """A value that no retry can write: a number too large, or a text too long for its column."""


class Session:
    """One connection, for one store call."""

    __slots__ = ("_database", "_pool")

    def __init__(self, database: Database, pool: Any) -> None:
        self._database = database
        self._pool = pool

    def rows(self, sql: str, parameters: Sequence[Any] = ()) -> list[Row]:
        return list(self._execute(sql, parameters).fetchall())

    def large_rows(self, sql: str, contents: slice, parameters: Sequence[Any], share: Share) -> list[Row]:
        """Like `rows`, for large rows: `share` grows by the bytes read from the columns `contents`. Raises
        PayloadTooLarge and Overloaded when the memory budget has no room for more."""
        share.shrink(0)
        rows: list[Row] = []
        size = 0
        with closing(self._execute(sql, parameters)) as cursor:
            for row in cursor:
                rows.append(row)
                for content in row[contents]:
                    size += len(content) if content else 0
                if size - share.size >= _COUNTED:
                    # A short wait: no other request can use this connection meanwhile.
                    share.grow(size - share.size, _ROOM_WITHIN)
        return rows

    def row(self, sql: str, parameters: Sequence[Any] = ()) -> Row | None:
        found: Row | None = self._execute(sql, parameters).fetchone()
        return found

    def run(self, sql: str, parameters: Sequence[Any] = ()) -> int:
        """The number of matched rows."""
        return int(self._execute(sql, parameters).rowcount)

    def insert(self, sql: str, parameters: Sequence[Any] = ()) -> int:
        """The key of the new row."""
        return int(self._execute(sql, parameters).lastrowid)

    def run_many(self, sql: str, rows: Iterable[Sequence[Any]]) -> None:
        with _translated:
            self._pool.cursor().executemany(self._database.statement(sql), rows)

    def _execute(self, sql: str, parameters: Sequence[Any]) -> Any:
        # As the pool's own method does, without its log and hooks.
        with _translated:
            cursor = self._pool.cursor()
            cursor.execute(self._database.statement(sql), parameters or ())
        return cursor

    def large(self, parameters: Sequence[Any]) -> Sequence[Any]:
        """The parameters of a write, of which some may be large. SQLite keeps its copy of a bound value for as long as
        it keeps the prepared statement, so a connection that has bound a large one is closed after this call. Raises
        TooLargeToStore for what MySQL does not take in one statement.
        """
        packets.check(self._database.packet, parameters)
        if any(isinstance(value, (str, bytes)) and len(value) >= _LARGE for value in parameters):
            self._pool.close_after_use()
        return parameters

    def fits(self, *bodies: str | bytes) -> bool:
        return self._database.fits(*bodies)

    def execute(self, query: Any) -> Any:
        """Runs a peewee query over the models. Not for the path of a request."""
        return query.execute(self._pool)


class _EncodingSession(Session):
    """Replaces lone surrogates in every parameter, which would cost too much for every statement."""

    __slots__ = ()

    def run_many(self, sql: str, rows: Iterable[Sequence[Any]]) -> None:
        super().run_many(sql, map(_encodable, rows))

    def _execute(self, sql: str, parameters: Sequence[Any]) -> Any:
        return super()._execute(sql, _encodable(parameters))


def _encodable(parameters: Sequence[Any]) -> Sequence[Any]:
    return [lone_surrogates.replace_characters(value) if isinstance(value, str) else value for value in parameters]


class Database:
    on_call: Callable[[str, float], None] | None = None
    """Called with `read` or `write` and the seconds of each call, retries included."""

    def __init__(self, url: str, *, wait: int = MYSQL_WAIT, budget: Budget | None = None) -> None:
        """`wait`: read timeout of a MySQL server in seconds. `budget`: the memory budget for large bodies; None for
        no limit."""
        self.budget = budget or Budget(sys.maxsize)
        self._url = urlsplit(url)
        self._wait = wait
        self.dialect = SQLITE if self._url.scheme == "sqlite" else MYSQL
        self._statements: dict[str, str] = {}
        self._pool: Any = _open(self._url, wait)
        at_fork.reset_after_fork(self)

    @property
    def exists(self) -> bool:
        """Whether the file exists; a server's database counts as existing until a statement fails."""
        return self.dialect is not SQLITE or os.path.exists(self._pool.database)

    def create(self) -> None:
        """Creates the file of a new SQLite database. Nothing else does: while the gateway runs, an empty file must not
        replace a missing one.
        """
        if self.dialect is SQLITE:
            # Only the owner may read it. Its -wal and -shm files take the same mode. An existing file keeps its own,
            # and SQLite itself reports a wrong path.
            with suppress(OSError):
                os.close(os.open(self._pool.database, os.O_WRONLY | os.O_CREAT | os.O_EXCL, PRIVATE))

    def reset(self) -> None:
        # Not closed: closing an inherited connection would end it for the parent as well.
        _inherited.append(self._pool)
        self._pool = _open(self._url, self._wait)

    def close(self) -> None:
        self._pool.close_idle()

    def statement(self, sql: str) -> str:
        text = self._statements.get(sql)
        if text is None:
            text = self._statements[sql] = self.dialect.statement(sql)
        return text

    def read(self, work: Callable[[Session], T]) -> T:
        """Runs `work` in autocommit: SQLite takes no write lock, and each statement of MySQL sees what is committed."""
        if self.on_call is None:
            return self._read(work)
        began = time.monotonic()
        try:
            return self._read(work)
        finally:
            self.on_call("read", time.monotonic() - began)

    def _read(self, work: Callable[[Session], T]) -> T:

        def attempt(kind: type[Session]) -> T:
            with self.session(kind) as session:
                return work(session)

        return _encoded(attempt, time.monotonic() + RETRY_SECONDS)

    def transaction(self, work: Callable[[Session], T], deadline: float | None = None) -> T:
        """Runs `work` as one transaction, and retries all of it after a lock conflict or a lost connection."""
        if self.on_call is None:
            return self._transaction(work, deadline)
        began = time.monotonic()
        try:
            return self._transaction(work, deadline)
        finally:
            self.on_call("write", time.monotonic() - began)

    def _transaction(self, work: Callable[[Session], T], deadline: float | None) -> T:

        def attempt(kind: type[Session]) -> T:
            with self.session(kind) as session:
                session.run(self.dialect.begin)
                result = work(session)
                session.run("COMMIT")
                return result

        return _encoded(attempt, time.monotonic() + RETRY_SECONDS if deadline is None else deadline)

    @property
    def address(self) -> str:
        """Where a server's database is, as the options of its own programs; without the password."""
        url = self._url
        return f"--host={url.hostname} --port={url.port or 3306} --user={url.username} -p {unquote(url.path[1:])}"

    def ping(self) -> None:
        """Raises StoreUnavailable. It also checks the file, because open connections outlive a removed one."""
        try:
            if not self.exists:
                raise _no_file(self._pool.database)
            with self.session() as session:
                session.row("SELECT 1")
        except _Foreign as error:
            raise unavailable(error) from None

    @property
    def pool(self) -> Any:
        """The peewee database itself, for a queue that keeps its tasks beside our rows."""
        return self._pool

    @property
    def packet(self) -> int | None:
        """Bytes that one statement may have; None until a connection has reported it."""
        limit: int | None = getattr(self._pool, "packet", None)
        return limit

    def fits(self, *bodies: str | bytes, more: int = 0) -> bool:
        """Whether one statement can write these bodies, and this many bytes more."""
        return self.packet is None or packets.fits(self.packet - more, *bodies)

    @contextmanager
    def session(self, kind: type[Session] = Session) -> Iterator[Session]:
        """A connection of this thread's, for one call. Foreign errors leave it as they are."""
        pool = self._pool
        pool.connect()
        try:
            yield kind(self, pool)
        except BaseException as error:
            self._reconnect(pool, error)
            raise
        finally:
            pool.close()

    @contextmanager
    def connected(self) -> Iterator[None]:
        """A connection for a caller that uses `pool` directly. Raises StoreUnavailable."""
        try:
            with self.session():
                yield
        except _Foreign as error:
            raise unavailable(error) from None

    def _reconnect(self, pool: Any, error: BaseException) -> None:
        """Rolls the transaction back before the connection returns to the pool, or closes the connection."""
        try:
            if not isinstance(error, Exception):
                pool.manual_close()
            elif _code(error) in _LOST:
                pool.manual_close()
                # The idle connections are most likely lost as well.
                pool.close_idle()
            elif self.dialect is MYSQL or pool.connection().in_transaction:
                pool.execute_sql("ROLLBACK")
        except peewee.PeeweeException:
            pool.manual_close()


# --- errors -----------------------------------------------------------------------------------------------------


def _encoded(attempt: Callable[[type[Session]], T], deadline: float) -> T:
    """Repeats an attempt that fails on lone surrogates with these replaced. Raises Unwritable."""
    # Suppressed, not handled: its traceback would hold the cursor, and with it SQLite's lock.
    with suppress(UnicodeEncodeError):
        return _retried(lambda: attempt(Session), deadline)
    try:
        return _retried(lambda: attempt(_EncodingSession), deadline)
    except UnicodeEncodeError as error:
        raise Unwritable(error.reason) from None


def _retried(attempt: Callable[[], T], deadline: float) -> T:
    attempt_number = 0
    while True:
        try:
            return attempt()
        except Conflict:
            raise
        except _NeverWritten as error:
            log.error("database error: %s", describe(error))
            raise Unwritable(describe(error)) from None
        except _Foreign as error:
            attempt_number += 1
            pause = random.uniform(0, BACKOFF * 2 ** (attempt_number - 1))  # noqa: S311
            if attempt_number == MAX_ATTEMPTS or not _passes(error) or time.monotonic() + pause > deadline:
                raise unavailable(error) from None
        time.sleep(pause)


def _code(error: BaseException) -> int | None:
    """MySQL's number."""
    return next((part for part in error.args if isinstance(part, int)), None)


def _sqlite_name(error: BaseException) -> str | None:
    return getattr(getattr(error, "orig", None), "sqlite_errorname", None)


def _passes(error: BaseException) -> bool:
    return _code(error) in _PASSING or _sqlite_name(error) in _BUSY


def unavailable(error: BaseException) -> StoreUnavailable:
    log.error("database error: %s", describe(error))
    kind = StoreUnavailable if _passes(error) or _code(error) in _UNREACHABLE else Refused
    return kind("The response store is not available at the moment. Please try again.")


def describe(error: BaseException) -> str:
    """An error for the log. A server's sentence may quote values of the row, so only its number is logged."""
    code = _code(error)
    if code is None:
        return f"{type(error).__name__} {_sqlite_name(error) or error}"
    if 1000 <= code < 2000:
        return f"{type(error).__name__} {code}"
    return f"{type(error).__name__} {code} {error.args[-1]}"


# --- opening ----------------------------------------------------------------------------------------------------

_inherited: list[Any] = []


def _open(url: SplitResult, wait: int) -> Any:
    if url.scheme == "sqlite":
        return _open_sqlite(url)
    if url.scheme == "mysql":
        return _open_mysql(url, wait)
    raise ConfigurationError(
        f"A database URL cannot start with '{url.scheme}:'.",
        fix="Use sqlite:///file.db or mysql://user:password@host:3306/name.",
    )


def _open_sqlite(url: SplitResult) -> Any:
    path = unquote(url.path[1:])
    if not path or path == ":memory:" or url.netloc:
        raise ConfigurationError(
            "A SQLite URL needs a file, as in sqlite:///antiphon.db or sqlite:////var/lib/antiphon/antiphon.db.",
            fix="Name a file: several processes share the store.",
        )
    return _SqlitePool(
        os.path.abspath(path),
        pragmas=[
            ("busy_timeout", SQLITE_WAIT_MS),
            # Before the first table and before WAL. Turns of 2 KB leave half of a page of 4096 empty and a quarter of
            # one of 8192; with still larger ones than this a commit writes more than they save.
            ("page_size", 16384),
            ("journal_mode", "wal"),
            ("synchronous", "normal"),
            ("journal_size_limit", 64 * 1024 * 1024),
            # Deleted content is overwritten with zeros.
            ("secure_delete", "on"),
        ],
        max_connections=POOL,
        timeout=POOL_WAIT,
        autoconnect=False,
        check_same_thread=False,
        factory=_SqliteConnection,
    )


def _open_mysql(url: SplitResult, wait: int) -> Any:
    name = unquote(url.path[1:])
    if not name or not url.hostname:
        raise ConfigurationError(
            "A MySQL URL needs a host and a database name.", fix="Use mysql://user:password@host:3306/name."
        )
    try:
        import pymysql
    except ImportError:
        raise ConfigurationError(
            "The driver for MySQL is not installed.", fix="Run in the checkout: pip install '.[mysql]'"
        ) from None
    return _MySQLPool(
        name,
        host=url.hostname,
        port=url.port or 3306,
        user=unquote(url.username or ""),
        password=unquote(url.password or ""),
        charset="utf8mb4",
        # An UPDATE counts the rows it matched, as on SQLite.
        client_flag=pymysql.constants.CLIENT.FOUND_ROWS,
        connect_timeout=MYSQL_WAIT,
        read_timeout=wait,
        write_timeout=wait,
        max_connections=POOL,
        timeout=POOL_WAIT,
        autoconnect=False,
    )


def _no_file(path: str) -> peewee.OperationalError:
    return peewee.OperationalError(f"there is no file {path}")


class _SqliteFile(peewee.SqliteDatabase):
    def _connect(self) -> Any:
        if not os.path.exists(self.database):
            raise _no_file(self.database)
        return super()._connect()  # type: ignore[misc]


class _SqliteConnection(sqlite3.Connection):
    reusable = True


class _SqlitePool(PooledDatabase, _SqliteFile):  # type: ignore[misc]
    def close_after_use(self) -> None:
        """Closes this thread's connection instead of returning it to the pool."""
        self.connection().reusable = False  # type: ignore[no-untyped-call]

    def _can_reuse(self, connection: _SqliteConnection) -> bool:
        return connection.reusable


class _MySQLServer(peewee.MySQLDatabase):
    """Opens a connection. After a failure it refuses for a moment, so that waiting threads do not each wait for their
    own timeout.
    """

    packet: int | None = None
    _reconnect_at = 0.0

    def _connect(self) -> Any:
        if time.monotonic() < self._reconnect_at:
            raise peewee.OperationalError(2003, "it could not be reached a moment ago")
        try:
            connection = super()._connect()  # type: ignore[misc]
            self._prepare(connection)
        except BaseException:
            self._reconnect_at = time.monotonic() + RECONNECT_SECONDS
            raise
        return connection

    def _prepare(self, connection: Any) -> None:
        wanted = {
            "max_recursive_iterations": RECURSION,
            "cte_max_recursion_depth": RECURSION,
            "wsrep_sync_wait": 1,
        }
        query = ", ".join(f"'{name}'" for name in [*wanted, "max_allowed_packet"])
        with connection.cursor() as cursor:
            cursor.execute(f"SHOW VARIABLES WHERE Variable_name IN ({query})")
            known = dict(cursor.fetchall())
            self.packet = int(known["max_allowed_packet"])
            settings = [f"{name} = {value}" for name, value in wanted.items() if name in known]
            settings += ["sql_mode = 'STRICT_TRANS_TABLES,ERROR_FOR_DIVISION_BY_ZERO,NO_ENGINE_SUBSTITUTION'"]
            cursor.execute("SET " + ", ".join(f"SESSION {setting}" for setting in settings))
            # No gap locks between writers, and a row committed by another is seen at once.
            cursor.execute("SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED")


class _MySQLPool(PooledDatabase, _MySQLServer):  # type: ignore[misc]
    """No ping at check-out, which would be a round trip under the pool's lock: a connection that has died shows itself
    to its first statement, and the retry opens a new one.
    """

    def close_after_use(self) -> None:
        """Nothing to do: the driver keeps no parameters."""

    def _is_closed(self, connection: Any) -> bool:
        return not connection.open

    def _can_reuse(self, connection: Any) -> bool:
        return bool(connection.open)

    def _close_raw(self, connection: Any) -> None:
        if connection.open:
            super()._close_raw(connection)
