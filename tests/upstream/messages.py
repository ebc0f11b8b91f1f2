"""Anthropic's Messages API: what it refuses, in its own words, what its model says, the events of a stream."""

from __future__ import annotations

import base64
import binascii
import hashlib
import itertools
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import orjson

from tests.upstream.exchange import JSON, STREAM_HEADERS, Answer, Piece, Refused, event_bytes
from tests.upstream.model import Ids, example, fragments, snapshot, tools_to_call, words

REQUEST_ID = "req_011CScriptedUpstream"
HEADERS = {"request-id": REQUEST_ID}
ERRORS = {
    400: "invalid_request_error",
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    504: "timeout_error",
    529: "overloaded_error",
}
PARAMETERS = {
    *("model", "messages", "max_tokens", "system", "stream", "stop_sequences", "temperature", "top_k", "top_p"),
    *("tools", "tool_choice", "thinking", "metadata", "service_tier", "output_config", "cache_control", "container"),
    "inference_geo",
}
#: The keys of each kind of block: those it must have, and those it may have.
BLOCKS: dict[str, tuple[set[str], set[str]]] = {
    "text": ({"text"}, {"cache_control", "citations"}),
    "image": ({"source"}, {"cache_control"}),
    "document": ({"source"}, {"title", "context", "citations", "cache_control"}),
    "tool_use": ({"id", "name", "input"}, {"cache_control", "caller"}),
    "tool_result": ({"tool_use_id"}, {"content", "is_error", "cache_control"}),
    "thinking": ({"thinking", "signature"}, set()),
    "redacted_thinking": ({"data"}, set()),
}
OF_ROLE = {
    "user": {"text", "image", "document", "tool_result"},
    "assistant": {"text", "tool_use", "thinking", "redacted_thinking"},
}
IN_RESULTS = {"text", "image", "document"}
IMAGES = ("image/jpeg", "image/png", "image/gif", "image/webp")
THOUGHT = ("thinking", "redacted_thinking")
TOOL_NAME = re.compile(r"[a-zA-Z0-9_-]{1,128}")
CALL_ID = re.compile(r"[a-zA-Z0-9_-]+")
MIN_BUDGET = 1024
MAX_MARKS = 4


@dataclass(frozen=True, slots=True)
class Model:
    """`family`: upstreams of one family trust each other's signatures."""

    family: str
    call_id_length: int

    def answer(self, body: JSON, ids: Ids) -> Answer:
        _check_parameters(body)
        _check_tools(body)
        _check_messages(body, self._signature)
        content, reason = self._content(body, ids)
        final = _final(body, ids, content, reason)
        if not body.get("stream"):
            return Answer(200, {"Content-Type": "application/json", **HEADERS}, (orjson.dumps(final),))
        events = tuple(event_bytes(event) for event in _events(final))
        return Answer(200, {**STREAM_HEADERS, **HEADERS}, events, "chunked", ending=2)

    def _signature(self, thought: str) -> str:
        digest = hashlib.sha256(f"{self.family}/{thought}".encode()).digest()
        return base64.b64encode(digest * 4).decode()

    def _content(self, body: JSON, ids: Ids) -> tuple[list[JSON], str]:
        question = _question(body["messages"])
        thought = self._thought(body)
        tools = tools_to_call(_openai_tools(body), question, answered=_is_result(body["messages"][-1]))
        if tools:
            blocks = [_text("Let me look.")] if "explain" in question else []
            calls = (self._call(tool, number, ids) for number, tool in enumerate(tools))
            return [*thought, *blocks, *calls], "tool_use"
        if "refuse" in question:
            return thought, "refusal"
        text = _sentence(body, question)
        if body["max_tokens"] <= 20:
            return [*thought, _text("".join(words(text)[:3]))], "max_tokens"
        return [*thought, _text(text)], "end_turn"

    def _thought(self, body: JSON) -> list[JSON]:
        if not _thinks(body):
            return []
        thought = "I have thought about it."
        return [{"type": "thinking", "thinking": thought, "signature": self._signature(thought)}]

    def _call(self, tool: JSON, number: int, ids: Ids) -> JSON:
        arguments = example(tool["parameters"], number)
        call_id = ids("toolu", self.call_id_length - len("toolu_"))
        return {"type": "tool_use", "id": call_id, "name": tool["name"], "input": arguments}


# --- who may ask, and how it fails ------------------------------------------------------------------------------


