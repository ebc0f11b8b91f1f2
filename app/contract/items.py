"""The API's item types: one row a type. Whatever depends on an item's type reads it here.

A type that the table lacks passes through the gateway: it has no status, no parts and no streamed members of its own.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from app import ids

Item = dict[str, Any]

#: Roles of messages that instruct the model, and of all messages that a client writes.
INSTRUCTION_ROLES = frozenset({"system", "developer"})
CLIENT_ROLES = INSTRUCTION_ROLES | {"user"}
ROLES = ("user", "assistant", "system", "developer")

#: The statuses of items that have one.
STATUSES = frozenset({"in_progress", "completed", "incomplete"})

#: The last item of an input that asks for a compaction.
TRIGGER = "compaction_trigger"

#: A member of stored compactions that the client did not ask for: they shorten the history, and no client sees them.
_HIDDEN = "hidden"


# --- content parts ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class PartType:
    """A type of content part."""

    name: str
    text: str | None = None
    """The member that holds its text."""
    events: str | None = None
    """Family of the events that stream its text: `.delta`, then `.done`."""
    holder: str = "content"
    """The member of the item that lists such parts."""
    bare: bool = False
    """May stand in `input` by itself, as a part of a user message."""


PART_TYPES: Mapping[str, PartType] = {
    part.name: part
    for part in (
        PartType("input_text", "text", bare=True),
        PartType("input_image", bare=True),
        PartType("input_file", bare=True),
        PartType("input_audio"),
        PartType("output_text", "text", "response.output_text"),
        PartType("refusal", "refusal", "response.refusal"),
        PartType("reasoning_text", "text", "response.reasoning_text"),
        PartType("summary_text", "text", "response.reasoning_summary_text", holder="summary"),
        PartType("text", "text"),
    )
}

TEXT_PARTS = frozenset(part.name for part in PART_TYPES.values() if part.text)
SUMMARY_PARTS = frozenset(part.name for part in PART_TYPES.values() if part.holder == "summary")
_TEXT_MEMBERS = tuple(dict.fromkeys(part.text for part in PART_TYPES.values() if part.text))
BARE_PARTS = frozenset(part.name for part in PART_TYPES.values() if part.bare)
#: Parts that are pictures. A screenshot is the whole output of a computer's call.
_PICTURES = frozenset({"input_image", "computer_screenshot"})


# --- items ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ItemType:
    """A type of item."""

    name: str
    prefix: str = "item"
    """Of its ids."""
    checked_prefix: str = ""
    """The beginning that upstreams require of an id that is sent back to them; empty if they take any."""
    outputs: tuple[str, ...] = ()
    """Of a call: the types of the items that may answer it, its own first."""
    client_runs: bool = False
    """Of a call: the client runs the tool and sends the output."""
    client_side: bool = False
    """The client writes such items. An answer that holds one got it from an input."""
    has_status: bool = False
    """The API requires a status wherever such an item is listed."""
    parts: tuple[str, ...] = ()
    """The types of the parts whose text is streamed, the usual one first."""
    arguments: str | None = None
    """Of a call: the member with the arguments of the tool."""
    json_arguments: bool = False
    """Of a call: its arguments are a JSON object in a string."""
    arguments_events: str | None = None
    """Family of the events that stream these arguments: `.delta`, then `.done`."""
    results: tuple[str, ...] = ()
    """Members with the results of the tool: the announcement of the item lacks them."""
    opened: Mapping[str, Any] = field(default_factory=dict)
    """Members that the announcement of the item has instead of their values."""
    steps: tuple[str, ...] = ()
    """Of a tool that the client does not run: the events behind the item's announcement."""
    succeeded: str = ""
    """The same: the event before the end of the item, if the tool has succeeded."""
    failed: str = ""
    """The same, if it has failed. Some have none."""
    opaque: bool = False
    """May hold `encrypted_content` that only the channel family which made it can read."""
    rewritten: bool = False
    """Only an upstream that made such an item takes it; the others get a function's call, or nothing."""
    brings_tools: bool = False
    """May hold definitions of tools, and so their credentials."""

    @property
    def grows(self) -> tuple[str, ...]:
        """The members that are empty when the item is announced, and are then streamed."""
        if self.parts:
            return tuple(dict.fromkeys(PART_TYPES[part].holder for part in self.parts))
        return (self.arguments,) if self.arguments and self.arguments_events else ()


def _call(name: str, arguments: str, *others: str, prefix: str = "item", output: str = "", **facts: Any) -> ItemType:
    """A call that the client runs; `others` are further types of items that answer it."""
    outputs = (output or f"{name}_output", *others)
    checked = "" if prefix == "item" else prefix
    return ItemType(name, prefix, checked, outputs, client_runs=True, arguments=arguments, **facts)


