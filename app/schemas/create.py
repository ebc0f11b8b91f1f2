"""The body of `POST /v1/responses`: the top-level object by marshmallow, `input` and tools by their own modules.
Knows neither state nor channels: a well-formed id passes, whether it exists or not."""

from __future__ import annotations

import re
from collections.abc import Mapping as AnyMapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, cast

from marshmallow import INCLUDE as PASS
from marshmallow import Schema, ValidationError

from app.errors import InvalidRequest, missing_parameter
from app.schemas.fields import (
    Array,
    Boolean,
    CheckedBy,
    Integer,
    Number,
    Object,
    OneOf,
    Other,
    String,
    StringMap,
    Violation,
    malformed,
    missing,
    not_an_object,
    wrong_type,
)
from app.schemas.items import CONTENT, INPUT, check_content, read_input
from app.schemas.tools import TOOL_CHOICE, TOOLS, check_choice_exists

_RESPONSE_ID = re.compile(r"[A-Za-z0-9_-]+")


def read_create(body: object) -> dict[str, Any]:
    """The client's values as they came, without nulls, `input` as a list of items; or `InvalidRequest`."""
    loaded = read_warm_up(body)
    _require_input(loaded)
    return loaded


def read_warm_up(body: object) -> dict[str, Any]:
    """The same for a warm-up turn, which may have no input."""
    if not isinstance(body, dict):
        raise not_an_object(body)
    members = {name: value for name, value in body.items() if value is not None}
    _refuse_two_states(members)
    loaded = _load(members)
    # marshmallow puts unknown keys in the order of a set, which differs from process to process.
    return {name: loaded[name] for name in members}


@dataclass(frozen=True, slots=True)
class CompactRequest:
    """A body of `POST /v1/responses/compact`, and what it means when it does not say."""

    request: dict[str, Any]
    has_new_input: bool
    """There is a history and new input, or a string: the model answers it."""


def read_compact(body: object) -> CompactRequest:
    """The parameters of a response; an empty `input` counts as absent."""
    if not isinstance(body, dict):
        raise not_an_object(body)
    members = {name: value for name, value in body.items() if value is not None}
    if members.get("input") in ("", []):
        del members["input"]
    _refuse_two_states(members)
    loaded = _load(members)
    histories = members.keys() & {"previous_response_id", "conversation"}
    if "input" not in members and not histories:
        raise missing_parameter("input")
    new_input = members.get("input")
    has_new_input = isinstance(new_input, str) or (new_input is not None and bool(histories))
    return CompactRequest({name: loaded[name] for name in members}, has_new_input)


def read_count(body: object) -> dict[str, Any]:
    """A body of `POST /v1/responses/input_tokens`: the same parameters, of which none has to be there."""
    if not isinstance(body, dict):
        raise not_an_object(body)
    members = {name: value for name, value in body.items() if value is not None}
    _refuse_two_states(members)
    loaded = _load({"model": "any", **members})
    return {name: loaded[name] for name in members}


def read_include(value: object, param: str = "include") -> list[str]:
    """The `include` values, which come in a query argument or in a body."""
    if value == []:
        return []
    try:
        INCLUDE.check(value)
    except Violation as violation:
        raise violation.at(param) from None
    return cast(list[str], value)


def _load(members: dict[str, Any]) -> dict[str, Any]:
    """Runs the schema. marshmallow itself only finds required parameters that are missing."""
    try:
        loaded: dict[str, Any] = _schema_for(_KNOWN.intersection(members)).load(members)
    except ValidationError as error:
        raise missing_parameter(next(iter(error.messages_dict))) from None
    return loaded


def _refuse_two_states(members: dict[str, Any]) -> None:
    if "previous_response_id" in members and "conversation" in members:
        raise InvalidRequest(
            "Mutually exclusive parameters. Ensure you are only providing one of: "
            "'previous_response_id' or 'conversation'.",
            code="mutually_exclusive_parameters",
        )


def _require_input(loaded: dict[str, Any]) -> None:
    if loaded.keys().isdisjoint(("input", "previous_response_id", "conversation", "prompt")):
        raise missing_parameter("input")