def admit(headers: Mapping[str, str], api_key: str | None) -> None:
    given = headers.get("x-api-key")
    if not given:
        raise Refused(401, "x-api-key header is required")
    if api_key is not None and given != api_key:
        raise Refused(401, "invalid x-api-key")
    if not headers.get("anthropic-version"):
        raise _invalid("anthropic-version: header is required")
    if not headers.get("content-type", "").startswith("application/json"):
        raise _invalid("content-type: must be application/json")


def check_model(name: Any, models: tuple[str, ...] | None) -> None:
    if not name:
        raise _invalid("model: Field required")
    if models is not None and name not in models:
        raise Refused(404, f"model: {name}")


def envelope(refused: Refused) -> JSON:
    kind = ERRORS.get(refused.status, "api_error")
    return {"type": "error", "error": {"type": kind, "message": refused.message}, "request_id": REQUEST_ID}


def too_long() -> Refused:
    return _invalid("prompt is too long: 208310 tokens > 200000 maximum")


def failure(head: tuple[Piece, ...], error: Refused) -> list[JSON]:
    kind = "overloaded_error" if error.code == "overloaded_error" else "api_error"
    return [{"type": "error", "error": {"type": kind, "message": error.message}, "request_id": REQUEST_ID}]


def _invalid(message: str) -> Refused:
    return Refused(400, message)


# --- what is refused: parameters --------------------------------------------------------------------------------


def _check_parameters(body: JSON) -> None:
    for name in ("max_tokens", "messages"):
        if name not in body:
            raise _invalid(f"{name}: Field required")
    for name in sorted(body.keys() - PARAMETERS):
        raise _invalid(f"{name}: Extra inputs are not permitted")
    if type(body["max_tokens"]) is not int or body["max_tokens"] < 1:
        raise _invalid("max_tokens: Input should be greater than or equal to 1")
    _check_sampling(body)
    _check_system(body.get("system", "."))
    for name in sorted((body.get("metadata") or {}).keys() - {"user_id"}):
        raise _invalid(f"metadata.{name}: Extra inputs are not permitted")
    for stop in body.get("stop_sequences") or ():
        if not stop.strip():
            raise _invalid("stop_sequences: each stop sequence must contain non-whitespace")
    if (tier := body.get("service_tier", "auto")) not in ("auto", "standard_only"):
        raise _invalid(f"service_tier: Input should be 'auto' or 'standard_only', not '{tier}'")
    _check_thinking(body)
    _check_output_config(body.get("output_config") or {})
    _check_marks(body)


def _check_marks(body: JSON) -> None:
    system = body.get("system", [])
    content = [message["content"] for message in body["messages"] if isinstance(message["content"], list)]
    blocks = [*body.get("tools", ()), *(system if isinstance(system, list) else ()), *itertools.chain(*content), body]
    marks = [block["cache_control"] for block in blocks if "cache_control" in block]
    if len(marks) > MAX_MARKS:
        raise _invalid(f"A maximum of {MAX_MARKS} blocks with cache_control may be provided. Found {len(marks)}.")
    lifetimes = [mark.get("ttl", "5m") for mark in marks]
    if any(mark["type"] != "ephemeral" for mark in marks) or not set(lifetimes) <= {"5m", "1h"}:
        raise _invalid("cache_control: Input should be {type: 'ephemeral', ttl: '5m' or '1h'}")
    if lifetimes != sorted(lifetimes):
        raise _invalid("a ttl='1h' cache_control block must not come after a ttl='5m' cache_control block.")


def _check_sampling(body: JSON) -> None:
    given = [name for name in ("temperature", "top_p") if body.get(name) is not None]
    for name in given:
        if not 0 <= body[name] <= 1:
            raise _invalid(f"{name}: range: 0..1")
    if len(given) > 1:
        raise _invalid("`temperature` and `top_p` cannot both be specified for this model. Please use only one.")


def _check_system(system: str | list[JSON]) -> None:
    for number, block in enumerate([_text(system)] if isinstance(system, str) else system):
        if block.get("type") != "text":
            raise _invalid(f"system.{number}.type: Input should be 'text'")
        if not block["text"].strip():
            raise _invalid("system: text content blocks must be non-empty")


