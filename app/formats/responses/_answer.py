"""Decodes an upstream's response object: an unstreamed answer, or the terminal event of a stream."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from app.contract.items import STREAMED_CALLS, TEXT_TYPES, Item
from app.contract.replay import cut_off, ended, may_be_cut, with_arguments
from app.contract.turn import Answer, Turn
from app.errors import UpstreamBroken, UpstreamError
from app.formats import _openai
from app.formats._endings import CUT, ending_of, is_full, reason_of
from app.formats._failures import error_in_answer, stream_error
from app.formats._reader import error_in, whole
from app.formats.responses import _items
from app.formats.responses._functions import Restorer

#: Items that grow while they are streamed, and so may be cut off.
_CAN_BREAK = TEXT_TYPES | STREAMED_CALLS
_ENDED = frozenset({"completed", "incomplete", "failed"})
_RUNNING = frozenset({"in_progress", "queued"})


def decode(body: bytes, turn: Turn) -> Answer:
    response = whole(body)
    output = _output(response) if isinstance(response, dict) else None
    if output is None:
        raise error_in_answer(response) or UpstreamBroken(
            "The model's server answered with something that is not a response."
        )
    status = status_of(response)
    if not output and status == "failed":
        raise _failure(response)
    if turn.functions_only:
        output = Restorer(turn).output(item for item in output if isinstance(item, dict))
    items = [ended(item, status) for item in _items.complete_all(output, turn)]
    exact = len(items) == len(output) and all(new is old for new, old in zip(items, output, strict=True))
    return _answer(response, status, items, turn, path="bytes" if exact else "repaired")


def _output(response: Mapping[str, Any]) -> Sequence[Any] | None:
    """The items as they came; None if the object holds no answer."""
    output = response.get("output")
    if isinstance(output, dict):
        output = [output]
    if isinstance(output, list) and (output or not response.get("output_text")):
        return [_items.message(item) if isinstance(item, str) else item for item in output]
    text = output or response.get("output_text")
    return [_items.message(text)] if isinstance(text, str) and text else None


def status_of(response: Mapping[str, Any]) -> str:
    """The status of an ended response: completed, incomplete or failed. Its error and the reason why it is incomplete
    count more than its own word."""
    status = reason_of(response.get("status")) or "completed"
    if status not in _ENDED:
        status = "completed" if status in _RUNNING else ending_of(status).status
    if status == "completed" and error_in(None, response):
        return "failed"
    details = response.get("incomplete_details")
    if status == "completed" and isinstance(details, Mapping) and reason_of(details.get("reason")):
        return "incomplete"
    return status


def answer_of(response: Mapping[str, Any], items: Sequence[Item], turn: Turn, *, path: str) -> Answer:
    return _answer(response, status_of(response), items, turn, path=path)


def _answer(response: Mapping[str, Any], status: str, items: Sequence[Item], turn: Turn, *, path: str) -> Answer:
    details = response.get("incomplete_details")
    usage = _openai.usage(response.get("usage"))
    if not _string(response.get("status")) and is_full(usage, turn) and _can_be_cut(items):
        status, details = "incomplete", {"reason": CUT}
        items = [*items[:-1], *map(cut_off, items[-1:])]
    elif status == "incomplete" and any(map(may_be_cut, items[-1:])):
        items = [*items[:-1], cut_off(items[-1])]
    failure = _failure(response) if status == "failed" else None
    return Answer(
        status=status,
        output=[with_arguments(item) for item in items],
        usage=usage,
        error={"code": failure.name, "message": failure.message} if failure else None,
        failure=failure,
        incomplete_details=_details(details) if status == "incomplete" else None,
        path=path,
        **identity(response),
    )


def _failure(response: Mapping[str, Any]) -> UpstreamError:
    return stream_error(response.get("error") or error_in(None, response) or {})


def _details(details: object) -> Mapping[str, Any] | None:
    """`incomplete_details` with a reason as the contract words it."""
    if not isinstance(details, Mapping):
        return None
    reason = reason_of(details.get("reason"))
    return {**details, "reason": ending_of(reason).reason or reason} if reason else details


def identity(response: Mapping[str, Any]) -> dict[str, Any]:
    """The upstream's id, model and defaults, as fields of an answer."""
    return {
        "defaults": response,
        "upstream_id": _string(response.get("id")),
        "upstream_model": _string(response.get("model")),
    }


def _can_be_cut(items: Sequence[Item]) -> bool:
    """Whether the answer may have been cut off: its last item does not show that it is whole."""
    return not items or (items[-1].get("type") in _CAN_BREAK and not _is_whole_call(items[-1]))


def _is_whole_call(item: Item) -> bool:
    return item.get("type") in STREAMED_CALLS and not may_be_cut(item)


def _string(value: object) -> str | None:
    return value if isinstance(value, str) else None
