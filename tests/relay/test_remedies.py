"""A refused request is mended and sent again on its channel; what helped is remembered, shown and forgotten."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from itertools import pairwise
from typing import Any

import orjson
import pytest
import requests

from tests.conftest import MakeGateway
from tests.gateway import Gateway
from tests.relay.conftest import eventually
from tests.response_contract import check_error, check_response, check_stream
from tests.upstream import Answer, Exchange, Script, ScriptedUpstream, raw, refusal

JSON = dict[str, Any]
CHAT: JSON = {"messages": [{"role": "user", "content": "x"}]}
BY_HAND: JSON = {"drop": ["user"], "rename": {"max_tokens": "max_completion_tokens"}, "set": {"seed": 7}}
#: Seconds for a worker to read what changed, on a busy machine.
PATIENTLY = 30.0
FORMATS = ("responses", "chat_completions", "messages")
#: The fixture's models of each format. Each has a channel of its own, so that no test learns for another one.
COUNT = 40


def without(*names: str, status: int = 400) -> Script:
    """An upstream that refuses the first of these members that a request has."""
    return rule(lambda body: next((f"Unsupported parameter: '{name}'." for name in names if name in body), ""), status)


def rule(broken: Callable[[JSON], str], status: int = 400) -> Script:
    """An upstream that refuses what breaks a rule; `broken` returns its sentence."""

    def script(exchange: Exchange, answer: Answer) -> Answer:
        sentence = broken(exchange.request.body)
        return refusal(status, sentence)(exchange, answer) if sentence else answer

    return script


class Setup:
    """A gateway with one upstream, and models that no other test has used."""

    def __init__(self, gateway: Gateway, upstream: ScriptedUpstream) -> None:
        self.gateway = gateway
        self.upstream = upstream
        self._models = {name: iter([f"{name}-{number}" for number in range(COUNT)]) for name in FORMATS}

    def model(self, format_: str) -> str:
        self.upstream.reset()
        return next(self._models[format_])

    def ask(self, model: str, streamed: bool = False, **keys: Any) -> requests.Response:
        body = {"model": model, "input": "hello", **keys}
        return self.gateway.stream(body) if streamed else self.gateway.post("/responses", body)


@pytest.fixture(scope="module")
def setup(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Setup]:
    with ExitStack() as stack:
        upstream = stack.enter_context(ScriptedUpstream())
        rows = [
            upstream.channel(f"{name}-{number}", format=name, models=[f"{name}-{number}"], cooldown={"after": 1000})
            for name in FORMATS
            for number in range(COUNT)
        ]
        rows.append(upstream.channel("by-hand", format="chat_completions", models=["by-hand"], params=BY_HAND))
        yield Setup(stack.enter_context(Gateway(tmp_path_factory.mktemp("remedies"), rows)), upstream)


def answered(answer: requests.Response, streamed: bool) -> JSON:
    assert answer.status_code == 200, answer.text
    response = check_stream(answer.content)[-1]["response"] if streamed else answer.json()
    return dict(check_response(response, status="completed"))


# --- the retry --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("streamed", [False, True], ids=["json", "sse"])
@pytest.mark.parametrize("status", [400, 404, 415, 422])
@pytest.mark.parametrize("format_", FORMATS)
def test_the_retry_leaves_out_what_was_refused(setup: Setup, format_: str, status: int, streamed: bool) -> None:
    model = setup.model(format_)
    setup.upstream.always(without("temperature", status=status))
    answer = setup.ask(model, streamed, temperature=0.25)
    response = answered(answer, streamed)
    assert [("temperature" in body) for body in setup.upstream.bodies] == [True, False]
    assert answer.headers["X-Antiphon-Adapted"] == "drop temperature"
    # The client's own setting is echoed, whatever its upstream was sent.
    assert response["temperature"] == 0.25


@pytest.mark.parametrize("streamed", [False, True], ids=["json", "sse"])
@pytest.mark.parametrize("format_", ["responses", "chat_completions"])
def test_wishes_about_caches_are_left_out_where_they_are_refused(setup: Setup, format_: str, streamed: bool) -> None:
    wishes = {"prompt_cache_key": "thread-1", "prompt_cache_retention": "24h", "service_tier": "flex"}
    model = setup.model(format_)
    setup.upstream.always(without(*wishes))
    response = answered(setup.ask(model, streamed, **wishes), streamed)
    assert [sum(name in body for name in wishes) for body in setup.upstream.bodies] == [3, 2, 1, 0]
    assert {name: response[name] for name in wishes} == wishes


@pytest.mark.parametrize("format_", FORMATS)
def test_an_upstream_that_only_streams_answers_json_requests(setup: Setup, format_: str) -> None:
    model = setup.model(format_)
    setup.upstream.always(rule(lambda body: "" if body.get("stream") else "Stream must be set to true"))
    answer = setup.ask(model)
    assert answered(answer, streamed=False)["output"]
    assert answer.headers["X-Antiphon-Adapted"] == "streaming: always"
    answered(setup.ask(model), streamed=False)
    # The second request knows it.
    assert [bool(body.get("stream")) for body in setup.upstream.bodies] == [False, True, True]


@pytest.mark.parametrize("format_", FORMATS)
def test_a_refused_element_of_a_list_reaches_the_client(setup: Setup, format_: str) -> None:
    model = setup.model(format_)
    setup.upstream.always(refusal(400, "Invalid value.", param="tools[0]"))
    tools = [{"type": "function", "name": "look", "parameters": {"type": "object", "properties": {}}}]
    check_error(setup.ask(model, tools=tools), 400)


MARKED = [
    {"type": "input_text", "text": "A long text.", "cache_control": {"type": "ephemeral"}},
    {"type": "input_text", "text": "A question.", "prompt_cache_breakpoint": {"mode": "explicit"}},
]


def texts_only(body: JSON) -> str:
    """A server whose templates take text alone, as DeepSeek's."""
    lists = any(isinstance(message["content"], list) for message in body["messages"])
    return "messages[0]: invalid type: sequence, expected a string" if lists else ""


