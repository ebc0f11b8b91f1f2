"""The channel table in use. A change of its file loads it again; a bad file leaves the old table in use."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from time import time
from typing import Any

from app.channels.table import Table, load
from app.errors import ConfigurationError

log = logging.getLogger(__name__)


def stamp_of(path: Path) -> Path:
    """The stamp file: touching it reloads the table although its own file is unchanged (a new key in .env)."""
    return path.with_name(path.name + ".reload")


class LastTable:
    """The last valid table. One caller calls `poll` about once a second; each reader takes `current` once and uses that
    value throughout.
    """

    def __init__(
        self,
        path: Path,
        environment: Callable[[], Mapping[str, str]],
        formats: Collection[str],
        last: LastTable | None = None,
    ) -> None:
        """Starts with the table of `last`; without `last` the file must be valid. Raises ChannelsInvalid."""
        self.path = path
        self.rejected: str | None = None if last is None else last.rejected
        """Why the present file is not in use; None when it is in use."""
        self.rejected_at: int | None = None if last is None else last.rejected_at
        """Unix time at which the present file was refused."""
        self.loaded_at: int = int(time()) if last is None else last.loaded_at
        """Unix time at which `current` was read."""
        self._environment = environment
        self._formats = formats
        # Taken before the file is read, so that the next poll sees a change in between.
        self._seen: tuple[Any, ...] = self._look() if last is None else last._seen
        self.current: Table = load(path, environment(), formats) if last is None else last.current

    def poll(self) -> None:
        """Loads the file again if it or its stamp has changed. A bad file leaves `current` as it is."""
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
        self.rejected, self.rejected_at = why, self.rejected_at or int(time())

    def _accept(self, table: Table) -> None:
        self.current, self.loaded_at = table, int(time())
        self.rejected = self.rejected_at = None


class WatchedTable(LastTable):
    """The last valid table of a serving process, which logs each change."""

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
        log.error("channels: the new table is invalid and not used, the old one stays in use:\n%s", why)

    def _accept(self, table: Table) -> None:
        old = self.current
        super()._accept(table)
        log.info("channels: reloaded, version %s: %s", table.digest, _difference(old, table))
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
    """`+added -removed ~changed`, by the names of the channels and the labels of the tool servers."""
    before, after = _rows(old), _rows(new)
    signs = [
        *(f"+{name}" for name in after if name not in before),
        *(f"-{name}" for name in before if name not in after),
        *(f"~{name}" for name in after if name in before and before[name] != after[name]),
    ]
    return " ".join(signs) or "no channel and no tool server has changed"


def _rows(table: Table) -> Mapping[str, object]:
    channels = {channel.name: channel for channel in table.channels}
    return {**channels, **{f"tools/{label}": server for label, server in table.tools.servers.items()}}
