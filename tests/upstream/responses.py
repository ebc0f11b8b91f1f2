"""The Responses API as OpenAI answers it: what it refuses, what its model says, the events of a stream."""

from __future__ import annotations

import base64
import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import orjson

from tests.upstream import openai
from tests.upstream.exchange import JSON, STREAM_HEADERS, Answer, Piece, Refused, event_bytes, json_answer, parsed
from tests.upstream.model import CREATED_AT, Ids, example, fragments, logprobs_of, snapshot, tools_to_call, words
from tests.upstream.openai import admit, envelope

__all__ = ["DEFAULTS", "SEAL", "Model", "admit", "check_model", "envelope", "failure", "too_long"]

SEAL = "gAAAA"
ITEM_IDS = {
    "message": "msg",
    "reasoning": "rs",
    "compaction": "cmp",
    "function_call": "fc",
    "custom_tool_call": "ctc",
    "shell_call": "sh",
    "local_shell_call": "lsh",
    "web_search_call": "ws",
    "file_search_call": "fs",
    "code_interpreter_call": "ci",
    "mcp_call": "mcp",
}
MAX_ITEM_ID = 64
OUTPUTS = {
    "function_call_output": "function_call",
    "custom_tool_call_output": "custom_tool_call",
    "local_shell_call_output": "local_shell_call",
}
DEFAULTS: JSON = {
    "background": False,
    "frequency_penalty": 0.0,
    "instructions": None,
    "max_output_tokens": None,
    "max_tool_calls": None,
    "parallel_tool_calls": True,
    "presence_penalty": 0.0,
    "previous_response_id": None,
    "prompt_cache_key": None,
    "prompt_cache_retention": None,
    "safety_identifier": None,
    "store": True,
    "temperature": 1.0,
    "tool_choice": "auto",
    "top_logprobs": 0,
    "top_p": 1.0,
    "truncation": "disabled",
    "user": None,
    "metadata": {},
}