@pytest.mark.parametrize("streamed", [False, True], ids=["json", "sse"])
def test_a_server_of_texts_gets_no_marks_for_the_cache(setup: Setup, streamed: bool) -> None:
    model = setup.model("chat_completions")
    setup.upstream.always(rule(texts_only))
    message = {"role": "user", "content": MARKED}
    first = answered(setup.ask(model, streamed, input=[message]), streamed)
    answered(setup.ask(model, streamed, input=[message], previous_response_id=first["id"]), streamed)
    contents = [body["messages"][0]["content"] for body in setup.upstream.bodies]
    assert [isinstance(content, str) for content in contents] == [False, True, True]
    assert contents[1] == contents[2] == "A long text.\nA question."


@pytest.mark.parametrize("streamed", [False, True], ids=["json", "sse"])
@pytest.mark.parametrize("format_", FORMATS)
def test_options_and_marks_for_the_cache_go_one_by_one(setup: Setup, format_: str, streamed: bool) -> None:
    names = ("prompt_cache_options", "prompt_cache_breakpoint", "cache_control")

    def broken(body: JSON) -> str:
        text = orjson.dumps(body).decode()
        return next((f"Unsupported parameter: '{name}'." for name in names if f'"{name}"' in text), "")

    model = setup.model(format_)
    setup.upstream.always(rule(broken))
    options = {"mode": "explicit", "ttl": "30m"}
    message = {"role": "user", "content": MARKED}
    response = answered(setup.ask(model, streamed, input=[message], prompt_cache_options=options), streamed)
    assert response["prompt_cache_options"] == options
    # A Messages upstream gets marks alone.
    assert len(setup.upstream.bodies) == (2 if format_ == "messages" else 4)


