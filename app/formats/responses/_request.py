"""Encodes a turn for an upstream of the Responses API: the client's request with the whole context as `input`.

Stored items are spliced as bytes; only arrays that may hold opaque items are parsed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import orjson

from app.contract.channel import Channel
from app.contract.items import CALL_TYPES, OPAQUE_TYPES, Item
from app.contract.records import Link
from app.contract.turn import Turn
from app.errors import UpstreamError, UpstreamRefused
from app.sealing import is_sealed

_COMPACTION_KEYS = ("instructions", "prompt_cache_key", "service_tier")
_COUNTED_KEYS = (
    "instructions",
    "parallel_tool_calls",
    "personality",
    "reasoning",
    "text",
    "tool_choice",
    "tools",
    "truncation",
)

#: Members for the gateway alone. `store` is always false upstream: the gateway stores the conversation.
_NEVER_SENT = frozenset(
    {
        "background",
        "background_options",
        "context_management",
        "conversation",
        "generate",
        "input",
        "model",
        "previous_response_id",
        "store",
        "stream",
        "stream_id",
        "stream_options",
    }
)
_ENCRYPTED = "reasoning.encrypted_content"
_UNREADABLE = "invalid_encrypted_content"

#: Codes of refusals that do not come from opaque items.
_OF_THE_CONTEXT = frozenset({"context_length_exceeded", "content_filter", "invalid_prompt"})
_NOTE: Item = {
    "type": "message",
    "role": "user",
    "content": [
        {
            "type": "input_text",
            "text": "[An earlier part of this conversation was compacted by another model server and cannot be "
            "read here.]",
        }
    ],
}


def encode(turn: Turn, row: Channel, model: str) -> bytes:
    body = {name: value for name, value in turn.request.items() if name not in _NEVER_SENT}
    body["model"] = model
    body["store"] = False
    if turn.stream:
        body["stream"] = True
        if "stream_options" in turn.request:
            body["stream_options"] = turn.request["stream_options"]
    _write_plainly(body)
    if row.encrypted_reasoning:
        body["include"] = sorted({*body.get("include", ()), _ENCRYPTED})
    return _with_input(body, turn, row)


def encode_compaction(turn: Turn, row: Channel, model: str) -> bytes:
    """The body for `compaction_path`, which accepts few members besides the context."""
    return _chosen(_COMPACTION_KEYS, turn, row, model)


def encode_count(turn: Turn, row: Channel, model: str) -> bytes:
    """The body for `count_path`: only the members that take tokens."""
    return _chosen(_COUNTED_KEYS, turn, row, model)


def _chosen(keys: Iterable[str], turn: Turn, row: Channel, model: str) -> bytes:
    body: dict[str, Any] = {name: turn.request[name] for name in keys if name in turn.request}
    _write_plainly(body)
    body["model"] = model
    return _with_input(body, turn, row)


def _write_plainly(body: dict[str, Any]) -> None:
    """Replaces members that may be objects with the strings that they mean."""
    if isinstance(body.get("instructions"), Mapping):
        body["instructions"] = instructions_text(body["instructions"])
    if isinstance(body.get("truncation"), Mapping):
        body["truncation"] = body["truncation"].get("type", "disabled")


def instructions_text(instructions: Mapping[str, Any]) -> str:
    """The text of instructions that are a message."""
    content = instructions.get("content", instructions.get("text"))
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else []
    return "\n".join(part["text"] for part in parts if isinstance(part, Mapping) and isinstance(part.get("text"), str))


def amended(turn: Turn, row: Channel, error: UpstreamError) -> Turn | None:
    """The turn without opaque items, for an upstream that cannot read them. Upstreams without compaction items have no
    error code for these."""
    if error.code != _UNREADABLE and not (_is_refusal(error) and _holds_compaction(turn)):
        return None
    links = tuple(_without_secrets(link) for link in turn.chain.links)
    own = _open(turn.input)
    if links == turn.chain.links and own == list(turn.input):
        return None
    return replace(turn, chain=replace(turn.chain, links=links), input=own)


def _is_refusal(error: UpstreamError) -> bool:
    return isinstance(error, UpstreamRefused) and error.code not in _OF_THE_CONTEXT


def _holds_compaction(turn: Turn) -> bool:
    return any(item.get("type") == "compaction" for item in turn.input)


def _without_secrets(link: Link) -> Link:
    if not link.opaque:
        return link
    arrays = [orjson.loads(array) for array in (link.input, link.output)]
    opened = [_open(items) for items in arrays]
    return link if opened == arrays else link._replace(input=orjson.dumps(opened[0]), output=orjson.dumps(opened[1]))


def _open(items: Iterable[Item]) -> list[Item]:
    """The items without secrets; a note replaces a compaction."""
    return list(_read(items, _opened))


def _opened(item: Item) -> Item | None:
    if item["type"] == "compaction":
        return _NOTE
    return _without_secret(item) if item.get("encrypted_content") else item


# --- the context ------------------------------------------------------------------------------------------------


def _with_input(body: Mapping[str, Any], turn: Turn, row: Channel) -> bytes:
    """The body with the context spliced in: stored JSON is not parsed."""
    pieces: list[bytes | memoryview] = [orjson.dumps(body)[:-1]]
    for piece in _input(turn, row):
        pieces += (b"," if len(pieces) > 1 else b',"input":[', piece)
    # In one go: each step between would be another copy of what may be large.
    return b"".join((*pieces, b"]}" if len(pieces) > 1 else b',"input":[]}'))


def _input(turn: Turn, row: Channel) -> Iterator[bytes | memoryview]:
    """The context as comma-separated pieces of JSON."""
    for position, link in enumerate(turn.chain.links):
        if not (turn.chain.compacted and position == 0):
            yield from _output_for(link, row)
        yield from _answered_by(link, row)
    if own := list(_given(turn.input, row)):
        yield memoryview(orjson.dumps(own))[1:-1]


def _output_for(link: Link, row: Channel) -> Iterable[bytes]:
    """A stored input. It is parsed only if it may hold reasoning, a compaction or an assistant message."""
    if link.opaque or b'"assistant"' in link.input:
        return map(orjson.dumps, _given(orjson.loads(link.input), row))
    return _spliced(link.input)


def _answered_by(link: Link, row: Channel) -> Iterable[bytes]:
    if link.status == "completed" and (not link.opaque or (link.family == row.family and row.encrypted_reasoning)):
        return _spliced(link.output)
    replayed = (item for item in orjson.loads(link.output) if not _broke_off(item, link))
    return map(orjson.dumps, _read(replayed, lambda item: _own(item, link, row)))


def _spliced(array: bytes) -> Iterable[bytes]:
    inner = array[1:-1]
    return (inner,) if inner else ()


def _broke_off(item: Item, link: Link) -> bool:
    return link.status == "incomplete" and item.get("type") in CALL_TYPES and item.get("status") == "incomplete"


def _given(items: Sequence[Item], row: Channel) -> Iterator[Item]:
    return _read(map(_typed, items), lambda item: _foreign(item, row))


def _read(items: Iterable[Item], opened: Callable[[Item], Item | None]) -> Iterator[Item]:
    """The items, opaque ones replaced by `opened`; None leaves an item out."""
    for item in items:
        read = opened(item) if item.get("type") in OPAQUE_TYPES else item
        if read is not None:
            yield read


# --- one item ---------------------------------------------------------------------------------------------------


def _own(item: Item, link: Link, row: Channel) -> Item | None:
    """An opaque item of a stored output, for this row's upstream."""
    if item["type"] == "compaction":
        return item if link.family == row.family and not is_sealed(item.get("encrypted_content")) else _NOTE
    if link.family != row.family:
        return _without_secret(item) if row.reasoning_text else None
    return item if row.encrypted_reasoning and _is_secret(item) else _without_secret(item)


