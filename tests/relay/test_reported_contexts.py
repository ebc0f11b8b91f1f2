"""What users of other gateways reported about long conversations and caches, beside the cases that have a test of their
own elsewhere: each report in more than one spelling, whole and streamed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import orjson
import pytest

from tests.gateway import Gateway
from tests.response_contract import check_response, check_stream
from tests.upstream import Answer, Exchange, Script, ScriptedUpstream, raw, retold

JSON = dict[str, Any]
FORMATS = ("responses", "chat_completions", "messages")
#: Models of each format, more than there are tests. Each has a channel of its own, so that no test learns for another.
COUNT = 120

streamed = pytest.mark.parametrize("streamed", [False, True], ids=["json", "sse"])


@dataclass
class Desk:
    gateway: Gateway
    upstream: ScriptedUpstream
    _used: dict[str, int] = field(default_factory=dict)

    def model(self, format_: str) -> str:
        """One that no test has used."""
        self.upstream.reset()
        self._used[format_] = self._used.get(format_, -1) + 1
        return f"{format_}-{self._used[format_]}"

    def ask(self, model: str, streamed: bool = False, **body: Any) -> JSON:
        """The response to a request that is answered."""
        body = {"model": model, "input": "hello", **body}
        answer = self.gateway.stream(body) if streamed else self.gateway.post("/responses", body)
        assert answer.status_code == 200, answer.text
        response = check_stream(answer.content)[-1]["response"] if streamed else answer.json()
        return dict(check_response(response, status="completed"))

    @property
    def bodies(self) -> list[JSON]:
        return self.upstream.bodies


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Desk]:
    with ScriptedUpstream() as upstream:
        rows = [
            upstream.channel(f"{name}-{number}", format=name, models=[f"{name}-{number}"], cooldown={"after": 1000})
            for name in FORMATS
            for number in range(COUNT)
        ]
        with Gateway(tmp_path_factory.mktemp("reported"), rows) as gateway:
            yield Desk(gateway, upstream)


def refusing(broken: Callable[[JSON], JSON | None], status: int = 400) -> Script:
    """An upstream that refuses a request; `broken` returns the body of the refusal, or None."""

    def script(exchange: Exchange, answer: Answer) -> Answer:
        body = broken(exchange.request.body)
        return raw(status, orjson.dumps(body))(exchange, answer) if body is not None else answer

    return script


def error(message: str, **keys: Any) -> JSON:
    return {"error": {"message": message, "type": "invalid_request_error", "param": None, "code": None, **keys}}


# --- wishes about caches that an upstream refuses ---------------------------------------------------------------

OPTIONS = {"mode": "explicit", "ttl": "30m"}
#: The format, the members of the request, the one that is refused, the status and the body of the refusal.
WISHES: dict[str, tuple[str, JSON, str, int, JSON]] = {
    "with its name": (
        *("responses", {"prompt_cache_retention": "24h"}, "prompt_cache_retention", 400),
        error("prompt_cache_retention is not supported on this model", param="prompt_cache_retention"),
    ),
    "in words alone": (
        *("responses", {"prompt_cache_options": OPTIONS}, "prompt_cache_options", 400),
        error("Unsupported parameter: prompt_cache_options", type="server_error", code="upstream_error"),
    ),
    "a list of details": (
        *("responses", {"prompt_cache_options": OPTIONS}, "prompt_cache_options", 422),
        {"detail": [{"type": "extra_forbidden", "loc": ["body", "prompt_cache_options"], "msg": "Extra inputs"}]},
    ),
    "in a bare detail": (
        *("responses", {"prompt_cache_key": "k"}, "prompt_cache_key", 400),
        {"detail": "Unsupported parameter: prompt_cache_key"},
    ),
    "a member within": (
        *("responses", {"prompt_cache_options": OPTIONS}, "prompt_cache_options", 400),
        error("Unknown parameter: 'prompt_cache_options.ttl'.", param="prompt_cache_options.ttl"),
    ),
    "a key over the bridge": (
        *("chat_completions", {"prompt_cache_key": "k"}, "prompt_cache_key", 422),
        {
            "object": "error",
            "message": {"detail": [{"type": "extra_forbidden", "loc": ["body", "prompt_cache_key"], "msg": "Extra"}]},
        },
    ),
    "a key as text of a list": (
        *("chat_completions", {"prompt_cache_key": "k"}, "prompt_cache_key", 400),
        error("[{'type': 'extra_forbidden', 'loc': ('body', 'prompt_cache_key'), 'msg': 'Extra inputs'}]"),
    ),
    "metadata that needs a store": (
        *("chat_completions", {"metadata": {"team": "blue"}}, "metadata", 400),
        error("The 'metadata' parameter is only allowed when 'store' is enabled.", param="metadata"),
    ),
    "a tier": (
        *("responses", {"service_tier": "flex"}, "service_tier", 400),
        error("Invalid service_tier argument", param="service_tier"),
    ),
}

#: Members that a bridge leaves out by itself.
NEVER_SENT = {("chat_completions", "metadata")}


@streamed
@pytest.mark.parametrize("case", WISHES)
def test_a_wish_that_is_refused_is_left_out_from_then_on(desk: Desk, case: str, streamed: bool) -> None:
    format_, wish, name, status, body = WISHES[case]
    model = desk.model(format_)
    desk.upstream.always(refusing(lambda sent: body if name in sent else None, status))
    for _ in range(2):
        response = desk.ask(model, streamed, **wish)
        assert {key: response.get(key, value) for key, value in wish.items()} == wish
    # The second request is sent once, without it.
    assert [name in sent for sent in desk.bodies][-2:] == [False, False]
    assert any(name in sent for sent in desk.bodies) or (format_, name) in NEVER_SENT


# --- private members of items -----------------------------------------------------------------------------------

_PRIVATE = {"internal_chat_message_metadata_passthrough": {"content_item_kinds": ["text"]}}
_CALL = {"type": "function_call", "call_id": "call_1", "name": "look", "arguments": "{}"}
_OUTPUT = {"type": "function_call_output", "call_id": "call_1", "output": "seen"}
_TEXT = {"type": "input_text", "text": "hi"}
#: Inputs with members that only their client's own server knows.
PRIVATE: dict[str, list[JSON]] = {
    "of a message": [{"role": "user", "content": [_TEXT], **_PRIVATE}],
    "of a part": [{"role": "user", "content": [{**_TEXT, "turn_metadata": {"turn": 1}}]}],
    "of a call": [{"role": "user", "content": "hi"}, {**_CALL, "namespace": "functions"}, _OUTPUT],
    "of an output": [{"role": "user", "content": "hi"}, _CALL, {**_OUTPUT, **_PRIVATE}],
    "of a part of an output": [
        {"role": "user", "content": "hi"},
        _CALL,
        {**_OUTPUT, "output": [{**_TEXT, "turn_metadata": {"turn": 1}}]},
    ],
    "two of them": [{"role": "user", "content": [{**_TEXT, "turn_metadata": {"turn": 1}}], **_PRIVATE}],
}
_NAMES = (*_PRIVATE, "turn_metadata", "namespace")


def private_path(value: Any, path: str) -> str | None:
    """The first private member, down to what it holds, as OpenAI names it."""
    if isinstance(value, dict):
        for name, inner in value.items():
            if name in _NAMES:
                return f"{path}.{name}" + (f".{next(iter(inner))}" if isinstance(inner, dict) else "")
            if found := private_path(inner, f"{path}.{name}"):
                return found
    if isinstance(value, list):
        return next((found for at, one in enumerate(value) if (found := private_path(one, f"{path}[{at}]"))), None)
    return None


@streamed
@pytest.mark.parametrize("case", PRIVATE)
def test_private_members_of_items_are_left_out_where_they_are_refused(desk: Desk, case: str, streamed: bool) -> None:
    def broken(body: JSON) -> JSON | None:
        path = private_path(body["input"], "input")
        return error(f"Unknown parameter: '{path}'.", param=path, code="unknown_parameter") if path else None

    model = desk.model("responses")
    desk.upstream.always(refusing(broken))
    for _ in range(2):
        desk.ask(model, streamed, input=PRIVATE[case], store=False)
    assert private_path(desk.bodies[-1]["input"], "input") is None
    # The next request does not have to be refused again.
    assert private_path(desk.bodies[-2]["input"], "input") is None
    assert "hi" in str(desk.bodies[-1]["input"])


# --- what the cache served --------------------------------------------------------------------------------------

#: The members beside the counts of 100 tokens of input, 80 of them cached.
CACHED: dict[str, JSON] = {
    "kimi": {"cached_tokens": 80},
    "deepseek": {"prompt_cache_hit_tokens": 80, "prompt_cache_miss_tokens": 20},
    "gemini": {"cachedContentTokenCount": 80},
    "details of the other API": {"prompt_tokens_details": {"cached_tokens": 80}},
    "claude behind a proxy": {"cache_read_input_tokens": 80, "total_tokens": 107},
    "details without a count": {"input_tokens_details": {}, "prompt_tokens_details": None, "cached_tokens": 80},
}


@streamed
@pytest.mark.parametrize("format_", ["responses", "chat_completions"])
@pytest.mark.parametrize("server", CACHED)
def test_cached_tokens_are_counted_under_every_name(desk: Desk, server: str, format_: str, streamed: bool) -> None:
    def counted(body: JSON) -> JSON:
        kind, other = ("input", "output") if "input_tokens" in body["usage"] else ("prompt", "completion")
        return {**body, "usage": {f"{kind}_tokens": 100, f"{other}_tokens": 7, **CACHED[server]}}

    model = desk.model(format_)
    desk.upstream.always(retold(counted))
    usage = desk.ask(model, streamed)["usage"]
    assert (usage["input_tokens"], usage["input_tokens_details"]["cached_tokens"]) == (100, 80)
    assert (usage["output_tokens"], usage["total_tokens"]) == (7, 107)


# --- numbers and details that are not there ---------------------------------------------------------------------

SLOPPY: dict[str, JSON] = {
    "a float of a time": {"created_at": 1.75},
    "a time as text": {"created_at": "2026-01-01T00:00:00Z"},
    "no time": {"created_at": None},
    "details of null": {"usage": {"input_tokens": 5, "output_tokens": 7, "input_tokens_details": None}},
    "no total": {"usage": {"input_tokens": 5, "output_tokens": 7}},
    "floats": {"usage": {"input_tokens": 5.0, "output_tokens": 7.0, "total_tokens": 12.0}},
    "details without counts": {
        "usage": {
            **{"input_tokens": 5, "output_tokens": 7, "total_tokens": 12},
            **{"input_tokens_details": {}, "output_tokens_details": {"reasoning_tokens": None}},
        }
    },
}


@streamed
@pytest.mark.parametrize("case", SLOPPY)
def test_numbers_leave_as_the_contract_has_them(desk: Desk, case: str, streamed: bool) -> None:
    model = desk.model("responses")
    desk.upstream.always(retold(lambda body: {**body, **SLOPPY[case]}))
    response = desk.ask(model, streamed)
    assert type(response["created_at"]) is int
    if "usage" in SLOPPY[case]:
        usage = response["usage"]
        counts = [usage[name] for name in ("input_tokens", "output_tokens", "total_tokens")]
        assert (counts, [type(count) for count in counts]) == ([5, 7, 12], [int] * 3)
        assert usage["output_tokens_details"] == {"reasoning_tokens": 0}


# --- the registry of Codex's tools ------------------------------------------------------------------------------


def registry(*namespaces: str) -> JSON:
    """An `additional_tools` item, as Codex brings its tools."""
    tools = [
        {
            **{"type": "namespace", "name": namespace, "description": ""},
            "tools": [
                {"type": "custom", "name": "exec", "description": "Runs a program.", "format": {"type": "text"}},
                {"type": "function", "name": "wait", "description": "Waits.", "parameters": {}, "strict": False},
            ],
        }
        for namespace in namespaces
    ]
    return {"type": "additional_tools", "role": "developer", "tools": tools}


def calling(name: str) -> Script:
    """A chat model that calls a tool by this name."""
    call = {"id": "call_1", "type": "function", "function": {"name": name, "arguments": '{"input":"ls"}'}}

    def change(body: JSON) -> JSON:
        message = {"role": "assistant", "content": None, "tool_calls": [call]}
        return {**body, "choices": [{"index": 0, "message": message, "finish_reason": "tool_calls"}]}

    return retold(change)


@pytest.mark.parametrize("name", ["exec", "functions__exec", "functions.exec", "functions:exec", "functions/exec"])
def test_a_tool_of_the_registry_is_called_by_every_spelling(desk: Desk, name: str) -> None:
    model = desk.model("chat_completions")
    desk.upstream.always(calling(name))
    items = [registry("functions"), {"role": "user", "content": "hi"}]
    (call,) = desk.ask(model, input=items, store=False)["output"]
    assert (call["type"], call["name"], call.get("namespace")) == ("custom_tool_call", "exec", "functions")
    assert call["input"] == "ls"


@streamed
@pytest.mark.parametrize("format_", ["chat_completions", "messages"])
def test_two_namespaces_of_the_registry_stay_apart(desk: Desk, format_: str, streamed: bool) -> None:
    model = desk.model(format_)
    desk.ask(model, streamed, input=[registry("files", "shell"), {"role": "user", "content": "hi"}], store=False)
    (body,) = desk.bodies
    names = [tool.get("function", tool)["name"] for tool in body["tools"]]
    assert len(set(names)) == len(names) == 4
    assert "Runs a program" not in str(body["messages"])


# --- a search for tools -----------------------------------------------------------------------------------------

_SEARCH = {"type": "tool_search", "execution": "client", "description": "Finds tools.", "parameters": {}}
_GREP = {"type": "function", "name": "grep", "description": "Searches.", "parameters": {"type": "object"}}


@streamed
@pytest.mark.parametrize("chained", [False, True], ids=["whole", "chained"])
@pytest.mark.parametrize("format_", FORMATS)
def test_a_search_for_tools_goes_back_as_its_upstream_takes_it(
    desk: Desk, format_: str, chained: bool, streamed: bool
) -> None:
    model = desk.model(format_)
    call = {
        **{"type": "tool_search_call", "id": "tsc_9", "call_id": "call_9", "execution": "client"},
        **{"status": "completed", "arguments": {"goal": "search files", "limit": 5}},
    }
    found = {"type": "tool_search_output", "call_id": "call_9", "execution": "client", "tools": [_GREP]}
    items = [{"role": "user", "content": "hi"}, call, found]
    tip: JSON = {}
    if chained:
        first = desk.ask(model, streamed, input=items, tools=[_SEARCH])
        tip, items = {"previous_response_id": first["id"]}, []
    desk.ask(model, streamed, input=[*items, {"role": "user", "content": "go on"}], tools=[_SEARCH], **tip)
    body = desk.bodies[-1]
    if format_ == "responses":
        (sent,) = [item for item in body["input"] if item.get("type") == "tool_search_call"]
        assert sent["arguments"] == {"goal": "search files", "limit": 5}
    else:
        assert "grep" in [tool.get("function", tool)["name"] for tool in body["tools"]]


# --- references in place of items -------------------------------------------------------------------------------

#: What stands in a request for each call.
CALLED = {
    "responses": "'type': 'function_call',",
    "chat_completions": "'function': {",
    "messages": "'type': 'tool_use'",
}


@pytest.mark.parametrize("bare", [False, True], ids=["typed", "bare"])
@pytest.mark.parametrize("chained", [False, True], ids=["whole", "chained"])
@pytest.mark.parametrize("format_", FORMATS)
def test_references_give_each_item_once(desk: Desk, format_: str, chained: bool, bare: bool) -> None:
    model = desk.model(format_)
    tool = {"type": "function", "name": "weather", "parameters": {"type": "object"}}
    asked = {"role": "user", "content": "the weather, both"}
    first = desk.ask(model, input=[asked], tools=[tool])
    calls = [item for item in first["output"] if item["type"] == "function_call"]
    references = [{"id": item["id"]} if bare else {"type": "item_reference", "id": item["id"]} for item in calls]
    outputs = [{"type": "function_call_output", "call_id": call["call_id"], "output": "dry"} for call in calls]
    # A client that names what came before by its id and sends the references too; one of them twice.
    items = [*([] if chained else [asked]), *references, references[0], *outputs]
    desk.ask(model, input=items, tools=[tool], **({"previous_response_id": first["id"]} if chained else {}))
    sent = str(desk.bodies[-1].get("input") or desk.bodies[-1]["messages"])
    assert [sent.count("the weather, both"), sent.count("'dry'")] == [1, len(calls)]
    assert sent.count(CALLED[format_]) == len(calls) == 2


# --- tools that are no functions --------------------------------------------------------------------------------

_PATCH = {"type": "custom", "name": "patch", "description": "Applies a patch.", "format": {"type": "text"}}
#: How servers that know functions alone refuse a custom tool.
NO_CUSTOM = {
    "its value": error("Invalid value: 'custom'. Supported values are: 'function'.", param="tools[0].type"),
    "its type": error("Unsupported tool type: custom"),
    "a list of details": {
        "detail": [{"type": "literal_error", "loc": ["body", "tools", 0, "type"], "msg": "Input should be 'function'"}]
    },
}


@streamed
@pytest.mark.parametrize("case", NO_CUSTOM)
def test_a_custom_tool_becomes_a_function_where_it_is_refused(desk: Desk, case: str, streamed: bool) -> None:
    model = desk.model("responses")

    def broken(body: JSON) -> JSON | None:
        tools = [tool["type"] for tool in body.get("tools", [])]
        items = [item.get("type") for item in body["input"] if isinstance(item, dict)]
        return NO_CUSTOM[case] if {"custom", "custom_tool_call", "custom_tool_call_output"} & {*tools, *items} else None

    desk.upstream.always(refusing(broken))
    call = {"type": "custom_tool_call", "call_id": "call_e", "name": "patch", "input": "*** Begin"}
    answered = {"type": "custom_tool_call_output", "call_id": "call_e", "output": "done"}
    items = [{"role": "user", "content": "hi"}, call, answered, {"role": "user", "content": "go on"}]
    response = desk.ask(model, streamed, input=items, tools=[_PATCH], store=False)
    assert response["tools"][0]["type"] == "custom"
    body = desk.bodies[-1]
    assert [tool["name"] for tool in body["tools"]] == ["patch"]
    assert "*** Begin" in str(body["input"])