@pytest.mark.parametrize("streamed", [False, True], ids=["json", "sse"])
def test_an_upstream_that_takes_four_marks_gets_four(setup: Setup, streamed: bool) -> None:
    """A client marks the end of each of its turns, and the chain has them all."""
    model, last = setup.model("messages"), {}
    for number in range(7):
        mark = {"cache_control": {"type": "ephemeral", **({"ttl": "1h"} if number in (2, 5) else {})}}
        content = [{"type": "input_text", "text": f"turn {number}", **mark}]
        message = {"role": "user", "content": content}
        last = {"previous_response_id": answered(setup.ask(model, streamed, input=[message], **last), streamed)["id"]}
    assert len(setup.upstream.bodies) == 7
    sent = [block for message in setup.upstream.bodies[-1]["messages"] for block in message["content"]]
    assert [block["text"] for block in sent if "cache_control" in block] == ["turn 5", "turn 6"]


def test_the_row_of_a_response_says_what_was_adapted(setup: Setup) -> None:
    model = setup.model("responses")
    setup.upstream.always(without("temperature"))
    response = answered(setup.ask(model, temperature=0.25), streamed=False)
    assert "adapted: drop temperature" in setup.gateway.command("show", response["id"])


@pytest.mark.parametrize("format_", FORMATS)
def test_the_next_request_knows_what_was_learnt(setup: Setup, format_: str) -> None:
    model = setup.model(format_)
    setup.upstream.always(without("temperature"))
    answered(setup.ask(model, temperature=0.25), streamed=False)
    second = setup.ask(model, temperature=0.5)
    assert second.headers["X-Antiphon-Adapted"] == "drop temperature"
    assert len(setup.upstream.bodies) == 3
    # A request without the member is not changed.
    third = setup.ask(model)
    assert "X-Antiphon-Adapted" not in third.headers
    assert len(setup.upstream.bodies) == 4


def test_a_chain_of_refusals_is_mended_up_to_the_fourth(setup: Setup) -> None:
    wishes = {"temperature": 0.5, "top_p": 0.5, "user": "ada", "parallel_tool_calls": False, "service_tier": "flex"}
    names = list(wishes)
    model = setup.model("responses")
    setup.upstream.always(without(*names[:4]))
    answer = setup.ask(model, **{name: wishes[name] for name in names[:4]})
    answered(answer, streamed=False)
    assert len(setup.upstream.bodies) == 5
    assert answer.headers["X-Antiphon-Adapted"] == ", ".join(f"drop {name}" for name in names[:4])

    model = setup.model("responses")
    setup.upstream.always(without(*names))
    check_error(setup.ask(model, **wishes), 400)
    assert len(setup.upstream.bodies) == 5
    # Each one had moved the refusal on, so that the next request begins with them.
    answered(setup.ask(model, **wishes), streamed=False)
    assert len(setup.upstream.bodies) == 7


@pytest.mark.parametrize("streamed", [False, True], ids=["json", "sse"])
def test_what_the_answer_depends_on_is_the_clients(setup: Setup, streamed: bool) -> None:
    model = setup.model("chat_completions")
    setup.upstream.always(without("logprobs"))
    answer = setup.ask(model, streamed, include=["message.output_text.logprobs"])
    assert "'logprobs'" in check_error(answer, 400)["message"]
    assert len(setup.upstream.bodies) == 1


@pytest.mark.parametrize("status", [401, 429, 500])
def test_other_failures_are_not_mended(setup: Setup, status: int) -> None:
    model = setup.model("responses")
    setup.upstream.always(without("temperature", status=status))
    assert setup.ask(model, temperature=0.5).status_code >= 400
    assert all("temperature" in body for body in setup.upstream.bodies)


def test_a_refusal_inside_a_stream_is_mended(setup: Setup) -> None:
    model = setup.model("chat_completions")
    error = {"error": {"type": "invalid_request_error", "message": "Unknown parameter: 'temperature'."}}
    setup.upstream.enqueue(raw(200, b"data: %b\n\n" % orjson.dumps(error), "text/event-stream"))
    answered(setup.ask(model, streamed=True, temperature=0.5), streamed=True)
    assert [("temperature" in body) for body in setup.upstream.bodies] == [True, False]


