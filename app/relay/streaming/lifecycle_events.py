"""The events that the gateway makes itself: the first and the last ones of a stream."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

from app import sse
from app.contract.events import ERROR, HEAD, QUEUED_HEAD, TERMINAL, terminal
from app.contract.items import Item
from app.contract.response import failed, in_progress
from app.errors import EndedElsewhere
from app.formats import Emitter


def queued_events(queued: Mapping[str, Any]) -> Sequence[bytes]:
    """The events of a queued response."""
    return list(head_events(queued, (), Emitter()))[:-1]


def replayed_events(response: Mapping[str, Any], sent: int = 0) -> Iterator[bytes]:
    """A stored response as a stream. The first `sent` events are skipped because the client has them already."""
    emitter = Emitter()
    yield b"".join(islice(head_events(in_progress(response), response["output"], emitter), sent, None))
    yield terminal_events(response, emitter.sequence)


def terminal_events(
    response: Mapping[str, Any], number: int, after: int = -1, error: Mapping[str, Any] | None = None
) -> bytes:
    """The last events of an ended response, numbered from `number`: one terminal event, after an `error` event for a
    failure. Events numbered up to `after` are skipped because the client has them already. `error`: the whole error, of
    which the response object shows the code and the message; where it is unknown, an error of the server.
    """
    if response["status"] not in TERMINAL.values():
        # No event ends the stream of a response that was cancelled or deleted.
        response = failed(response, EndedElsewhere())
    last: list[tuple[str, dict[str, Any]]] = [(terminal(response["status"]), {"response": response})]
    if response["status"] == "failed":
        error = error or {"type": "server_error", "param": None, **response["error"]}
        last = [(ERROR, {"error": error}), *last]
    events = (
        sse.encode({"type": kind, "sequence_number": place, **fields})
        for place, (kind, fields) in enumerate(last, number)
        if place > after
    )
    return b"".join(events) + sse.DONE


def opening_types(background: bool) -> Sequence[tuple[str, str]]:
    """Types and statuses of the events that open a stream. The gateway makes them; the upstream's events follow."""
    return QUEUED_HEAD if background else HEAD


def head_events(begun: Mapping[str, Any], leading_items: Sequence[Item], emitter: Emitter) -> Iterator[bytes]:
    """The events that open a stream, then those of the items that the gateway puts before the answer."""
    for kind, status in opening_types(begun["background"]):
        yield emitter.event(kind, response={**begun, "status": status})
    for item in leading_items:
        yield from emitter.item(item)
