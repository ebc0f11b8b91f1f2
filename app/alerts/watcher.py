"""Looks at what alerts are about, and sends one when a state has changed: at the edge, from one process."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from shutil import disk_usage
from typing import NamedTuple, Protocol

from app.alerts.webhook import Webhook
from app.channels.watched_table import LastTable
from app.contract.alerts import Alert
from app.contract.records import Token, WorkerStatus
from app.errors import StoreUnavailable
from app.settings import DAY
from app.store.store import Store

log = logging.getLogger(__name__)

CHECK_SECONDS = 2.0
#: Checks between two of what changes slowly: the disk, and the expiry of tokens.
_SLOWLY = 15
#: Seconds before a token's expiry.
EXPIRES_SOON = 7 * DAY
#: Share of a disk, and bytes, below both of which its free space is low.
LOW_SHARE, LOW_BYTES = 0.1, 2_000_000_000

GOOD = "good"
BAD = "bad"


class Condition(NamedTuple):
    """Something that is good or bad, with the alerts of both edges; None where that edge is silent."""

    name: str
    is_bad: bool
    worse: Alert
    better: Alert | None


class States(Protocol):
    def claim(self, name: str, state: str) -> bool: ...


class Watcher:
    """One thread a process. It works only where the table has `alerts`."""

    def __init__(self, store: Store, table: LastTable, webhook: Webhook, database_file: Path | None) -> None:
        self._store = store
        self._table = table
        self._webhook = webhook
        self._database_file = database_file
        self._known: dict[str, str] | None = None
        """States as this process has last seen them; None before they are read."""
        self._checks = 0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="alert-watcher", daemon=True)

    def start(self) -> None:
        self._webhook.start()
        self._thread.start()

    def close(self) -> None:
        self._ended.set()
        if self._thread.is_alive():
            self._thread.join(CHECK_SECONDS)
        self._webhook.close()

    def _run(self) -> None:
        while not self._ended.wait(CHECK_SECONDS):
            if not self._webhook.on:
                continue
            try:
                self._check()
            except StoreUnavailable:
                # The store has logged it; the states are compared again at the next check.
                self._known = None
            except Exception:
                # The border that must not die.
                log.exception("the alerts could not be checked")

    def _check(self) -> None:
        if self._known is None:
            self._known = dict(self._store.alerts.all())
        for condition in self._conditions():
            self._look(condition)
        self._checks += 1

    def _conditions(self) -> Iterator[Condition]:
        yield from channel_conditions(self._store.leases.statuses())
        yield table_condition(self._table)
        if self._checks % _SLOWLY == 0:
            # Another process may have sent an alert about them since.
            self._known = dict(self._store.alerts.all())
            yield from token_conditions(self._store.tokens.all(), int(time.time()))
            if self._database_file is not None:
                yield disk_condition(self._database_file.parent)

    def _look(self, condition: Condition) -> None:
        assert self._known is not None
        state = BAD if condition.is_bad else GOOD
        if self._known.get(condition.name, GOOD) == state:
            return
        alert = condition.worse if condition.is_bad else condition.better
        if self._store.alerts.claim(condition.name, state) and alert is not None:
            self._webhook.send(alert)
        self._known[condition.name] = state


def channel_conditions(workers: Sequence[WorkerStatus]) -> Iterator[Condition]:
    """A channel is down while a live worker leaves it out, and up again once no worker doubts it."""
    failing: dict[str, str] = {}
    names: set[str] = set()
    for worker in workers:
        for channel in worker.channels:
            names.add(channel.name)
            if channel.cooldown_left > 0 or channel.half_open:
                failing[channel.name] = channel.last_error or "unknown"
    for name in sorted(names):
        error = failing.get(name, "")
        yield Condition(
            f"channel {name}",
            name in failing,
            Alert("channel.down", f"Channel {name} is down: {error}.", {"channel": name, "error": error}),
            Alert("channel.up", f"Channel {name} is up again.", {"channel": name}),
        )


def table_condition(table: LastTable) -> Condition:
    why = table.rejected or ""
    return Condition(
        "table",
        table.rejected is not None,
        Alert("table.rejected", "The channel table has errors, so the one before stays in use.", {"errors": why}),
        Alert("table.accepted", "The channel table is valid again and in use.", {}),
    )


def token_conditions(tokens: Sequence[Token], now: int) -> Iterator[Condition]:
    for token in tokens:
        if token.expires_at is None or token.revoked_at is not None or token.expires_at <= now:
            continue
        when = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(token.expires_at))
        data = {"token": token.name, "owner": token.owner, "expires_at": token.expires_at}
        # A token that gets another expiry may warn again.
        yield Condition(
            f"token {token.key}",
            token.expires_at - now <= EXPIRES_SOON,
            Alert("token.expiring", f"Token {token.name} of {token.owner} expires at {when}.", data),
            None,
        )


def disk_condition(directory: Path) -> Condition:
    usage = disk_usage(directory)
    is_low = usage.free < LOW_BYTES and usage.free < LOW_SHARE * usage.total
    data = {"free_bytes": usage.free, "total_bytes": usage.total}
    return Condition(
        "disk",
        is_low,
        Alert("disk.low", f"Only {usage.free // 1_000_000} MB are free where the database is.", data),
        Alert("disk.ok", "There is enough free space where the database is.", data),
    )
