"""POST /v1/responses/input_tokens: counted by an upstream that can, else estimated and said so."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import openai
import pytest

from tests.endpoints.conftest import COUNTING, EXACT
from tests.gateway import Gateway
from tests.upstream import ScriptedUpstream, html, refusal, slammed

JSON = dict[str, Any]
Create = Callable[..., JSON]

PATH = "/responses/input_tokens"
ESTIMATED = "X-Antiphon-Estimated"
LOOK = {"type": "function", "name": "look", "parameters": {"type": "object", "properties": {}}}
CALL = {"type": "function_call", "call_id": "c1", "name": "look", "arguments": "{}"}


def _count(api: Gateway, **body: Any) -> tuple[int, str | None]:
    """The tokens, and what is said to be estimated."""
    answer = api.post(PATH, body)
    assert answer.status_code == 200, answer.text
    counted: JSON = answer.json()
    assert counted.keys() == {"object", "input_tokens"}
    assert counted["object"] == "response.input_tokens"
    return counted["input_tokens"], answer.headers.get(ESTIMATED)


def test_the_sdk_is_told_what_the_upstream_counted(api: Gateway, exact: ScriptedUpstream, create: Create) -> None:
    with api.client() as client:
        counted = client.responses.input_tokens.count(
            model=COUNTING,
            input="How many?",
            instructions="Be kind.",
            tools=[LOOK],  # type: ignore[list-item]
            reasoning={"effort": "low"},
        )
    (asked,) = exact.bodies
    assert exact.requests[-1].path == "/v1/responses/input_tokens"
    assert asked.keys() == {"model", "input", "instructions", "tools", "reasoning"}
    answered = create(COUNTING, "How many?", instructions="Be kind.", tools=[LOOK])
    assert counted.input_tokens == answered["usage"]["input_tokens"]
    assert counted.object == "response.input_tokens"


def test_what_was_said_before_is_counted(api: Gateway, exact: ScriptedUpstream, create: Create) -> None:
    first = create(COUNTING, "Remember the word cabbage.")
    tokens, estimated = _count(api, model=COUNTING, input="Which?", previous_response_id=first["id"], stream=True)
    assert [item["role"] for item in exact.bodies[-1]["input"]] == ["user", "assistant", "user"]
    goes_on = create(COUNTING, "Which?", previous_response_id=first["id"])
    assert (tokens, estimated) == (goes_on["usage"]["input_tokens"], None)


def test_without_a_model_the_one_of_the_previous_response_counts(api: Gateway, create: Create) -> None:
    first = create(COUNTING, "Hello")
    tokens, estimated = _count(api, previous_response_id=first["id"])
    assert tokens > 0
    assert estimated is None


def test_what_no_upstream_counts_is_estimated_from_what_was_last_reported(api: Gateway, create: Create) -> None:
    first = create(EXACT, "Hello " * 100, instructions="Be kind.")
    tokens, estimated = _count(api, model=EXACT, input="x" * 400, previous_response_id=first["id"])
    assert estimated == "input_tokens"
    assert 100 < tokens - first["usage"]["total_tokens"] < 150


@pytest.mark.parametrize("body", [{"model": EXACT}, {}])
def test_a_first_request_is_estimated_with_its_instructions_and_tools(api: Gateway, body: JSON) -> None:
    short, estimated = _count(api, **body, input="Hello")
    longer, _ = _count(api, **body, input="Hello", instructions="i" * 400, tools=[{**LOOK, "description": "d" * 400}])
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
    exact.always()
    assert create(COUNTING, "Hello")["status"] == "completed"


def test_nothing_is_stored_and_calls_may_still_wait(api: Gateway, exact: ScriptedUpstream) -> None:
    said = [{"role": "user", "content": "Look"}, CALL]
    before = api.command("db", "stats", "--json")
    assert _count(api, model=COUNTING, input=said, tools=[LOOK])[1] is None
    assert api.command("db", "stats", "--json") == before


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


def test_a_stranger_can_count_nothing_of_mine(api: Gateway, create: Create, stranger: str) -> None:
    mine = create(COUNTING, "Hello")
    with api.client(stranger) as client, pytest.raises(openai.BadRequestError) as refused:
        client.responses.input_tokens.count(previous_response_id=mine["id"], input="And?")
    assert refused.value.code == "previous_response_not_found"
