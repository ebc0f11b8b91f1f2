"""The forms of `input`, read as a list of items. Plain functions behind a dispatch table, since every request passes
here with all its items. Unknown item and part types pass."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import groupby
from typing import Any

from app.contract.items import BARE_PARTS, COMPACTION_TYPES, ROLES, TRIGGER, Item
from app.ids import MAX_CALL_ID
from app.schemas.fields import (
    Anything,
    Array,
    Boolean,
    Checked,
    CheckedBy,
    Components,
    JSONSchema,
    Object,
    OneOf,
    String,
    Typed,
    Violation,
    absent_or_wrong,
    array_too_long,
    check_typed,
    empty,
    missing,
    string_too_long,
    wrong_type,
)
from app.schemas.tools import TOOLS

MAX_TEXT = 10_485_760
MAX_BLOB = 20_971_520
MAX_ITEMS = 10_000

_OTHER_COMPACTIONS = COMPACTION_TYPES - {"compaction"}


def read_input(value: object, param: str = "input") -> list[Item]:
    """The items of an `input`, as they came where that was an item already. Arguments are never changed."""
    try:
        return _items(value)
    except Violation as violation:
        raise violation.at(param) from None


def _items(value: object) -> list[Item]:
    if isinstance(value, str):
        _INPUT_TEXT.check(value)
        return [_user_message([{"type": "input_text", "text": value}])]
    if not isinstance(value, list):
        raise wrong_type("one of a string or array of objects", value)
    if not value:
        raise empty("array")
    if len(value) > MAX_ITEMS:
        raise array_too_long(value, MAX_ITEMS)
    items = _checked(value)
    kinds = {item["type"] for item in items}
    if TRIGGER in kinds:
        _check_trigger(items)
    if not kinds.isdisjoint(_OTHER_COMPACTIONS):
        items = list(_renamed(items))
        if not items:
            raise empty("array")
    return items if kinds.isdisjoint(BARE_PARTS) else list(_joined(items))


def _checked(values: list[Any]) -> list[Item]:
    items = []
    for index, value in enumerate(values):
        try:
            items.append(_item(value))
        except Violation as violation:
            violation.within(index)
            raise
    return items


def _item(value: object) -> Item:
    if not isinstance(value, dict):
        raise wrong_type("an object", value)
    kind = value.get("type")
    item = value if isinstance(kind, str) else _typed(value)
    item_id = item.get("id")
    if item_id is not None and not isinstance(item_id, str):
        raise wrong_type("a string", item_id).within("id")
    rule = _RULES.get(item["type"])
    if rule is not None:
        rule(item)
    return item


def _typed(value: Item) -> Item:
    """The two items that may come without a type: messages and references."""
    kind = value.get("type")
    if kind is not None:
        raise wrong_type("a string", kind).within("type")
    if "role" in value or "content" in value:
        return {**value, "type": "message"}
    if value.get("id") is not None and value.keys() <= {"type", "id"}:
        return {"type": "item_reference", "id": value["id"]}
    raise missing("type")


def _check_trigger(items: list[Item]) -> None:
    first = next(index for index, item in enumerate(items) if item["type"] == TRIGGER)
    if first != len(items) - 1:
        sentence = f"Invalid value: '{TRIGGER}'. An item of this type must be the last item of the input."
        raise Violation("invalid_value", lambda _: sentence).within(first)


def _renamed(items: list[Item]) -> Iterator[Item]:
    """Compactions under the API's own name. One without a content only marks where a client has compacted."""
    for item in items:
        if item["type"] not in _OTHER_COMPACTIONS:
            yield item
        elif item.get("encrypted_content"):
            yield {**item, "type": "compaction"}


def _joined(items: list[Item]) -> Iterator[Item]:
    for bare, group in groupby(items, lambda item: item["type"] in BARE_PARTS):
        if bare:
            yield _user_message(list(group))
        else:
            yield from group


def _user_message(parts: list[Item]) -> Item:
    return {"type": "message", "role": "user", "content": parts}


# --- what most items are made of --------------------------------------------------------------------------------


def _check_text(owner: Item, name: str) -> None:
    value = owner.get(name)
    if not isinstance(value, str):
        raise absent_or_wrong(owner, name, "a string")
    if len(value) > MAX_TEXT:
        raise string_too_long(value, MAX_TEXT).within(name)


def _check_call_id(item: Item) -> None:
    value = item.get("call_id")
    if not isinstance(value, str):
        raise absent_or_wrong(item, "call_id", "a string")
    if not 0 < len(value) <= MAX_CALL_ID:
        raise (string_too_long(value, MAX_CALL_ID) if value else empty("string")).within("call_id")


