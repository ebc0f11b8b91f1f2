"""Counters of limited tokens: one row a token, with its minute, day and month, and the number of its turns at work.

A turn is admitted by one conditional UPDATE, which reserves an estimate, and settled by another with what it has used.
So a limit is exact over all threads, processes and hosts. The turns at work are rows as well: each belongs to a worker,
and ends with the worker's lease.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import groupby
from operator import attrgetter
from typing import NamedTuple, Protocol

from app import ids
from app.store.database import Session
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
_NAMES = tuple(_WINDOW_OF)
_COLUMNS = ("token", *Windows._fields, *Counters._fields)

# A window that is over counts as empty. A host whose transaction was late never brings an older window back. The
# windows are assigned last, because MySQL computes each value from those that are assigned before it.
_NOW_IN = {name: f"CASE WHEN {window} < ? THEN 0 ELSE {name} END" for name, window in _WINDOW_OF.items()}
_ADMIT = "UPDATE token_use SET {sums}, running = running + ?, {windows} WHERE token = ? AND running + ? <= ? AND {room}"
_ADMIT = _ADMIT.format(
    sums=", ".join(f"{name} = {_NOW_IN[name]} + ?" for name in _NAMES),
    windows=", ".join(f"{window} = CASE WHEN {window} < ? THEN ? ELSE {window} END" for window in Windows._fields),
    room=" AND ".join(f"{_NOW_IN[name]} + ? <= ?" for name in _NAMES),
)
# In the window of the admission the estimate is replaced. In a later one only counts what exceeds the estimate.
_SETTLE = "UPDATE token_use SET {sums}, running = running - ? WHERE token = ?".format(
    sums=", ".join(
        f"{name} = {name} + CASE WHEN {_WINDOW_OF[name]} = ? THEN ? ELSE ? END" for name in _NAMES if name != "requests"
    )
)
_READ = f"SELECT {', '.join(_COLUMNS[1:])} FROM token_use WHERE token = ?"
_END = "DELETE FROM admission WHERE id = ?"
_NOTICE = "token = ? AND counter = ? AND level = ?"
_RUNNING_OF = "SELECT token, COUNT(*) FROM admission WHERE worker = ? GROUP BY token ORDER BY token"


class Change(Protocol):
    """One change of the counters of one token. It may run several times, in a transaction that is repeated."""

    token: int
    use: Use | None
    """The counters behind the transaction's changes."""

    @property
    def order(self) -> int:
        """Changes that make room come first."""
        ...

    def run(self, session: Session, statements: CounterStatements, windows: Windows) -> None: ...


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

    def run(self, session: Session, statements: CounterStatements, windows: Windows) -> None:
        parameters = self._parameters(windows)
        self.admitted = session.run(_ADMIT, parameters) == 1
        if not self.admitted and session.row(_READ, (self.token,)) is None:
            session.run(statements.insert, (self.token, *windows, *Counters()))
            self.admitted = session.run(_ADMIT, parameters) == 1
        if self.admitted and self.reserves.running:
            session.run(statements.begin, (self.id, self.token, statements.worker(session)))

    def _parameters(self, windows: Windows) -> list[int]:
        of = windows._asdict()
        adds, needs, limits = self.reserves._asdict(), self.needs._asdict(), self.limits._asdict()
        sums = [value for name in _NAMES for value in (of[_WINDOW_OF[name]], adds[name])]
        rolled = [value for window in windows for value in (window, window)]
        room = [value for name in _NAMES for value in (of[_WINDOW_OF[name]], needs[name], limits[name])]
        return [*sums, self.reserves.running, *rolled, self.token, self.needs.running, self.limits.running, *room]


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

    def run(self, session: Session, statements: CounterStatements, windows: Windows) -> None:
        self._change(session, 0)

    def _change(self, session: Session, ended: int) -> None:
        change = self.used.minus(self.reserved)
        in_window, later = (Counters.of(0, amounts, 0)._asdict() for amounts in (change, change.above_zero))
        of = self.windows._asdict()
        sums = [
            value
            for name in _NAMES
            if name != "requests"
            for value in (of[_WINDOW_OF[name]], in_window[name], later[name])
        ]
        session.run(_SETTLE, (*sums, ended, self.token))


@dataclass(slots=True)
class Settle(Adjust):
    """The end of an admission, once: a second one changes nothing. Where the worker counted as dead meanwhile, the
    estimate stays."""

    def run(self, session: Session, statements: CounterStatements, windows: Windows) -> None:
        if ended := session.run(_END, (self.id,)):
            self._change(session, ended)


class CounterStatements:
    """What the changes of one process need beside their own statements."""

    def __init__(self, dialect: Dialect, leases: Leases) -> None:
        self.clock = f"SELECT {dialect.now}"
        self.insert = dialect.unless_there("token_use", _COLUMNS)
        self.begin = dialect.insert("admission", ["id", "token", "worker"])
        self.worker: Callable[[Session], int] = leases.worker


def apply(session: Session, statements: CounterStatements, changes: Iterable[Change]) -> None:
    """Makes the changes of one transaction, token by token, so that two processes cannot lock each other out."""
    now = _clock(session, statements)
    for token, group in groupby(sorted(changes, key=attrgetter("token", "order")), attrgetter("token")):
        of_token = list(group)
        for change in of_token:
            change.run(session, statements, Windows.at(now))
        use = _use(session, token, now)
        for change in of_token:
            change.use = use


def read(session: Session, statements: CounterStatements, token: int) -> Use:
    """The counters of a token."""
    return _use(session, token, _clock(session, statements))


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


def _clock(session: Session, statements: CounterStatements) -> int:
    row = session.row(statements.clock)
    assert row is not None
    return int(row[0])


def _use(session: Session, token: int, now: int) -> Use:
    windows = Windows.at(now)
    row = session.row(_READ, (token,))
    if row is None:
        return Use(now, windows, Counters())
    found = Windows(*row[: len(windows)])
    counters = Counters(*row[len(windows) :])
    over = {name for name, window in _WINDOW_OF.items() if getattr(found, window) < getattr(windows, window)}
    return Use(now, Windows(*map(max, found, windows)), counters._replace(**dict.fromkeys(over, 0)))