# --- parameters that are unions ---------------------------------------------------------------------------------


class Input(CheckedBy):
    """The one parameter that leaves in another shape than it came in."""

    def _deserialize(
        self, value: Any, attr: str | None, data: AnyMapping[str, Any] | None, **kwargs: Any
    ) -> list[dict[str, Any]]:
        return read_input(value, attr or "input")


class Tools(CheckedBy):
    """A choice that names no tool is reported before errors of the tools themselves."""

    def _deserialize(self, value: Any, attr: str | None, data: AnyMapping[str, Any] | None, **kwargs: Any) -> Any:
        _check_choice_exists(data or {})
        return super()._deserialize(value, attr, data, **kwargs)


class ToolChoice(CheckedBy):
    def _deserialize(self, value: Any, attr: str | None, data: AnyMapping[str, Any] | None, **kwargs: Any) -> Any:
        choice = super()._deserialize(value, attr, data, **kwargs)
        _check_choice_exists(data or {})
        return choice


def _check_choice_exists(request: AnyMapping[str, Any]) -> None:
    try:
        check_choice_exists(request.get("tool_choice"), request)
    except Violation as violation:
        raise violation.at("tool_choice") from None


def _check_instructions(value: Any) -> None:
    if isinstance(value, str):
        return
    if not isinstance(value, dict):
        raise wrong_type("one of a string or object", value)
    if value.get("content") is not None:
        check_content(value, "content")
    elif value.get("text") is not None:
        _TEXT_MEMBER.check(value)
    else:
        raise missing("content")


def _check_previous_response_id(value: Any) -> None:
    _ID.check(value)
    if not _RESPONSE_ID.fullmatch(value):
        raise malformed(
            "Expected an ID that contains letters, numbers, underscores, or dashes, "
            "but this value contained additional characters.",
            value,
        )


def _check_conversation(value: Any) -> None:
    if isinstance(value, dict):
        _ID_MEMBER.check(value)
        value = value["id"]
    elif not isinstance(value, str):
        raise wrong_type("one of a string or object", value)
    if not value.startswith("conv_"):
        raise malformed("Expected an ID that begins with 'conv_'.", value)


def _check_truncation(value: Any) -> None:
    if isinstance(value, dict):
        _TRUNCATION_MEMBER.check(value)
    else:
        _TRUNCATION.check(value)


def _check_context_management(value: Any) -> None:
    if isinstance(value, dict):
        _check_context_edit(value)
    else:
        _CONTEXT_EDITS.check(value)


def _check_context_edit(value: Any) -> None:
    _TYPE_MEMBER.check(value)
    if value.get("type") in (None, "compaction"):
        _COMPACTION.check(value)


def _check_text_format(value: Any) -> None:
    _FORMAT_TYPE.check(value)
    if value["type"] == "json_schema":
        _JSON_SCHEMA.check(value)


