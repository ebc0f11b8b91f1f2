"""The body of `POST /v1/responses`: the top-level object by marshmallow, `input` and tools by their own modules.
Knows neither state nor channels: a well-formed id passes, whether it exists or not."""

from __future__ import annotations

import re
from collections.abc import Mapping as AnyMapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, cast

from marshmallow import INCLUDE, Schema, ValidationError, fields

from app.errors import InvalidRequest, missing_parameter
from app.schemas.fields import (
    Boolean,
    Choice,
    Fault,
    Integer,
    ListOf,
    Mapping,
    Number,
    Plain,
    StrictText,
    TextPairs,
    malformed,
    missing,
    not_an_object,
    wrong_type,
)
from app.schemas.items import check_content, read_input
from app.schemas.tools import check_choice_exists, check_tool_choice, check_tools

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
    given = {name: value for name, value in body.items() if value is not None}
    _refuse_two_states(given)
    loaded = _load(given)
    # marshmallow puts unknown keys in the order of a set, which differs from process to process.
    return {name: loaded[name] for name in given}


@dataclass(frozen=True, slots=True)
class CompactRequest:
    """A body of `POST /v1/responses/compact`, and what it means when it does not say."""

    request: dict[str, Any]
    answers: bool
    """There is a history and new input, or a string: the model answers it."""


def read_compact(body: object) -> CompactRequest:
    """The parameters of a response; an empty `input` counts as absent."""
    if not isinstance(body, dict):
        raise not_an_object(body)
    given = {name: value for name, value in body.items() if value is not None}
    if given.get("input") in ("", []):
        del given["input"]
    _refuse_two_states(given)
    loaded = _load(given)
    histories = given.keys() & {"previous_response_id", "conversation"}
    if "input" not in given and not histories:
        raise missing_parameter("input")
    said = given.get("input")
    answers = isinstance(said, str) or (said is not None and bool(histories))
    return CompactRequest({name: loaded[name] for name in given}, answers)


def read_count(body: object) -> dict[str, Any]:
    """A body of `POST /v1/responses/input_tokens`: the same parameters, of which none has to be there."""
    if not isinstance(body, dict):
        raise not_an_object(body)
    given = {name: value for name, value in body.items() if value is not None}
    _refuse_two_states(given)
    loaded = _load({"model": "any", **given})
    return {name: loaded[name] for name in given}


def read_include(value: object, param: str = "include") -> list[str]:
    """The `include` values, which come in a query argument or in a body."""
    try:
        _INCLUDE.check(value)
    except Fault as fault:
        raise fault.at(param) from None
    return cast(list[str], value)


def _load(given: dict[str, Any]) -> dict[str, Any]:
    """Runs the schema. marshmallow itself only finds required parameters that are missing."""
    try:
        loaded: dict[str, Any] = _schema_for(_KNOWN.intersection(given)).load(given)
    except ValidationError as error:
        raise missing_parameter(next(iter(error.messages_dict))) from None
    return loaded


def _refuse_two_states(given: dict[str, Any]) -> None:
    if "previous_response_id" in given and "conversation" in given:
        raise InvalidRequest(
            "Mutually exclusive parameters. Ensure you are only providing one of: "
            "'previous_response_id' or 'conversation'.",
            code="mutually_exclusive_parameters",
        )


def _require_input(loaded: dict[str, Any]) -> None:
    if loaded.keys().isdisjoint(("input", "previous_response_id", "conversation", "prompt")):
        raise missing_parameter("input")


# --- parameters that are unions ---------------------------------------------------------------------------------


class Input(fields.Field[list[dict[str, Any]]]):
    """The one parameter that leaves in another shape than it came in."""

    def _deserialize(
        self, value: Any, attr: str | None, data: AnyMapping[str, Any] | None, **kwargs: Any
    ) -> list[dict[str, Any]]:
        return read_input(value, attr or "input")


class Tools(Plain):
    """A choice that names no tool is reported before errors of the tools themselves."""

    def _deserialize(self, value: Any, attr: str | None, data: AnyMapping[str, Any] | None, **kwargs: Any) -> Any:
        _check_choice_exists(data or {})
        return super()._deserialize(value, attr, data, **kwargs)


class ToolChoice(Plain):
    def _deserialize(self, value: Any, attr: str | None, data: AnyMapping[str, Any] | None, **kwargs: Any) -> Any:
        choice = super()._deserialize(value, attr, data, **kwargs)
        _check_choice_exists(data or {})
        return choice