def _output(name: str, *, prefix: str = "item", **facts: Any) -> ItemType:
    return ItemType(name, prefix, client_side=True, **facts)


def _hosted(name: str, prefix: str, *steps: str, succeeded: str = "", failed: str = "", **facts: Any) -> ItemType:
    """An item of a tool that the client does not run; its steps are events of its own family."""

    def event(step: str) -> str:
        return f"response.{name}.{step}" if step else ""

    facts |= {"steps": tuple(map(event, steps)), "succeeded": event(succeeded), "failed": event(failed)}
    return ItemType(name, prefix, prefix, **facts)


TYPES: Mapping[str, ItemType] = {
    item.name: item
    for item in (
        ItemType("message", "msg", "msg", has_status=True, parts=("output_text", "refusal")),
        ItemType("reasoning", "rs", "rs", parts=("reasoning_text", "summary_text"), opaque=True),
        ItemType("compaction", "cmp", "cmp", opaque=True),
        # Other names of the same item: see `COMPACTION_TYPES`.
        ItemType("compaction_summary", "cmp", "cmp", opaque=True),
        ItemType("context_compaction", "cmp", "cmp", opaque=True),
        ItemType(TRIGGER),
        ItemType("item_reference", client_side=True),
        ItemType("configuration_update", client_side=True, brings_tools=True),
        ItemType("additional_tools", client_side=True, brings_tools=True),
        # Tools that the client runs.
        _call(
            "function_call",
            "arguments",
            prefix="fc",
            json_arguments=True,
            has_status=True,
            arguments_events="response.function_call_arguments",
        ),
        _output("function_call_output", prefix="fco", checked_prefix="fc", has_status=True),
        _call("custom_tool_call", "input", prefix="ctc", arguments_events="response.custom_tool_call_input"),
        _output("custom_tool_call_output", prefix="ctco", checked_prefix="ctc", has_status=True),
        _call("shell_call", "action", prefix="sh", has_status=True),
        _output("shell_call_output", has_status=True),
        # Codex answers a call of the local shell as if it were a function's.
        _call("local_shell_call", "action", "function_call_output", prefix="lsh", has_status=True),
        _output("local_shell_call_output"),
        _call("apply_patch_call", "operation", prefix="apc"),
        _output("apply_patch_call_output"),
        _call("computer_call", "action", prefix="cu"),
        _output("computer_call_output", has_status=True),
        _call("tool_search_call", "arguments", prefix="tsc", output="tool_search_output", has_status=True),
        _output("tool_search_output", has_status=True, brings_tools=True),
        # Tools that the upstream or the gateway runs.
        _hosted(
            "web_search_call",
            "ws",
            *("in_progress", "searching"),
            succeeded="completed",
            opened={"status": "in_progress"},
            results=("action",),
            rewritten=True,
        ),
        _hosted(
            "file_search_call",
            "fs",
            *("in_progress", "searching"),
            succeeded="completed",
            opened={"status": "in_progress", "queries": [], "results": None},
            rewritten=True,
        ),
        _hosted("code_interpreter_call", "ci"),
        _hosted(
            "image_generation_call",
            "ig",
            *("in_progress", "generating"),
            succeeded="completed",
            opened={"status": "in_progress"},
            results=("result",),
        ),
        ItemType("program", outputs=("program_output",)),
        _output("program_output"),
        _hosted(
            "mcp_list_tools",
            "mcpl",
            "in_progress",
            succeeded="completed",
            failed="failed",
            opened={"tools": []},
            results=("error",),
            rewritten=True,
            brings_tools=True,
        ),
        _hosted(
            "mcp_call",
            "mcp",
            "in_progress",
            succeeded="completed",
            failed="failed",
            opened={"status": "in_progress", "output": None, "error": None},
            arguments="arguments",
            json_arguments=True,
            arguments_events="response.mcp_call_arguments",
            rewritten=True,
        ),
        _hosted("mcp_approval_request", "mcpr", rewritten=True),
        ItemType("mcp_approval_response", client_side=True, rewritten=True),
    )
}