@dataclass(frozen=True, slots=True)
class Model:
    """`family`: upstreams of one family read each other's opaque items."""

    family: str
    call_id_length: int

    def respond(self, body: JSON, ids: Ids) -> Answer:
        _check_parameters(body)
        items = _as_items(body)
        self._check_items(items)
        output = self._output(body, items, ids)
        cut = any(item.get("status") == "incomplete" for item in output)
        final = _response(body, ids("resp"), output, "incomplete" if cut else "completed")
        if not body.get("stream"):
            return json_answer(final)
        obfuscated = (body.get("stream_options") or {}).get("include_obfuscation", True)
        return Answer(200, STREAM_HEADERS, tuple(map(event_bytes, _events(final, obfuscated))), "chunked")

    def compact(self, body: JSON, ids: Ids) -> Answer:
        _check_parameters(body)
        items = _as_items(body)
        self._check_items(items, open_calls=True)
        remembered = [
            {"id": ids("msg"), "type": "message", "status": "completed", "role": "user", "content": _parts(item)}
            for item in items
            if item.get("role") == "user"
        ]
        output = [*remembered, self._compaction(items, ids)]
        window = {"id": ids("resp"), "object": "response.compaction", "created_at": CREATED_AT, "output": output}
        return json_answer({**window, "usage": _usage(body, output)})

    # Opaque items

    def _seal(self, value: JSON) -> str:
        sealed = orjson.dumps({"family": self.family, **value})
        return SEAL + base64.urlsafe_b64encode(sealed).decode()

    def _unseal(self, item: JSON) -> JSON:
        try:
            value: JSON = orjson.loads(base64.urlsafe_b64decode(item["encrypted_content"].removeprefix(SEAL)))
        except ValueError:
            value = {}
        if value.get("family") != self.family:
            name = item.get("id") or item["type"]
            raise Refused(
                400, f"The encrypted content for item {name} could not be verified.", "invalid_encrypted_content"
            )
        return value

    def _compaction(self, items: list[JSON], ids: Ids) -> JSON:
        texts = [text for item in items for text in self._remembered(item)]
        return {"id": ids("cmp"), "type": "compaction", "encrypted_content": self._seal({"said": texts})}

    def _remembered(self, item: JSON) -> list[str]:
        if item.get("type") == "compaction":
            return list(self._unseal(item)["said"])
        return [_text(item)] if item.get("role") == "user" else []

    # What is refused

    def _check_items(self, items: list[JSON], open_calls: bool = False) -> None:
        calls: dict[str, str] = {}
        outputs: set[str] = set()
        item_ids: set[str | None] = set()
        for position, item in enumerate(items):
            kind = item.get("type") or "message"
            if kind == "item_reference" or set(item) == {"id"}:
                raise Refused(404, f"Item with id '{item['id']}' not found.", None, "input")
            _check_ids(item, kind, position)
            if item.get("id") and item["id"] in item_ids:
                raise _invalid_input(
                    f"Duplicate item found with id {item['id']}. Remove duplicate items and try again."
                )
            item_ids.add(item.get("id"))
            if kind == "reasoning" and not _is_followed(items[position + 1 :]):
                sentence = (
                    f"Item '{item.get('id')}' of type 'reasoning' was provided without its required following item."
                )
                raise _invalid_input(sentence)
            if kind in OUTPUTS.values():
                calls[item["call_id"]] = kind
            if kind in OUTPUTS:
                call_id = item.get("call_id") or item["id"]
                shell = kind == "function_call_output" and calls.get(call_id) == "local_shell_call"
                if calls.get(call_id) != OUTPUTS[kind] and not shell:
                    name = OUTPUTS[kind].replace("_", " ")
                    raise _invalid_input(f"No tool call found for {name} output with call_id {call_id}.")
                outputs.add(call_id)
            if kind == "compaction" or item.get("encrypted_content"):
                self._unseal(item)
        missing = [call_id for call_id in calls if call_id not in outputs]
        if missing and not open_calls and items[-1].get("type") != "compaction_trigger":
            raise _invalid_input(f"No tool output found for function call {missing[0]}.")

    # What is answered

    def _output(self, body: JSON, items: list[JSON], ids: Ids) -> list[JSON]:
        if items[-1].get("type") == "compaction_trigger":
            return [self._compaction(items, ids)]
        output = [*self._reasoning(body, ids), *self._answer(body, items, ids)]
        threshold = _compact_threshold(body)
        if threshold is not None and _usage(body, [])["input_tokens"] > threshold:
            output.append(self._compaction(items, ids))
        return output

    def _reasoning(self, body: JSON, ids: Ids) -> list[JSON]:
        summarised = (body.get("reasoning") or {}).get("summary")
        sealed = "reasoning.encrypted_content" in (body.get("include") or ())
        if not (summarised or sealed):
            return []
        summary = [{"type": "summary_text", "text": "I have thought about it."}] if summarised else []
        item = {"id": ids("rs"), "type": "reasoning", "summary": summary}
        return [{**item, "encrypted_content": self._seal({"thought": item["id"]})} if sealed else item]

    def _answer(self, body: JSON, items: list[JSON], ids: Ids) -> list[JSON]:
        question = _last_text(items)
        tools = tools_to_call(body, question, answered=str(items[-1].get("type")) in OUTPUTS)
        if tools:
            leading = [_message(ids, "Let me look.", body)] if "explain" in question else []
            return leading + [self._call(tool, number, ids) for number, tool in enumerate(tools)]
        if "refuse" in question:
            content = [{"type": "refusal", "refusal": "I cannot help with that."}]
            return [
                {"id": ids("msg"), "type": "message", "status": "completed", "role": "assistant", "content": content}
            ]
        if "search" in question and any(tool["type"].startswith("web_search") for tool in body.get("tools") or ()):
            return _searched(question, ids, body)
        return [_message(ids, self._sentence(body, items), body)]

    def _call(self, tool: JSON, number: int, ids: Ids) -> JSON:
        call_id = ids("call", self.call_id_length - len("call_"))
        if tool["type"] == "custom":
            item = {"id": ids("ctc"), "type": "custom_tool_call", "call_id": call_id, "name": tool["name"]}
            return {**item, "input": f"{tool['name']} number {number}"}
        arguments = orjson.dumps(example(tool.get("parameters") or {}, number)).decode()
        item = {"id": ids("fc"), "type": "function_call", "status": "completed", "call_id": call_id}
        spaced = {"namespace": tool["namespace"]} if "namespace" in tool else {}
        return {**item, "name": tool["name"], "arguments": arguments, **spaced}

    def _sentence(self, body: JSON, items: list[JSON]) -> str:
        form = (body.get("text") or {}).get("format") or {"type": "text"}
        if form["type"] == "json_schema":
            return orjson.dumps(example(form["schema"])).decode()
        if form["type"] == "json_object":
            return orjson.dumps({"you_said": _last_text(items)}).decode()
        results = [_output_text(item) for item in _trailing_outputs(items)]
        images = sum(part["type"] == "input_image" for item in items for part in _parts(item))
        memory = [text for item in items if item.get("type") == "compaction" for text in self._remembered(item)]
        return " ".join(
            [
                f"The tools said: {', '.join(results)}." if results else f"You said: {_last_text(items)}.",
                f"I have seen {len(items)} items.",
                *([f"I see {images} images."] if images else []),
                *([f"I remember: {'; '.join(memory)}."] if memory else []),
            ]
        )