def _check_choice_exists(request: AnyMapping[str, Any]) -> None:
    try:
        check_choice_exists(request.get("tool_choice"), request)
    except Fault as fault:
        raise fault.at("tool_choice") from None


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


_TEXT = StrictText()
_ID = StrictText(min=1)
_TEXT_MEMBER = Mapping({"text": _TEXT})
_TYPE_MEMBER = Mapping({"type": _TEXT})
_ID_MEMBER = Mapping({"id": _TEXT}, needs=("id",))
_TRUNCATION = Choice("auto", "disabled")
_TRUNCATION_MEMBER = Mapping({"type": _TRUNCATION}, needs=("type",))
_CONTEXT_EDITS = ListOf(Plain(_check_context_edit))
_COMPACTION = Mapping(
    {
        "compact_threshold": Integer(min=1),
        "strategy": Choice("auto", "native", "summary", "trim"),
        "keep_turns": Integer(min=0),
        "max_tokens": Integer(min=1),
        "instructions": _TEXT,
        "answer": Boolean(),
    }
)
_SUMMARY = Choice("auto", "concise", "detailed")
_REASONING = {
    "effort": Choice("none", "minimal", "low", "medium", "high", "xhigh", "max"),
    "summary": _SUMMARY,
    "generate_summary": _SUMMARY,
    "context": Choice("auto", "current_turn", "all_turns"),
}
_FORMAT_TYPE = Mapping({"type": Choice("text", "json_object", "json_schema")}, needs=("type",))
_JSON_SCHEMA = Mapping(
    {
        "name": StrictText(min=1, max=64, pattern="[a-zA-Z0-9_-]+"),
        "schema": Mapping(),
        "description": _TEXT,
        "strict": Boolean(),
    },
    needs=("name", "schema"),
)
_INCLUDABLE = Choice(
    "file_search_call.results",
    "web_search_call.results",
    "web_search_call.action.sources",
    "message.input_image.image_url",
    "computer_call_output.output.image_url",
    "code_interpreter_call.outputs",
    "reasoning.encrypted_content",
    "message.output_text.logprobs",
)
_INCLUDE = ListOf(_INCLUDABLE, of="strings")


# --- the body ---------------------------------------------------------------------------------------------------


class CreateSchema(Schema):
    """Members in the order of their errors. Unknown keys pass: clients send more than any specification lists."""

    class Meta:
        unknown = INCLUDE

    model = StrictText(min=1, required=True)
    input = Input()
    instructions = Plain(_check_instructions)
    previous_response_id = Plain(_check_previous_response_id)
    conversation = Plain(_check_conversation)
    prompt = Mapping({"id": _ID, "version": _TEXT, "variables": Mapping()}, needs=("id",))
    stream = Boolean()
    stream_options = Mapping({"include_obfuscation": Boolean()})
    store = Boolean()
    background = Boolean()
    include = _INCLUDE
    tools = Tools(check_tools)
    tool_choice = ToolChoice(check_tool_choice)
    parallel_tool_calls = Boolean()
    max_tool_calls = Integer(min=1)
    max_output_tokens = Integer(min=1)
    temperature = Number(min=0, max=2)
    top_p = Number(min=0, max=1)
    presence_penalty = Number(min=-2, max=2)
    frequency_penalty = Number(min=-2, max=2)
    top_logprobs = Integer(min=0, max=20)
    reasoning = Mapping(_REASONING)
    text = Mapping({"format": Plain(_check_text_format), "verbosity": Choice("low", "medium", "high")})
    truncation = Plain(_check_truncation)
    context_management = Plain(_check_context_management)
    metadata = TextPairs(max=16, max_key=64, max_value=512)
    service_tier = Choice("auto", "default", "flex", "scale", "priority", "fast", "ultrafast")
    safety_identifier = StrictText(max=128)
    prompt_cache_key = _TEXT
    user = _TEXT


CREATE = CreateSchema()
_KNOWN = frozenset(CREATE.fields)


@lru_cache(maxsize=128)
def _schema_for(given: frozenset[str]) -> Schema:
    """The schema with what was given and what must be: it spends its time on every field that it has."""
    return CreateSchema(only=[name for name, field in CREATE.fields.items() if name in given or field.required])