def _check_thinking(body: JSON) -> None:
    thinking = body.get("thinking") or {"type": "disabled"}
    if thinking["type"] not in ("enabled", "adaptive", "disabled"):
        raise _invalid("thinking.type: Input should be 'adaptive', 'disabled' or 'enabled'")
    if thinking["type"] == "enabled":
        if thinking.get("budget_tokens", 0) < MIN_BUDGET:
            raise _invalid(f"thinking.enabled.budget_tokens: Input should be greater than or equal to {MIN_BUDGET}")
        if body["max_tokens"] <= thinking["budget_tokens"]:
            raise _invalid("`max_tokens` must be greater than `thinking.budget_tokens`.")
    if _thinks(body):
        if body.get("temperature", 1) != 1:
            raise _invalid("`temperature` may only be set to 1 when thinking is enabled.")
        if "top_k" in body:
            raise _invalid("`top_k` must be unset when thinking is enabled.")
        if (body.get("tool_choice") or {}).get("type") in ("any", "tool"):
            raise _invalid("Thinking may not be enabled when tool_choice forces tool use.")


def _check_output_config(config: JSON) -> None:
    for name in sorted(config.keys() - {"format", "effort"}):
        raise _invalid(f"output_config.{name}: Extra inputs are not permitted")
    if config.get("effort", "low") not in ("low", "medium", "high", "xhigh", "max"):
        raise _invalid("output_config.effort: Input should be 'low', 'medium', 'high', 'xhigh' or 'max'")
    if form := config.get("format"):
        if form.keys() != {"type", "schema"} or form["type"] != "json_schema":
            raise _invalid("output_config.format: Input should be {type: 'json_schema', schema}")
        _check_closed(form["schema"], "output_config.format.schema")


def _check_closed(schema: Any, at: str) -> None:
    if isinstance(schema, list):
        for inner in schema:
            _check_closed(inner, at)
    elif isinstance(schema, dict):
        if schema.get("type") == "object" and schema.get("additionalProperties") is not False:
            raise _invalid(f"{at}: For 'object' type, 'additionalProperties' must be explicitly set to false")
        for inner in schema.values():
            _check_closed(inner, at)


# --- what is refused: tools -------------------------------------------------------------------------------------


def _check_tools(body: JSON) -> None:
    tools = body.get("tools") or []
    names = [tool.get("name") for tool in tools]
    if len(set(names)) < len(names):
        raise _invalid("tools: Tool names must be unique.")
    for number, tool in enumerate(tools):
        if tool.get("type", "custom") == "custom":
            _check_tool(tool, f"tools.{number}.custom")
    choice = body.get("tool_choice")
    if choice is None:
        return
    if not tools:
        raise _invalid("tool_choice: may only be specified while providing `tools`.")
    if choice.get("type") not in ("auto", "any", "tool", "none"):
        raise _invalid("tool_choice: Input tag does not match any of the expected tags: 'auto', 'any', 'tool', 'none'")
    if choice.keys() - {"type", "name", "disable_parallel_tool_use"} or (
        choice["type"] == "none" and "disable_parallel_tool_use" in choice
    ):
        raise _invalid(f"tool_choice.{choice['type']}: Extra inputs are not permitted")
    if choice["type"] == "tool" and choice.get("name") not in names:
        raise _invalid(f"Tool '{choice.get('name')}' not found in provided tools")


def _check_tool(tool: JSON, at: str) -> None:
    known = {"type", "name", "description", "input_schema", "strict", "cache_control", "input_examples"}
    for name in sorted(tool.keys() - known - {"defer_loading", "allowed_callers", "eager_input_streaming"}):
        raise _invalid(f"{at}.{name}: Extra inputs are not permitted")
    for name in ("name", "input_schema"):
        if name not in tool:
            raise _invalid(f"{at}.{name}: Field required")
    if not TOOL_NAME.fullmatch(tool["name"]):
        raise _invalid(f"{at}.name: String should match pattern '^[a-zA-Z0-9_-]{{1,128}}$'")
    if not isinstance(tool.get("description", ""), str):
        raise _invalid(f"{at}.description: Input should be a valid string")
    if tool["input_schema"].get("type") != "object":
        raise _invalid(f"{at}.input_schema.type: Input should be 'object'")
    if tool.get("strict"):
        _check_closed(tool["input_schema"], f"{at}.input_schema")


# --- what is refused: messages ----------------------------------------------------------------------------------


