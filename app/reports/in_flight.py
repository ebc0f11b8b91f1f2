"""What is at work now over all workers and hosts: the responses that have a row, and how many requests have none."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from app.contract.records import WorkerStatus
from app.store.in_flight import InFlightResponse
from app.store.store import Store


@dataclass(frozen=True, slots=True)
class InFlightReport:
    responses: Sequence[InFlightResponse]
    """Oldest first."""
    unlisted: int | None
    """Requests that get a row with their end only: those that are not streamed or not stored. None for an owner, since
    workers do not report whose they are."""
    workers: Sequence[WorkerStatus]
    """The live ones; none for an owner."""

    def wire(self) -> dict[str, Any]:
        return {
            "responses": [
                {
                    "id": one.id,
                    "owner": one.owner,
                    "token": one.token,
                    "client": one.client,
                    "model": one.model,
                    "channel": one.channel,
                    "status": one.status,
                    "created_at": one.created_at,
                    "seconds": one.seconds,
                }
                for one in self.responses
            ],
            "unlisted": self.unlisted,
            "workers": len(self.workers),
        }


def in_flight_report(scope: str | None, store: Store) -> InFlightReport:
    """`scope`: the owner whose responses are listed; None for all."""
    responses, workers = store.in_flight.read(scope)
    return InFlightReport(responses, None if scope is not None else _unlisted(responses, workers), workers)


def _unlisted(responses: Sequence[InFlightResponse], workers: Sequence[WorkerStatus]) -> int:
    """The exchanges that the workers report beyond those of the listed responses. A report is up to a second old."""
    listed = Counter(one.worker for one in responses)
    return sum(
        max(0, sum(channel.in_flight for channel in worker.channels) - listed[worker.worker]) for worker in workers
    )