def test_a_limit_an_effort_and_a_user_are_mended(setup: Setup) -> None:
    def broken(body: JSON) -> str:
        if "max_tokens" in body:
            return "Unsupported parameter: 'max_tokens' is not supported. Use 'max_completion_tokens' instead."
        if body.get("reasoning_effort") not in (None, "low", "medium", "high"):
            return "reasoning_effort: Input should be 'low', 'medium' or 'high'"
        return ""

    model = setup.model("chat_completions")
    setup.upstream.always(rule(broken))
    answered(setup.ask(model, max_output_tokens=100, reasoning={"effort": "minimal"}), streamed=False)
    sent = setup.upstream.bodies[-1]
    assert (sent["max_completion_tokens"], sent["reasoning_effort"]) == (100, "low")
    # The other values are fitted without a refusal.
    answered(setup.ask(model, reasoning={"effort": "xhigh"}), streamed=False)
    assert setup.upstream.bodies[-1]["reasoning_effort"] == "high"
    assert len(setup.upstream.bodies) == 4


def test_private_members_of_items_are_mended(setup: Setup) -> None:
    model = setup.model("responses")
    setup.upstream.always(
        rule(
            lambda body: next(
                (
                    f"Unknown parameter: 'input[{at}].notes'."
                    for at, item in enumerate(body["input"])
                    if "notes" in item
                ),
                "",
            )
        )
    )
    items = [{"role": "user", "content": text, "notes": {"x": {"y": 1}}} for text in ("one", "two")]
    answered(setup.ask(model, input=items), streamed=False)
    assert len(setup.upstream.bodies) == 2


@pytest.mark.parametrize("format_", ["responses", "chat_completions"])
def test_a_schema_that_is_not_enforced_becomes_an_instruction(setup: Setup, format_: str) -> None:
    def broken(body: JSON) -> str:
        form = body.get("response_format") or (body.get("text") or {}).get("format") or {}
        return "This response_format type is unavailable now" if form.get("type") == "json_schema" else ""

    model = setup.model(format_)
    setup.upstream.always(rule(broken))
    form = {"type": "json_schema", "name": "x", "schema": {"type": "object", "properties": {"rare_name": {}}}}
    answered(setup.ask(model, text={"format": form}), streamed=False)
    answer = setup.ask(model, text={"format": form})
    # Each response says that its schema was not enforced.
    assert answer.headers["X-Antiphon-Adapted"] == "text_format: object"
    response = answered(answer, streamed=False)
    assert response["text"]["format"]["type"] == "json_schema"
    sent = setup.upstream.bodies[-1]
    kept = sent["text"]["format"] if format_ == "responses" else sent["response_format"]
    assert kept == {"type": "json_object"}
    assert "rare_name" in str(sent.get("instructions") or sent["messages"])


# --- tools as functions -----------------------------------------------------------------------------------------

PATCH = {"type": "custom", "name": "apply_patch", "description": "Edits files."}
CRM = {
    "type": "namespace",
    "name": "crm",
    "description": "Customers.",
    "tools": [{"type": "function", "name": "find", "parameters": {"type": "object", "properties": {}}}],
}


def functions_only(body: JSON) -> str:
    """As an upstream without custom tools, namespaces and hosted tools."""
    for at, tool in enumerate(body.get("tools") or ()):
        if tool["type"] != "function":
            return f"Invalid value: '{tool['type']}'. Supported values are: 'function'. (tools[{at}].type)"
    for at, item in enumerate(body["input"]):
        if item.get("type") not in ("message", "function_call", "function_call_output", "reasoning"):
            return f"Invalid value: '{item['type']}' at input[{at}].type"
        if "namespace" in item:
            return f"Unknown parameter: 'input[{at}].namespace'."
    return ""


def calling(name: str, arguments: str) -> JSON:
    return {"type": "function_call", "id": "fc_1", "call_id": "call_1", "name": name, "arguments": arguments}


