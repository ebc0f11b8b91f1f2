"""Encodes a turn for an upstream of the Responses API: the client's request with the whole context as `input`.

Stored items are spliced as bytes; only arrays that may hold opaque items are parsed.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

import orjson

from app.contract.channel import Channel
from app.contract.items import OPAQUE_TYPES, Item, answered_call_id, call_ids, is_call, is_output
from app.contract.records import Link
from app.contract.replay import replayed, says_cut, with_arguments, without_abandoned, without_orphans
from app.contract.tools import has_address
from app.contract.turn import Turn
from app.formats import _conversation
from app.formats._caching import COMPARISON, KEY, OPTIONS, key_of, options, own_key
from app.formats._context import any_marked
from app.formats._ids import CHAT_SECRET, MESSAGES_SECRET, Outgoing, is_native, with_id, without_id
from app.formats._text_format import fitted
from app.formats._toolbox import NO_CALLS
from app.formats.responses import _order
from app.formats.responses._functions import history, write_functions
from app.sealing import is_sealed

#: Values of `cache_key` in a row whose upstream gets the gateway's own key.
_OWN_KEY = ("auto", "on")
_COMPACTION_KEYS = ("instructions", KEY, "service_tier")
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

#: Some upstreams refuse this member of reasoning, and none needs it.
_STATUS = "status"

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


def _user_message(text: str) -> Item:
    return {"type": "message", "role": "user", "content": [{"type": "input_text", "text": text}]}


NOTE = _user_message(
    "[An earlier part of this conversation was compacted by another model server and cannot be read here.]"
)


def cache_key(turn: Turn, row: Channel) -> str | None:
    return key_of(turn, row, *_OWN_KEY)


def encode(turn: Turn, row: Channel, model: str) -> bytes:
    body = {name: value for name, value in turn.request.items() if name not in _NEVER_SENT}
    body["model"] = model
    body["store"] = False
    body |= own_key(turn, row, *_OWN_KEY)
    if turn.stream:
        body["stream"] = True
        if "stream_options" in turn.request:
            body["stream_options"] = turn.request["stream_options"]
    _write_plainly(body)
    _write_text_format(body, row)
    _write_comparison(body, turn, row)
    if row.tools == "functions":
        write_functions(body, turn, row)
    elif turn.forbids_calls:
        body["tool_choice"] = NO_CALLS
    _leave_out(body, uncallable(turn, row))
    if row.encrypted_reasoning:
        body["include"] = sorted({*body.get("include", ()), _ENCRYPTED})
    return _with_input(body, turn, row)


def encode_compaction(turn: Turn, row: Channel, model: str) -> bytes:
    """The body for `compaction_path`, which accepts few members besides the context."""
    return _chosen(_COMPACTION_KEYS, turn, row, model)


def encode_count(turn: Turn, row: Channel, model: str) -> bytes:
    """The body for `count_path`: only the members that take tokens."""
    return _chosen(_COUNTED_KEYS, turn, row, model)


def _chosen(keys: Collection[str], turn: Turn, row: Channel, model: str) -> bytes:
    body: dict[str, Any] = {name: turn.request[name] for name in keys if name in turn.request}
    if KEY in keys:
        body |= own_key(turn, row, *_OWN_KEY)
    _write_plainly(body)
    _leave_out(body, uncallable(turn, row))
    body["model"] = model
    return _with_input(body, turn, row)


def uncallable(turn: Turn, row: Channel) -> Sequence[Mapping[str, Any]]:
    """The `mcp` tools whose servers the upstream cannot call."""
    return [
        tool
        for tool in turn.request.get("tools", ())
        if tool.get("type") == "mcp" and (row.mcp != "native" or not has_address(tool))
    ]


def _leave_out(body: dict[str, Any], tools: Sequence[Mapping[str, Any]]) -> None:
    """Leaves these tools of the client out, and a choice of one of them."""
    if not tools:
        return
    if left := [tool for tool in body.pop("tools", ()) if tool not in tools]:
        body["tools"] = left
    choice = body.get("tool_choice")
    labels = {tool.get("server_label") for tool in tools}
    if isinstance(choice, dict) and choice.get("type") == "mcp" and choice.get("server_label") in labels:
        del body["tool_choice"]


def _write_plainly(body: dict[str, Any]) -> None:
    """Replaces members that may be objects with the strings that they mean."""
    if isinstance(body.get("instructions"), dict):
        body["instructions"] = instructions_text(body["instructions"])
    if isinstance(body.get("truncation"), dict):
        body["truncation"] = body["truncation"].get("type", "disabled")


def _write_text_format(body: dict[str, Any], row: Channel) -> None:
    """Replaces a format of the answer that the upstream does not take."""
    text = body.get("text")
    form = text.get("format") if isinstance(text, dict) else None
    if row.text_format == "schema" or not isinstance(form, dict):
        return
    fitting, said = fitted(form, row.text_format)
    if fitting is not form:
        others = {name: value for name, value in body["text"].items() if name != "format"}
        body["text"] = {**others, "format": fitting} if fitting else others
    if said:
        body["instructions"] = "\n\n".join(filter(None, (body.get("instructions"), said)))


def _write_comparison(body: dict[str, Any], turn: Turn, row: Channel) -> None:
    """Names the response to compare with by the upstream's own id, or not at all: no upstream knows the gateway's."""
    if COMPARISON not in options(body):
        return
    sent = {name: value for name, value in body.pop(OPTIONS).items() if name != COMPARISON}
    if turn.comparison is not None and turn.comparison.family == row.family:
        sent[COMPARISON] = turn.comparison.id
    if sent:
        body[OPTIONS] = sent


def instructions_text(instructions: Mapping[str, Any]) -> str:
    """The text of instructions that are a message."""
    content = instructions.get("content", instructions.get("text"))
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) else []
    return "\n".join(part["text"] for part in parts if isinstance(part, Mapping) and isinstance(part.get("text"), str))


# --- the context ------------------------------------------------------------------------------------------------


def _with_input(body: Mapping[str, Any], turn: Turn, row: Channel) -> bytes:
    """The body with the context spliced in: stored JSON is not parsed."""
    pieces = list(fitted_input(turn, row))
    separated: list[bytes | memoryview] = [b","] * max(0, 2 * len(pieces) - 1)
    separated[::2] = pieces
    # In one go: each step between would be another copy of what may be large.
    return b"".join((orjson.dumps(body)[:-1], b',"input":[', *separated, b"]}"))


def fitted_input(turn: Turn, row: Channel) -> Iterable[bytes | memoryview]:
    """The context as this upstream takes it. It is parsed only for an upstream that needs other items."""
    if row.tools == "native" and row.message_order == "free" and row.item_ids == "given":
        return _input(turn, row)
    items: Iterable[Item] = orjson.loads(b"[" + b",".join(_input(turn, row)) + b"]")
    if row.tools == "functions":
        items = history(items, turn)
    if row.message_order == "strict":
        items = _order.strict(items)
    if row.item_ids == "omit":
        items = map(without_id, items)
    if row.item_ids == "made":
        items = itertools.starmap(with_id, enumerate(items))
    return map(orjson.dumps, items)


def _input(turn: Turn, row: Channel) -> list[bytes | memoryview]:
    """The context as comma-separated pieces of JSON."""
    outgoing = _Outgoing(turn, row)
    pieces: list[bytes | memoryview] = [*outgoing.stored()]
    if own := outgoing.given(turn.input):
        pieces.append(memoryview(orjson.dumps(own))[1:-1])
    return pieces


class _Outgoing:
    """Writes the arrays of one context, oldest first."""

    def __init__(self, turn: Turn, row: Channel) -> None:
        self._turn = turn
        self._row = row
        self._ids = Outgoing()
        self._left_out: set[str] = set()
        """Ids of calls that were cut off. An output that names one becomes text."""
        self._brought = self._unsettled = True
        """Whether an input may be brought from elsewhere, and whether an output may be unsettled."""

    def stored(self) -> Iterable[bytes]:
        """The arrays of the chain."""
        links = self._turn.chain.links
        if not links:
            return ()
        self._brought = any_marked(_is_brought, [link.input for link in links])
        self._unsettled = any_marked(_may_be_unsettled, [link.output for link in links])
        if self._brought or self._unsettled or any(map(_may_differ, links)):
            return self._fitted()
        return self._exact()

    def _exact(self) -> list[bytes]:
        """All arrays as they are."""
        chain = self._turn.chain
        arrays = [array for link in chain.links for array in (link.input, link.output)]
        return [array[1:-1] for array in arrays[1 if chain.compacted else 0 :] if len(array) > _EMPTY]

    def _fitted(self) -> Iterator[bytes]:
        """All arrays, parsed where something in them has to change."""
        chain = self._turn.chain
        for position, link in enumerate(chain.links):
            if not (chain.compacted and position == 0):
                yield from self._input_of(link)
            yield from self._output_of(link, position)

    def _input_of(self, link: Link) -> Iterable[bytes]:
        """A stored input. It is parsed only if it may hold what a client brought from elsewhere."""
        brought = (self._brought and _is_brought(link.input)) or (link.opaque and _may_be_opaque(link.input))
        if brought or (self._left_out and self._names_left_out(link.input)):
            return map(orjson.dumps, self.given(orjson.loads(link.input)))
        return _spliced(link.input)

    def _output_of(self, link: Link, position: int) -> Iterable[bytes]:
        """A stored output. It is parsed only if something in it must not go to this upstream."""
        readable = link.family == self._row.family and self._row.encrypted_reasoning
        exact = not link.opaque or (readable and _is_native(link.output))
        if link.status == "completed" and exact and not (self._unsettled and _is_unsettled(link.output)):
            return _spliced(link.output)
        items = [with_arguments(item) for item in orjson.loads(link.output)]
        whole = replayed(items, link.status)
        if link.status == "incomplete" or any(map(says_cut, items)):
            whole = self._answered(whole, link.status, position)
            self._left_out |= {name for item in items if item not in whole for name in call_ids(item)}
        return map(orjson.dumps, without_orphans([*replaced(whole, lambda item: _own(item, link, self._row))]))

    def given(self, items: Sequence[Item]) -> list[Item]:
        """Items of a client, as this upstream takes them."""
        read = replaced(map(_typed, without_abandoned(items)), lambda item: _foreign(item, self._row))
        return [self._ids.fit(self._as_text(item)) for item in read]

    def _answered(self, items: Sequence[Item], status: str, position: int) -> Sequence[Item]:
        """The items without calls that the client never answered, and need not: the response was cut off, or the call
        says so itself."""
        if not any(map(is_call, items)):
            return items
        later = self._turn.chain.links[position + 1 :]
        arrays = (orjson.loads(link.input) for link in later if b'_output"' in link.input)
        # An output in the answer itself is that of a tool that the gateway ran.
        outputs = [item for array in (items, *arrays, self._turn.input) for item in array if is_output(item)]
        answered = {answered_call_id(output) for output in outputs}
        return [
            item
            for item in items
            if not (is_call(item) and (status == "incomplete" or says_cut(item)))
            or not answered.isdisjoint(call_ids(item))
        ]

    def _names_left_out(self, array: bytes) -> bool:
        return any(name.encode() in array for name in self._left_out)

    def _as_text(self, item: Item) -> Item:
        """The item; a message in place of an output whose call was left out."""
        if not self._left_out or not is_output(item) or answered_call_id(item) not in self._left_out:
            return item
        text = _conversation.joined(_conversation.result(item))
        return _user_message(f"[Output of a tool call that was cut off]\n{text}")


def _is_brought(input: bytes) -> bool:
    """Whether a client's input has items of an earlier answer. A few searches of bytes cost less than a loop."""
    return b'"assistant"' in input or b'"id":"' in input or _CALLED in input


