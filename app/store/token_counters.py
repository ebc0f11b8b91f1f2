"""Counters of limited tokens: one row a token, with its minute, day and month, and the number of its turns at work.

A turn is admitted with an estimate, which it reserves, and settled with what it has used. Both happen while the
transaction holds the lock of the token's row, so a limit is exact over all threads, processes and hosts. The turns at
work are rows as well: each belongs to a worker, and ends with the worker's lease.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import add, attrgetter, le
from typing import NamedTuple, Protocol

from app import ids
from app.store.database import Row, Session
from app.store.dialects import Dialect
from app.store.leases import Leases

NO_LIMIT = 2**62
"""In place of a limit: no counter reaches it."""
MINUTE = 60


class Windows(NamedTuple):
    """The start of a minute in unix seconds, a day (20261126) and a month (202611), in UTC."""

    minute: int = 0
    day: int = 0
    month: int = 0

    @classmethod
    def at(cls, now: int) -> Windows:
        date = time.gmtime(now)
        month = date.tm_year * 100 + date.tm_mon
        return cls(now - now % MINUTE, month * 100 + date.tm_mday, month)


class Amounts(NamedTuple):
    """Tokens, and micro-units of money."""

    tokens: int = 0
    micro: int = 0

    def minus(self, other: Amounts) -> Amounts:
        return Amounts(self.tokens - other.tokens, self.micro - other.micro)

    @property
    def above_zero(self) -> Amounts:
        return Amounts(max(0, self.tokens), max(0, self.micro))


class Counters(NamedTuple):
    """One number for each counter of a token."""

    requests: int = 0
    """In its minute, as are `tokens`."""
    tokens: int = 0
    day_tokens: int = 0
    day_micro: int = 0
    month_tokens: int = 0
    month_micro: int = 0
    running: int = 0
    """Its turns at work."""

    @classmethod
    def of(cls, requests: int, amounts: Amounts, running: int) -> Counters:
        """What a turn of these amounts adds to each counter."""
        tokens, micro = amounts
        return cls(requests, tokens, tokens, micro, tokens, micro, running)


UNLIMITED = Counters(*[NO_LIMIT] * len(Counters._fields))


class Use(NamedTuple):
    """The counters of a token at `now` of the database's clock, with what is reserved."""

    now: int
    windows: Windows
    counters: Counters


#: The window of each counter; the turns at work have none.
_WINDOW_OF = {
    "requests": "minute",
    "tokens": "minute",
    "day_tokens": "day",
    "day_micro": "day",
    "month_tokens": "month",
    "month_micro": "month",
}
#: The same as numbers of the windows.
_WINDOWS = tuple(Windows._fields.index(window) for window in _WINDOW_OF.values())
USE_COLUMNS = (*Windows._fields, *Counters._fields)
_SAVE = f"UPDATE token_use SET {', '.join(f'{name} = ?' for name in USE_COLUMNS)} WHERE token = ?"
_NOTICE = "token = ? AND counter = ? AND level = ?"
_RUNNING_OF = "SELECT token, COUNT(*) FROM admission WHERE worker = ? GROUP BY token ORDER BY token"


class Held:
    """The counters of one token, whose row this transaction has locked: they are computed here and written once."""

    __slots__ = ("counters", "ended", "now", "windows")

    def __init__(self, use: Use, ended: set[str]) -> None:
        self.now, self.windows, self.counters = use
        self.ended = ended
        """Ids of the admissions that this transaction has ended and that are not counted yet."""

    @property
    def use(self) -> Use:
        return Use(self.now, self.windows, self.counters)

    def has_room(self, needs: Counters, limits: Counters) -> bool:
        return all(map(le, map(add, self.counters, needs), limits))

    def add(self, amounts: Counters) -> None:
        self.counters = Counters(*map(add, self.counters, amounts))


class Change(Protocol):
    """One change of the counters of one token. It may run several times, in a transaction that is repeated."""

    id: str
    token: int
    use: Use | None
    """The counters behind the transaction's changes."""

    @property
    def order(self) -> int:
        """Changes that make room come first."""
        ...

    def run(self, held: Held) -> None: ...


@dataclass(slots=True)
class Admit:
    """The admission of a turn: it adds what it needs to the counters if all of them stay within their limits."""

    token: int
    limits: Counters
    needs: Counters
    """What has to fit."""
    reserves: Counters
    """What is added, at least what has to fit."""
    id: str = ""
    admitted: bool = False
    use: Use | None = None

    def __post_init__(self) -> None:
        self.id = ids.new("adm")

    @property
    def order(self) -> int:
        return 1

    def run(self, held: Held) -> None:
        self.admitted = held.has_room(self.needs, self.limits)
        if self.admitted:
            held.add(self.reserves)


@dataclass(slots=True)
class Adjust:
    """Adds to the counters what a turn at work has used above its estimate."""

    token: int
    id: str
    windows: Windows
    """Those of the admission."""
    reserved: Amounts
    used: Amounts
    use: Use | None = None

    @property
    def order(self) -> int:
        return 0

    def run(self, held: Held) -> None:
        held.add(self._change(held.windows, 0))

    def _change(self, windows: Windows, running: int) -> Counters:
        """In the window of the admission the estimate is replaced. In a later one only counts what exceeds it."""
        change = self.used.minus(self.reserved)
        in_window = Counters.of(0, change, running)
        if windows == self.windows:
            return in_window
        later = Counters.of(0, change.above_zero, running)
        same = [windows[window] == self.windows[window] for window in _WINDOWS]
        return Counters(*(a if is_same else b for a, b, is_same in zip(in_window, later, [*same, True], strict=True)))


