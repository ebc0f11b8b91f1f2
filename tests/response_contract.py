"""Is this what OpenAI would send? Bodies, streams and errors against the official SDK's own types, read strictly.

The SDK builds its objects without validating; here every class is chosen by its `type` and validated. On top stand the
rules no type holds: which keys must be present, and in what order a stream may speak. Every fault is listed at once.
"""

from __future__ import annotations

import inspect
import types
import typing
from collections.abc import Mapping
from functools import cache
from typing import Any

import orjson
from openai.types import responses as sdk
from openai.types.conversations import ConversationItem
from pydantic import BaseModel, TypeAdapter, ValidationError

from tests.sse_reader import SENTINEL, read

JSON = dict[str, Any]
ANY: Any = type("Any", (), {"__repr__": lambda self: "ANY"})()

# fmt: off
OPENAI_REQUIRED = {
    "id", "object", "created_at", "error", "incomplete_details", "instructions", "model", "tools", "output",
    "parallel_tool_calls", "metadata", "tool_choice", "temperature", "top_p"
}
OPEN_RESPONSES_REQUIRED = {
    "completed_at", "status", "previous_response_id", "truncation", "text", "presence_penalty",
    "frequency_penalty", "top_logprobs", "reasoning", "usage", "max_output_tokens", "max_tool_calls", "store",
    "background", "service_tier", "safety_identifier", "prompt_cache_key"
}
NULLABLE = {
    "error", "completed_at", "incomplete_details", "instructions", "previous_response_id", "reasoning", "usage",
    "max_output_tokens", "max_tool_calls", "safety_identifier", "prompt_cache_key"
}
# fmt: on
REQUIRED = OPENAI_REQUIRED | OPEN_RESPONSES_REQUIRED
USAGE = {
    "input_tokens_details": ("cached_tokens", "cache_write_tokens"),
    "output_tokens_details": ("reasoning_tokens",),
}
#: Members of a tool's item that clients read without asking whether they are there.
OF_TOOL_ITEMS = {
    "mcp_call": ("status", "approval_request_id", "arguments", "error", "name", "output", "server_label"),
    "mcp_list_tools": ("server_label", "tools"),
    "mcp_approval_request": ("arguments", "name", "server_label"),
    "web_search_call": ("status",),
    "file_search_call": ("status", "queries", "results"),
}
#: Of one tool of an `mcp_list_tools` item, and of one result of a `file_search_call`.
LISTED_TOOL = ("annotations", "description", "input_schema", "name")
FOUND_FILE = ("attributes", "file_id", "filename", "score", "text")
MCP_TOOL = ("allowed_tools", "headers", "server_label")
FUNCTION_TOOL = ("name", "description", "parameters", "strict")
UNDECLARED = frozenset({"obfuscation", "store", "frequency_penalty", "presence_penalty", "billing"})
TERMINAL = frozenset({"response.completed", "response.incomplete", "response.failed"})
LIFECYCLE = TERMINAL | {"response.created", "response.queued", "response.in_progress"}
RUNNING = frozenset({"in_progress", "queued"})

# --- what tests call --------------------------------------------------------------------------------------------


def check_response(body: Any, **expected: Any) -> JSON:
    """A response object, with these values where given."""
    _report("response", response_faults(body) + _differences(body, expected))
    return dict(body)


def check_stream(raw: bytes, sentinel: str | None = SENTINEL, **expected: Any) -> list[JSON]:
    """A whole stream; `expected` holds for the response in its terminal event. OpenAI itself sends no sentinel."""
    events, faults = _read_events(raw, sentinel)
    faults += stream_faults(events)
    if expected and events:
        faults += _differences(events[-1].get("response"), expected)
    _report("stream", faults)
    return events


def check_error(answer: Any, status: int | None = None, code: Any = ANY, param: Any = ANY, type: Any = ANY) -> JSON:
    """An error in OpenAI's envelope, in an answer (of requests or Flask) or in a body; returns the inner object."""
    faults = []
    given = getattr(answer, "status_code", None)
    if status is not None and given is not None and given != status:
        faults.append(f"status is {given}, expected {status}")
    body = _body_of(answer, faults)
    faults += error_faults(body)
    error = body.get("error") if isinstance(body, Mapping) else None
    faults += _differences(error, {"code": code, "param": param, "type": type})
    _report("error", faults)
    assert isinstance(error, dict)
    return error