def _may_differ(link: Link) -> bool:
    """Whether something of a link must not go to some upstreams, whatever its bytes show."""
    return bool(link.opaque) or link.status != "completed"


def _may_be_opaque(input: bytes) -> bool:
    return any(mark in input for mark in _OPAQUE)


def _is_unsettled(output: bytes) -> bool:
    """Whether a stored output has calls without arguments, or calls that say they were cut off."""
    return _CALLED in output and _may_be_unsettled(output)


def _may_be_unsettled(output: bytes) -> bool:
    """The same without a look for calls, for many outputs at once."""
    return b'"arguments":""' in output or b'"status":"in' in output


_CALLED = b'_call"'
_OPAQUE = tuple(b'"type":"%b"' % kind.encode() for kind in OPAQUE_TYPES)
#: Length of an array without items.
_EMPTY = len(b"[]")
_REASONING = b'"type":"reasoning"'
_LED_TO = (b'"type":"message"', _CALLED)
_TRANSLATED = tuple(b'"encrypted_content":"%b' % secret.encode() for secret in (CHAT_SECRET, MESSAGES_SECRET))


def _is_native(output: bytes) -> bool:
    """Whether a stored output of this family can go back as it is: an item follows the last reasoning, and no secret in
    it belongs to another format of the family."""
    at = output.rfind(_REASONING)
    return at < 0 or (any(output.find(mark, at) > 0 for mark in _LED_TO) and not any(map(output.count, _TRANSLATED)))


