"""Chat completions: as strict as the strictest of the servers that speak them, and as some of them deviate."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import orjson

from tests.upstream import openai
from tests.upstream.exchange import JSON, STREAM_HEADERS, Answer, Piece, Refused, event_bytes, json_answer
from tests.upstream.model import CREATED_AT, Ids, example, fragments, logprobs_of, snapshot, tools_to_call, words
from tests.upstream.openai import admit, envelope

__all__ = [
    "DIALECTS",
    "STRICT",
    "TOLERANT",
    "Dialect",
    "Model",
    "admit",
    "check_model",
    "envelope",
    "failure",
    "too_long",
]


@dataclass(frozen=True, slots=True)
class Dialect:
    """How a server deviates from OpenAI. As it stands here it takes only what every one of them takes."""

    reasoning: str = "reasoning_content"
    """The key of its reasoning text."""
    reasoning_returned: Literal["refused", "required"] = "refused"
    """What it makes of that key in the history: most know no such key, some insist on it beside their own calls."""
    whole_calls: bool = False
    """Each call comes in one chunk."""
    systems: Literal["first", "anywhere"] = "first"
    """Where system messages may stand; many templates know one only, at the beginning."""
    roles: tuple[str, ...] = ("system", "user", "assistant", "tool")
    schemas: bool = True
    """It knows `json_schema`."""
    unknown: Literal["refused", "ignored"] = "refused"
    """What it makes of keys that it does not know."""


STRICT = Dialect()
#: A server of open models: it overlooks what it does not know.
TOLERANT = Dialect(unknown="ignored")
DIALECTS = {
    "strict": STRICT,
    "tolerant": TOLERANT,
    "openai": Dialect(systems="anywhere", roles=("developer", "system", "user", "assistant", "tool")),
    "deepseek": Dialect(systems="anywhere", reasoning_returned="required", schemas=False),
    "vllm": Dialect(reasoning="reasoning"),
    "ollama": Dialect(reasoning="reasoning", systems="anywhere", whole_calls=True),
}

PARTS = ("text", "image_url", "input_audio", "refusal", "file")
NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")
MAX_CALL_ID = 64
MESSAGE_KEYS = {"role", "content", "name", "tool_calls", "tool_call_id", "refusal", "audio"}
PARAMETERS = {
    *("model", "messages", "tools", "tool_choice", "parallel_tool_calls", "response_format", "stream"),
    *("stream_options", "max_tokens", "max_completion_tokens", "temperature", "top_p", "n", "stop", "seed", "logprobs"),
    *("top_logprobs", "logit_bias", "presence_penalty", "frequency_penalty", "user", "metadata", "store"),
    *("reasoning_effort", "verbosity", "service_tier", "prompt_cache_key", "prompt_cache_retention"),
    "prompt_cache_options",
    *("safety_identifier", "modalities", "prediction", "web_search_options"),
    # What open servers take beside OpenAI's.
    *("top_k", "min_p", "repetition_penalty", "chat_template_kwargs"),
}


@dataclass(frozen=True, slots=True)
class Model:
    call_id_length: int
    dialect: Dialect

    def answer(self, body: JSON, ids: Ids) -> Answer:
        _check_parameters(body, self.dialect)
        _check_tools(body)
        _check_messages(body["messages"], self.dialect)
        message, reason = _message(body, ids, self.call_id_length, self.dialect)
        usage = _usage(body, message, self.dialect)
        common = {"id": ids("chatcmpl", 24), "created": CREATED_AT, "model": snapshot(body)}
        if not body.get("stream"):
            logprobs = {"content": logprobs_of(message["content"] or "")} if body.get("logprobs") else None
            choice = {"index": 0, "message": message, "logprobs": logprobs, "finish_reason": reason}
            return json_answer({**common, "object": "chat.completion", "choices": [choice], "usage": usage})
        chunks = list(_chunks(message, reason, bool(body.get("logprobs")), self.dialect))
        counted = bool((body.get("stream_options") or {}).get("include_usage"))
        if counted:
            chunks = [*({**chunk, "usage": None} for chunk in chunks), {"choices": [], "usage": usage}]
        lines = [event_bytes({**common, "object": "chat.completion.chunk", **chunk}) for chunk in chunks]
        return Answer(200, STREAM_HEADERS, (*lines, b"data: [DONE]\n\n"), "chunked", ending=3 if counted else 2)


# --- when it fails ----------------------------------------------------------------------------------------------


def check_model(name: Any, models: tuple[str, ...] | None) -> None:
    openai.check_model(name, models, status=404)


def too_long() -> Refused:
    message = "This model's maximum context length is 4096 tokens. However, your messages resulted in 5000 tokens."
    return Refused(400, message, "context_length_exceeded", "messages")


def failure(head: tuple[Piece, ...], error: Refused) -> list[JSON]:
    """Nothing is laid down for it; this is how most servers do it."""
    return [{"error": {"message": error.message, "type": "server_error", "param": None, "code": error.code}}]


# --- what is refused --------------------------------------------------------------------------------------------


def _check_parameters(body: JSON, dialect: Dialect) -> None:
    if not body.get("messages"):
        raise Refused(400, "Missing required parameter: 'messages'.", "missing_required_parameter", "messages")
    for name in sorted(body.keys() - PARAMETERS if dialect.unknown == "refused" else ()):
        raise Refused(400, f"Unrecognized request argument supplied: {name}")
    limits = [name for name in ("max_tokens", "max_completion_tokens") if body.get(name) is not None]
    if len(limits) > 1:
        raise Refused(400, "Setting 'max_tokens' and 'max_completion_tokens' at the same time is not supported.")
    for name in limits:
        if body[name] < 1:
            message = f"Expected a value >= 1, but got {body[name]} instead."
            message = f"Invalid '{name}': integer below minimum value. {message}"
            raise Refused(400, message, "integer_below_min_value", name)
    if body.get("stream_options") and not body.get("stream"):
        message = "The 'stream_options' parameter is only allowed when 'stream' is enabled."
        raise Refused(400, message, None, "stream_options")
    if body.get("top_logprobs") is not None and not body.get("logprobs"):
        raise Refused(400, "The 'top_logprobs' parameter is only allowed when 'logprobs' is enabled.")
    form = body.get("response_format") or {"type": "text"}
    if form["type"] == "json_schema":
        if not dialect.schemas:
            raise Refused(400, "This response_format type is unavailable now")
        if not form["json_schema"].get("name"):
            message = "Missing required parameter: 'response_format.json_schema.name'."
            raise Refused(400, message, "missing_required_parameter", "response_format.json_schema.name")


def _check_tools(body: JSON) -> None:
    if body.get("tools") == []:
        raise Refused(
            400, "Invalid 'tools': empty array. Expected an array with minimum length 1.", "empty_array", "tools"
        )
    for name in ("tool_choice", "parallel_tool_calls"):
        if name in body and not body.get("tools"):
            raise Refused(
                400, f"Invalid value for '{name}': '{name}' is only allowed when 'tools' are specified.", None, name
            )
    for position, tool in enumerate(body.get("tools") or ()):
        if tool["type"] != "function":
            message = f"Invalid value: '{tool['type']}'. Supported values are: 'function'."
            raise Refused(400, message, "invalid_value", f"tools[{position}].type")
        _check_name(tool["function"]["name"], f"tools[{position}].function.name")


def _check_name(name: str, at: str) -> None:
    if not NAME.fullmatch(name):
        pattern = "Expected a string that matches the pattern '^[a-zA-Z0-9_-]{1,64}$'."
        raise Refused(400, f"Invalid '{at}': string does not match pattern. {pattern}", "invalid_value", at)


def _check_messages(messages: list[JSON], dialect: Dialect) -> None:
    for position, message in enumerate(messages):
        at = f"messages[{position}]"
        if message.get("role") not in dialect.roles:
            listed = ", ".join(f"'{role}'" for role in dialect.roles)
            sentence = f"Invalid value: '{message.get('role')}'. Supported values are: {listed}."
            raise Refused(400, sentence, "invalid_value", f"{at}.role")
        if message["role"] == "system" and position and dialect.systems == "first":
            raise Refused(400, "System message must be at the beginning.", None, f"{at}.role")
        _check_keys(message, at, dialect)
        _check_content(message, at)
        for number, call in enumerate(message.get("tool_calls") or ()):
            _check_call(call, f"{at}.tool_calls[{number}]")
    _check_turns(messages)


def _check_keys(message: JSON, at: str, dialect: Dialect) -> None:
    thinks = dialect.reasoning_returned == "required"
    unknown = message.keys() - MESSAGE_KEYS - ({dialect.reasoning} if thinks else set())
    for name in sorted(unknown if dialect.unknown == "refused" else ()):
        raise Refused(400, f"Additional properties are not allowed ('{name}' was unexpected) - '{at}'", None, at)
    if thinks and message.get("tool_calls") and dialect.reasoning not in message:
        raise Refused(400, f"Missing `{dialect.reasoning}` field in the assistant message at {at}")
    if message.get("tool_calls") == []:
        sentence = f"Invalid '{at}.tool_calls': empty array. Expected an array with minimum length 1."
        raise Refused(400, sentence, "empty_array", f"{at}.tool_calls")


def _check_content(message: JSON, at: str) -> None:
    content = message.get("content")
    if content is None and not (message.get("tool_calls") or message.get("refusal")):
        raise Refused(400, "Invalid value for 'content': expected a string, got null.", None, f"{at}.content")
    if content == []:
        raise Refused(400, f"Invalid '{at}.content': empty array.", "empty_array", f"{at}.content")
    allowed = {"user": PARTS, "assistant": ("text", "refusal")}.get(message["role"], ("text",))
    for number, part in enumerate(_parts(message)):
        if part["type"] not in allowed:
            listed = ", ".join(f"'{name}'" for name in allowed)
            sentence = f"Invalid value: '{part['type']}'. Supported values are: {listed}."
            raise Refused(400, sentence, "invalid_value", f"{at}.content[{number}].type")


def _check_call(call: JSON, at: str) -> None:
    if call.get("type") != "function" or not isinstance(call["function"].get("arguments"), str):
        raise Refused(400, f"Invalid value for '{at}': expected a function call.", None, at)
    _check_name(call["function"]["name"], f"{at}.function.name")
    if len(call["id"]) > MAX_CALL_ID:
        sentence = (
            f"Expected a string with maximum length {MAX_CALL_ID}, but got one with length {len(call['id'])} instead."
        )
        raise Refused(400, f"Invalid '{at}.id': string too long. {sentence}", "string_above_max_length", f"{at}.id")
    try:
        orjson.loads(call["function"]["arguments"])
    except orjson.JSONDecodeError as error:
        # OpenAI takes any string; templates that print a call's arguments parse them.
        raise Refused(400, f"Invalid '{at}.function.arguments': {error}") from error


def _check_turns(messages: list[JSON]) -> None:
    """Each call is answered right after the message that made it, and nothing else is."""
    waiting: list[str] = []
    for position, message in enumerate([*messages, {"role": "end"}]):
        if message["role"] == "tool":
            if message["tool_call_id"] not in waiting:
                text = "messages with role 'tool' must be a response to a preceeding message with 'tool_calls'."
                raise Refused(400, f"Invalid parameter: {text}", None, f"messages[{position}].role")
            waiting.remove(message["tool_call_id"])
        elif waiting:
            text = "An assistant message with 'tool_calls' must be followed by tool messages responding to each"
            missing = f"The following tool_call_ids did not have response messages: {', '.join(waiting)}"
            raise Refused(400, f"{text} 'tool_call_id'. {missing}", None, f"messages[{position}].role")
        else:
            waiting = [call["id"] for call in message.get("tool_calls") or ()]


# --- what is answered -------------------------------------------------------------------------------------------


def _parts(message: JSON) -> list[JSON]:
    content = message.get("content") or []
    return [{"type": "text", "text": content}] if isinstance(content, str) else content


def _message(body: JSON, ids: Ids, call_id_length: int, dialect: Dialect) -> tuple[JSON, str]:
    messages = body["messages"]
    question = next((_text(message) for message in reversed(messages) if message["role"] == "user"), "")
    message: JSON = {"role": "assistant", "content": None, "refusal": None}
    if "think" in question:
        message[dialect.reasoning] = "I have thought about it."
    tools = tools_to_call(body, question, answered=messages[-1]["role"] == "tool")
    if tools:
        message["content"] = "Let me look." if "explain" in question else None
        message["tool_calls"] = [_call(tool, number, ids, call_id_length) for number, tool in enumerate(tools)]
        return message, "tool_calls"
    if "refuse" in question:
        return {**message, "refusal": "I cannot help with that."}, "stop"
    text = _sentence(body, question)
    limit = body.get("max_completion_tokens") or body.get("max_tokens")
    if limit is not None and limit <= 20:
        return {**message, "content": "".join(words(text)[:3])}, "length"
    return {**message, "content": text}, "stop"


def _text(message: JSON) -> str:
    return " ".join(part["text"] for part in _parts(message) if part.get("text"))


def _call(tool: JSON, number: int, ids: Ids, call_id_length: int) -> JSON:
    arguments = orjson.dumps(example(tool.get("parameters") or {}, number)).decode()
    function = {"name": tool["name"], "arguments": arguments}
    return {"id": ids("call", call_id_length - len("call_")), "type": "function", "function": function}


def _sentence(body: JSON, question: str) -> str:
    form = body.get("response_format") or {"type": "text"}
    if form["type"] == "json_schema":
        return orjson.dumps(example(form["json_schema"]["schema"])).decode()
    if form["type"] == "json_object":
        return orjson.dumps({"you_said": question}).decode()
    messages = body["messages"]
    results = list(itertools.takewhile(lambda message: message["role"] == "tool", reversed(messages)))[::-1]
    images = sum(part["type"] == "image_url" for message in messages for part in _parts(message))
    sentence = f"The tools said: {', '.join(map(_text, results))}." if results else f"You said: {question}."
    seen = f" I have seen {len(messages)} messages."
    return sentence + seen + (f" I see {images} images." if images else "")


def _usage(body: JSON, message: JSON, dialect: Dialect) -> JSON:
    read = max(1, len(orjson.dumps(body["messages"])) // 4)
    thought = 8 if dialect.reasoning in message else 0
    written = thought + max(1, len(orjson.dumps(message)) // 20)
    return {
        "prompt_tokens": read,
        "completion_tokens": written,
        "total_tokens": read + written,
        "prompt_tokens_details": {"cached_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": thought},
    }


def stream(body: JSON) -> tuple[Piece, ...]:
    common = {"id": body["id"], "created": body["created"], "model": body["model"], "object": "chat.completion.chunk"}
    (choice,) = body["choices"]
    chunks = [
        *_chunks(choice["message"], choice["finish_reason"], False, Dialect()),
        {"choices": [], "usage": body["usage"]},
    ]
    return (*(event_bytes({**common, **chunk}) for chunk in chunks), b"data: [DONE]\n\n")


def _chunks(message: JSON, reason: str, logged: bool, dialect: Dialect) -> Iterator[JSON]:
    yield _chunk({"role": "assistant", "content": "", "refusal": None})
    for word in words(message.get(dialect.reasoning) or ""):
        yield _chunk({dialect.reasoning: word})
    for word in words(message["content"] or ""):
        yield _chunk({"content": word}, logprobs={"content": logprobs_of(word)} if logged else None)
    for word in words(message["refusal"] or ""):
        yield _chunk({"refusal": word})
    for index, call in enumerate(message.get("tool_calls", ())):
        for part in _parts_of_call(call, dialect):
            yield _chunk({"tool_calls": [{"index": index, **part}]})
    yield _chunk({}, reason)


def _chunk(delta: JSON, reason: str | None = None, logprobs: Mapping[str, Any] | None = None) -> JSON:
    return {"choices": [{"index": 0, "delta": delta, "logprobs": logprobs, "finish_reason": reason}]}


def _parts_of_call(call: JSON, dialect: Dialect) -> list[JSON]:
    if dialect.whole_calls:
        return [call]
    name, arguments = call["function"]["name"], call["function"]["arguments"]
    pieces: list[JSON] = [{**call, "function": {"name": name, "arguments": ""}}]
    return pieces + [{"function": {"arguments": fragment}} for fragment in fragments(arguments)]