_TEXT = String()
_ID = String(min=1)
_TEXT_MEMBER = Object({"text": _TEXT})
_TEXT_OBJECT = Object({"text": _TEXT}, needs=("text",))
_INSTRUCTING_MESSAGE = Object({"content": CONTENT}, needs=("content",))
_CONVERSATION_ID = String(pattern="conv_.*")
_TYPE_MEMBER = Object({"type": _TEXT})
_ID_MEMBER = Object({"id": _TEXT}, needs=("id",))
_TRUNCATION = OneOf("auto", "disabled")
_TRUNCATION_MEMBER = Object({"type": _TRUNCATION}, needs=("type",))
_COMPACTION = Object(
    {
        "type": OneOf("compaction"),
        "compact_threshold": Integer(min=1),
        "strategy": OneOf("auto", "native", "summary", "trim"),
        "keep_turns": Integer(min=0),
        "max_tokens": Integer(min=1),
        "instructions": _TEXT,
        "answer": Boolean(),
    }
)
_OTHER_EDIT = Object({"type": Other("compaction")}, needs=("type",))
_CONTEXT_EDIT = CheckedBy(_check_context_edit, _COMPACTION, _OTHER_EDIT)
_CONTEXT_EDITS = Array(_CONTEXT_EDIT)
_SUMMARY = OneOf("auto", "concise", "detailed")
_REASONING = {
    "effort": OneOf("none", "minimal", "low", "medium", "high", "xhigh", "max"),
    "summary": _SUMMARY,
    "generate_summary": _SUMMARY,
    "context": OneOf("auto", "current_turn", "all_turns"),
}
_FORMAT_TYPE = Object({"type": OneOf("text", "json_object", "json_schema")}, needs=("type",))
_PLAIN_FORMAT = Object({"type": OneOf("text", "json_object")}, needs=("type",))
_JSON_SCHEMA = Object(
    {
        "type": OneOf("json_schema"),
        "name": String(min=1, max=64, pattern="[a-zA-Z0-9_-]+"),
        "schema": Object(),
        "description": _TEXT,
        "strict": Boolean(),
    },
    needs=("type", "name", "schema"),
)
_FORMAT = CheckedBy(_check_text_format, _PLAIN_FORMAT, _JSON_SCHEMA)
_INCLUDABLE = OneOf(
    "file_search_call.results",
    "web_search_call.results",
    "web_search_call.action.sources",
    "message.input_image.image_url",
    "computer_call_output.output.image_url",
    "code_interpreter_call.outputs",
    "reasoning.encrypted_content",
    "message.output_text.logprobs",
)
INCLUDE = Array(_INCLUDABLE, of="strings")


# --- the body ---------------------------------------------------------------------------------------------------


class CreateSchema(Schema):
    """Members in the order of their errors. Unknown keys pass: clients send more than any specification lists."""

    class Meta:
        unknown = PASS

    model = String(min=1, required=True)
    input = Input(INPUT.rule, INPUT)
    instructions = CheckedBy(_check_instructions, _TEXT, _INSTRUCTING_MESSAGE, _TEXT_OBJECT)
    previous_response_id = CheckedBy(_check_previous_response_id, String(min=1, pattern=_RESPONSE_ID.pattern))
    conversation = CheckedBy(_check_conversation, _CONVERSATION_ID, Object({"id": _CONVERSATION_ID}, needs=("id",)))
    prompt = Object({"id": _ID, "version": _TEXT, "variables": Object()}, needs=("id",))
    stream = Boolean()
    stream_options = Object({"include_obfuscation": Boolean()})
    store = Boolean()
    background = Boolean()
    include = INCLUDE
    tools = Tools(TOOLS.rule, TOOLS)
    tool_choice = ToolChoice(TOOL_CHOICE.rule, TOOL_CHOICE)
    parallel_tool_calls = Boolean()
    max_tool_calls = Integer(min=1)
    max_output_tokens = Integer(min=1)
    temperature = Number(min=0, max=2)
    top_p = Number(min=0, max=1)
    presence_penalty = Number(min=-2, max=2)
    frequency_penalty = Number(min=-2, max=2)
    top_logprobs = Integer(min=0, max=20)
    reasoning = Object(_REASONING)
    text = Object(
        {
            "format": _FORMAT,
            "verbosity": OneOf("low", "medium", "high"),
        }
    )
    truncation = CheckedBy(_check_truncation, _TRUNCATION, _TRUNCATION_MEMBER)
    context_management = CheckedBy(_check_context_management, _CONTEXT_EDITS, _CONTEXT_EDIT)
    metadata = StringMap(max=16, max_key=64, max_value=512)
    service_tier = OneOf("auto", "default", "flex", "scale", "priority", "fast", "ultrafast")
    safety_identifier = String(max=128)
    prompt_cache_key = _TEXT
    prompt_cache_options = Object({"mode": _TEXT, "ttl": _TEXT, "prewarm": Boolean(), "comparison_response_id": _TEXT})
    prompt_cache_retention = _TEXT
    user = _TEXT


CREATE = CreateSchema()
_KNOWN = frozenset(CREATE.fields)


@lru_cache(maxsize=128)
def _schema_for(given: frozenset[str]) -> Schema:
    """The schema with what was given and what must be: it spends its time on every field that it has."""
    return CreateSchema(only=[name for name, field in CREATE.fields.items() if name in given or field.required])
