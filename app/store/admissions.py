"""The turns of limited tokens, as one process admits and settles them by its writer. An end that the database could not
take is retried until it can."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from functools import partial

from app.errors import StoreUnavailable
from app.store import at_fork, token_counters
from app.store.database import Conflict, Database
from app.store.grouped_writes import Group
from app.store.token_counters import Adjust, Admit, Amounts, CounterStatements, Settle, Use, Windows
from app.store.writer import Writer

log = logging.getLogger(__name__)

#: Called by the writer once a settlement is committed.
OnSettled = Callable[[Settle], object]


class Admissions:
    def __init__(self, database: Database, writer: Writer[Group], statements: CounterStatements) -> None:
        self._database = database
        self._writer = writer
        self._statements = statements
        self.reset()
        at_fork.reset_after_fork(self)

    def reset(self) -> None:
        self._waiting: dict[str, tuple[Settle, OnSettled | None]] = {}
        self._lock = threading.Lock()

    def admit(self, admission: Admit) -> None:
        """Returns after the commit, with `admitted` and `use` set. Raises StoreUnavailable."""
        try:
            self._writer.do(lambda group: group.count_token(admission))
        except StoreUnavailable:
            # It may be committed although its answer was lost, or may still be.
            if admission.reserves.running:
                tokens, micro = admission.reserves.day_tokens, admission.reserves.day_micro
                self.settle(
                    Settle(admission.token, admission.id, Windows(), Amounts(tokens, micro), Amounts(tokens, micro))
                )
            raise

    def adjust(self, adjustment: Adjust) -> None:
        """Returns after the commit, with `use` set. Raises StoreUnavailable."""
        self._writer.do(lambda group: group.count_token(adjustment))

    def settle(self, settlement: Settle, on_settled: OnSettled | None = None) -> None:
        """Returns at once. What the process writes after this call is committed no earlier."""
        if not self._writer.post(
            lambda group: group.count_token(settlement), partial(self._on_done, settlement, on_settled)
        ):
            self._wait(settlement, on_settled)

    def settle_now(self, settlement: Settle, on_settled: OnSettled | None = None) -> None:
        """Returns after the commit, or once it is known that it has to wait for the database."""
        try:
            self._writer.do(lambda group: group.count_token(settlement))
        except StoreUnavailable:
            self._wait(settlement, on_settled)
        else:
            if on_settled is not None:
                on_settled(settlement)

    def retry(self) -> None:
        """Posts the ends that wait for the database; returns at once."""
        with self._lock:
            waiting, self._waiting = list(self._waiting.values()), {}
        for settlement, on_settled in waiting:
            self.settle(settlement, on_settled)

    def claim(self, token: int, counter: str, level: int, since: int) -> bool:
        """True for the first claim of this level in the period that began at `since`. Raises StoreUnavailable."""
        try:
            return self._database.transaction(
                lambda session: token_counters.claim_notice(session, token, counter, level, since)
            )
        except Conflict:
            return False

    def use(self, token: int) -> Use:
        """The counters of a token. Raises StoreUnavailable."""
        return self._database.read(lambda session: token_counters.read(session, self._statements, token))

    def _on_done(self, settlement: Settle, on_settled: OnSettled | None, error: BaseException | None) -> None:
        """Called by the writer."""
        if error is None:
            if on_settled is not None:
                on_settled(settlement)
        elif isinstance(error, StoreUnavailable):
            self._wait(settlement, on_settled)
        else:
            log.error("the end of a turn of token %d cannot be counted: %r", settlement.token, error)

    def _wait(self, settlement: Settle, on_settled: OnSettled | None) -> None:
        with self._lock:
            self._waiting[settlement.id] = settlement, on_settled
