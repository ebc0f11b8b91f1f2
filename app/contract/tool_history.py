"""Calls of tools that the gateway ran, as upstreams get them again: as calls of functions with their outputs.

No upstream but the one that made it takes an `mcp_call`, and none knows a call that the gateway made. So the history
shows the same calls in the same words in every turn and to every upstream, and each next to the reasoning that led to
it: a call that was approved later stands where the model asked for it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

import orjson

from app.contract.items import REWRITTEN_TYPES, Item, gateway_round, is_call, is_output
from app.contract.replay import without_orphans
from app.contract.tool_names import fallback

Part = Mapping[str, Any]

#: What the model reads in place of a result that is not in the store.
UNKNOWN_RESULT = "(result not available)"
_DENIED = "Call denied by the user"
_FAILED = "The tool failed."

#: What JSON with an item of `REWRITTEN_TYPES` has in it.
_MARKS = (b'"mcp_', b'_search_call"')


class CallResult(NamedTuple):
    """What the model reads of a call that the item itself does not say."""

    text: str | None = None
    """The result; None where the item holds it."""
    images: Sequence[Part] = ()
    """`input_image` parts. They are not stored."""
    failed: bool = False

    def stored(self) -> bytes:
        """The result in the row of its call."""
        return orjson.dumps({"text": self.text, "failed": self.failed})

    @classmethod
    def of(cls, stored: bytes) -> CallResult:
        value = orjson.loads(stored)
        return cls(value["text"], failed=value["failed"])


@dataclass(frozen=True, slots=True)
class ToolHistory:
    """How a turn shows calls of tools that the gateway ran."""

    names: Mapping[tuple[str, str], str] = field(default_factory=dict)
    """The label of a server and the name of its tool → the name that the model knows."""
    hosted: Mapping[str, str] = field(default_factory=dict)
    """The type of a hosted tool's item → the same."""
    results: Mapping[str, CallResult] = field(default_factory=dict)
    """By the id of the call's item."""

    def name_of(self, call: Item) -> str:
        """The name of a called tool, also of one that the turn does not have."""
        kind = str(call.get("type"))
        if kind != "mcp_call" and kind != "mcp_approval_request":
            return self.hosted.get(kind, kind.removesuffix("_call"))
        tool = (str(call.get("server_label")), str(call.get("name")))
        return self.names.get(tool) or fallback(tool)


def may_have_tool_items(array: bytes) -> bool:
    """Whether a stored array may hold items of `REWRITTEN_TYPES`."""
    return any(mark in array for mark in _MARKS)


def has_tool_items(items: Iterable[Item]) -> bool:
    return not REWRITTEN_TYPES.isdisjoint([item.get("type") for item in items])


def is_gateways(item: Item) -> bool:
    """Whether the gateway ran the tool of this item."""
    return gateway_round(item.get("id")) is not None


def is_hosted_call(item: Item) -> bool:
    """Whether this is a hosted tool's call that the gateway ran: the item does not hold its result."""
    return str(item.get("type")).endswith("_search_call") and is_gateways(item)


def call_id_of(item: Item) -> str:
    """The id of the function's call that stands for this item, always the same, and short enough for every upstream."""
    return f"call_{hashlib.sha256(str(item.get('id')).encode(errors='surrogatepass')).hexdigest()[:32]}"


def error_text(error: object) -> str:
    """The error of an `mcp_call` in the words that the model reads."""
    if not isinstance(error, Mapping):
        return error if isinstance(error, str) and error else _FAILED
    content = error.get("content")
    if isinstance(content, list):
        texts = [part["text"] for part in content if isinstance(part, Mapping) and isinstance(part.get("text"), str)]
        return "\n".join(texts) or _FAILED
    said = [str(error[name]) for name in ("code", "message") if error.get(name) not in (None, "")]
    return ": ".join(said) or _FAILED