def _check_parameters(body: JSON) -> None:
    limit = body.get("max_output_tokens")
    if limit is not None and limit < 16:
        raise Refused(
            400,
            "Invalid 'max_output_tokens': integer below minimum value. "
            f"Expected a value >= 16, but got {limit} instead.",
            "integer_below_min_value",
            "max_output_tokens",
        )
    if previous := body.get("previous_response_id"):
        raise Refused(
            400,
            f"Previous response with id '{previous}' not found.",
            "previous_response_not_found",
            "previous_response_id",
        )
    for name in ("conversation", "background", "background_options", "generate", "stream_id"):
        if body.get(name):
            raise Refused(400, f"Unknown parameter: '{name}'.", "unknown_parameter", name)


def _check_ids(item: JSON, kind: str, position: int) -> None:
    prefix, given = ITEM_IDS.get(kind), item.get("id")
    if prefix and given and not given.startswith(prefix):
        message = f"Invalid 'input[{position}].id': '{given}'. Expected an ID that begins with '{prefix}'."
        raise Refused(400, message, "invalid_value", f"input[{position}].id")
    for name in ("id", "call_id"):
        length = len(item.get(name) or "")
        if length > MAX_ITEM_ID:
            message = (
                f"Invalid 'input[{position}].{name}': string too long. "
                f"Expected a string with maximum length {MAX_ITEM_ID}, but got a string with length {length} instead."
            )
            raise Refused(400, message, "string_above_max_length", f"input[{position}].{name}")


def _is_followed(items: list[JSON]) -> bool:
    """Whether the model's own item comes next, behind more reasoning perhaps."""
    following = next((item for item in items if item.get("type") != "reasoning"), {})
    return following.get("role") == "assistant" or str(following.get("type")).endswith("_call")


def _invalid_input(message: str) -> Refused:
    return Refused(400, message, None, "input")


def _as_items(body: JSON) -> list[JSON]:
    given = body.get("input")
    if not given:
        raise Refused(400, "Missing required parameter: 'input'.", "missing_required_parameter", "input")
    return [{"type": "message", "role": "user", "content": given}] if isinstance(given, str) else given


def _parts(item: JSON) -> list[JSON]:
    content = item.get("content") or []
    return [{"type": "input_text", "text": content}] if isinstance(content, str) else content


def _text(item: JSON) -> str:
    return " ".join(part["text"] for part in _parts(item) if part.get("text"))


def _last_text(items: list[JSON]) -> str:
    return next((_text(item) for item in reversed(items) if item.get("role") == "user"), "")


def _trailing_outputs(items: list[JSON]) -> list[JSON]:
    backwards = itertools.takewhile(lambda item: item.get("type") in OUTPUTS, reversed(items))
    return list(backwards)[::-1]


def _output_text(item: JSON) -> str:
    output = item["output"]
    return output if isinstance(output, str) else _text({"content": output})


def _compact_threshold(body: JSON) -> int | None:
    entries = body.get("context_management") or ()
    return next((entry["compact_threshold"] for entry in entries if entry["type"] == "compaction"), None)


