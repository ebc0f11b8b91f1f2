"""POST /v1/responses/input_tokens: counted by an upstream that can, else estimated and marked."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import openai
import orjson
import pytest

from tests.gateway import Gateway
from tests.upstream import Answer, Exchange, ScriptedUpstream, html, raw, refusal, slammed

JSON = dict[str, Any]
Create = Callable[..., JSON]

EXACT, COUNTING, COUNTING_MESSAGES = "exact-model", "counting-model", "counting-messages"
PATH = "/responses/input_tokens"
ESTIMATED = "X-Antiphon-Estimated"
LOOK = {"type": "function", "name": "look", "parameters": {"type": "object", "properties": {}}}
#: What a request that only counts may hold.
COUNTED = {"model", "input", "instructions", "tools", "tool_choice", "text", "reasoning", "truncation"}
CALL = {"type": "function_call", "call_id": "c1", "name": "look", "arguments": "{}"}


def counting(exchange: Exchange, answer: Answer) -> Answer:
    """An upstream that counts a thousand and one for every item, and refuses what it does not know."""
    body = exchange.request.body
    if exchange.request.path != "/v1/responses/input_tokens":
        return answer
    if unknown := body.keys() - COUNTED:
        return refusal(400, f"Unknown parameter: {unknown}", "unknown_parameter")(exchange, answer)
    counted = {"object": "response.input_tokens", "input_tokens": 1000 + len(body["input"])}
    return raw(200, orjson.dumps(counted))(exchange, answer)


@pytest.fixture(scope="module")
def _serving(tmp_path_factory: pytest.TempPathFactory, _scripted: ScriptedUpstream) -> Iterator[Gateway]:
    """A gateway with upstreams of both formats that can count, and one that cannot."""
    rows = [
        _scripted.channel(EXACT, models=[EXACT]),
        _scripted.channel(COUNTING, models=[COUNTING], count_tokens=True),
        _scripted.channel(COUNTING_MESSAGES, models=[COUNTING_MESSAGES], format="messages", count_tokens=True),
    ]
    with Gateway(tmp_path_factory.mktemp("counting"), rows) as gateway:
        yield gateway


@pytest.fixture(autouse=True)
def _counts(exact: ScriptedUpstream) -> None:
    exact.always(counting)


def _count(api: Gateway, **body: Any) -> tuple[int, str | None]:
    """The tokens, and the mark of an estimate."""
    answer = api.post(PATH, body)
    assert answer.status_code == 200, answer.text
    counted: JSON = answer.json()
    assert counted.keys() == {"object", "input_tokens"}
    assert counted["object"] == "response.input_tokens"
    return counted["input_tokens"], answer.headers.get(ESTIMATED)


def test_the_sdk_gets_the_count_of_the_upstream(api: Gateway, exact: ScriptedUpstream) -> None:
    with api.client() as client:
        counted = client.responses.input_tokens.count(
            model=COUNTING,
            input="How many?",
            instructions="Be kind.",
            tools=[LOOK],  # type: ignore[list-item]
            reasoning={"effort": "low"},
        )
    (sent,) = exact.bodies
    assert exact.requests[-1].path == "/v1/responses/input_tokens"
    assert sent.keys() == {"model", "input", "instructions", "tools", "reasoning"}
    assert (counted.object, counted.input_tokens) == ("response.input_tokens", 1001)


def test_an_upstream_that_speaks_messages_counts_too(api: Gateway, exact: ScriptedUpstream) -> None:
    exact.always(raw(200, b'{"input_tokens":77}'))
    request_body = {"model": COUNTING_MESSAGES, "input": "How many?", "instructions": "Be kind.", "temperature": 0.5}
    assert _count(api, **request_body) == (77, None)
    assert exact.requests[-1].path == "/v1/messages/count_tokens"
    assert exact.bodies[-1].keys() == {"model", "messages", "system"}


def test_the_history_is_counted(api: Gateway, exact: ScriptedUpstream, create: Create) -> None:
    first = create(COUNTING, "Remember the word cabbage.")
    request_body = {"model": COUNTING, "input": "Which?", "previous_response_id": first["id"], "stream": True}
    assert _count(api, **request_body) == (1003, None)
    assert [item["role"] for item in exact.bodies[-1]["input"]] == ["user", "assistant", "user"]


def test_without_a_model_the_one_of_the_previous_response_counts(api: Gateway, create: Create) -> None:
    first = create(COUNTING, "Hello")
    assert _count(api, previous_response_id=first["id"]) == (1002, None)


def test_tokens_that_no_upstream_counts_are_estimated_from_the_last_usage(api: Gateway, create: Create) -> None:
    first = create(EXACT, "Hello " * 100, instructions="Be kind.")
    tokens, estimated = _count(api, model=EXACT, input="word " * 100, previous_response_id=first["id"])
    assert estimated == "input_tokens"
    assert 100 < tokens - first["usage"]["total_tokens"] < 150


@pytest.mark.parametrize("body", [{"model": EXACT}, {}])
def test_a_first_request_is_estimated_with_its_instructions_and_tools(api: Gateway, body: JSON) -> None:
    short, estimated = _count(api, **body, input="Hello")
    longer, _ = _count(
        api, **body, input="Hello", instructions="word " * 100, tools=[{**LOOK, "description": "word " * 100}]
    )
    assert estimated == "input_tokens"
    assert 200 < longer - short < 260


@pytest.mark.parametrize(
    "script", [refusal(404, "Invalid URL", None), html(502), slammed(), html(200)], ids=["404", "502", "gone", "html"]
)
def test_a_count_that_fails_is_estimated(api: Gateway, exact: ScriptedUpstream, create: Create, script: Any) -> None:
    exact.always(script)
    for _ in range(6):
        assert _count(api, model=COUNTING, input="x" * 400)[1] == "input_tokens"
    # The channel answers all the same.
    exact.always(counting)
    assert create(COUNTING, "Hello")["status"] == "completed"


def test_nothing_is_stored_and_calls_may_still_wait(api: Gateway, exact: ScriptedUpstream) -> None:
    items = [{"role": "user", "content": "Look"}, CALL]
    before = rows_of(api)
    assert _count(api, model=COUNTING, input=items, tools=[LOOK]) == (1002, None)
    assert rows_of(api) == before


def rows_of(api: Gateway) -> JSON:
    """How many rows each table has, but for those of workers, which come and go by themselves."""
    tables: JSON = orjson.loads(api.command("db", "stats", "--json"))["rows"]
    return {name: count for name, count in tables.items() if name != "worker"}


@pytest.mark.parametrize(
    ("body", "param", "code"),
    [
        ({"model": 5}, "model", "invalid_type"),
        ({"model": COUNTING, "input": []}, "input", "empty_array"),
        ({"model": COUNTING, "input": [{"type": "message"}]}, "input[0]", "missing_required_parameter"),
        ({"model": "nobody", "input": "Hello"}, "model", "model_not_found"),
        ({"input": "Hello", "previous_response_id": "resp_0"}, "previous_response_id", "previous_response_not_found"),
    ],
)
def test_it_is_refused_as_a_response_would_be(api: Gateway, body: JSON, param: str, code: str) -> None:
    answer = api.post(PATH, body)
    assert answer.status_code == 400
    error = answer.json()["error"]
    if body.get("model") == COUNTING:
        assert error == api.post("/responses", body).json()["error"]
    else:
        assert (error["param"], error["code"]) == (param, code)


NULLABLE = [
    *("instructions", "previous_response_id", "conversation", "tools", "tool_choice", "text", "reasoning"),
    *("truncation", "parallel_tool_calls", "personality", "metadata", "max_output_tokens", "store", "include"),
]


def test_null_counts_as_absent(api: Gateway, exact: ScriptedUpstream) -> None:
    plain = _count(api, model=COUNTING, input="Hello")
    assert _count(api, model=COUNTING, input="Hello", **dict.fromkeys(NULLABLE)) == plain
    assert exact.bodies[-1].keys().isdisjoint(NULLABLE)
    for name in ("model", "input"):
        assert api.post(PATH, {"model": COUNTING, "input": "Hello", name: None}).status_code == 200


def test_a_stranger_can_count_nothing_of_mine(api: Gateway, create: Create) -> None:
    mine = create(COUNTING, "Hello")
    stranger = api.new_token("stranger", "--owner", "stranger")
    with api.client(stranger) as client, pytest.raises(openai.BadRequestError) as refused:
        client.responses.input_tokens.count(previous_response_id=mine["id"], input="And?")
    assert refused.value.code == "previous_response_not_found"