def _check_messages(body: JSON, signature: Callable[[str], str]) -> None:
    messages = body["messages"]
    if not messages:
        raise _invalid("messages: at least one message is required")
    for position, message in enumerate(messages):
        _check_message(message, f"messages.{position}", last=position == len(messages) - 1)
        for number, block in enumerate(_blocks(message)):
            _check_block(block, f"messages.{position}.content.{number}", message["role"], signature)
    _check_roles(messages)
    _check_calls(messages)
    if (body.get("thinking") or {}).get("type") == "enabled":
        _check_thought_first(messages)


def _check_message(message: JSON, at: str, last: bool) -> None:
    if message.get("role") not in OF_ROLE:
        sentence = f'messages: Unexpected role "{message.get("role")}". Allowed roles are "user" or "assistant".'
        raise _invalid(sentence)
    for name in sorted(message.keys() - {"role", "content"}):
        raise _invalid(f"{at}.{name}: Extra inputs are not permitted")
    if "content" not in message:
        raise _invalid(f"{at}.content: Field required")
    if not message["content"] and not (last and message["role"] == "assistant"):
        raise _invalid(f"{at}: all messages must have non-empty content except for the final assistant message")


def _check_roles(messages: list[JSON]) -> None:
    """Anthropic itself joins messages of one role by now; others that speak its format still refuse them."""
    if messages[0]["role"] != "user":
        raise _invalid('messages: first message must use the "user" role')
    for one, other in itertools.pairwise(messages):
        if one["role"] == other["role"]:
            sentence = f'found multiple "{one["role"]}" roles in a row'
            raise _invalid(f'messages: roles must alternate between "user" and "assistant", but {sentence}')
    blocks = _blocks(messages[-1])
    if messages[-1]["role"] == "assistant" and blocks and blocks[-1].get("text", ".")[-1:].isspace():
        raise _invalid("messages: final assistant content cannot end with trailing whitespace")


def _check_block(block: JSON, at: str, role: str, signature: Callable[[str], str]) -> None:
    kind = block.get("type")
    if kind not in BLOCKS:
        listed = ", ".join(f"'{name}'" for name in BLOCKS)
        raise _invalid(f"{at}: Input tag '{kind}' found using 'type' does not match any of the expected tags: {listed}")
    if kind not in OF_ROLE[role]:
        raise _invalid(f"{at}: `{kind}` blocks are not permitted in `{role}` messages")
    required, optional = BLOCKS[kind]
    for name in sorted(required - block.keys()):
        raise _invalid(f"{at}.{kind}.{name}: Field required")
    for name in sorted(block.keys() - required - optional - {"type"}):
        raise _invalid(f"{at}.{kind}.{name}: Extra inputs are not permitted")
    if kind == "thinking" and block["signature"] != signature(block["thinking"]):
        raise _invalid(f"{at}: Invalid `signature` in `thinking` block")
    if kind == "tool_use":
        _check_call(block, f"{at}.tool_use")
    _check_payload(block, f"{at}.{kind}")
    if kind == "tool_result":
        _check_result(block, f"{at}.tool_result", signature)


def _check_payload(block: JSON, at: str) -> None:
    if block["type"] == "text" and not block["text"]:
        raise _invalid("messages: text content blocks must be non-empty")
    if block["type"] == "text" and not block["text"].strip():
        raise _invalid("messages: text content blocks must contain non-whitespace text")
    if block["type"] == "image":
        _check_source(block["source"], at, IMAGES)
    if block["type"] == "document":
        _check_source(block["source"], at, ("application/pdf", "text/plain"))


def _check_source(source: JSON, at: str, media: tuple[str, ...]) -> None:
    kind = source.get("type")
    if kind == "url":
        if not source["url"].startswith(("https://", "http://")):
            raise _invalid(f"{at}.source.url: Only HTTP(S) URLs are supported.")
    elif kind in ("base64", "text"):
        if source.get("media_type") not in media:
            listed = ", ".join(f"'{name}'" for name in media)
            raise _invalid(f"{at}.source.{kind}.media_type: Input should be {listed}")
        _check_data(source, at)
    elif kind not in ("file", "content"):
        raise _invalid(f"{at}.source: Input tag '{kind}' does not match any of the expected tags")


def _check_data(source: JSON, at: str) -> None:
    if source["type"] == "text":
        if not source["data"].strip():
            raise _invalid(f"{at}.source.text.data: must be non-empty")
        return
    try:
        base64.b64decode(source["data"], validate=True)
    except (binascii.Error, ValueError):
        raise _invalid(f"{at}.source.base64: invalid base64 data") from None