def check_window(body: Any) -> JSON:
    """What `/responses/compact` answers when there is nothing to answer: user messages and one compaction item."""
    faults = _fits(sdk.CompactedResponse, {**body, "output": []}) + _usage_faults(body.get("usage"))
    faults += [f"{key} does not belong to a window" for key in body.keys() & {"status", "model", "tools", "error"}]
    kinds = [item.get("type") for item in body["output"]]
    if kinds.count("compaction") != 1 or kinds[-1] != "compaction":
        faults.append(f"output is {kinds}, expected messages and one compaction item at the end")
    faults += [fault for item in body["output"] for fault in _item_faults(item, ConversationItem)]
    _report("window", faults)
    return dict(body)


def check_item_list(body: Any) -> list[JSON]:
    """A page of `input_items` or of a conversation's items."""
    faults = [f"{key} is absent" for key in ("object", "data", "first_id", "last_id", "has_more") if key not in body]
    if not faults:
        data = body["data"]
        ends = (data[0]["id"], data[-1]["id"]) if data else (None, None)
        if data and (body["first_id"], body["last_id"]) != ends:
            faults.append(f"first_id and last_id are {body['first_id']}, {body['last_id']}, expected {ends}")
        if body["object"] != "list":
            faults.append(f"object is {body['object']!r}")
        faults += [fault for item in data for fault in _item_faults(item, ConversationItem)]
    _report("list of items", faults)
    return list(body["data"])


def _report(what: str, faults: list[str]) -> None:
    assert not faults, f"not a valid {what}:\n" + "\n".join(f"  - {fault}" for fault in faults)


def _differences(value: Any, expected: Mapping[str, Any]) -> list[str]:
    wanted = {key: wish for key, wish in expected.items() if wish is not ANY}
    if not isinstance(value, Mapping):
        return [f"there is no object to hold {key}" for key in wanted]
    return [
        f"{key} is {value.get(key)!r}, expected {wish!r}" for key, wish in wanted.items() if value.get(key, ANY) != wish
    ]


def _body_of(answer: Any, faults: list[str]) -> Any:
    if isinstance(answer, Mapping):
        return answer
    if "json" not in answer.headers.get("Content-Type", ""):
        faults.append(f"content type is {answer.headers.get('Content-Type')!r}")
    raw = answer.content if hasattr(answer, "content") else answer.get_data()
    try:
        return orjson.loads(raw)
    except orjson.JSONDecodeError:
        faults.append(f"the body is no JSON: {raw[:80]!r}")
        return None


# --- the SDK's types --------------------------------------------------------------------------------------------


def _members(annotation: Any) -> list[Any]:
    """The members of a union, with what wraps them taken off."""
    while hasattr(annotation, "__metadata__"):
        annotation = typing.get_args(annotation)[0]
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        return [member for argument in typing.get_args(annotation) for member in _members(argument)]
    return [annotation]


@cache
def _classes(union: Any) -> dict[str, list[type[BaseModel]]]:
    """The classes of a union by their `type` literal; some share one."""
    table: dict[str, list[type[BaseModel]]] = {}
    for member in _members(union):
        if inspect.isclass(member) and issubclass(member, BaseModel) and "type" in member.model_fields:
            for literal in _members(member.model_fields["type"].annotation):
                for name in typing.get_args(literal):
                    table.setdefault(name, []).append(member)
    return table


@cache
def _adapter(kind: Any) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


