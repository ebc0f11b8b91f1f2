"""The events that the gateway makes itself: the first and the last ones of a stream."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

from app import sse
from app.contract.events import ERROR, FAILED, HEAD, QUEUED_HEAD, terminal
from app.contract.items import Item
from app.contract.records import CHAINABLE
from app.formats import Emitter


def queued_events(in_progress: Mapping[str, Any]) -> Sequence[bytes]:
    """The events of a queued response."""
    return list(head_events(in_progress, (), Emitter()))[:-1]


def replayed_events(response: Mapping[str, Any], sent: int = 0) -> Iterator[bytes]:
    """A stored response as a stream. The first `sent` events are skipped because the client has them already."""
    emitter = Emitter()
    in_progress = {
        **response,
        "output": [],
        "usage": None,
        "error": None,
        "incomplete_details": None,
        "completed_at": None,
    }
    yield b"".join(islice(head_events(in_progress, response["output"], emitter), sent, None))
    yield terminal_events(response, emitter.sequence)


def terminal_events(response: Mapping[str, Any], number: int, after: int = -1) -> bytes:
    """The last events of an ended response: one terminal event, after an `error` event for a failure. Events numbered
    up to `after` are skipped because the client has them already.
    """
    events = [
        {"type": kind, "sequence_number": place, **error_event}
        for place, (kind, error_event) in enumerate(_last(response), number)
    ]
    return b"".join(sse.encode(event) for event in events if event["sequence_number"] > after) + sse.DONE


def _last(response: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    if response["status"] in CHAINABLE:
        yield terminal(response["status"]), {"response": response}
    else:
        yield ERROR, {"error": {"type": "server_error", "param": None, **response["error"]}}
        yield FAILED, {"response": response}


def terminal_event(event: Mapping[str, Any]) -> bytes:
    return sse.encode(event) + sse.DONE


def opening_types(background: bool) -> Sequence[tuple[str, str]]:
    """Types and statuses of the events that open a stream. The gateway makes them; the upstream's events follow."""
    return QUEUED_HEAD if background else HEAD


def head_events(in_progress: Mapping[str, Any], leading_items: Sequence[Item], emitter: Emitter) -> Iterator[bytes]:
    """The events that open a stream, then those of the items that the gateway puts before the answer."""
    for kind, status in opening_types(in_progress["background"]):
        yield emitter.event(kind, response={**in_progress, "status": status})
    for item in leading_items:
        yield from emitter.item(item)