def _check_call(block: JSON, at: str) -> None:
    if not CALL_ID.fullmatch(block["id"]):
        raise _invalid(f"{at}.id: String should match pattern '^[a-zA-Z0-9_-]+$'")
    if not TOOL_NAME.fullmatch(block["name"]):
        raise _invalid(f"{at}.name: String should match pattern '^[a-zA-Z0-9_-]{{1,128}}$'")
    if not isinstance(block["input"], dict):
        raise _invalid(f"{at}.input: Input should be a valid dictionary")


def _check_result(block: JSON, at: str, signature: Callable[[str], str]) -> None:
    content = block.get("content")
    if content is None or isinstance(content, str):
        return
    for number, inner in enumerate(content):
        if inner.get("type") not in IN_RESULTS:
            raise _invalid(f"{at}.content.{number}: Input tag '{inner.get('type')}' does not match the expected tags")
        _check_block(inner, f"{at}.content.{number}", "user", signature)


def _check_calls(messages: list[JSON]) -> None:
    """Each call is answered once, in the very next message, before any other content."""
    waiting: list[str] = []
    seen: set[str] = set()
    for position, message in enumerate([*messages, {"role": "user", "content": []}]):
        blocks = _blocks(message)
        results = list(itertools.takewhile(lambda block: block["type"] == "tool_result", blocks))
        missing = [name for name in waiting if name not in {block["tool_use_id"] for block in results}]
        if missing:
            sentence = "`tool_use` ids were found without `tool_result` blocks immediately after"
            also = "Each `tool_use` block must have a corresponding `tool_result` block in the next message."
            raise _invalid(f"messages.{position - 1}: {sentence}: {', '.join(missing)}. {also}")
        _check_results(blocks, waiting, position)
        waiting = [block["id"] for block in blocks if block["type"] == "tool_use"]
        if len(set(waiting)) < len(waiting) or seen & set(waiting):
            raise _invalid(f"messages.{position}: `tool_use` ids must be unique")
        seen |= set(waiting)


def _check_results(blocks: list[JSON], waiting: list[str], position: int) -> None:
    answered: set[str] = set()
    for number, block in enumerate(blocks):
        if block["type"] != "tool_result":
            continue
        at, name = f"messages.{position}.content.{number}", block["tool_use_id"]
        if name not in waiting:
            also = "Each `tool_result` block must have a corresponding `tool_use` block in the previous message."
            raise _invalid(f"{at}: unexpected `tool_use_id` found in `tool_result` blocks: {name}. {also}")
        if name in answered:
            raise _invalid(f"{at}: each tool_use must have a single result. Found multiple blocks with id: {name}")
        answered.add(name)


def _check_thought_first(messages: list[JSON]) -> None:
    """A turn with thinking and tool calls must be sent back with its thinking blocks."""
    if not _is_result(messages[-1]):
        return
    first = _blocks(messages[-2])[0]["type"]
    if first not in THOUGHT:
        also = "When `thinking` is enabled, a final `assistant` message must start with a thinking block."
        at = f"messages.{len(messages) - 2}.content.0.type"
        raise _invalid(f"{at}: Expected `thinking` or `redacted_thinking`, but found `{first}`. {also}")


# --- what is answered -------------------------------------------------------------------------------------------


def _text(text: str) -> JSON:
    return {"type": "text", "text": text}


def _blocks(message: JSON) -> list[JSON]:
    content = message["content"]
    return [_text(content)] if isinstance(content, str) else content


def _is_result(message: JSON) -> bool:
    return any(block["type"] == "tool_result" for block in _blocks(message))


def _thinks(body: JSON) -> bool:
    return (body.get("thinking") or {}).get("type") in ("enabled", "adaptive")


def _text_of(blocks: list[JSON]) -> str:
    return " ".join(block["text"] for block in blocks if block["type"] == "text")


def _question(messages: list[JSON]) -> str:
    """The text of the last user message."""
    texts = (_text_of(_blocks(message)) for message in reversed(messages) if message["role"] == "user")
    return next((text for text in texts if text), "")