def _message(ids: Ids, text: str, body: JSON, annotations: Iterable[JSON] = ()) -> JSON:
    limit = body.get("max_output_tokens")
    cut = limit is not None and limit <= 20
    content = "".join(words(text)[:3]) if cut else text
    logged = "message.output_text.logprobs" in (body.get("include") or ())
    part = {"type": "output_text", "text": content, "annotations": list(annotations)}
    part["logprobs"] = logprobs_of(content) if logged else []
    status = "incomplete" if cut else "completed"
    return {"id": ids("msg"), "type": "message", "status": status, "role": "assistant", "content": [part]}


def _searched(question: str, ids: Ids, body: JSON) -> list[JSON]:
    action = {"type": "search", "query": question, "queries": [question]}
    cited = {"type": "url_citation", "start_index": 0, "end_index": 5, "title": "Found", "url": "https://example.org/"}
    call = {"id": ids("ws"), "type": "web_search_call", "status": "completed", "action": action}
    return [call, _message(ids, "Found one page.", body, [cited])]


def _usage(body: JSON, output: list[JSON]) -> JSON:
    """Counted from lengths, so that longer input costs more, always the same."""
    read = max(1, len(orjson.dumps([body.get("instructions"), body.get("input")])) // 4)
    thought = 8 * sum(item["type"] == "reasoning" for item in output)
    written = thought + max(1, len(orjson.dumps(output)) // 40)
    return {
        "input_tokens": read,
        "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
        "output_tokens": written,
        "output_tokens_details": {"reasoning_tokens": thought},
        "total_tokens": read + written,
    }


def _response(body: JSON, response_id: str, output: list[JSON], status: str) -> JSON:
    given = {name: body[name] for name in DEFAULTS if body.get(name) is not None}
    text = {"format": {"type": "text"}, "verbosity": "medium", **(body.get("text") or {})}
    return {
        "id": response_id,
        "object": "response",
        "created_at": CREATED_AT,
        "status": status,
        "completed_at": CREATED_AT + 2 if status == "completed" else None,
        "error": None,
        "incomplete_details": {"reason": "max_output_tokens"} if status == "incomplete" else None,
        "model": snapshot(body),
        "output": output,
        "reasoning": {"effort": None, "summary": None, **(body.get("reasoning") or {})},
        "service_tier": "default",
        "text": text,
        "tools": [_echoed(tool) for tool in body.get("tools") or ()],
        "usage": _usage(body, output),
        **DEFAULTS,
        **given,
    }


def _echoed(tool: JSON) -> JSON:
    required = {"description": None, "parameters": None, "strict": True} if tool["type"] == "function" else {}
    return {**required, **tool}


def stream(body: JSON) -> tuple[Piece, ...]:
    return tuple(map(event_bytes, _events(body, obfuscated=False)))


# --- the events of a response ---------------------------------------------------------------------------------


def _events(final: JSON, obfuscated: bool) -> Iterator[JSON]:
    """The stream that ends in this response."""
    begun: JSON = {
        "status": "in_progress",
        "completed_at": None,
        "incomplete_details": None,
        "output": [],
        "usage": None,
    }
    started = {**final, **begun, "service_tier": "auto"}
    unnumbered = itertools.chain(
        [("response.created", {"response": started}), ("response.in_progress", {"response": started})],
        *(_item_events(item, index) for index, item in enumerate(final["output"])),
        [(f"response.{final['status']}", {"response": final})],
    )
    for number, (kind, fields) in enumerate(unnumbered):
        mask = {"obfuscation": "x" * (number % 7 + 1)} if obfuscated and kind.endswith(".delta") else {}
        yield {"type": kind, "sequence_number": number, **fields, **mask}


def _item_events(item: JSON, index: int) -> Iterator[tuple[str, JSON]]:
    opened, between = ITEM_EVENTS.get(item["type"], _events_without_steps)(item)
    yield "response.output_item.added", {"output_index": index, "item": opened}
    for kind, fields in between:
        yield f"response.{kind}", {"item_id": item["id"], "output_index": index, **fields}
    yield "response.output_item.done", {"output_index": index, "item": item}


_Between = list[tuple[str, JSON]]


def _events_without_steps(item: JSON) -> tuple[JSON, _Between]:
    """An item that is announced as it ends."""
    return item, []


def _message_events(item: JSON) -> tuple[JSON, _Between]:
    events: _Between = []
    for index, part in enumerate(item["content"]):
        at = {"content_index": index}
        kind, key = ("refusal", "refusal") if part["type"] == "refusal" else ("output_text", "text")
        empty: JSON = {"type": kind, key: ""} | ({"annotations": [], "logprobs": []} if key == "text" else {})
        events.append(("content_part.added", {**at, "part": empty}))
        for number, word in enumerate(words(part[key])):
            logged = {"logprobs": part["logprobs"][number : number + 1]} if key == "text" else {}
            events.append((f"{kind}.delta", {**at, "delta": word, **logged}))
        for number, annotation in enumerate(part.get("annotations", ())):
            note = {**at, "annotation_index": number, "annotation": annotation}
            events.append(("output_text.annotation.added", note))
        logged = {"logprobs": part["logprobs"]} if key == "text" else {}
        events.append((f"{kind}.done", {**at, key: part[key], **logged}))
        events.append(("content_part.done", {**at, "part": part}))
    return {**item, "status": "in_progress", "content": []}, events


def _reasoning_events(item: JSON) -> tuple[JSON, _Between]:
    events: _Between = []
    for index, part in enumerate(item["summary"]):
        at = {"summary_index": index}
        events.append(("reasoning_summary_part.added", {**at, "part": {"type": "summary_text", "text": ""}}))
        events += [("reasoning_summary_text.delta", {**at, "delta": word}) for word in words(part["text"])]
        events.append(("reasoning_summary_text.done", {**at, "text": part["text"]}))
        events.append(("reasoning_summary_part.done", {**at, "part": part}))
    return {**item, "summary": []}, events


def _function_call_events(item: JSON) -> tuple[JSON, _Between]:
    deltas = fragments(item["arguments"])
    events: _Between = [("function_call_arguments.delta", {"delta": delta}) for delta in deltas]
    events.append(("function_call_arguments.done", {"arguments": item["arguments"]}))
    return {**item, "status": "in_progress", "arguments": ""}, events


def _custom_call_events(item: JSON) -> tuple[JSON, _Between]:
    events: _Between = [("custom_tool_call_input.delta", {"delta": delta}) for delta in fragments(item["input"])]
    events.append(("custom_tool_call_input.done", {"input": item["input"]}))
    return {**item, "input": ""}, events


def _search_events(item: JSON) -> tuple[JSON, _Between]:
    steps: _Between = [(f"web_search_call.{step}", {}) for step in ("in_progress", "searching", "completed")]
    return {key: value for key, value in item.items() if key != "action"} | {"status": "in_progress"}, steps


def _compaction_events(item: JSON) -> tuple[JSON, _Between]:
    return item, []


ITEM_EVENTS = {
    "message": _message_events,
    "reasoning": _reasoning_events,
    "function_call": _function_call_events,
    "custom_tool_call": _custom_call_events,
    "web_search_call": _search_events,
    "compaction": _compaction_events,
}


# --- when it fails ----------------------------------------------------------------------------------------------


def check_model(name: Any, models: tuple[str, ...] | None) -> None:
    openai.check_model(name, models, status=400)


def too_long() -> Refused:
    message = "Your input exceeds the context window of this model. Please adjust your input and try again."
    return Refused(400, message, "context_length_exceeded", "input")


def failure(head: tuple[Piece, ...], error: Refused) -> list[JSON]:
    """OpenAI's pair; at once, the first of it alone."""
    error_body = {"type": "server_error", "code": error.code, "message": error.message, "param": None}
    spoken: JSON = {"type": "error", "sequence_number": len(head), "error": error_body}
    if not head:
        return [spoken]
    begun = parsed(head[0])["response"]
    failed = {**begun, "status": "failed", "error": {"code": error.code, "message": error.message}}
    return [spoken, {"type": "response.failed", "sequence_number": len(head) + 1, "response": failed}]
