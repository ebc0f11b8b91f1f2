"""The Agents SDK against the gateway: an agent with a tool, over two turns, on every format."""

from __future__ import annotations

import asyncio
from typing import Any

import agents
import openai
import pytest
from agents.memory import SQLiteSession

from tests.upstream_formats import FormatCase

PLACES: list[str] = []


@agents.function_tool
def get_weather(city: str) -> str:
    """The weather in a city."""
    PLACES.append(city)
    return f"sunny in {city}"


@pytest.fixture(autouse=True)
def _unseen() -> None:
    agents.set_tracing_disabled(True)
    PLACES.clear()


async def converse(format_case: FormatCase, streamed: bool, *texts: str, **settings: Any) -> list[str]:
    """The answers of an agent. The gateway or, with a session, the SDK stores the conversation."""
    transport = openai.DefaultAsyncHttpxClient(trust_env=False)
    session: Any = settings.pop("session", None)
    async with openai.AsyncOpenAI(
        base_url=format_case.gateway.base_url, api_key=format_case.gateway.token, max_retries=0, http_client=transport
    ) as client:
        agent = agents.Agent(
            name="Ada",
            instructions="Be brief.",
            model=agents.OpenAIResponsesModel(format_case.model, client),
            tools=[get_weather],
            model_settings=agents.ModelSettings(**settings),
        )
        answers, previous = [], None
        for text in texts:
            keys: Any = {"session": session} if session else {"previous_response_id": previous}
            result = await run(agent, text, streamed, keys)
            answers.append(str(result.final_output))
            previous = result.last_response_id
    return answers


async def run(agent: Any, text: str, streamed: bool, keys: Any) -> Any:
    if not streamed:
        return await agents.Runner.run(agent, text, **keys)
    result = agents.Runner.run_streamed(agent, text, **keys)
    async for _ in result.stream_events():
        pass
    return result


@pytest.mark.parametrize("streamed", [False, True], ids=["json", "sse"])
def test_an_agent_calls_its_tool_and_goes_on(format_case: FormatCase, streamed: bool) -> None:
    first, second = asyncio.run(converse(format_case, streamed, "How is the weather?", "And what did I ask?"))
    assert "The tools said: sunny in Oslo." in first
    assert "You said: And what did I ask?." in second
    assert PLACES == ["Oslo"]
    assert [line for line in format_case.sent_lines if line[0] != "system"] == [
        ("user", "How is the weather?"),
        ("call", "get_weather", '{"city":"Oslo"}'),
        ("output", "sunny in Oslo"),
        ("assistant", first),
        ("user", "And what did I ask?"),
    ]


@pytest.mark.parametrize("streamed", [False, True], ids=["json", "sse"])
def test_an_agent_that_keeps_its_own_history_does_the_same(format_case: FormatCase, streamed: bool) -> None:
    session = SQLiteSession("tests")
    settings: Any = {"store": False, "response_include": ["reasoning.encrypted_content"], "session": session}
    settings["reasoning"] = openai.types.shared.Reasoning(effort="medium", summary="auto")
    texts = ("Please think: how is the weather?", "And what did I ask?")
    first, second = asyncio.run(converse(format_case, streamed, *texts, **settings))
    session.close()
    assert "sunny in Oslo" in first
    assert "And what did I ask?" in second
    assert [line[0] for line in format_case.sent_lines if line[0] != "system"] == [
        "user",
        "call",
        "output",
        "assistant",
        "user",
    ]