def _openai_tools(body: JSON) -> JSON:
    """Tools and their choice as the other formats have them."""
    choice = body.get("tool_choice") or {"type": "auto"}
    named = {"type": "function", "name": choice.get("name")}
    custom = [tool for tool in body.get("tools") or () if tool.get("type", "custom") == "custom"]
    return {
        "tools": [{"type": "function", "name": tool["name"], "parameters": tool["input_schema"]} for tool in custom],
        "tool_choice": {"any": "required", "tool": named}.get(choice["type"], choice["type"]),
        "parallel_tool_calls": not choice.get("disable_parallel_tool_use"),
    }


def _sentence(body: JSON, question: str) -> str:
    if form := (body.get("output_config") or {}).get("format"):
        return orjson.dumps(example(form["schema"])).decode()
    messages = body["messages"]
    results = [_result_text(block) for block in _blocks(messages[-1]) if block["type"] == "tool_result"]
    images = sum(block["type"] == "image" for message in messages for block in _all_blocks(message))
    sentence = f"The tools said: {', '.join(results)}." if results else f"You said: {question}."
    seen = f" I have seen {len(messages)} messages."
    return sentence + seen + (f" I see {images} images." if images else "")


def _result_text(block: JSON) -> str:
    content = block.get("content") or ""
    return content if isinstance(content, str) else _text_of(content)


def _all_blocks(message: JSON) -> Iterator[JSON]:
    for block in _blocks(message):
        yield block
        if block["type"] == "tool_result" and isinstance(block.get("content"), list):
            yield from block["content"]


def _final(body: JSON, ids: Ids, content: list[JSON], reason: str) -> JSON:
    refused = {"type": "refusal", "category": None, "explanation": "I cannot help with that."}
    return {
        "id": ids("msg", 24),
        "type": "message",
        "role": "assistant",
        "model": snapshot(body),
        "content": content,
        "stop_reason": reason,
        "stop_sequence": None,
        "stop_details": refused if reason == "refusal" else None,
        "usage": _usage(body, content),
    }


def _usage(body: JSON, content: list[JSON]) -> JSON:
    read = max(1, len(orjson.dumps([body.get("system"), body["messages"]])) // 4)
    thought = 8 * sum(block["type"] in THOUGHT for block in content)
    return {
        "input_tokens": read,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": 0,
        "cache_creation": {"ephemeral_5m_input_tokens": 0, "ephemeral_1h_input_tokens": 0},
        "output_tokens": thought + max(1, len(orjson.dumps(content)) // 20),
        "service_tier": "standard",
    }


# --- the events of a message ------------------------------------------------------------------------------------


def stream(body: JSON) -> tuple[Piece, ...]:
    return tuple(map(event_bytes, _events(body)))


def _events(final: JSON) -> Iterator[JSON]:
    begun: JSON = {
        "content": [],
        "stop_reason": None,
        "stop_details": None,
        "usage": {**final["usage"], "output_tokens": 1},
    }
    yield {"type": "message_start", "message": {**final, **begun}}
    for index, block in enumerate(final["content"]):
        empty, deltas = _DELTAS[block["type"]](block)
        yield {"type": "content_block_start", "index": index, "content_block": empty}
        if index == 0:
            yield {"type": "ping"}
        for delta in deltas:
            yield {"type": "content_block_delta", "index": index, "delta": delta}
        yield {"type": "content_block_stop", "index": index}
    usage = {key: value for key, value in final["usage"].items() if key.endswith("_tokens")}
    delta = {key: final[key] for key in ("stop_reason", "stop_sequence", "stop_details")}
    yield {"type": "message_delta", "delta": delta, "usage": usage}
    yield {"type": "message_stop"}


def _text_deltas(block: JSON) -> tuple[JSON, list[JSON]]:
    return {**block, "text": ""}, [{"type": "text_delta", "text": word} for word in words(block["text"])]


def _thinking_deltas(block: JSON) -> tuple[JSON, list[JSON]]:
    deltas: list[JSON] = [{"type": "thinking_delta", "thinking": word} for word in words(block["thinking"])]
    signed = {"type": "signature_delta", "signature": block["signature"]}
    return {**block, "thinking": "", "signature": ""}, [*deltas, signed]


def _tool_use_deltas(block: JSON) -> tuple[JSON, list[JSON]]:
    """A call without arguments has one delta, which is empty."""
    written = fragments(orjson.dumps(block["input"]).decode()) if block["input"] else []
    return {**block, "input": {}}, [{"type": "input_json_delta", "partial_json": part} for part in ("", *written)]


_DELTAS = {"text": _text_deltas, "thinking": _thinking_deltas, "tool_use": _tool_use_deltas}