def one_call(item: JSON) -> Script:
    """An answer that is one call, its arguments in deltas of three letters."""

    def script(exchange: Exchange, answer: Answer) -> Answer:
        if answer.status != 200:
            return answer
        item_ = {**item, "status": "completed"}
        response = {"id": "resp_u", "object": "response", "status": "completed", "model": "m", "output": [item_]}
        if not exchange.request.body.get("stream"):
            return raw(200, orjson.dumps(response))(exchange, answer)
        begun = {**response, "status": "in_progress", "output": []}
        arguments = item["arguments"]
        place = {"output_index": 0, "item_id": item["id"]}
        family = "response.function_call_arguments"
        events: list[JSON] = [
            {"type": "response.created", "response": begun},
            {"type": "response.output_item.added", "output_index": 0, "item": {**item, "arguments": ""}},
            *(
                {"type": f"{family}.delta", **place, "delta": arguments[at : at + 3]}
                for at in range(0, len(arguments), 3)
            ),
            {"type": f"{family}.done", **place, "arguments": arguments},
            {"type": "response.output_item.done", "output_index": 0, "item": item_},
            {"type": "response.completed", "response": response},
        ]
        lines = (
            b"event: %b\ndata: %b\n\n" % (event["type"].encode(), orjson.dumps({**event, "sequence_number": number}))
            for number, event in enumerate(events)
        )
        return raw(200, b"".join(lines), "text/event-stream")(exchange, answer)

    return script


@pytest.mark.parametrize("streamed", [False, True], ids=["json", "sse"])
def test_a_custom_tool_works_on_a_server_of_functions(setup: Setup, streamed: bool) -> None:
    model = setup.model("responses")
    text = '*** Begin Patch\n"quoted" \\ é 🙂\n*** End Patch'
    call = calling("apply_patch", orjson.dumps({"input": text}).decode())
    setup.upstream.always(one_call(call), rule(functions_only))
    tools = [PATCH, CRM, {"type": "web_search"}]
    answer = setup.ask(model, streamed, tools=tools)
    response = answered(answer, streamed)
    assert answer.headers["X-Antiphon-Dropped-Tools"] == "web_search"
    (item,) = response["output"]
    assert (item["type"], item["name"], item["input"]) == ("custom_tool_call", "apply_patch", text)
    assert [tool["type"] for tool in response["tools"]] == ["custom", "namespace", "web_search"]
    assert [tool["name"] for tool in setup.upstream.bodies[-1]["tools"]] == ["apply_patch", "crm__find"]

    setup.upstream.always(rule(functions_only))
    output = {"type": "custom_tool_call_output", "call_id": item["call_id"], "output": "Done."}
    for history in (
        {"previous_response_id": response["id"], "input": [output]},
        {"store": False, "input": [{"role": "user", "content": "hello"}, item, output]},
    ):
        answered(setup.ask(model, streamed, tools=tools, **history), streamed)
        call_sent, output_sent = setup.upstream.bodies[-1]["input"][-2:]
        assert (call_sent["type"], call_sent["name"]) == ("function_call", "apply_patch")
        assert orjson.loads(call_sent["arguments"]) == {"input": text}
        assert (output_sent["type"], output_sent["output"]) == ("function_call_output", "Done.")
    # Only the first request of all was refused.
    assert len(setup.upstream.bodies) == 4


@pytest.mark.parametrize("streamed", [False, True], ids=["json", "sse"])
def test_a_tool_of_a_namespace_is_called_by_its_own_name(setup: Setup, streamed: bool) -> None:
    model = setup.model("responses")
    setup.upstream.always(one_call(calling("crm__find", '{"who":"ada"}')), rule(functions_only))
    response = answered(setup.ask(model, streamed, tools=[CRM]), streamed)
    (item,) = response["output"]
    assert (item["type"], item["namespace"], item["name"]) == ("function_call", "crm", "find")
    assert item["arguments"] == '{"who":"ada"}'


# --- the order of messages --------------------------------------------------------------------------------------


