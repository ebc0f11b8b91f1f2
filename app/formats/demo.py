"""A demo model without server, key or network: it answers deterministically from the request.

It answers like a Responses upstream, so that a first request works and clients can be tested: it streams, remembers
the user's statements, calls a tool that the user names, fills a schema, stops at `max_output_tokens` and compacts.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator, Mapping, Sequence
from time import time
from typing import Any

import orjson

from app import ids
from app.contract.channel import Channel
from app.contract.items import Item
from app.contract.response import Echo
from app.contract.token_estimate import estimate_items, estimate_text
from app.contract.turn import Turn
from app.contract.usage import Usage
from app.errors import InvalidRequest
from app.formats import responses
from app.formats._events import pieces
from app.formats.responses import amended, decode, decode_error, decoder, dropped, headers, path

__all__ = ["amended", "decode", "decode_error", "decoder", "dropped", "encode", "headers", "path", "serve"]

#: The minimum of OpenAI's models.
MIN_OUTPUT_TOKENS = 16

_DEEPEST, _LONGEST = 12, 100

_SEAL = "demo:"
#: `my name is Ada`, up to the end of the sentence; `what is my name?`
_FACT = re.compile(r"\bmy\s+([\w'-]+(?:\s+[\w'-]+){0,3}?)\s+is\s+([^.!?;,\n]{1,80})", re.I)
_QUESTION = re.compile(r"\bwhat(?:'s|’s|\s+is|\s+was)\s+my\s+([\w'-]+(?:\s+[\w'-]+){0,3}?)\s*(?:\?|$)", re.I)
#: How a request for a summary begins.
_SUMMARISE = "Summarise the conversation above"


def encode(turn: Turn, row: Channel, model: str) -> bytes:
    """The body for a Responses upstream. Stored prompts are refused."""
    if "prompt" in turn.request:
        raise InvalidRequest(
            f"The model '{turn.model}' does not take 'prompt'. Send 'input' instead.",
            code="unsupported_parameter",
            param="prompt",
        )
    return responses.encode(turn, row, model)


def serve(path: str, body: bytes) -> tuple[int, Iterator[bytes]]:
    request = orjson.loads(body)
    if refusal := _refusal(request):
        return 400, iter((orjson.dumps({"error": refusal}),))
    response = _respond(request)
    if request.get("stream"):
        return 200, iter(responses.stream(response))
    return 200, iter((orjson.dumps(response),))


def _refusal(request: Mapping[str, Any]) -> dict[str, Any] | None:
    limit = request.get("max_output_tokens")
    if limit is not None and limit < MIN_OUTPUT_TOKENS:
        return {
            "message": "Invalid 'max_output_tokens': integer below minimum value. "
            f"Expected a value >= {MIN_OUTPUT_TOKENS}, but got {limit} instead.",
            "type": "invalid_request_error",
            "param": "max_output_tokens",
            "code": "integer_below_min_value",
        }
    return None


def _respond(request: Mapping[str, Any]) -> dict[str, Any]:
    output, cut = _cut(_output(request), request.get("max_output_tokens"))
    usage = _usage(request, output)
    now = int(time())
    return Echo({}).response(
        id=ids.new("resp"),
        created_at=now,
        model=request["model"],
        previous_response_id=None,
        status="incomplete" if cut else "completed",
        output=output,
        usage=usage,
        completed_at=now,
        incomplete_details={"reason": "max_output_tokens"} if cut else None,
    )


def _output(request: Mapping[str, Any]) -> list[Item]:
    items = request["input"]
    if items and items[-1].get("type") == "compaction_trigger":
        return [_compaction(items[:-1])]
    if names := _wanted_calls(request):
        return [_call(tool, request) for tool in names]
    return [_message(_text(request))]


# --- calls ------------------------------------------------------------------------------------------------------


def _wanted_calls(request: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    """The tools to call: a forced one, else those that the user's last message names."""
    tools = [tool for tool in _flat(request.get("tools", ())) if tool.get("type") in ("function", "custom")]
    choice = request.get("tool_choice", "auto")
    if not tools or choice == "none":
        return ()
    if isinstance(choice, Mapping) and "name" in choice:
        return [tool for tool in tools if tool["name"] == choice["name"]][:1]
    last = request["input"][-1] if request["input"] else {}
    user_text = _text_of(last) if last.get("role") == "user" else ""
    named = [tool for tool in tools if tool["name"].lower() in user_text.lower()]
    if not named and choice == "required" and last.get("role") == "user":
        named = tools[:1]
    return named if request.get("parallel_tool_calls", True) else named[:1]


