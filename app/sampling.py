"""Reads the state of this process for its metrics."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from app.channels.selection import Channels
from app.channels.watched_table import LastTable
from app.memory import InFlight
from app.metrics.sample import Sample
from app.relay.streaming.transport import ThreadTransport
from app.store.store import Store


@dataclass(frozen=True, slots=True)
class ProcessState:
    """The parts of a process whose state is measured."""

    store: Store
    channels: Channels
    table: LastTable
    transport: ThreadTransport
    in_flight: InFlight
    sockets: InFlight
    database_file: Path | None

    def sample(self) -> Sample:
        maintenance = self.store.maintenance
        return Sample(
            kind="background" if self.store.leases.background else "web",
            in_flight=self.in_flight.count,
            websockets=self.sockets.count,
            waiting=self.channels.waiting,
            channels=self.channels.statuses(),
            table_rejected=self.table.rejected is not None,
            writer_waiting=maintenance.waiting,
            rows_dropped=maintenance.dropped,
            pump_lag=self.transport.measured_lag(),
            disk_free=self._disk_free(),
        )

    def serves(self, model: str) -> bool:
        return bool(self.channels.table.serving(model))

    def has_tool_server(self, label: str) -> bool:
        return label in self.channels.table.tools.servers

    def token_names(self) -> Mapping[int, str]:
        return {token.key: token.name for token in self.store.tokens.all()}

    def queued(self) -> int:
        return self.store.jobs.waiting()

    def _disk_free(self) -> int | None:
        if self.database_file is None:
            return None
        with suppress(OSError):
            return shutil.disk_usage(self.database_file.parent).free
        return None