def check_content(owner: Item, name: str) -> None:
    """A member that is a string or an array of content parts."""
    value = owner.get(name)
    if isinstance(value, str):
        if len(value) > MAX_TEXT:
            raise string_too_long(value, MAX_TEXT).within(name)
        return
    if not isinstance(value, list):
        raise absent_or_wrong(owner, name, "one of a string or array of objects")
    for index, part in enumerate(value):
        try:
            _check_part(part)
        except Violation as violation:
            violation.within(name, index)
            raise


def _check_part(part: Any) -> None:
    check_typed(part, _PART_RULES)


# --- content parts ----------------------------------------------------------------------------------------------


def _text_part(part: Item) -> None:
    _check_text(part, "text")


def _output_text(part: Item) -> None:
    _check_text(part, "text")
    for name in ("annotations", "logprobs"):
        value = part.get(name)
        if value is not None and not isinstance(value, list):
            raise wrong_type("an array of objects", value).within(name)


def _refusal(part: Item) -> None:
    _check_text(part, "refusal")


def _input_image(part: Item) -> None:
    _IMAGE.check(part)
    if part.get("image_url") is None and part.get("file_id") is None:
        raise missing("image_url")


def _input_file(part: Item) -> None:
    _FILE.check(part)
    if part.get("file_data") is None and part.get("file_id") is None and part.get("file_url") is None:
        raise missing("file_data")


# --- items ------------------------------------------------------------------------------------------------------


def _message(item: Item) -> None:
    if item.get("role") not in ROLES:
        _ROLE.check(item)
    check_content(item, "content")


def _function_call(item: Item) -> None:
    _check_call_id(item)
    _check_text(item, "name")
    _check_text(item, "arguments")


def _function_call_output(item: Item) -> None:
    # The newest clients may name the function in place of the call.
    if item.get("call_id") is not None:
        _check_call_id(item)
    elif not isinstance(item.get("name"), str):
        raise missing("call_id")
    check_content(item, "output")


def _custom_tool_call(item: Item) -> None:
    _check_call_id(item)
    _check_text(item, "name")
    _check_text(item, "input")


def _custom_tool_call_output(item: Item) -> None:
    _check_call_id(item)
    check_content(item, "output")


_TEXT = String()
_ID = String(min=1)
_CALL_ID = String(min=1, max=MAX_CALL_ID)
_LONG = String(max=MAX_TEXT)
_BLOB = String(max=MAX_BLOB)
_OBJECT = Object()
_STRINGS = Array(_TEXT, of="strings")
_EXECUTION = OneOf("server", "client")
_INPUT_TEXT = String(min=1, max=MAX_TEXT)

_ROLE = Object({"role": OneOf(*ROLES)}, needs=("role",))
_IMAGE = Object({"image_url": _BLOB, "file_id": _TEXT, "detail": OneOf("low", "high", "auto", "original")})
_FILE = Object(
    {
        "file_data": _TEXT,
        "file_id": _TEXT,
        "file_url": _TEXT,
        "filename": _TEXT,
        "detail": OneOf("auto", "low", "high"),
    }
)

_TEXT_PART = CheckedBy(_text_part, Object({"text": _LONG}, needs=("text",)))
_LIST = Array(Anything())

PARTS: dict[str, Checked] = {
    "input_text": _TEXT_PART,
    "input_image": CheckedBy(_input_image, _IMAGE),
    "input_file": CheckedBy(_input_file, _FILE),
    "output_text": CheckedBy(
        _output_text, Object({"text": _LONG, "annotations": _LIST, "logprobs": _LIST}, needs=("text",))
    ),
    "refusal": CheckedBy(_refusal, Object({"refusal": _LONG}, needs=("refusal",))),
    "reasoning_text": _TEXT_PART,
    "summary_text": _TEXT_PART,
    "text": _TEXT_PART,
}
_PART_RULES = {kind: shape.rule for kind, shape in PARTS.items()}
_PART_LIST = Array(Typed(PARTS, "Part").named("ContentPart"))
CONTENT = CheckedBy(lambda value: check_content({"content": value}, "content"), _LONG, _PART_LIST)


def _members(*needs: str, **members: Checked) -> Checked:
    return Object(members, needs=needs)


def _fast(rule: Callable[[Item], None], *needs: str, **members: Checked) -> Checked:
    """The same for an item that most requests hold: a rule of its own checks it."""
    return CheckedBy(rule, Object(members, needs=needs))


_compaction = _members("encrypted_content", encrypted_content=_BLOB)