def _foreign(item: Item, row: Channel) -> Item | None:
    """An opaque item from a client. Its family is unknown, so an upstream that reads such items gets it."""
    if item["type"] == "compaction":
        return _NOTE if is_sealed(item.get("encrypted_content")) else item
    if _is_secret(item) and row.encrypted_reasoning:
        return item
    return _without_secret(item) if row.reasoning_text else None


def _is_secret(item: Item) -> bool:
    secret = item.get("encrypted_content")
    return bool(secret) and not is_sealed(secret)


def _without_secret(item: Item) -> Item | None:
    """Reasoning without `encrypted_content`; None if it has no other content."""
    if not item.get("content"):
        return None
    return {name: value for name, value in item.items() if name != "encrypted_content"}


def _typed(item: Item) -> Item:
    """An assistant message in its full form: some upstreams refuse the short ones."""
    if item.get("role") != "assistant" or item.get("type") != "message":
        return item
    content = item.get("content")
    if isinstance(content, str):
        return {**item, "content": [{"type": "output_text", "text": content, "annotations": []}]}
    if not isinstance(content, list) or all(_is_full(part) for part in content):
        return item
    return {**item, "content": [part if _is_full(part) else _full(part) for part in content]}


def _is_full(part: Item) -> bool:
    if part.get("type") == "output_text":
        return isinstance(part.get("annotations"), list)
    return part.get("type") not in (None, "input_text", "text")


def _full(part: Item) -> Item:
    return {**part, "type": "output_text", "annotations": part.get("annotations") or []}