CALL_TYPES = frozenset(item.name for item in TYPES.values() if item.client_runs)
"""Calls of tools that the client runs."""
OUTPUT_TYPES = frozenset(output for call in CALL_TYPES for output in TYPES[call].outputs)
"""The items that answer them."""
STREAMED_CALLS = frozenset(call for call in CALL_TYPES if TYPES[call].arguments_events)
"""Those of them that name their tool, and whose arguments are streamed."""
TEXT_TYPES = frozenset(item.name for item in TYPES.values() if item.parts)
"""Items that consist of parts with streamed text."""
OPAQUE_TYPES = frozenset(item.name for item in TYPES.values() if item.opaque)
REWRITTEN_TYPES = frozenset(item.name for item in TYPES.values() if item.rewritten)
#: A compaction opens to the items that it stands for.
#: The names of a compaction item: the API's, and those of some servers and of Codex, which send it back under them.
COMPACTION_TYPES = frozenset({"compaction", "compaction_summary", "context_compaction"})
_MAY_BRING_TOOLS = REWRITTEN_TYPES | COMPACTION_TYPES
_MAY_BRING_TOOLS |= {item.name for item in TYPES.values() if item.brings_tools}
#: What a row says of its items, as bits: some hold secrets of a channel family; some are of tools, or open to such.
SECRETS, TOOLS = 1, 2
WITH_STATUS = frozenset(item.name for item in TYPES.values() if item.has_status)
CLIENT_TYPES = frozenset(item.name for item in TYPES.values() if item.client_side)
WITHOUT_TOOLS = frozenset(item.name for item in TYPES.values() if not item.brings_tools)
"""Items that cannot bring a tool. Those of unknown types may."""

_OWN_CALL = {item.outputs[0]: item.name for item in TYPES.values() if item.outputs}


def has_failed(item: Mapping[str, Any]) -> bool:
    """Whether the tool of this item has failed."""
    return item.get("status") == "failed" or bool(item.get("error"))


# --- calls and outputs ------------------------------------------------------------------------------------------


def is_call(item: Mapping[str, Any]) -> bool:
    """Whether the client has to answer this item. A search for tools may be run by the upstream instead."""
    return item.get("type") in CALL_TYPES and item.get("execution") != "server"


def offers_tools(item: Mapping[str, Any]) -> bool:
    """Whether the model can call tools because of this item."""
    kind = TYPES.get(item.get("type", ""))
    return kind is not None and kind.brings_tools


def is_output(item: Mapping[str, Any]) -> bool:
    """Whether this item is a client's answer to a call."""
    return item.get("type") in OUTPUT_TYPES and item.get("execution") != "server"


def answered_call_id(output: Mapping[str, Any]) -> str | None:
    """The call that an output names. An output of a local shell may lack `call_id`: its own id names the call then."""
    call_id = output.get("call_id")
    if call_id is None and output.get("type") == "local_shell_call_output":
        call_id = output.get("id")
    return call_id if isinstance(call_id, str) else None


def call_ids(call: Mapping[str, Any]) -> tuple[str, ...]:
    """The ids by which an output may name this call: its `call_id`, and for a local shell its own id as well."""
    named = (call.get("call_id"), call.get("id") if call.get("type") == "local_shell_call" else None)
    return tuple(name for name in named if isinstance(name, str))


def answers(output: Mapping[str, Any], call: Mapping[str, Any]) -> bool:
    """Whether the output names this call and has a type that may answer it."""
    call_type = TYPES.get(str(call.get("type")))
    fits = call_type is not None and output.get("type") in call_type.outputs
    return fits and answered_call_id(output) in call_ids(call)


def unanswered(items: Sequence[Item]) -> list[Item]:
    """The calls among the items for which the client has sent no output yet."""
    answered = {answered_call_id(item) for item in items if is_output(item)}
    return [item for item in items if is_waiting(item) and answered.isdisjoint(call_ids(item))]


def bound(types: Iterable[object]) -> int:
    """What not every upstream takes as it is among items of these types: `SECRETS`, `TOOLS`, both, or 0."""
    held = frozenset(types)
    secrets = SECRETS if held & OPAQUE_TYPES else 0
    return secrets | (TOOLS if held & _MAY_BRING_TOOLS else 0)


def is_waiting(item: Mapping[str, Any]) -> bool:
    """Whether this is a call that an output can name."""
    return is_call(item) and isinstance(item.get("call_id"), str)


def hidden(item: Item) -> Item:
    """The item as it is stored and not shown."""
    return {**item, _HIDDEN: True}


def is_hidden(item: Mapping[str, Any]) -> bool:
    return item.get("type") == "compaction" and item.get(_HIDDEN) is True


class OptionalPart(NamedTuple):
    """A part of an item that is always stored, and shown to clients that include it."""

    include: str
    """The value of `include` that asks for it."""
    is_in: Callable[[Mapping[str, Any]], bool]
    without: Callable[[Mapping[str, Any]], Item]
    """The item as the others see it."""


def _has_sources(call: Mapping[str, Any]) -> bool:
    action = call.get("action")
    return isinstance(action, Mapping) and "sources" in action and gateway_round(call.get("id")) is not None


def _without_sources(call: Mapping[str, Any]) -> Item:
    return {**call, "action": {name: value for name, value in call["action"].items() if name != "sources"}}


def _has_results(call: Mapping[str, Any]) -> bool:
    return call.get("results") is not None and gateway_round(call.get("id")) is not None


