"""An owner's data as lines of JSON. The README documents their shape."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import orjson

from app.store.export import CallRow, Export, ResponseRow


def export_lines(export: Export) -> Iterator[bytes]:
    """One line a response, then one a conversation and one a turn of it."""
    for row, input, output, calls in export.responses():
        yield _line(_response(row, input, output, calls))
    for key, conversation_id, created_at, metadata in export.conversations():
        about = {"id": conversation_id, "created_at": created_at, "metadata": _json(metadata)}
        yield _line({"object": "conversation", **about})
        for response, turn_at, input, output in export.turns(key):
            items = {"input": _json(input), "output": _json(output)}
            place = {"conversation": conversation_id, "response": response, "created_at": turn_at}
            yield _line({"object": "conversation.turn", **place, **items})


def _response(row: ResponseRow, input: str, output: str, calls: list[CallRow]) -> dict[str, Any]:
    usage = row.usage
    return {
        "object": "response",
        "id": row.id,
        "previous_response_id": row.parent,
        "conversation": row.conversation,
        "status": row.status,
        "model": row.model,
        "channel": row.channel,
        "upstream_model": row.upstream_model,
        "token": row.token,
        "request_id": row.request_id,
        "stored": bool(row.stored),
        "streamed": bool(row.streamed),
        "created_at": row.created_at,
        "completed_at": row.completed_at,
        "deleted_at": row.deleted_at,
        "usage": usage and usage.wire(),
        "usage_estimated": bool(row.estimated),
        "error": _json(row.error),
        "incomplete_details": _json(row.incomplete_details),
        "request": {**orjson.loads(row.settings or "{}"), **orjson.loads(row.echo or "{}")},
        "input": _json(input),
        "output": _json(output),
        "tool_calls": [{**call._asdict(), "result": _json(call.result)} for call in calls],
    }


def _json(text: str | None) -> orjson.Fragment | None:
    """JSON that is written as it is stored, without being parsed."""
    return None if text is None else orjson.Fragment(text)


def _line(value: dict[str, Any]) -> bytes:
    return orjson.dumps(value, option=orjson.OPT_APPEND_NEWLINE)