#: Required is what an item means nothing without; whatever upstreams leave out now and then is optional, because
#: their items come back through the client.
ITEMS: dict[str, Checked] = {
    "message": _fast(_message, "role", "content", role=OneOf(*ROLES), content=CONTENT),
    "function_call": _fast(
        _function_call, "call_id", "name", "arguments", call_id=_CALL_ID, name=_LONG, arguments=_LONG
    ),
    "function_call_output": _fast(_function_call_output, "output", call_id=_CALL_ID, name=_TEXT, output=CONTENT),
    "custom_tool_call": _fast(_custom_tool_call, "call_id", "name", "input", call_id=_CALL_ID, name=_LONG, input=_LONG),
    "custom_tool_call_output": _fast(_custom_tool_call_output, "call_id", "output", call_id=_CALL_ID, output=CONTENT),
    **{kind: PARTS[kind] for kind in sorted(BARE_PARTS)},
    "item_reference": _members("id", id=_ID),
    "reasoning": _members("summary", summary=_PART_LIST, content=_PART_LIST, encrypted_content=_BLOB),
    "compaction": _compaction,
    "compaction_summary": _compaction,
    "context_compaction": _members(encrypted_content=_BLOB),
    "configuration_update": _members(reasoning=_OBJECT, text=_OBJECT),
    "additional_tools": _members("role", "tools", role=OneOf("developer"), tools=TOOLS),
    "tool_search_call": _members(call_id=_CALL_ID, execution=_EXECUTION),
    "tool_search_output": _members("tools", call_id=_CALL_ID, tools=TOOLS, execution=_EXECUTION),
    "shell_call": _members(
        "call_id", "action", call_id=_CALL_ID, action=Object({"commands": _STRINGS}, needs=("commands",))
    ),
    "shell_call_output": _members("call_id", "output", call_id=_CALL_ID, output=Array(_OBJECT)),
    "local_shell_call": _members("call_id", "action", call_id=_CALL_ID, action=_OBJECT),
    "local_shell_call_output": _members("output", call_id=_CALL_ID, output=_LONG),
    "apply_patch_call": _members(
        "call_id",
        "operation",
        call_id=_CALL_ID,
        operation=Object({"type": _TEXT, "path": _TEXT, "diff": _TEXT}, needs=("type", "path")),
    ),
    "apply_patch_call_output": _members(
        "call_id", "status", call_id=_CALL_ID, status=OneOf("completed", "failed"), output=_LONG
    ),
    "computer_call": _members(
        "call_id", call_id=_CALL_ID, pending_safety_checks=Array(_OBJECT), action=_OBJECT, actions=Array(_OBJECT)
    ),
    "computer_call_output": _members("call_id", "output", call_id=_CALL_ID, output=_OBJECT),
    "web_search_call": _members(action=_OBJECT),
    "file_search_call": _members("queries", queries=_STRINGS, results=Array(_OBJECT)),
    "image_generation_call": _members(result=_TEXT),
    "code_interpreter_call": _members(code=_TEXT, container_id=_TEXT, outputs=Array(_OBJECT)),
    "mcp_list_tools": _members("server_label", "tools", server_label=_TEXT, tools=Array(_OBJECT)),
    "mcp_call": _members(
        "server_label", "name", "arguments", server_label=_TEXT, name=_TEXT, arguments=_TEXT, output=_TEXT
    ),
    "mcp_approval_request": _members(
        "server_label", "name", "arguments", server_label=_TEXT, name=_TEXT, arguments=_TEXT
    ),
    "mcp_approval_response": _members(
        "approval_request_id", "approve", approval_request_id=_TEXT, approve=Boolean(), reason=_TEXT
    ),
    "program": _members("call_id", "code", call_id=_CALL_ID, code=_TEXT, fingerprint=_TEXT),
    "program_output": _members(
        "call_id", "result", call_id=_CALL_ID, result=_LONG, status=OneOf("completed", "incomplete")
    ),
}

_RULES = {kind: shape.rule for kind, shape in ITEMS.items()}


class _ById(Checked):
    """A reference without a type: an id, and nothing else."""

    def check(self, value: Any) -> None:
        _item(value)

    def describe(self, components: Components) -> JSONSchema:
        members = {"id": components.of(_ID), "type": {"type": "null"}}
        return {"type": "object", "properties": members, "required": ["id"], "additionalProperties": False}


ITEM = CheckedBy(_item, Typed(ITEMS, "Item", implied=("message",), id=_TEXT), _ById()).named("InputItem")
INPUT = CheckedBy(_items, _INPUT_TEXT, Array(ITEM, min=1, max=MAX_ITEMS))