class ToolItems:
    """The arrays of one context that hold items of tools, oldest first."""

    def __init__(
        self, arrays: Sequence[Sequence[Item]], history: ToolHistory, keeps: Callable[[int, Item], bool]
    ) -> None:
        """`keeps`: whether the upstream itself made the item of the array with this number, and so takes it."""
        self._arrays = arrays
        self._history = history
        self._keeps = keeps

    def as_functions(self) -> list[Sequence[Item]]:
        """The arrays with functions' calls and outputs. Reasoning that nothing follows any more is left out."""
        return [self._written(number, array) for number, array in enumerate(self._arrays)]

    def _written(self, number: int, array: Sequence[Item]) -> Sequence[Item]:
        run = _Run()
        for item in array:
            if not run.took(item):
                run.add(self._read(number, item))
        written = run.written()
        return written if len(written) >= len(array) else without_orphans(written)

    def _read(self, number: int, item: Item) -> _Call | Item | None:
        """The item, the call that stands for it, or None if it is left out."""
        kind = item.get("type")
        if kind not in REWRITTEN_TYPES:
            return item
        if kind == "mcp_approval_request":
            return self._request(number, item)
        if kind == "mcp_approval_response":
            return item if item.get("approval_request_id") in self._kept_requests else None
        if self._keeps(number, item):
            return item
        if kind == "mcp_call":
            # Where the model asked for it, if that is in the context.
            return None if self._requested(item) else self._call(item)
        if kind == "mcp_list_tools":
            return None
        return self._search(item) if is_gateways(item) else item

    def _request(self, number: int, request: Item) -> _Call | Item | None:
        response = self._responses.get(request.get("id"))
        if self._keeps(number, request):
            return None if response is None else request
        if (call := self._approved.get(request.get("id"))) is not None:
            return self._call(call, request)
        if response is None or response.get("approve"):
            # It waits, or its call has never run.
            return None
        reason = response.get("reason")
        return self._pair(request, CallResult(f"{_DENIED}: {reason}" if reason else _DENIED, failed=True), request)

    def _requested(self, call: Item) -> bool:
        request = self._requests.get(call.get("approval_request_id"))
        return request is not None and request.get("id") not in self._kept_requests

    # --- calls

    def _call(self, call: Item, place: Item | None = None) -> _Call:
        """`place`: the request for the call's approval, if the model wrote that one."""
        known = self._history.results.get(str(call.get("id")), CallResult())
        if call.get("error"):
            return self._pair(call, CallResult(error_text(call["error"]), failed=True), place)
        output = call.get("output")
        text = output if isinstance(output, str) else known.text
        return self._pair(call, CallResult(UNKNOWN_RESULT if text is None else text, known.images), place)

    def _search(self, call: Item) -> _Call:
        known = self._history.results.get(str(call.get("id")), CallResult())
        text = known.text if known.text is not None else _found(call)
        arguments = _json({"query": _query(call)})
        return self._pair({**call, "arguments": arguments}, CallResult(text, known.images, _has_failed(call)))

    def _pair(self, call: Item, result: CallResult, place: Item | None = None) -> _Call:
        call_id, text = call_id_of(call), result.text or ""
        arguments = _as_object(call.get("arguments"))
        function = {"type": "function_call", "call_id": call_id, "name": self._history.name_of(call)}
        return _Call({**function, "arguments": arguments}, _output(call_id, text, result), _group(place or call))

    # --- approvals, wherever they stand

    @cached_property
    def _requests(self) -> Mapping[Any, Item]:
        return {item.get("id"): item for item in self._of("mcp_approval_request") if item.get("id") is not None}

    @cached_property
    def _kept_requests(self) -> frozenset[Any]:
        return frozenset(
            item.get("id")
            for number, array in enumerate(self._arrays)
            for item in array
            if item.get("type") == "mcp_approval_request" and self._keeps(number, item)
        )

    @cached_property
    def _responses(self) -> Mapping[Any, Item]:
        return {item.get("approval_request_id"): item for item in self._of("mcp_approval_response")}

    @cached_property
    def _approved(self) -> Mapping[Any, Item]:
        """The calls that approvals released, by the ids of the requests."""
        calls = (item for item in self._of("mcp_call") if item.get("approval_request_id") is not None)
        return {call["approval_request_id"]: call for call in calls}

    def _of(self, kind: str) -> Iterator[Item]:
        return (item for array in self._arrays for item in array if item.get("type") == kind)


@dataclass(frozen=True, slots=True)
class _Call:
    """A function's call and its output."""

    call: Item
    output: Item
    group: object
    """Calls of one group were written in one answer."""


class _Run:
    """Writes items so that the calls of one answer stand together and their outputs behind them, as models write them:
    an output between two calls would make two answers of one."""

    def __init__(self) -> None:
        self._items: list[Item] = []
        self._outputs: list[Item] = []
        self._group: object = None

    def add(self, read: _Call | Item | None) -> None:
        if isinstance(read, _Call):
            if self._group not in (None, read.group):
                self._end()
            self._group = read.group
            self._items.append(read.call)
            self._outputs.append(read.output)
        elif read is not None:
            # The client's own calls of the same answer belong to it, and their outputs come later.
            if not is_call(read) or is_output(read):
                self._end()
            self._items.append(read)

    def took(self, item: Item) -> bool:
        """Takes an output if it says that nothing ran the call before it: the model wrote that call with the others."""
        last = self._items[-1] if self._items else {}
        refused = is_output(item) and item.get("status") == "incomplete" and is_call(last)
        if refused and item.get("call_id") == last.get("call_id"):
            self._outputs.append(item)
            return True
        return False

    def written(self) -> list[Item]:
        self._end()
        return self._items

    def _end(self) -> None:
        self._items += self._outputs
        self._outputs, self._group = [], None


def _group(item: Item) -> object:
    """Calls that the gateway did not run are shown one by one."""
    round_ = gateway_round(item.get("id"))
    return ("round", round_) if round_ is not None else ("item", item.get("id"))


def _output(call_id: str, text: str, result: CallResult) -> Item:
    shown = [{"type": "input_text", "text": text}, *result.images] if result.images else text
    failed = {"status": "incomplete"} if result.failed else {}
    return {"type": "function_call_output", "call_id": call_id, "output": shown, **failed}


def _query(call: Item) -> str:
    action = call.get("action")
    queries = call.get("queries") or (action.get("queries") if isinstance(action, Mapping) else None) or [""]
    return str(action["query"]) if isinstance(action, Mapping) and action.get("query") else str(queries[0])


def _found(call: Item) -> str:
    """The result of a search whose own words are not known."""
    if _has_failed(call):
        return _FAILED
    results = call.get("results") or ()
    texts = [found["text"] for found in results if isinstance(found, Mapping) and isinstance(found.get("text"), str)]
    return "\n".join(texts) or UNKNOWN_RESULT


def _has_failed(call: Item) -> bool:
    return call.get("status") == "failed"


def _as_object(arguments: object) -> str:
    """Arguments as a JSON object: some upstreams refuse a history with others."""
    text = arguments if isinstance(arguments, str) else ""
    if not text.strip():
        return "{}"
    try:
        is_object = isinstance(orjson.loads(text), dict)
    except ValueError:
        is_object = False
    return text if is_object else _json({"arguments": text})


def _json(value: object) -> str:
    return orjson.dumps(value).decode()