def _spliced(array: bytes) -> Iterable[bytes]:
    inner = array[1:-1]
    return (inner,) if inner else ()


def replaced(items: Iterable[Item], opened: Callable[[Item], Item | None]) -> Iterator[Item]:
    """The items, opaque ones replaced by `opened`; None leaves an item out."""
    for item in items:
        read = opened(item) if item.get("type") in OPAQUE_TYPES else item
        if read is not None:
            yield read


# --- one item ---------------------------------------------------------------------------------------------------


def _own(item: Item, link: Link, row: Channel) -> Item | None:
    """An opaque item of a stored output, for this row's upstream."""
    if item["type"] == "compaction":
        return item if link.family == row.family and not is_sealed(item.get("encrypted_content")) else NOTE
    if link.family != row.family:
        return without_secret(item) if row.reasoning_text else None
    return item if row.encrypted_reasoning and is_native(item) else without_secret(item)


def _foreign(item: Item, row: Channel) -> Item | None:
    """An opaque item from a client. Its family is unknown, so an upstream that reads such items gets it."""
    if item["type"] == "compaction":
        return NOTE if is_sealed(item.get("encrypted_content")) else item
    if is_native(item) and row.encrypted_reasoning:
        return _secret_only(item) if not row.reasoning_text else _without(item, _STATUS)
    return without_secret(item) if row.reasoning_text else None


def _secret_only(item: Item) -> Item:
    """Reasoning without what its secret says as well: upstreams that give no text refuse to take some."""
    return _without(item, _STATUS, *(["content"] if item.get("content") else []))


def without_secret(item: Item) -> Item | None:
    """Reasoning without `encrypted_content`; None if it has no other content."""
    return _without(item, "encrypted_content", _STATUS) if item.get("content") else None


def _without(item: Item, *names: str) -> Item:
    return {name: value for name, value in item.items() if name not in names}


def _typed(item: Item) -> Item:
    """An assistant message in its full form, and a call with arguments: some upstreams refuse others."""
    if item.get("type") == "function_call":
        return with_arguments(item)
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