def _flat(tools: Sequence[Mapping[str, Any]]) -> Iterator[Mapping[str, Any]]:
    for tool in tools:
        if tool.get("type") == "namespace":
            yield from ({**inner, "namespace": tool["name"]} for inner in tool.get("tools", ()))
        else:
            yield tool


def _call(tool: Mapping[str, Any], request: Mapping[str, Any]) -> Item:
    where = {"namespace": tool["namespace"]} if "namespace" in tool else {}
    if tool["type"] == "custom":
        text = _text_of(request["input"][-1])
        return {
            "type": "custom_tool_call",
            "id": ids.new("ctc"),
            "call_id": ids.new("call"),
            "name": tool["name"],
            "input": text,
            **where,
        }
    return {
        "type": "function_call",
        "id": ids.new("fc"),
        "call_id": ids.new("call"),
        "name": tool["name"],
        "arguments": orjson.dumps(_arguments(tool, _text_of(request["input"][-1]))).decode(),
        "status": "completed",
        **where,
    }


def _arguments(tool: Mapping[str, Any], user_text: str) -> Any:
    """Arguments that fit the schema. `calculator: 6 * 7` gives the words behind the tool's name to its first text."""
    schema = tool.get("parameters") or {}
    arguments = example(schema)
    said = re.search(rf"{re.escape(tool['name'])}\s*:\s*(\S.*)", user_text, re.I)
    texts = [
        name for name, inner in _properties(schema) if isinstance(inner, Mapping) and inner.get("type") == "string"
    ]
    if said is None or not texts or not isinstance(arguments, dict):
        return arguments
    return {**arguments, texts[0]: said[1].strip()}


def _properties(schema: Mapping[str, Any]) -> Sequence[tuple[str, Any]]:
    """The required properties, then the others."""
    known, required = schema.get("properties"), schema.get("required")
    if not isinstance(known, Mapping):
        return []
    first = required if isinstance(required, list) else []
    return sorted(known.items(), key=lambda entry: entry[0] not in first)


# --- words ------------------------------------------------------------------------------------------------------


def _text(request: Mapping[str, Any]) -> str:
    wanted = (request.get("text") or {}).get("format") or {}
    if wanted.get("type") == "json_schema":
        return orjson.dumps(example(wanted.get("schema"))).decode()
    if wanted.get("type") == "json_object":
        return orjson.dumps({"demo": True}).decode()
    items = request["input"]
    last = items[-1] if items else {}
    turns = sum(1 for item in items if item.get("role") == "user")
    if str(last.get("type", "")).endswith("_output"):
        return f"The tool answered: {_text_of(last)}"
    user_text = _text_of(last)
    if user_text.startswith(_SUMMARISE):
        return "The user said: " + "; ".join(_text_of(item)[:80] for item in items[:-1] if item.get("role") == "user")
    if known := _recalled(user_text, items[:-1]):
        return known
    hello = "Hello! I am Antiphon's demo model: I live in the gateway and need neither a key nor a network."
    if turns <= 1 and not any(item.get("type") == "compaction" for item in items):
        return f"{hello} You said: {user_text}"
    return f"You said: {user_text} I remember the {len(items) - 1} items before it; this is turn {turns}."


def _recalled(question: str, before: Sequence[Item]) -> str:
    """The answer to a question about an earlier statement: `My name is Ada.`, then `What is my name?`"""
    found = _QUESTION.search(question)
    if found is None:
        return ""
    thing = _words(found[1])
    values = [fact[2] for text in _user_texts(before) for fact in _FACT.finditer(text) if _words(fact[1]) == thing]
    return f"Your {thing} is {' '.join(values[-1].split())}." if values else ""


def _words(text: str) -> str:
    return " ".join(text.lower().split())


def _user_texts(items: Sequence[Item]) -> Iterator[str]:
    """User messages in order, with those inside the demo's own compaction items."""
    for item in items:
        if item.get("role") == "user":
            yield _text_of(item)
        elif item.get("type") == "compaction":
            yield from _opened(str(item.get("encrypted_content", "")))


