"""The last good configuration: the settings and the channel table that the gateway was started with or has accepted
since. The process that forks the others holds it in memory, and each of them begins with it, whatever has become of the
files by then: a successor is never stricter than the process it follows. Nothing of it is written anywhere.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

from app import formats
from app.channels.watch import LastTable
from app.errors import StoreUnavailable
from app.queue import open_queue
from app.settings import Settings, load_settings, read_environment
from app.store import Store

log = logging.getLogger(__name__)

#: What a configuration has to show of its database before it is accepted.
Check = Callable[[Store], None]


@dataclass(slots=True)
class LastGood:
    """`table` follows its file; `settings` stay what they are until a reload brings others."""

    settings: Settings
    table: LastTable

    @classmethod
    def of(cls, settings: Settings) -> LastGood:
        """Raises ChannelsInvalid."""
        home = settings.home
        return cls(settings, LastTable(settings.channels, lambda: read_environment(home), formats.names()))


_kept: LastGood | None = None


def keep(last: LastGood) -> None:
    """For this process and those that it forks."""
    global _kept
    _kept = last


def kept() -> LastGood | None:
    """None in a process that no other one has started."""
    return _kept


def load(check: Check) -> LastGood:
    """As the files are now. Raises ConfigurationError, and what `check` raises."""
    last = LastGood.of(load_settings())
    store = Store(last.settings.database_url, peppers=last.settings.keys_for("tokens"))
    try:
        check(store)
        # Its driver may not be installed.
        open_queue(last.settings.queue_url, store.database)
    finally:
        store.close()
    return last


def check_first(store: Store) -> None:
    """A schema that is not ours is refused; a database that does not answer yet is waited for in use."""
    try:
        store.schema.check()
    except StoreUnavailable as error:
        log.warning("%s Serving anyway; /readyz says when it is back.", error.message)


def check_successor(store: Store) -> None:
    """Workers that serve are not replaced by others that could not: the database answers, and its schema will do."""
    store.database.ping()
    store.schema.check_in_use()
