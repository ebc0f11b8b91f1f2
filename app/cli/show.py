"""antiphon show: all that the database holds of one response."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import click
import orjson

from app.cli.context import as_json, find_response, open_store, print_json
from app.cli.output import clipped, moment, pairs, percent, plain
from app.contract.items import description
from app.contract.money import shown
from app.contract.records import ToolCall
from app.contract.usage import Usage
from app.reports.cache import CacheReport, Reason, explain
from app.reports.trees import compaction_note
from app.store.tree import Detail, Node

_WIDTH = 100
_CHILDREN = 8


@click.command(short_help="Show one response with its input and output.")
@click.argument("response_id")
@as_json
def show(response_id: str, as_json: bool) -> None:
    """Show the response RESPONSE_ID: status, attempts, calls of tools, times, usage, relatives, input and output.

    RESPONSE_ID may be the beginning of an id. Exit code 4 when there is no such response.
    """
    with open_store() as store:
        store.schema.check()
        owner, found = find_response(store, response_id)
        detail, cache = store.trees.detail(owner, found), explain(store, owner, found)
        calls = store.tool_calls.of_response(owner, found)
    if detail is None or cache is None:
        raise click.ClickException("the response has just been removed")
    if as_json:
        print_json({**_wire(detail), "cache": cache.wire(), "tool_calls": [call.wire() for call in calls]})
        return
    click.echo(pairs([*_facts(detail, cache), *(("tool call", _tool_call(call)) for call in calls)]))
    for title, items in (("input", detail.input), ("output", detail.output)):
        if items:
            click.echo(f"\n{title}")
            click.echo("\n".join(f"  {_item(item)}" for item in items))


def _wire(detail: Detail) -> dict[str, Any]:
    return {
        **detail.node.wire(),
        "children": [child.id for child in detail.children],
        "settings": detail.settings,
        "input": detail.input,
        "output": detail.output,
    }


def _facts(detail: Detail, cache: CacheReport) -> Iterator[tuple[str, object]]:
    node = detail.node
    yield "response", node.id
    yield "status", _status(node)
    yield "owner", f"{node.owner} (token {node.token})" if node.token else node.owner
    yield "model", node.model if node.upstream_model in (None, node.model) else f"{node.model} ({node.upstream_model})"
    yield "channel", node.channel
    yield from (("attempt", _attempt(attempt)) for attempt in node.attempts)
    yield "time", _time(node)
    yield "usage", _usage(node.usage)
    yield "cost", shown(node.usage.cost) if node.usage else None
    yield "cache", _cache(cache) if node.usage else None
    yield "parent", _parent(node)
    yield "children", _children([child.id for child in detail.children])
    yield "retry of", node.retry_of
    yield "started by", _joined(node.started_by, node.subagent) or None
    yield "started", _children(node.started)
    if node.compaction is not None or node.compacted:
        yield "compaction", _compaction(node.compaction or {})
    if node.error:
        yield "error", _joined(node.error.get("code"), node.error.get("message"))
    if node.request_id:
        yield "request", node.request_id
    if node.client:
        yield "client", node.client
    yield from ((f"  {name}", clipped(_text(value), _WIDTH)) for name, value in detail.settings.items())


def _status(node: Node) -> str:
    reason = (node.incomplete_details or {}).get("reason")
    storage = "deleted" if node.deleted else None if node.stored else "not stored"
    return ", ".join(filter(None, (node.status, reason, storage, "streamed" if node.streamed else None)))


def _attempt(attempt: Mapping[str, Any]) -> str:
    """One attempt: its channel, its result, its duration."""
    facts = [f"{attempt['channel']}: {attempt.get('error') or 'ok'}", f"{attempt.get('ms', 0):,} ms"]
    if attempt.get("path"):
        facts.append(str(attempt["path"]))
    if attempt.get("dropped"):
        facts.append(f"left out: {', '.join(attempt['dropped'])}")
    if attempt.get("adapted"):
        facts.append(f"adapted: {', '.join(attempt['adapted'])}")
    if attempt.get("shortened"):
        facts.append("shortened: without the oldest items")
    if usage := attempt.get("usage"):
        facts.append(f"{usage['input_tokens']:,} in, {usage['output_tokens']:,} out")
    if (cost := shown(attempt.get("cost_micros"))) is not None:
        facts.append(f"cost {cost}")
    if attempt.get("said"):
        facts.append(f"error message: {clipped(str(attempt['said']), _WIDTH)}")
    return ", ".join(facts)


def _tool_call(call: ToolCall) -> str:
    """One call of a tool: its server, its result, its duration and size."""
    facts = [f"{call.server}/{call.tool}: {call.error or ('unknown end' if call.milliseconds is None else 'ok')}"]
    if call.milliseconds is not None:
        facts.append(f"{call.milliseconds:,} ms")
    if call.size is not None:
        facts.append(f"{call.size:,} bytes")
    if call.approval_request_id is not None:
        facts.append(f"answers {call.approval_request_id}")
    return ", ".join(facts)


def _time(node: Node) -> str:
    facts = [f"{moment(node.created_at)} UTC"]
    if node.total_ms is not None:
        facts.append(f"{node.total_ms:,} ms")
    if node.first_byte_ms is not None:
        facts.append(f"first byte after {node.first_byte_ms:,} ms")
    return ", ".join(facts)


def _usage(usage: Usage | None) -> str | None:
    if usage is None:
        return None
    about = "≈" if usage.estimated else ""
    text = f"{about}{usage.input_tokens:,} in ({usage.cached_tokens:,} cached), {about}{usage.output_tokens:,} out"
    return text + (f" ({usage.reasoning_tokens:,} reasoning)" if usage.reasoning_tokens else "")


def _cache(cache: CacheReport) -> str:
    return _joined(percent(cache.share), None if cache.reason is Reason.HIT else cache.detail)


def _parent(node: Node) -> str | None:
    return f"{node.parent} (inferred from the input)" if node.inferred else node.parent


def _children(ids: Sequence[str]) -> str | None:
    more = len(ids) - _CHILDREN
    return "\n".join([*ids[:_CHILDREN], *([f"and {more:,} more"] if more > 0 else [])]) or None


def _compaction(note: Mapping[str, Any]) -> str:
    if "failed" in note:
        return _joined(f"failed: {note['failed']}", note.get("message"))
    passes = f"{note['passes']} passes" if "passes" in note else None
    left_out = f"{note['left_out']:,} characters left out" if "left_out" in note else None
    return _joined(compaction_note(note), note.get("strategy"), note.get("channel"), passes, left_out)


def _joined(*facts: object) -> str:
    return ", ".join(str(one) for one in facts if one)


# --- items ------------------------------------------------------------------------------------------------------


def _item(item: Mapping[str, Any]) -> str:
    """One line: the role or the type, and the beginning of the content."""
    text = " ".join(_text(part) for part in description(item))
    return f"{plain(str(item.get('role') or item.get('type')))}: {clipped(text, _WIDTH)}"


def _text(value: Any) -> str:
    return value if isinstance(value, str) else orjson.dumps(value).decode()
