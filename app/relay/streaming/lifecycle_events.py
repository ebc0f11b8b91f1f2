"""The events that the gateway makes itself: a stream's first and its last ones."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

from app import sse
from app.contract.events import ERROR, FAILED, HEAD, QUEUED_HEAD, terminal
from app.contract.items import Item
from app.contract.records import CHAINABLE
from app.formats import Emitter


def told_of(begun: Mapping[str, Any]) -> Sequence[bytes]:
    """The events of a response that waits in the queue."""
    return list(head_events(begun, (), Emitter()))[:-1]


def whole(response: Mapping[str, Any], sent: int = 0) -> Iterator[bytes]:
    """A response that is stored already, as the stream that was asked for, behind so many events that have left."""
    emitter = Emitter()
    begun = {**response, "output": [], "usage": None, "error": None, "incomplete_details": None, "completed_at": None}
    yield b"".join(islice(head_events(begun, response["output"], emitter), sent, None))
    yield ending(response, emitter.sequence)


def ending(response: Mapping[str, Any], number: int, after: int = -1) -> bytes:
    """How the stream of a response ends that has ended: one terminal event, behind an error when it has failed. What is
    numbered up to `after` has been seen and is left out.
    """
    events = [
        {"type": kind, "sequence_number": place, **told} for place, (kind, told) in enumerate(_last(response), number)
    ]
    return b"".join(sse.encode(event) for event in events if event["sequence_number"] > after) + sse.DONE


def _last(response: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    if response["status"] in CHAINABLE:
        yield terminal(response["status"]), {"response": response}
    else:
        yield ERROR, {"error": {"type": "server_error", "param": None, **response["error"]}}
        yield FAILED, {"response": response}


def _terminal(event: Mapping[str, Any]) -> bytes:
    return sse.encode(event) + sse.DONE


def opening(background: bool) -> Sequence[tuple[str, str]]:
    """The events that a stream begins with, and their statuses. The gateway makes them; the upstream's follow."""
    return QUEUED_HEAD if background else HEAD


def head_events(begun: Mapping[str, Any], preface: Sequence[Item], emitter: Emitter) -> Iterator[bytes]:
    """What a stream begins with, and the items of ours that stand before the answer."""
    for kind, status in opening(begun["background"]):
        yield emitter.event(kind, response={**begun, "status": status})
    for item in preface:
        yield from emitter.item(item)