def _text_of(item: Mapping[str, Any]) -> str:
    content = item.get("content", item.get("output", ""))
    if isinstance(content, str):
        return content
    texts = (part.get("text") for part in content if isinstance(part, Mapping))
    return " ".join(text for text in texts if isinstance(text, str))


def _message(text: str) -> Item:
    return {
        "type": "message",
        "id": ids.new("msg"),
        "status": "completed",
        "role": "assistant",
        "content": [{"type": "output_text", "text": text, "annotations": [], "logprobs": []}],
    }


def _cut(output: list[Item], limit: int | None) -> tuple[list[Item], bool]:
    """The output cut to `limit` tokens, one a word, and whether it was cut."""
    if limit is None or output[0]["type"] != "message":
        return output, False
    part = output[0]["content"][0]
    words = pieces(part["text"])
    if len(words) <= limit:
        return output, False
    shorter = {**part, "text": "".join(words[:limit])}
    return [{**output[0], "status": "incomplete", "content": [shorter]}], True


def _usage(request: Mapping[str, Any], output: Sequence[Item]) -> Usage:
    given = _tokens(request["input"]) + _tokens(request.get("instructions") or "")
    output_tokens = sum(len(pieces(_text_of(item))) or 8 for item in output)
    return Usage(input_tokens=given, output_tokens=output_tokens)


def _tokens(value: str | Sequence[Item]) -> int:
    return estimate_text(value) if isinstance(value, str) else estimate_items(value)


# --- compaction -------------------------------------------------------------------------------------------------


def _compaction(items: Sequence[Item]) -> Item:
    """The demo's own compaction item: the user messages, shortened."""
    texts = [_text_of(item)[:80] for item in items if item.get("role") == "user"]
    sealed = base64.b64encode(orjson.dumps(texts)).decode()
    return {"type": "compaction", "id": ids.new("cmp"), "encrypted_content": _SEAL + sealed}


def _opened(sealed: str) -> Sequence[str]:
    """The content that `_compaction` wrote; empty for items of other models."""
    if not sealed.startswith(_SEAL):
        return ()
    try:
        texts = orjson.loads(base64.b64decode(sealed.removeprefix(_SEAL)))
    except ValueError:
        return ()
    return [text for text in texts if isinstance(text, str)] if isinstance(texts, list) else ()


# --- schemas ----------------------------------------------------------------------------------------------------


def example(schema: object, root: object = None, depth: int = 0) -> Any:
    """A small value that fits a JSON schema of the kinds that structured output allows; a guess for any other."""
    if not isinstance(schema, Mapping) or depth > _DEEPEST:
        return None
    root = schema if root is None else root
    if "$ref" in schema:
        return example(_resolve(str(schema["$ref"]), root), root, depth + 1)
    if "const" in schema:
        return schema["const"]
    for choice in ("enum", "anyOf", "oneOf", "allOf"):
        options = schema.get(choice)
        if isinstance(options, list) and options:
            return options[0] if choice == "enum" else example(options[0], root, depth + 1)
    kind = schema.get("type")
    kind = kind[0] if isinstance(kind, list) and kind else kind
    if kind == "object" or "properties" in schema:
        return _object(schema, root, depth)
    if kind == "array":
        least = schema.get("minItems", 1)
        count = least if isinstance(least, int) and 0 <= least <= _LONGEST else 1
        return [example(schema.get("items", {}), root, depth + 1) for _ in range(count)]
    if kind in ("integer", "number"):
        least = schema.get("minimum", 1)
        return least if isinstance(least, int | float) else 1
    return {"boolean": True, "null": None}.get(str(kind), "demo")


def _object(schema: Mapping[str, Any], root: object, depth: int) -> dict[str, Any]:
    properties, required = schema.get("properties"), schema.get("required")
    known = properties if isinstance(properties, Mapping) else {}
    names = required if isinstance(required, list) else list(known)
    return {str(name): example(known.get(str(name), {}), root, depth + 1) for name in names}


def _resolve(reference: str, root: object) -> object:
    found = root
    for name in reference.removeprefix("#").strip("/").split("/"):
        found = found.get(name) if isinstance(found, Mapping) and name else found
    return found