def _fits(kind: Any, value: Any) -> list[str]:
    """Faults of a value against a class: strict, and as JSON, so that no "1" passes for a 1."""
    name = getattr(kind, "__name__", str(kind))
    try:
        model = _adapter(kind).validate_json(orjson.dumps(value), strict=True)
    except ValidationError as error:
        return [f"{name}.{'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in error.errors()[:12]]
    unknown = set(getattr(model, "__pydantic_extra__", None) or ()) - UNDECLARED
    return [f"{name}.{key}: no such key in OpenAI's type" for key in sorted(unknown)]


def _fits_one_of(union: Any, value: Any) -> list[str]:
    """Faults against the class that carries the value's `type`; where several do, against the one that fits best."""
    kind = value.get("type") if isinstance(value, Mapping) else None
    classes = _classes(union).get(str(kind))
    if not classes:
        return [f"type {kind!r} is none of OpenAI's"]
    return min((_fits(candidate, value) for candidate in classes), key=len)


# --- values -----------------------------------------------------------------------------------------------------


def response_faults(body: Any) -> list[str]:
    if not isinstance(body, Mapping):
        return [f"no object: {str(body)[:60]!r}"]
    faults = [f"{key} is absent" for key in sorted(REQUIRED - body.keys())]
    faults += [f"{key} is null" for key in sorted((REQUIRED - NULLABLE) & body.keys()) if body[key] is None]
    if any(not isinstance(body.get(key), list) for key in ("output", "tools")):
        return [*faults, "output and tools must be arrays"]
    faults += _fits(sdk.Response, {**body, "output": [], "tools": [], "error": _known_error(body.get("error"))})
    faults += _status_faults(body)
    for index, item in enumerate(body["output"]):
        faults += [f"output[{index}]: {fault}" for fault in _item_faults(item, sdk.ResponseOutputItem)]
    for index, tool in enumerate(body["tools"]):
        faults += [f"tools[{index}]: {fault}" for fault in _tool_faults(tool)]
    return faults + _repeated_ids(body["output"])


def _known_error(error: Any) -> Any:
    """OpenAI sends codes that its own enumeration lacks; only that they are strings is checked."""
    known = isinstance(error, dict) and isinstance(error.get("code"), str)
    return {**error, "code": "server_error"} if known else error


def _status_faults(body: Mapping[str, Any]) -> list[str]:
    status, faults = body.get("status"), []
    if not str(body.get("id")).startswith("resp_"):
        faults.append(f"id is {body.get('id')!r}")
    faults += [f"{key} is a float" for key in ("created_at", "completed_at") if isinstance(body.get(key), float)]
    if "output_text" in body:
        faults.append("output_text is the SDK's own, never on the wire")
    for key, owner in (("completed_at", "completed"), ("incomplete_details", "incomplete"), ("error", "failed")):
        if (body.get(key) is not None) != (status == owner):
            faults.append(f"{key} is {body.get(key)!r} on a response that is {status}")
    if status in RUNNING:
        faults += [
            f"{key} is set while running" for key, empty in (("usage", None), ("output", [])) if body[key] != empty
        ]
    elif status in ("completed", "incomplete") or body.get("usage") is not None:
        faults += _usage_faults(body.get("usage"))
    if status == "completed":
        faults += [
            f"{item.get('id')} is {item['status']}"
            for item in body["output"]
            if item.get("status", "completed") != "completed"
            and not (item.get("status") == "failed" and item.get("type") in SERVER_CALLS)
        ]
    if status == "incomplete" and not (body.get("incomplete_details") or {}).get("reason"):
        faults.append("incomplete_details has no reason")
    return faults


def _usage_faults(usage: Any) -> list[str]:
    if not isinstance(usage, Mapping):
        return [f"usage is {usage!r}"]
    faults = _fits(sdk.ResponseUsage, usage)
    for part, keys in USAGE.items():
        faults += [f"usage.{part}.{key} is absent" for key in keys if key not in (usage.get(part) or {})]
    if not faults and usage["total_tokens"] != usage["input_tokens"] + usage["output_tokens"]:
        faults.append("usage.total_tokens is not the sum")
    if not faults and min(usage["input_tokens"], usage["output_tokens"]) < 0:
        faults.append("usage is negative")
    return faults


def _item_faults(item: Any, union: Any) -> list[str]:
    faults = _fits_one_of(union, item)
    if faults:
        return faults
    name = f"{item['type']} {item.get('id')}"
    if not item.get("id"):
        faults.append(f"{name}: no id")
    if item["type"] in ("message", "function_call") and "status" not in item:
        faults.append(f"{name}: no status")
    if "call_id" in item and not 1 <= len(item["call_id"]) <= 64:
        faults.append(f"{name}: call_id of {len(item['call_id'])} characters")
    if "call_id" in item and item["call_id"] == item.get("id"):
        faults.append(f"{name}: id and call_id are the same")
    faults += [f"{name}: {fault}" for fault in _tool_item_faults(item)]
    for part in item.get("content") or ():
        if part.get("type") == "output_text":
            faults += [
                f"{name}: {key} is no array" for key in ("annotations", "logprobs") if type(part.get(key)) is not list
            ]
    return faults


def _tool_item_faults(item: Any) -> list[str]:
    """Of an item whose tool the client does not run: other SDKs are stricter than OpenAI's own."""
    kind = item["type"]
    faults = [f"{key} is absent" for key in OF_TOOL_ITEMS.get(kind, ()) if key not in item]
    if kind == "mcp_list_tools":
        faults += ["error is null"] if item.get("error", "") is None else []
        faults += [f"{key} of a tool is null" for tool in item["tools"] for key in LISTED_TOOL if tool.get(key) is None]
    if kind == "file_search_call":
        faults += [
            f"{key} of a file is absent" for file in item["results"] or () for key in FOUND_FILE if key not in file
        ]
    if kind == "mcp_call":
        failed = item.get("status") == "failed"
        if failed != (item.get("error") is not None) or (failed and item.get("output") is not None):
            faults.append(f"status is {item.get('status')}, error {item.get('error')}, output {item.get('output')!r}")
        if item.get("status") == "completed" and not isinstance(item.get("output"), str):
            faults.append(f"output is {item.get('output')!r}")
    return faults


def _tool_faults(tool: Any) -> list[str]:
    """Types this SDK does not know pass: a gateway hands on what it does not know itself."""
    if not isinstance(tool, Mapping) or not isinstance(tool.get("type"), str):
        return ["a tool without a type"]
    faults = _fits_one_of(sdk.Tool, tool) if tool["type"] in _classes(sdk.Tool) else []
    if tool["type"] == "function":
        faults += [f"{key} is absent" for key in FUNCTION_TOOL if key not in tool]
    if tool["type"] == "mcp":
        faults += [f"{key} is absent" for key in MCP_TOOL if key not in tool]
        faults += [f"{key} is a secret" for key in ("authorization", "headers") if tool.get(key) is not None]
    return faults


def _repeated_ids(items: list[JSON]) -> list[str]:
    ids = [item.get("id") for item in items]
    return [f"{name} is the id of two items" for name in {name for name in ids if ids.count(name) > 1}]


def error_faults(body: Any) -> list[str]:
    error = body.get("error") if isinstance(body, Mapping) else None
    if not isinstance(error, Mapping):
        return [f"no error object: {str(body)[:80]!r}"]
    faults = [f"error.{key} is absent" for key in ("message", "type", "param", "code") if key not in error]
    faults += [f"error.{key} is {error.get(key)!r}" for key in ("message", "type") if not _is_set(error.get(key))]
    faults += [
        f"error.{key} is {error[key]!r}"
        for key in ("param", "code")
        if error.get(key) is not None and not isinstance(error[key], str)
    ]
    return faults


def _is_set(value: Any) -> bool:
    return isinstance(value, str) and bool(value)


# --- streams ----------------------------------------------------------------------------------------------------


def _read_events(raw: bytes, sentinel: str | None) -> tuple[list[JSON], list[str]]:
    framed, faults = read(raw)
    if sentinel is not None:
        if framed and framed[-1].data == sentinel:
            framed = framed[:-1]
        else:
            faults.append(f"the stream does not end with {sentinel}")
    events = []
    for number, (name, data, _) in enumerate(framed):
        try:
            event = orjson.loads(data)
        except orjson.JSONDecodeError:
            faults.append(f"event {number} is no JSON: {data[:60]!r}")
            continue
        if not isinstance(event, dict):
            faults.append(f"event {number} is no object: {data[:60]!r}")
            continue
        if name != event.get("type"):
            faults.append(f"event {number} is called {name!r} and is of type {event.get('type')!r}")
        events.append(event)
    return events, faults


def stream_faults(events: list[JSON]) -> list[str]:
    if not events:
        return ["there is no event"]
    faults = [
        f"event {n} {event.get('type')}: {fault}" for n, event in enumerate(events) for fault in _event_faults(event)
    ]
    return faults + _lifecycle_faults(events) + _Items().walk(events)


def _event_faults(event: JSON) -> list[str]:
    kind = event.get("type")
    if kind == "error":
        return error_faults(event) + ([] if "sequence_number" in event else ["sequence_number is absent"])
    if event.get("error"):
        return ["a top-level `error` key makes openai-python raise"]
    if kind in LIFECYCLE:
        return [*response_faults(event.get("response")), *_envelope_faults(event, "response")]
    if kind in ("response.output_item.added", "response.output_item.done"):
        return [*_carried_item_faults(event), *_envelope_faults(event, "item")]
    return _fits_one_of(sdk.ResponseStreamEvent, event)


def _carried_item_faults(event: JSON) -> list[str]:
    item: Any = event.get("item")
    started = event["type"].endswith("added") and isinstance(item, dict) and item.get("type") == "web_search_call"
    return _item_faults(
        {"action": {"type": "search", "query": ""}, **item} if started else item, sdk.ResponseOutputItem
    )


def _envelope_faults(event: JSON, payload: str) -> list[str]:
    """The event around what was checked already: its payload is replaced by one that is beyond doubt."""
    beyond_doubt = {
        "response": _SOUND_RESPONSE,
        "item": {"type": "compaction", "id": "cmp_1", "encrypted_content": "x"},
    }
    return _fits_one_of(sdk.ResponseStreamEvent, {**event, payload: beyond_doubt[payload]})


_SOUND_RESPONSE = {
    "id": "resp_1",
    "object": "response",
    "created_at": 1,
    "model": "m",
    "output": [],
    "parallel_tool_calls": True,
    "tool_choice": "auto",
    "tools": [],
}


def _lifecycle_faults(events: list[JSON]) -> list[str]:
    faults = []
    kinds = [event.get("type") for event in events]
    numbers = [event.get("sequence_number") for event in events]
    if numbers != list(range(len(events))):
        faults.append(f"sequence numbers are {numbers}")
    if kinds[0] != "response.created":
        faults.append(f"the first event is {kinds[0]}")
    opening = kinds[1:3] if kinds[1:2] == ["response.queued"] else kinds[1:2]
    if opening[-1:] != ["response.in_progress"]:
        faults.append(f"after response.created comes {opening}")
    for kind in ("response.created", "response.queued", "response.in_progress"):
        if kinds.count(kind) > 1:
            faults.append(f"{kind} is sent {kinds.count(kind)} times")
    ends = [number for number, kind in enumerate(kinds) if kind in TERMINAL]
    if ends != [len(events) - 1]:
        faults.append(f"terminal events at {ends} of {len(events)}, expected one at the end")
    errors = [number for number, kind in enumerate(kinds) if kind == "error"]
    if errors != ([len(events) - 2] if kinds[-1] == "response.failed" else []):
        faults.append(f"`error` at {errors}: it comes right before response.failed, and only there")
    return faults + _snapshot_faults(events)


def _snapshot_faults(events: list[JSON]) -> list[str]:
    """What the responses in the lifecycle events say of each other."""
    snapshots = [(event["type"], event.get("response")) for event in events if event.get("type") in LIFECYCLE]
    faults = []
    for key in ("id", "created_at", "model", "previous_response_id", "tools", "metadata", "instructions"):
        values = {orjson.dumps(response.get(key)) for _, response in snapshots if isinstance(response, dict)}
        if len(values) > 1:
            faults.append(f"{key} changes between lifecycle events: {sorted(values)}")
    for kind, response in snapshots:
        status = response.get("status") if isinstance(response, dict) else None
        allowed = RUNNING if kind == "response.created" else {kind.removeprefix("response.")}
        if status not in allowed:
            faults.append(f"{kind} carries a response that is {status}")
    return faults


#: Families of events whose `.done` repeats the sum of its deltas: its key, and what distinguishes the parts.
SUMS = {
    "response.output_text": ("text", "content_index"),
    "response.refusal": ("refusal", "content_index"),
    "response.reasoning_text": ("text", "content_index"),
    "response.reasoning_summary_text": ("text", "summary_index"),
    "response.function_call_arguments": ("arguments", None),
    "response.custom_tool_call_input": ("input", None),
    "response.mcp_call_arguments": ("arguments", None),
    "response.code_interpreter_call_code": ("code", None),
}
PARTS = {
    "response.content_part": ("content_index", "content"),
    "response.reasoning_summary_part": ("summary_index", "summary"),
}
#: Items that are never sent without their text having been streamed, and where that text ends up.
STREAMED = {
    "message": [
        ("response.output_text", "content", "output_text", "text"),
        ("response.refusal", "content", "refusal", "refusal"),
    ],
    "reasoning": [
        ("response.reasoning_text", "content", "reasoning_text", "text"),
        ("response.reasoning_summary_text", "summary", "summary_text", "text"),
    ],
}
#: Calls that the server runs: the model may go on to its next call while one runs, and one may fail.
SERVER_CALLS = frozenset({"mcp_call", "web_search_call", "file_search_call"})
ARGUMENTS = {
    "function_call": ("response.function_call_arguments", "arguments"),
    "custom_tool_call": ("response.custom_tool_call_input", "input"),
    "mcp_call": ("response.mcp_call_arguments", "arguments"),
}


#: What tells how the tool of such an item goes on, in order; the last step says whether it has failed.
STEPS = {
    "mcp_call": ("in_progress", "completed", "failed"),
    "mcp_list_tools": ("in_progress", "completed", "failed"),
}


class _OpenItem:
    """An item between `added` and `done`."""

    def __init__(self, item: JSON) -> None:
        self.item = item
        self.sums: dict[tuple[str, Any], str] = {}
        self.summed: set[tuple[str, Any]] = set()
        self.parts: dict[tuple[str, Any], JSON | None] = {}
        self.steps: list[str] = []


class _Items:
    """Walks through a stream and keeps account of items, parts and deltas."""

    def __init__(self) -> None:
        self.faults: list[str] = []
        self._open: dict[Any, _OpenItem] = {}
        self._done: dict[Any, JSON] = {}
        self._added = 0
        self._number = 0

    def walk(self, events: list[JSON]) -> list[str]:
        for self._number, event in enumerate(events):
            kind = str(event.get("type"))
            family, _, step = kind.rpartition(".")
            if kind in TERMINAL:
                self._end(event)
            elif family == "response.output_item":
                (self._add if step == "added" else self._finish)(event)
            elif "output_index" in event:
                self._inside(event, family, step)
        return self.faults

    def _fault(self, text: str) -> None:
        self.faults.append(f"event {self._number}: {text}")

    def _add(self, event: JSON) -> None:
        index = event.get("output_index")
        if index != self._added:
            self._fault(f"output_index is {index}, expected {self._added}")
        if waiting := [index for index, one in self._open.items() if one.item.get("type") not in SERVER_CALLS]:
            self._fault(f"an item is added while {sorted(waiting)} is not done")
        self._added += 1
        self._open[index] = _OpenItem(event.get("item") or {})

    def _finish(self, event: JSON) -> None:
        item = event.get("item") or {}
        opened = self._open.pop(event.get("output_index"), None)
        self._done[event.get("output_index")] = item
        if opened is None:
            self._fault(f"output_item.done for {event.get('output_index')}, which is not open")
            return
        for key in ("id", "type", "call_id", "name"):
            if opened.item.get(key) != item.get(key):
                self._fault(f"the item's {key} changed from {opened.item.get(key)!r} to {item.get(key)!r}")
        for family, index in opened.sums.keys() - opened.summed:
            self._fault(f"{family} {index} has deltas and no done")
        for (family, index), part in opened.parts.items():
            if part is None:
                self._fault(f"{family} {index} was added and is not done")
        self._compare_sums(opened, item)
        self._compare_parts(opened, item)
        self._compare_steps(opened, item)

    def _compare_sums(self, opened: _OpenItem, item: JSON) -> None:
        for family, where, part_type, key in STREAMED.get(str(item.get("type")), ()):
            for index, part in enumerate(item.get(where) or ()):
                if part.get("type") == part_type and opened.sums.get((family, index), "") != part.get(key):
                    self._fault(f"deltas of {family} {index} are not the item's {key}")
        if item.get("type") in ARGUMENTS:
            family, key = ARGUMENTS[item["type"]]
            if opened.sums.get((family, None), "") != item.get(key):
                self._fault(f"deltas of {family} are not the item's {key}")
            if (family, None) not in opened.summed:
                self._fault(f"no {family}.done")

    def _compare_parts(self, opened: _OpenItem, item: JSON) -> None:
        for family, (_, where) in PARTS.items():
            streamed = [part for (name, _), part in opened.parts.items() if name == family]
            if where == "content" and item.get("type") == "reasoning" and not streamed:
                continue  # some upstreams stream reasoning text without parts
            if streamed != (item.get(where) or []):
                self._fault(f"the parts streamed are not the item's {where}")

    def _compare_steps(self, opened: _OpenItem, item: JSON) -> None:
        if item.get("type") in STEPS and item.get("status") not in ("in_progress", "incomplete"):
            begun, succeeded, failed = STEPS[item["type"]]
            ended = failed if item.get("error") else succeeded
            if opened.steps != [begun, ended]:
                self._fault(f"the steps of {item.get('id')} are {opened.steps}, expected {[begun, ended]}")

    def _inside(self, event: JSON, family: str, step: str) -> None:
        opened = self._open.get(event["output_index"])
        if opened is None:
            self._fault(f"{event['type']} for item {event['output_index']}, which is not open")
            return
        if "item_id" in event and event["item_id"] != opened.item.get("id"):
            self._fault(f"item_id is {event['item_id']!r}, the item's id is {opened.item.get('id')!r}")
        if family in PARTS:
            self._part(opened, event, family, step)
        elif family in SUMS:
            self._sum(opened, event, family, step)
        elif family == f"response.{opened.item.get('type')}":
            opened.steps.append(step)

    def _part(self, opened: _OpenItem, event: JSON, family: str, step: str) -> None:
        index = event.get(PARTS[family][0])
        at = (family, index)
        if step == "added":
            if index != sum(name == family for name, _ in opened.parts):
                self._fault(f"{family} {index} is not the next one")
            opened.parts[at] = None
        elif opened.parts.get(at, {}) is not None:
            self._fault(f"{family} {index} is done and is not open")
        else:
            opened.parts[at] = event.get("part")

    def _sum(self, opened: _OpenItem, event: JSON, family: str, step: str) -> None:
        key, marker = SUMS[family]
        at = (family, event.get(marker) if marker else None)
        part = {"content_index": "response.content_part", "summary_index": "response.reasoning_summary_part"}
        if family != "response.reasoning_text" and marker and opened.parts.get((part[marker], at[1]), {}) is not None:
            self._fault(f"{event['type']} outside of a part")
        if at in opened.summed:
            self._fault(f"{event['type']} after its done")
        if step == "delta":
            opened.sums[at] = opened.sums.get(at, "") + str(event.get("delta"))
        elif step == "done":
            opened.summed.add(at)
            if opened.sums.get(at, "") != event.get(key):
                self._fault(f"{event['type']} is not the sum of its deltas")

    def _end(self, event: JSON) -> None:
        response = event.get("response") or {}
        output = response.get("output") or []
        if event["type"] == "response.failed":
            unknown = {item.get("id") for item in output} - self._ids_seen()
            if unknown:
                self._fault(f"output holds items never streamed: {sorted(map(str, unknown))}")
            return
        if self._open:
            self._fault(f"items {sorted(self._open)} are not done")
        if output != [item for _, item in sorted(self._done.items())]:
            self._fault("output is not what output_item.done brought")

    def _ids_seen(self) -> set[Any]:
        return {item.get("id") for item in [*self._done.values(), *(opened.item for opened in self._open.values())]}