@dataclass(slots=True)
class Settle(Adjust):
    """The end of an admission, once: a second one changes nothing. Where the worker counted as dead meanwhile, the
    estimate stays."""

    def run(self, held: Held) -> None:
        if self.id in held.ended:
            held.ended.remove(self.id)
            held.add(self._change(held.windows, -1))


class CounterStatements:
    """The statements of the counters in one dialect, and what the changes of one process need beside them."""

    def __init__(self, dialect: Dialect, leases: Leases) -> None:
        self.clock = f"SELECT {dialect.now}"
        self.read = f"SELECT {dialect.now}, {', '.join(USE_COLUMNS)} FROM token_use WHERE token = ?"
        self.hold = self.read + dialect.hold
        self.insert = dialect.unless_there("token_use", ("token", *USE_COLUMNS))
        self.begin = dialect.insert("admission", ["id", "token", "worker"])
        self.lock = dialect.hold
        self.worker: Callable[[Session], int] = leases.worker


def apply(session: Session, statements: CounterStatements, changes: Sequence[Change]) -> None:
    """Makes the changes of one transaction, token by token, so that two processes cannot lock each other out. Each
    token's row is locked, read and written once, however many turns begin and end."""
    ended = _end(session, statements, [change.id for change in changes if isinstance(change, Settle)])
    for token, group in groupby(sorted(changes, key=attrgetter("token", "order")), attrgetter("token")):
        _change(session, statements, token, list(group), ended)
    begun = [(change.id, change.token) for change in changes if _begins(change)]
    if begun:
        worker = statements.worker(session)
        session.run_many(statements.begin, [(*admission, worker) for admission in begun])


def _end(session: Session, statements: CounterStatements, names: Sequence[str]) -> set[str]:
    """Removes the rows of these admissions. Returns the ids of those that had one."""
    if not names:
        return set()
    among = f"FROM admission WHERE id IN ({', '.join('?' * len(names))})"
    found = {name for (name,) in session.rows(f"SELECT id {among}{statements.lock}", names)}
    if found:
        session.run(f"DELETE {among}", names)
    return found


def _change(
    session: Session, statements: CounterStatements, token: int, changes: Sequence[Change], ended: set[str]
) -> None:
    """Makes the changes of one token."""
    row = session.row(statements.hold, (token,))
    if row is None:
        session.run(statements.insert, (token, *Windows(), *Counters()))
        row = session.row(statements.hold, (token,))
        assert row is not None
    held = Held(present_use(row), ended)
    for change in changes:
        change.run(held)
    values = (*held.windows, *held.counters)
    if values != row[1:]:
        session.run(_SAVE, (*values, token))
    for change in changes:
        change.use = held.use


def _begins(change: Change) -> bool:
    return isinstance(change, Admit) and change.admitted and change.reserves.running > 0


def read(session: Session, statements: CounterStatements, token: int) -> Use:
    """The counters of a token."""
    row = session.row(statements.read, (token,))
    if row is None:
        row = session.row(statements.clock)
        assert row is not None
        return unused(row[0])
    return present_use(row)


def unused(now: int) -> Use:
    """The counters of a token without a row."""
    return Use(now, Windows.at(now), Counters())


def present_use(row: Row) -> Use:
    """The counters of a row of `USE_COLUMNS` behind the database's time. A window that is over counts as empty. A host
    whose transaction was late never brings an older window back."""
    now, written, counters = row[0], Windows(*row[1:4]), Counters(*row[4:])
    present = Windows.at(now)
    if written == present:
        return Use(now, present, counters)
    windows = Windows(*map(max, written, present))
    over = {name: 0 for name, window in _WINDOW_OF.items() if getattr(written, window) < getattr(present, window)}
    return Use(now, windows, counters._replace(**over))


def end_of_worker(session: Session, worker: int) -> None:
    """Ends the admissions of a dead worker. What they have reserved stays in the counters: nothing else says what their
    turns have used."""
    for token, _ in session.rows(_RUNNING_OF, (worker,)):
        # The worker may be slow rather than dead, and end one itself at this moment.
        ended = session.run("DELETE FROM admission WHERE worker = ? AND token = ?", (worker, token))
        session.run("UPDATE token_use SET running = running - ? WHERE token = ?", (ended, token))


def claim_notice(session: Session, token: int, counter: str, level: int, since: int) -> bool:
    """True for the first claim of a notice in its period. Raises Conflict for one that another process makes."""
    key = (token, counter, level)
    if session.row(f"SELECT 1 FROM budget_notice WHERE {_NOTICE}", key) is None:
        session.run("INSERT INTO budget_notice (token, counter, level, since) VALUES (?, ?, ?, ?)", (*key, since))
        return True
    return session.run(f"UPDATE budget_notice SET since = ? WHERE {_NOTICE} AND since < ?", (since, *key, since)) == 1
