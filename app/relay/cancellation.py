"""Ends a response in progress from any worker, whichever worker runs it, for a person at a page."""

from __future__ import annotations

from app.errors import response_not_found
from app.ids import known_id
from app.relay.lease_keeper import RunningStreams
from app.store.store import Store


def cancel(scope: str | None, store: Store, running: RunningStreams, response_id: str) -> str | None:
    """Its owner; None when it had ended before. `scope`: the owner whose responses may be cancelled; None for all.
    Raises NotFound.

    The row is `cancelled` when this returns. The worker that runs the response sees that within a second: it closes the
    upstream, ends the client's stream, and settles what was used. A response without a row cannot be cancelled.
    """
    owner = store.in_flight.owner_of(response_id) if known_id(response_id) else None
    if owner is None or scope not in (None, owner):
        raise response_not_found(response_id)
    if not store.responses.cancel(owner, response_id):
        return None
    # At once, if it runs here.
    running.stop(response_id)
    return owner
