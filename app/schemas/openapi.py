"""The API as an OpenAPI 3.1 document. `make openapi` writes it to the file that `/openapi.json` serves, so that no
gateway imports the generator.

Requests are described by the fields that check them, items and tools by their tables. Answers are described by the
builders of their objects. The operations are the table below.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson
from apispec import APISpec
from apispec.ext.marshmallow import MarshmallowPlugin
from marshmallow import Schema, fields

from app.contract.events import ERROR, HEAD, TERMINAL
from app.contract.response import DEFAULTS
from app.contract.usage import Usage
from app.schemas.chat import ChatSchema
from app.schemas.create import INCLUDE, CreateSchema
from app.schemas.fields import Checked, Components, JSONSchema, or_null
from app.schemas.items import ITEM
from app.schemas.listing import DEFAULT_LIMIT, MAX_LIMIT, ORDERS

Document = dict[str, Any]

JSON = "application/json"
EVENTS = "text/event-stream"
_BEARER = "bearer"

_TEXT: JSONSchema = {"type": "string"}
_COUNT: JSONSchema = {"type": "integer", "minimum": 0}
_TIME: JSONSchema = {"type": "integer", "description": "Unix seconds."}


# --- operations -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Operation:
    """One method of one path."""

    method: str
    path: str
    summary: str
    answer: str
    """Name of the schema of its JSON answer."""
    body: str = ""
    """Name of the schema of its body; empty without one."""
    example: Mapping[str, Any] | None = None
    streams: bool = False
    """Answers with events when the request says `stream`."""
    query: Sequence[str] = ()
    public: bool = False
    tag: str = "Responses"


_PAGE = ("order", "after", "limit")

OPERATIONS: Sequence[Operation] = (
    Operation(
        "post",
        "/v1/responses",
        "Create a response. With `background`, a worker makes it; with `stream`, the answer is a stream of events.",
        "Response",
        "CreateResponse",
        {"model": "demo", "input": "Say hello."},
        streams=True,
    ),
    Operation("get", "/v1/responses", "Upgrade to a WebSocket, over which turns are frames.", "Error"),
    Operation(
        "get",
        "/v1/responses/{response_id}",
        "Retrieve a response. With `stream=true`, the events of a background response, from `starting_after` on.",
        "Response",
        query=("include", "stream", "starting_after"),
        streams=True,
    ),
    Operation("delete", "/v1/responses/{response_id}", "Delete a response and its content for good.", "Deleted"),
    Operation("post", "/v1/responses/{response_id}/cancel", "Cancel a background response.", "Response"),
    Operation(
        "get",
        "/v1/responses/{response_id}/input_items",
        "List the context that the model was given.",
        "ItemList",
        query=(*_PAGE, "include"),
    ),
    Operation(
        "post",
        "/v1/responses/compact",
        "Compact a history. With something to answer, an ordinary response; otherwise a compaction window.",
        "Compaction",
        "CompactResponse",
        {"model": "demo", "input": [{"role": "user", "content": "Remember that the sky is blue."}]},
        streams=True,
    ),
    Operation(
        "post",
        "/v1/responses/input_tokens",
        "Count the tokens of a request without answering it.",
        "InputTokens",
        "CountTokens",
        {"model": "demo", "input": "Say hello."},
    ),
    Operation(
        "post",
        "/v1/conversations",
        "Create a conversation.",
        "Conversation",
        "CreateConversation",
        {"metadata": {"topic": "demo"}},
        tag="Conversations",
    ),
    Operation(
        "get",
        "/v1/conversations/{conversation_id}",
        "Retrieve a conversation.",
        "Conversation",
        tag="Conversations",
    ),
    Operation(
        "post",
        "/v1/conversations/{conversation_id}",
        "Replace the metadata of a conversation.",
        "Conversation",
        "UpdateConversation",
        {"metadata": {"topic": "demo"}},
        tag="Conversations",
    ),
    Operation(
        "delete",
        "/v1/conversations/{conversation_id}",
        "Delete a conversation. Its responses stay.",
        "Deleted",
        tag="Conversations",
    ),
    Operation(
        "get",
        "/v1/conversations/{conversation_id}/items",
        "List the items of a conversation.",
        "ItemList",
        query=(*_PAGE, "include"),
        tag="Conversations",
    ),
    Operation(
        "post",
        "/v1/conversations/{conversation_id}/items",
        "Add items to a conversation.",
        "ItemList",
        "AddItems",
        {"items": [{"role": "user", "content": "Hello!"}]},
        query=("include",),
        tag="Conversations",
    ),
    Operation(
        "get",
        "/v1/conversations/{conversation_id}/items/{item_id}",
        "Retrieve an item of a conversation.",
        "Item",
        query=("include",),
        tag="Conversations",
    ),
    Operation(
        "delete",
        "/v1/conversations/{conversation_id}/items/{item_id}",
        "Delete an item of a conversation.",
        "Conversation",
        tag="Conversations",
    ),
    Operation(
        "post",
        "/v1/chat/completions",
        "Relayed without translation to channels that serve Chat Completions.",
        "ChatCompletion",
        "CreateChatCompletion",
        {"model": "demo", "messages": [{"role": "user", "content": "Say hello."}]},
        streams=True,
        tag="Chat",
    ),
    Operation(
        "get",
        "/v1/models",
        "List the models that the token may use; with `client_version`, also the catalogue of Codex.",
        "ModelList",
        query=("client_version",),
        tag="Models",
    ),
    Operation("get", "/v1/models/{model}", "Retrieve a model.", "Model", tag="Models"),
    Operation("get", "/healthz", "The process answers.", "Health", public=True, tag="Health"),
    Operation(
        "get",
        "/readyz",
        "The gateway can serve: database, schema and a channel are usable. 503 with the reasons otherwise.",
        "Readiness",
        public=True,
        tag="Health",
    ),
)

#: Statuses that any operation with a token may answer with, beside those of its own.
_REFUSALS = {
    "400": "The request is wrong; `error.param` names the parameter.",
    "401": "The token is missing, unknown, revoked or expired.",
    "404": "There is no such object, or another owner has it.",
    "429": "A limit of the token or of the upstream is reached; `Retry-After` says when to try again.",
    "503": "No channel can answer now; `Retry-After` says when to try again.",
}

_QUERY: Mapping[str, JSONSchema] = {
    "order": {"type": "string", "enum": list(ORDERS), "default": "desc"},
    "after": {"type": "string", "description": "The id of the item before the page."},
    "limit": {"type": "integer", "minimum": 1, "maximum": MAX_LIMIT, "default": DEFAULT_LIMIT},
    "stream": {"type": "boolean"},
    "starting_after": {"type": "integer", "minimum": 0, "description": "The last event that was received."},
    "client_version": {"type": "string", "description": "The version of Codex."},
}


# --- the objects of answers -------------------------------------------------------------------------------------

#: The types that the echoed members have where their default is null.
_NULL_DEFAULTS: Mapping[str, JSONSchema] = {
    "instructions": {"type": ["string", "array", "object", "null"]},
    "max_output_tokens": {"type": ["integer", "null"]},
    "max_tool_calls": {"type": ["integer", "null"]},
}
_TYPES = {bool: "boolean", int: "number", float: "number", str: "string", dict: "object", list: "array"}


def _echoed() -> dict[str, JSONSchema]:
    """The members of a response that repeat the request."""
    described: dict[str, JSONSchema] = {}
    for name, default in DEFAULTS.items():
        if default is None:
            described[name] = dict(_NULL_DEFAULTS.get(name, {"type": ["string", "null"]}))
        else:
            described[name] = {"type": _TYPES[type(default)]}
    # A mode, or an object that names a tool.
    described["tool_choice"] = {"type": ["string", "object"]}
    described["tools"] = {"type": "array", "items": {"type": "object"}}
    return described


def _object(members: Mapping[str, JSONSchema], *optional: str) -> JSONSchema:
    return {
        "type": "object",
        "properties": dict(members),
        "required": [name for name in members if name not in optional],
    }


def _ref(name: str) -> JSONSchema:
    return {"$ref": f"#/components/schemas/{name}"}


def _usage() -> JSONSchema:
    return _object(
        {
            name: _object(dict.fromkeys(value, _COUNT)) if isinstance(value, dict) else _COUNT
            for name, value in Usage().wire().items()
        }
    )


def _list_of(name: str) -> JSONSchema:
    return {"type": "array", "items": _ref(name)}


def _const(value: Any) -> JSONSchema:
    return {"const": value}


_STATUSES = ["queued", "in_progress", "completed", "incomplete", "failed", "cancelled"]
_METADATA: JSONSchema = {"type": "object", "additionalProperties": _TEXT}

ANSWERS: Mapping[str, JSONSchema] = {
    "Error": _object(
        {
            "error": _object(
                {
                    "message": _TEXT,
                    "type": _TEXT,
                    "param": or_null(_TEXT),
                    "code": or_null(_TEXT),
                }
            )
        }
    ),
    "Usage": _usage(),
    "Item": {
        "type": "object",
        "properties": {"type": _TEXT, "id": _TEXT},
        "required": ["type"],
        "description": "An item of the conversation, by its type. It may be sent back in a later input as it is.",
    },
    "Response": _object(
        {
            "id": {"type": "string", "pattern": "^resp_"},
            "object": _const("response"),
            "created_at": _TIME,
            "status": {"type": "string", "enum": _STATUSES},
            "completed_at": or_null(_TIME),
            "error": or_null(_object({"code": _TEXT, "message": _TEXT})),
            "incomplete_details": or_null(_object({"reason": _TEXT})),
            "model": _TEXT,
            "previous_response_id": or_null(_TEXT),
            **_echoed(),
            "output": _list_of("Item"),
            "usage": or_null(_ref("Usage")),
        }
    ),
    "Event": {
        "type": "object",
        "properties": {"type": _TEXT, "sequence_number": _COUNT},
        "required": ["type"],
        "description": "A stream begins with "
        + ", ".join(f"`{kind}`" for kind, _ in HEAD)
        + f" and ends with one of {', '.join(f'`{kind}`' for kind in TERMINAL)}, which a failure precedes with "
        + f"`{ERROR}`; then `[DONE]`.",
    },
    "Deleted": _object({"id": _TEXT, "object": _TEXT, "deleted": _const(True)}),
    "ItemList": _object(
        {
            "object": _const("list"),
            "data": _list_of("Item"),
            "first_id": or_null(_TEXT),
            "last_id": or_null(_TEXT),
            "has_more": {"type": "boolean"},
        }
    ),
    "CompactionWindow": _object(
        {
            "id": _TEXT,
            "object": _const("response.compaction"),
            "created_at": _TIME,
            "output": _list_of("Item"),
            "usage": or_null(_ref("Usage")),
        }
    ),
    "Compaction": {"oneOf": [_ref("Response"), _ref("CompactionWindow")]},
    "InputTokens": _object({"object": _const("response.input_tokens"), "input_tokens": _COUNT}),
    "Conversation": _object(
        {"id": _TEXT, "object": _const("conversation"), "created_at": _TIME, "metadata": _METADATA}
    ),
    "ChatCompletion": {"type": "object", "description": "The upstream's answer, as it came."},
    "Model": _object(
        {
            "id": _TEXT,
            "object": _const("model"),
            "created": _TIME,
            "owned_by": _TEXT,
            "context_window": or_null({"type": "integer"}),
            "max_output_tokens": or_null({"type": "integer"}),
        },
        "context_window",
        "max_output_tokens",
    ),
    "ModelList": _object(
        {"object": _const("list"), "data": _list_of("Model"), "models": {"type": "array", "items": {"type": "object"}}},
        "models",
    ),
    "Health": _object({"status": _const("ok")}),
    "Readiness": _object({"status": {"enum": ["ok", "unavailable"]}, "reasons": _METADATA, "warnings": _METADATA}),
}


# --- the document -----------------------------------------------------------------------------------------------


def document(version: str) -> Document:
    """The whole description of this version of the gateway."""
    components = Components()
    plugin = MarshmallowPlugin()
    spec = APISpec(
        title="Antiphon",
        version=version,
        openapi_version="3.1.0",
        plugins=[plugin],
        info={"description": "The OpenAI Responses API, served by a gateway that keeps the conversation itself."},
        security=[{_BEARER: []}],
        servers=[{"url": "/", "description": "This gateway. The API's base URL ends with /v1, which may be left out."}],
    )
    spec.components.security_scheme(_BEARER, {"type": "http", "scheme": "bearer"})
    assert plugin.converter is not None
    plugin.converter.add_attribute_function(_described_by(components))  # type: ignore[no-untyped-call]
    for name, schema in _SCHEMAS.items():
        spec.components.schema(name, schema=schema)
    bodies = _bodies(components)
    for name, described in {**bodies, **ANSWERS, **components}.items():
        spec.components.schema(name, component=described)
    for operation in OPERATIONS:
        spec.path(operation.path, operations={operation.method: _operation(operation)})
    return spec.to_dict()


def _described_by(components: Components) -> Any:
    def attributes(self: Any, field: fields.Field[Any], **_: Any) -> JSONSchema:
        if not isinstance(field, Checked):
            return {}
        described = components.of(field)
        return described if field.required else or_null(described)

    return attributes


_SCHEMAS: Mapping[str, type[Schema]] = {"CreateResponse": CreateSchema, "CreateChatCompletion": ChatSchema}


def _bodies(components: Components) -> dict[str, JSONSchema]:
    items: JSONSchema = {"type": "array", "items": components.of(ITEM)}
    metadata = or_null(components.of(CreateSchema._declared_fields["metadata"]))  # type: ignore[arg-type]
    return {
        "CompactResponse": {"allOf": [_ref("CreateResponse")]},
        "CountTokens": {"type": "object", "description": "The parameters of CreateResponse, all of them optional."},
        "CreateConversation": {"type": "object", "properties": {"items": or_null(items), "metadata": metadata}},
        "UpdateConversation": _object({"metadata": metadata}),
        "AddItems": _object({"items": {**items, "minItems": 1, "maxItems": 20}}),
    }


def _operation(operation: Operation) -> Document:
    described: Document = {
        "tags": [operation.tag],
        "summary": operation.summary,
        "operationId": _operation_id(operation),
        "parameters": [*_path_parameters(operation.path), *_query_parameters(operation.query)],
        "responses": _responses(operation),
    }
    if operation.public:
        described["security"] = []
    if operation.body:
        content: Document = {"schema": _ref(operation.body)}
        if operation.example is not None:
            content["example"] = dict(operation.example)
        described["requestBody"] = {"required": True, "content": {JSON: content}}
    return described


def _operation_id(operation: Operation) -> str:
    words = operation.path.removeprefix("/v1").replace("{", "").replace("}", "").split("/")
    return "_".join([operation.method, *filter(None, words)])


def _path_parameters(path: str) -> list[Document]:
    names = (piece[1:-1] for piece in path.split("/") if piece.startswith("{"))
    return [{"name": name, "in": "path", "required": True, "schema": _TEXT} for name in names]


def _query_parameters(names: Iterable[str]) -> list[Document]:
    return [{"name": name, "in": "query", "schema": _query_schema(name)} for name in names]


def _query_schema(name: str) -> JSONSchema:
    return INCLUDE.describe(Components()) if name == "include" else _QUERY[name]


def _responses(operation: Operation) -> Document:
    content: Document = {JSON: {"schema": _ref(operation.answer)}}
    if operation.streams:
        content[EVENTS] = {"schema": _ref("Event")}
    if operation.answer == "Error":
        return {"426": {"description": "Only an upgrade is served here.", "content": content}}
    done: Document = {"200": {"description": "The answer.", "content": content}}
    if operation.public:
        return done
    error = {JSON: {"schema": _ref("Error")}}
    return done | {status: {"description": words, "content": error} for status, words in _REFUSALS.items()}


def encoded(version: str) -> bytes:
    """The document as it is served."""
    return orjson.dumps(document(version), option=orjson.OPT_INDENT_2) + b"\n"
