"""The last good configuration: the settings and the channel table that the gateway started with or has accepted since.
The master holds it in memory, and every forked process starts with it, even when the files have errors by then. It is
never written to a file.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass

from app import formats
from app.channels.watched_table import LastTable
from app.errors import StoreUnavailable
from app.server.job_queue import open_queue
from app.settings import Settings, load_settings, read_environment
from app.store.store import Store

log = logging.getLogger(__name__)

#: Checks the database of a configuration before it is accepted.
Check = Callable[[Store], None]


@dataclass(slots=True)
class LastGood:
    """`table` follows its file; `settings` change only with a reload."""

    settings: Settings
    table: LastTable

    @classmethod
    def of(cls, settings: Settings) -> LastGood:
        """Raises ChannelsInvalid."""
        home = settings.home
        return cls(settings, LastTable(settings.channels, lambda: read_environment(home), formats.names()))


_current: LastGood | None = None


def keep(last: LastGood) -> None:
    """Sets the configuration of this process and of those that it forks."""
    global _current
    _current = last


def current() -> LastGood | None:
    """None before the first `keep` of this process and its parents."""
    return _current


def load(check: Check) -> LastGood:
    """Reads the files. Raises ConfigurationError, and the errors of `check`."""
    last = LastGood.of(load_settings())
    store = Store(last.settings.database_url, peppers=last.settings.keys_for("tokens"))
    try:
        check(store)
        # Fails when the driver of the queue is not installed.
        open_queue(last.settings.queue_url, store.database)
    finally:
        store.close()
    return last


def check_first(store: Store) -> None:
    """Refuses a schema of another version. A database that does not answer yet only gives a warning."""
    try:
        store.schema.check()
    except StoreUnavailable as error:
        log.warning("%s The gateway starts anyway; /readyz shows when the database is back.", error.message)


def check_successor(store: Store) -> None:
    """Refuses a configuration that new workers could not serve with: the database must answer, its schema be usable."""
    store.database.ping()
    store.schema.check_in_use()