#: By the type of the item. An upstream adds those of its own searches only when it is asked for them.
OPTIONAL_PARTS: Mapping[object, OptionalPart] = {
    "reasoning": OptionalPart(
        "reasoning.encrypted_content",
        lambda item: "encrypted_content" in item,
        lambda item: {name: value for name, value in item.items() if name != "encrypted_content"},
    ),
    "web_search_call": OptionalPart("web_search_call.action.sources", _has_sources, _without_sources),
    "file_search_call": OptionalPart("file_search_call.results", _has_results, lambda call: {**call, "results": None}),
}


def holder_of(part_type: str) -> str:
    """The member of an item that lists parts of this type."""
    return "summary" if part_type in SUMMARY_PARTS else "content"


def call_of(output_type: str) -> str:
    """The type of call that items of this type answer first of all."""
    return _OWN_CALL[output_type]


def is_client_side(item: Mapping[str, Any]) -> bool:
    """Whether the client wrote this item. Outputs of unknown types are known by their name."""
    kind = str(item.get("type", ""))
    return item.get("role") in CLIENT_ROLES or (kind in CLIENT_TYPES if kind in TYPES else kind.endswith("_output"))


def called_tool(item: Mapping[str, Any]) -> str | None:
    """The name of the tool that this item calls, whoever runs it: the API's own tools are named after their items. None
    for an item that is no call."""
    kind = str(item.get("type", ""))
    name = item.get("name")
    if kind in STREAMED_CALLS or kind == "mcp_call":
        return name if isinstance(name, str) and name else kind
    return kind.removesuffix("_call") if kind.endswith("_call") else None


#: The members that show what a call does, and what an item holds that has no text.
_DESCRIBING = (
    "name",
    *dict.fromkeys(call.arguments for call in TYPES.values() if call.arguments),
    "output",
    "encrypted_content",
)


def description(item: Mapping[str, Any]) -> Iterator[Any]:
    """What a reader is shown of an item: the texts of its parts, the type of a part without text, then the members that
    say what it does."""
    content = item.get("content")
    parts = content if isinstance(content, list) else [content] if content else []
    for part in [*parts, *(item.get("summary") or ())]:
        yield _text_of(part) or f"[{part.get('type')}]" if isinstance(part, Mapping) else part
    yield from (item[name] for name in _DESCRIBING if item.get(name))


def pictures(item: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The pictures in an item's content or output that a URL names, as `input_image` parts."""
    content = item.get("content", item.get("output"))
    for part in content if isinstance(content, list) else [content]:
        if isinstance(part, Mapping) and part.get("type") in _PICTURES and isinstance(part.get("image_url"), str):
            yield {"type": "input_image", "image_url": part["image_url"], "detail": part.get("detail") or "auto"}


def _text_of(part: Mapping[str, Any]) -> Any:
    return next((part[name] for name in _TEXT_MEMBERS if part.get(name)), None)


# --- ids --------------------------------------------------------------------------------------------------------

_GATEWAY_ID = re.compile(r"[a-z]+_([0-9a-f]{40})([0-9a-f]{8})\Z")
_DERIVED_ID = re.compile(r"[a-z]+_([0-9a-f]{48})([0-9a-f]{4,6})\Z")


def prefix_of(item_type: str) -> str:
    known = TYPES.get(item_type)
    return known.prefix if known else "item"


def new_item_id(item_type: str) -> str:
    return ids.new(prefix_of(item_type))


def gateway_item_id(item_type: str, response_id: str, number: int, round_: int) -> str:
    """The id of an item of a tool that the gateway runs. It shows that the gateway made the item, and in which exchange
    of the turn the model wrote the call, so that no table has to store it. `number` is unique in the response."""
    digits = hashlib.sha256(f"{response_id}/{number}".encode()).hexdigest()[:38] + f"{round_ & 0xFF:02x}"
    return f"{prefix_of(item_type)}_{digits}{_check(digits)}"


def gateway_round(item_id: object) -> int | None:
    """The exchange that `gateway_item_id` put into an id; None for an id that an upstream or a client made."""
    match = _GATEWAY_ID.match(item_id) if isinstance(item_id, str) else None
    return int(match[1][-2:], 16) if match and _check(match[1]) == match[2] else None


def _check(digits: str) -> str:
    return hashlib.sha256(digits.encode()).hexdigest()[:8]


def derive_item_id(item_type: str, response_id: str, position: int) -> str:
    """The id of an input item that came without one. It encodes the item's place, so that no table has to store it."""
    return f"{prefix_of(item_type)}_{response_id.removeprefix('resp_')}{position:04x}"


def parse_derived_item_id(item_id: str) -> tuple[str, int] | None:
    """The response and the position within its input that `derive_item_id` put into an id."""
    match = _DERIVED_ID.match(item_id)
    return (f"resp_{match[1]}", int(match[2], 16)) if match else None
