"""The API's stream events: their names, their order, and which of them bring the text of an item."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from app.contract.items import PART_TYPES, SUMMARY_PARTS, TYPES

CREATED = "response.created"
QUEUED = "response.queued"
IN_PROGRESS = "response.in_progress"
COMPLETED = "response.completed"
INCOMPLETE = "response.incomplete"
FAILED = "response.failed"
ERROR = "error"
"""Precedes `response.failed`."""

#: The events that a stream begins with, each with the status that its response has.
HEAD: Sequence[tuple[str, str]] = ((CREATED, "in_progress"), (IN_PROGRESS, "in_progress"))
QUEUED_HEAD: Sequence[tuple[str, str]] = ((CREATED, "queued"), (QUEUED, "queued"), (IN_PROGRESS, "in_progress"))
#: The events that end a stream, with the status of the response.
TERMINAL: Mapping[str, str] = {COMPLETED: "completed", INCOMPLETE: "incomplete", FAILED: "failed"}

ITEM_ADDED = "response.output_item.added"
ITEM_DONE = "response.output_item.done"
ANNOTATION_ADDED = "response.output_text.annotation.added"

CONTENT_PART = "response.content_part"
SUMMARY_PART = "response.reasoning_summary_part"
#: Families of the events that begin a part (`.added`) and end it (`.done`).
PART_FAMILIES = frozenset({CONTENT_PART, SUMMARY_PART})
#: Names that some upstreams have for the parts of a reasoning item.
MISNAMED_PART = "response.reasoning_part"

#: By the type of a part: the family of the events that bring its text, and the member that holds the text.
TEXT_EVENTS: Mapping[str, tuple[str, str]] = {
    part.name: (part.events, part.text) for part in PART_TYPES.values() if part.events and part.text
}
#: By the type of a call: the same for its arguments.
ARGUMENT_EVENTS: Mapping[str, tuple[str, str]] = {
    item.name: (item.arguments_events, item.arguments)
    for item in TYPES.values()
    if item.arguments_events and item.arguments
}


def terminal(status: str) -> str:
    """The event that ends the stream of a response with this status."""
    return f"response.{status}"


def part_family(part_type: str) -> str:
    """Family of the events that begin and end a part of this type."""
    return SUMMARY_PART if part_type in SUMMARY_PARTS else CONTENT_PART
