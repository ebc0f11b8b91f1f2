"""POST /v1/chat/completions as clients use it: the official SDK, who may ask, what is refused, and who serves what."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import openai
import orjson
import pytest

from tests.gateway import Gateway
from tests.response_contract import check_error
from tests.upstream import ScriptedUpstream

JSON = dict[str, Any]
MESSAGES: list[Any] = [{"role": "user", "content": "hello"}]
TOOL: Any = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    },
}
BOTH = ["/v1/responses", "/v1/chat/completions"]
SERVED = {
    "bridged": BOTH,
    "relayed": ["/v1/chat/completions"],
    "both": BOTH,
    "two-rows": BOTH,
    "turns": ["/v1/responses"],
    "demo": ["/v1/responses"],
    "neither": [],
}
SERVES_CHAT = [model for model, paths in SERVED.items() if BOTH[1] in paths]


def _rows(upstream: ScriptedUpstream) -> list[JSON]:
    chat = {"format": "chat_completions"}
    return [
        upstream.channel("bridged", models=["bridged"], **chat),
        upstream.channel("relayed", models={"relayed": "vendor/model"}, bridge=False, **chat),
        upstream.channel("both", models=["both"], chat=True),
        upstream.channel("two-rows-turns", models=["two-rows"], priority=5),
        upstream.channel("two-rows-chats", models=["two-rows"], bridge=False, **chat),
        upstream.channel("turns", models=["turns"]),
        upstream.channel("turns-off", models=["turns", "gone"], chat=True, enabled=False),
        upstream.channel("neither", models=["neither"], bridge=False),
        {"name": "demo", "format": "demo", "models": ["demo"]},
    ]


@pytest.fixture(scope="module")
def chatting(tmp_path_factory: pytest.TempPathFactory, _scripted: ScriptedUpstream) -> Iterator[Gateway]:
    with Gateway(tmp_path_factory.mktemp("chatting"), _rows(_scripted)) as gateway:
        yield gateway


@pytest.fixture
def client(chatting: Gateway, exact: ScriptedUpstream) -> Iterator[openai.OpenAI]:
    with chatting.client() as client:
        yield client


@pytest.fixture
def post(chatting: Gateway, exact: ScriptedUpstream) -> Callable[..., Any]:
    return lambda body, **keys: chatting.post("/chat/completions", body, **keys)


# --- the SDK ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", SERVES_CHAT)
def test_the_sdk_gets_an_answer(client: openai.OpenAI, model: str) -> None:
    answer = client.chat.completions.create(model=model, messages=MESSAGES)
    assert answer.choices[0].message.content == "You said: hello. I have seen 1 messages."
    assert answer.usage is not None
    assert answer.usage.total_tokens > 0


@pytest.mark.parametrize("model", SERVES_CHAT)
def test_the_sdk_gets_a_stream(client: openai.OpenAI, model: str) -> None:
    with client.chat.completions.create(model=model, messages=MESSAGES, stream=True) as chunks:
        received = list(chunks)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in received).startswith("You said: hello.")
    assert received[-1].choices[0].finish_reason == "stop"
    assert all(chunk.usage is None for chunk in received)


def test_a_client_that_requests_usage_gets_it(client: openai.OpenAI) -> None:
    options: Any = {"include_usage": True}
    with client.chat.completions.create(
        model="relayed", messages=MESSAGES, stream=True, stream_options=options
    ) as chunks:
        *_, last = chunks
    assert last.choices == []
    assert last.usage is not None
    assert last.usage.prompt_tokens > 0


def test_tools_are_called_and_answered(client: openai.OpenAI) -> None:
    messages: list[Any] = [{"role": "user", "content": "What is the weather?"}]
    answer = client.chat.completions.create(model="relayed", messages=messages, tools=[TOOL]).choices[0]
    assert answer.finish_reason == "tool_calls"
    (call,) = answer.message.tool_calls or ()
    messages += [answer.message, {"role": "tool", "tool_call_id": call.id, "content": "18 degrees"}]
    choice = client.chat.completions.create(model="relayed", messages=messages, tools=[TOOL]).choices[0]
    assert (choice.message.content or "").startswith("The tools said: 18 degrees.")


def test_streamed_tools_are_put_together_by_the_sdk(client: openai.OpenAI) -> None:
    messages: list[Any] = [{"role": "user", "content": "the weather in both"}]
    with client.chat.completions.stream(model="relayed", messages=messages, tools=[TOOL]) as stream:
        message = stream.get_final_completion().choices[0].message
    assert [type(orjson.loads(call.function.arguments)) for call in message.tool_calls or ()] == [dict, dict]


def test_unknown_keys_reach_the_upstream(client: openai.OpenAI, exact: ScriptedUpstream) -> None:
    extra = {"top_k": 3, "chat_template_kwargs": {"thinking": False}}
    client.chat.completions.create(model="relayed", messages=MESSAGES, seed=7, extra_body=extra)
    assert exact.bodies[-1] == {"model": "vendor/model", "messages": MESSAGES, "seed": 7, **extra}


def test_the_path_without_v1_works_too(chatting: Gateway, exact: ScriptedUpstream) -> None:
    with openai.OpenAI(
        base_url=chatting.url, api_key=chatting.token, http_client=openai.DefaultHttpxClient(trust_env=False)
    ) as client:
        assert client.chat.completions.create(model="relayed", messages=MESSAGES).choices


def test_headers_are_those_of_every_answer(post: Callable[..., Any]) -> None:
    answer = post({"model": "relayed", "messages": MESSAGES}, headers={"X-Client-Request-Id": "mine"})
    assert answer.headers["X-Request-Id"].startswith("req_")
    assert answer.headers["X-Client-Request-Id"] == "mine"
    streamed = post({"model": "relayed", "messages": MESSAGES, "stream": True})
    assert streamed.headers["X-Accel-Buffering"] == "no"
    assert streamed.headers["X-Request-Id"].startswith("req_")


# --- who serves what --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("streamed", [True, False])
@pytest.mark.parametrize("model", ["turns", "demo"])
def test_a_model_that_only_takes_turns_is_sent_to_responses(
    post: Callable[..., Any], model: str, streamed: bool
) -> None:
    answer = post({"model": model, "messages": MESSAGES, "stream": streamed})
    error = check_error(answer, 503, "chat_completions_not_supported", "model", "service_unavailable_error")
    assert "Use POST /v1/responses" in error["message"]
    assert answer.headers["x-should-retry"] == "false"


@pytest.mark.parametrize("streamed", [True, False])
def test_a_model_that_only_takes_chats_is_sent_here(chatting: Gateway, streamed: bool) -> None:
    answer = chatting.post("/responses", {"model": "relayed", "input": "x", "stream": streamed})
    error = check_error(answer, 503, "responses_not_supported", "model", "service_unavailable_error")
    assert "Use POST /v1/chat/completions" in error["message"]
    assert answer.headers["x-should-retry"] == "false"


def test_no_error_names_an_endpoint_without_a_channel(chatting: Gateway, post: Callable[..., Any]) -> None:
    refusals = [
        post({"model": "neither", "messages": MESSAGES}),
        chatting.post("/responses", {"model": "neither", "input": "x"}),
    ]
    for answer, code in zip(refusals, ("chat_completions_not_supported", "responses_not_supported"), strict=True):
        assert "Use POST" not in check_error(answer, 503, code)["message"]


@pytest.mark.parametrize("model", ["both", "two-rows", "bridged", "turns"])
def test_a_row_that_only_takes_chats_never_stands_in_the_way_of_responses(chatting: Gateway, model: str) -> None:
    assert chatting.post("/responses", {"model": model, "input": "x"}).status_code == 200


def test_the_list_of_models_says_where_each_is_served(chatting: Gateway) -> None:
    listed = {model["id"]: model["supported_endpoints"] for model in chatting.get("/models").json()["data"]}
    assert listed == SERVED


def test_a_model_whose_only_row_is_switched_off_does_not_exist(post: Callable[..., Any]) -> None:
    error = check_error(post({"model": "gone", "messages": MESSAGES}), 404, "model_not_found", None)
    assert error["message"] == "The model `gone` does not exist or you do not have access to it."
    assert error["type"] == "invalid_request_error"


# --- who may ask ------------------------------------------------------------------------------------------------


def test_a_model_that_the_token_may_not_use_does_not_exist(chatting: Gateway, post: Callable[..., Any]) -> None:
    narrow = chatting.new_token("narrow", "--models", "both")
    assert post({"model": "both", "messages": MESSAGES}, token=narrow).status_code == 200
    answers = []
    for model in ("relayed", "turns", "x-no-such-model"):
        error = check_error(post({"model": model, "messages": MESSAGES}, token=narrow), 404, "model_not_found", None)
        answers.append(error["message"].replace(model, "…"))
    assert len(set(answers)) == 1


@pytest.mark.parametrize("headers", [{"Authorization": ""}, {"Authorization": "Bearer wrong"}])
def test_without_a_token_no_upstream_gets_a_request(
    post: Callable[..., Any], exact: ScriptedUpstream, headers: JSON
) -> None:
    check_error(post({"model": "relayed", "messages": MESSAGES}, headers=headers), 401)
    assert exact.requests == []


# --- what is refused --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "code", "param"),
    [
        ({"model": None}, "missing_required_parameter", "model"),
        ({"messages": None}, "missing_required_parameter", "messages"),
        ({"messages": []}, "empty_array", "messages"),
        ({"messages": "hello"}, "invalid_type", "messages"),
        ({"stream": 1}, "invalid_type", "stream"),
        ({"stream_options": []}, "invalid_type", "stream_options"),
    ],
)
def test_an_error_is_named_before_any_upstream_gets_a_request(
    post: Callable[..., Any], exact: ScriptedUpstream, change: JSON, code: str, param: str
) -> None:
    check_error(post({"model": "relayed", "messages": MESSAGES, **change}), 400, code, param, "invalid_request_error")
    assert exact.requests == []


@pytest.mark.parametrize("body", ["[]", "nonsense"])
def test_a_body_has_to_be_an_object(chatting: Gateway, body: str) -> None:
    check_error(chatting.request("POST", "/chat/completions", data=body), 400, type="invalid_request_error")


def test_values_that_only_the_upstream_knows_are_refused_by_it(post: Callable[..., Any]) -> None:
    answer = post({"model": "relayed", "messages": MESSAGES, "tools": []})
    check_error(answer, 400, "empty_array", "tools")