@pytest.mark.parametrize("format_", ["responses", "chat_completions"])
def test_a_strict_order_is_learnt(setup: Setup, format_: str) -> None:
    def broken(body: JSON) -> str:
        turns = [one.get("role") for one in body.get("messages") or body["input"]]
        doubled = any(before == after == "user" for before, after in pairwise(turns))
        return "Conversation roles must alternate user/assistant/user/assistant/..." if doubled else ""

    model = setup.model(format_)
    setup.upstream.always(rule(broken))
    words = ("about the project", "about the machine", "hello")
    answered(setup.ask(model, input=[{"role": "user", "content": text} for text in words]), streamed=False)
    (message,) = setup.upstream.bodies[-1].get("messages") or setup.upstream.bodies[-1]["input"]
    assert all(text in str(message["content"]) for text in words)


# --- what is remembered -----------------------------------------------------------------------------------------


def listed(gateway: Gateway) -> dict[str, list[str]]:
    """What was learnt, by channel."""
    channels = orjson.loads(gateway.command("channels", "list", "--json"))["channels"]
    return {channel["name"]: [one["remedy"] for one in channel["learnt"]] for channel in channels}


def test_what_was_learnt_is_shared_shown_and_forgotten(gateway: MakeGateway, upstream: ScriptedUpstream) -> None:
    upstream.always(without("temperature"))
    running = gateway([upstream.channel("one"), upstream.channel("two", models=["other"])])

    def sent() -> list[bool]:
        """For each request of one turn, whether it had the member."""
        upstream.requests.clear()
        answer = running.post("/responses", {"model": "m", "input": "x", "temperature": 0.5})
        assert answer.status_code == 200
        return ["temperature" in body for body in upstream.bodies]

    assert sent() == [True, False]
    expected = {"one": ["drop temperature"], "two": []}
    eventually(lambda: listed(running) == expected, "the remedy to be stored", within=PATIENTLY)
    assert "m: drop temperature" in running.command("channels", "list")

    # From here on nothing is refused, so that nothing is learnt again.
    upstream.always()
    running.restart()
    eventually(lambda: sent() == [False], "the restarted gateway to know", within=PATIENTLY)

    assert orjson.loads(running.command("channels", "forget", "one", "--json"))["forgotten"] == 1
    eventually(lambda: sent() == [True], "the gateway to forget", within=PATIENTLY)


def test_a_changed_row_begins_with_nothing(gateway: MakeGateway, upstream: ScriptedUpstream) -> None:
    upstream.enqueue(without("temperature"))
    running = gateway([upstream.channel("one")])
    body = {"model": "m", "input": "x", "temperature": 0.5}
    for _ in range(2):
        assert running.post("/responses", body).status_code == 200
    assert ["temperature" in sent for sent in upstream.bodies] == [True, False, False]
    running.write_channels([upstream.channel("one", headers={"X-Version": "2"})])
    assert listed(running) == {"one": []}

    def begins_again() -> bool:
        running.post("/responses", body)
        return "temperature" in upstream.bodies[-1]

    eventually(begins_again, "the changed row to be in force", within=PATIENTLY)


@pytest.mark.parametrize("endpoint", ["/responses", "/chat/completions"])
def test_a_row_says_it_by_hand_for_both_endpoints(setup: Setup, endpoint: str) -> None:
    setup.upstream.reset()
    wanted = {"input": "x", "max_output_tokens": 50} if endpoint == "/responses" else {**CHAT, "max_tokens": 50}
    answer = setup.gateway.post(endpoint, {"model": "by-hand", "user": "ada", **wanted})
    assert answer.status_code == 200
    (sent,) = setup.upstream.bodies
    assert (sent.get("user"), sent["max_completion_tokens"], sent["seed"]) == (None, 50, 7)
    if endpoint == "/responses":
        adapted = "drop user, rename max_tokens max_completion_tokens, set seed"
        assert answer.headers["X-Antiphon-Adapted"] == adapted


def test_what_was_learnt_does_not_change_a_chat_that_is_passed_on(setup: Setup) -> None:
    model = setup.model("chat_completions")
    setup.upstream.always(without("user"))
    answered(setup.ask(model, user="ada"), streamed=False)
    assert setup.gateway.post("/chat/completions", {"model": model, "user": "ada", **CHAT}).status_code == 400
    assert setup.upstream.bodies[-1]["user"] == "ada"
