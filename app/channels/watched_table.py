"""The channel table in use: read again when its file changes, kept as it was when the new one is bad."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

from app.channels.table import Table, load
from app.errors import ConfigurationError

log = logging.getLogger(__name__)


def stamp_of(path: Path) -> Path:
    """The file that is touched to have the table read again although it has not changed (a new key in .env)."""
    return path.with_name(path.name + ".reload")


class LastTable:
    """The last table that could be used. `poll` is for one caller, about once a second; readers take `current` and
    keep it.
    """

    def __init__(
        self,
        path: Path,
        environment: Callable[[], Mapping[str, str]],
        formats: Collection[str],
        last: LastTable | None = None,
    ) -> None:
        """Begins with what `last` has accepted; without it the file must be good. Raises ChannelsInvalid."""
        self.path = path
        self.rejected: str | None = None if last is None else last.rejected
        """Why the file as it is now is not in use; None when it is."""
        self._environment = environment
        self._formats = formats
        # Looked at before reading: a change in between is seen by the next poll.
        self._seen: tuple[Any, ...] = self._look() if last is None else last._seen
        self.current: Table = load(path, environment(), formats) if last is None else last.current

    def poll(self) -> None:
        """Read the file again if it or its stamp has changed; a bad one changes nothing."""
        seen = self._look()
        if seen == self._seen:
            return
        self._seen = seen
        try:
            table = load(self.path, self._environment(), self._formats)
        except ConfigurationError as error:
            self._reject(error.message)
        except (OSError, UnicodeError) as error:
            self._reject(f"the environment cannot be read: {type(error).__name__}")
        else:
            self._accept(table)

    def _look(self) -> tuple[Any, ...]:
        return _signature(self.path), _signature(stamp_of(self.path))

    def _reject(self, why: str) -> None:
        self.rejected = why

    def _accept(self, table: Table) -> None:
        self.current, self.rejected = table, None


class WatchedTable(LastTable):
    """The table as it is now, for a process that serves: what changes is a line of its log."""

    def __init__(
        self,
        path: Path,
        environment: Callable[[], Mapping[str, str]],
        formats: Collection[str],
        last: LastTable | None = None,
    ) -> None:
        super().__init__(path, environment, formats, last)
        self._warn()
        if self.rejected is not None:
            self._reject(self.rejected)

    def _reject(self, why: str) -> None:
        super()._reject(why)
        log.error("channels: the new table is not used, the old one stays:\n%s", why)

    def _accept(self, table: Table) -> None:
        old = self.current
        super()._accept(table)
        log.info("channels: read again, version %s: %s", table.digest, _difference(old, table))
        self._warn()

    def _warn(self) -> None:
        for warning in self.current.warnings:
            log.warning("channels: %s", warning)


def _signature(path: Path) -> tuple[int, ...] | None:
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return None
    return status.st_mtime_ns, status.st_ctime_ns, status.st_size, status.st_ino, status.st_dev


def _difference(old: Table, new: Table) -> str:
    """`+added -gone ~changed`, by the channels' names."""
    before = {channel.name: channel for channel in old.channels}
    after = {channel.name: channel for channel in new.channels}
    signs = [
        *(f"+{name}" for name in after if name not in before),
        *(f"-{name}" for name in before if name not in after),
        *(f"~{name}" for name in after if name in before and before[name] != after[name]),
    ]
    return " ".join(signs) or "no channel has changed"
