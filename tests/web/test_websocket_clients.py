"""The clients that speak WebSocket, as their users have them: the official SDK and the Agents SDK."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import agents
import openai
import pytest
from openai.resources.responses.responses import ResponsesConnection
from openai.types.responses import Response
from openai.types.responses.responses_server_event import ResponseWsError

from tests.endpoints.conftest import FORMATS, MODELS
from tests.gateway import Gateway
from tests.upstream import ScriptedUpstream

PLACES: list[str] = []


@agents.function_tool
def get_weather(city: str) -> str:
    """The weather in a city."""
    PLACES.append(city)
    return f"sunny in {city}"


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """No proxy of the environment stands in between, no error is reported, and nothing has happened yet."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    agents.set_tracing_disabled(True)
    PLACES.clear()


@pytest.fixture(scope="module")
def upstream() -> Iterator[ScriptedUpstream]:
    with ScriptedUpstream() as upstream:
        yield upstream


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, upstream: ScriptedUpstream) -> Iterator[Gateway]:
    rows = [row(upstream) for _, row in FORMATS.values()]
    with Gateway(tmp_path_factory.mktemp("clients"), rows, workers=2) as gateway:
        yield gateway


@pytest.fixture(params=MODELS)
def model(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture
def connection(served: Gateway) -> Iterator[ResponsesConnection]:
    with served.client() as client, client.responses.connect() as connection:
        yield connection


def end(connection: ResponsesConnection) -> Any:
    """The event that ends the turn; every one before it is of a type that the SDK knows."""
    for event in connection:
        assert hasattr(event, "type")
        if event.type in ("error", "response.completed", "response.failed", "response.incomplete"):
            return event
    raise AssertionError("the connection ended before the turn did")


def answer(connection: ResponsesConnection, **keys: Any) -> Response:
    connection.response.create(**keys)
    event = end(connection)
    assert event.type == "response.completed", event
    response: Response = event.response
    return response


# --- the official SDK -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("store", [True, False])
def test_the_sdk_converses(connection: ResponsesConnection, model: str, store: bool) -> None:
    first = answer(connection, model=model, input="My name is Ada.", store=store)
    second = answer(connection, model=model, input="And?", store=store, previous_response_id=first.id)

    assert first.output_text
    assert second.previous_response_id == first.id
    assert first.usage
    assert second.usage
    assert second.usage.input_tokens > first.usage.input_tokens


def test_the_sdk_warms_up(connection: ResponsesConnection, model: str) -> None:
    warm = answer(connection, model=model, input="My name is Ada.", generate=False, store=False)
    assert warm.output == []
    assert answer(connection, model=model, input="And?", store=False, previous_response_id=warm.id).output_text


def test_the_sdk_reads_stream_ids_and_errors(connection: ResponsesConnection, model: str) -> None:
    connection.response.create(model=model, input="Hello", stream_id="left")
    assert end(connection).stream_id == "left"
    connection.response.create(model=model, input="Hello", previous_response_id="resp_x", stream_id="right")
    error = end(connection)
    assert isinstance(error, ResponseWsError)
    assert (error.status, error.error.code, error.stream_id) == (400, "previous_response_not_found", "right")
    connection.response.steer(input="Faster", previous_response_id="resp_x")
    assert end(connection).error.code == "unsupported_frame"
    assert answer(connection, model=model, input="Hello").output_text


def test_the_sdk_raises_for_a_wrong_key(served: Gateway) -> None:
    with served.client("wrong") as client, pytest.raises(Exception, match="401"):
        client.responses.connect().enter()


# --- the Agents SDK ---------------------------------------------------------------------------------------------


async def converse(gateway: Gateway, model: str, *texts: str, **settings: Any) -> list[str]:
    """The answers of an agent over one socket. The gateway stores the conversation."""
    async with openai.AsyncOpenAI(base_url=gateway.base_url, api_key=gateway.token, max_retries=0) as client:
        wire = agents.OpenAIResponsesWSModel(model, client)
        agent = agents.Agent(
            name="Ada", model=wire, tools=[get_weather], model_settings=agents.ModelSettings(**settings)
        )
        answers, previous = [], None
        for text in texts:
            result = agents.Runner.run_streamed(agent, text, previous_response_id=previous)
            async for _ in result.stream_events():
                pass
            answers.append(str(result.final_output))
            previous = result.last_response_id
        await wire.close()
    return answers


@pytest.mark.parametrize("store", [None, False])
def test_an_agent_calls_its_tool_and_goes_on(served: Gateway, model: str, store: bool | None) -> None:
    first, second = asyncio.run(
        converse(served, model, "Please get_weather, the weather.", "And what did I ask?", store=store)
    )
    assert len(PLACES) == 1
    assert PLACES[0] in first
    assert second
    assert second != first
