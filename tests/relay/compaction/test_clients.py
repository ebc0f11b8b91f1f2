"""Compaction as the clients ask for it that people use: the official SDK, the Agents SDK, Codex."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import agents
import openai
import pytest
from agents.items import TResponseInputItem
from agents.memory import OpenAIResponsesCompactionSession, SQLiteSession

from tests.relay.compaction.conftest import (
    FILLER,
    FORMATS,
    JSON,
    NATIVE,
    CompactionGateway,
    conversation,
    facts,
    kinds,
    numbered,
    user,
    users,
    words,
)
from tests.response_contract import check_stream

everywhere = pytest.mark.parametrize("model", [*FORMATS.values(), *NATIVE], ids=[*FORMATS, *NATIVE])
TRIGGER = {"type": "compaction_trigger"}


@pytest.fixture
def client(compaction_gateway: CompactionGateway) -> Iterator[openai.OpenAI]:
    with compaction_gateway.gateway.client() as client:
        yield client


# --- the official SDK -------------------------------------------------------------------------------------------


@everywhere
def test_the_sdk_compacts_and_goes_on_from_the_window(
    client: openai.OpenAI, compaction_gateway: CompactionGateway, model: str
) -> None:
    last = compaction_gateway.talk(model, 3)
    from_chain = client.responses.compact(model=model, previous_response_id=last)
    given: Any = conversation(3)
    from_items = client.responses.compact(model=model, input=given)
    for window in (from_chain, from_items):
        assert window.object == "response.compaction"
        assert [item.type for item in window.output] == ["message"] * 3 + ["compaction"]
        # The SDK's type of an output item is a model's message; a user's is more than it can serialise quietly.
        following: Any = [*(item.to_dict(warnings=False) for item in window.output), user("And now?")]
        assert "And now?" in client.responses.create(model=model, input=following).output_text
        with client.responses.stream(model=model, input=following) as stream:
            assert "And now?" in stream.get_final_response().output_text


@everywhere
def test_the_sdk_manages_its_context(client: openai.OpenAI, compaction_gateway: CompactionGateway, model: str) -> None:
    last = compaction_gateway.talk(model, 8)
    managed: Any = [{"type": "compaction", "compact_threshold": 1000}]
    keys: Any = {"model": model, "input": "And now?", "previous_response_id": last, "context_management": managed}
    whole = client.responses.create(**keys)
    with client.responses.stream(**keys) as stream:
        streamed = stream.get_final_response()
    for response in (whole, streamed):
        assert response.output[0].type == "compaction"
        assert "And now?" in response.output_text
        assert client.responses.retrieve(response.id).output_text == response.output_text


def test_the_sdk_takes_the_answering_form_for_what_it_is(
    client: openai.OpenAI, compaction_gateway: CompactionGateway
) -> None:
    compacted: Any = client.responses.compact(
        model="gpt-plain", previous_response_id=compaction_gateway.talk("gpt-plain", 3), input="And now?"
    )
    assert (compacted.object, compacted.status) == ("response", "completed")
    assert "And now?" in compacted.output[-1].content[0].text


# --- the Agents SDK ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["previous_response_id", "input"])
@pytest.mark.parametrize("stream", [False, True], ids=["json", "sse"])
@pytest.mark.parametrize("model", ["gpt-plain", "gpt-native"])
def test_the_agents_sdk_goes_on_over_its_compacted_session(
    compaction_gateway: CompactionGateway, model: str, stream: bool, mode: Any
) -> None:
    answers = asyncio.run(_session(compaction_gateway, model, stream, mode))
    assert "And now?" in answers[-1]
    compacting = [request for request in compaction_gateway.first.requests if request.path.endswith("/compact")]
    assert (len(compacting) > 0) == (model == "gpt-native")
    assert facts(users(compaction_gateway.given)) == numbered(*range(1, 13))


async def _session(compaction_gateway: CompactionGateway, model: str, stream: bool, mode: Any) -> list[str]:
    """Twelve turns and one more: the session compacts itself after the tenth answer."""
    agents.set_tracing_disabled(True)
    transport = openai.DefaultAsyncHttpxClient(trust_env=False)
    async with openai.AsyncOpenAI(
        base_url=compaction_gateway.gateway.base_url,
        api_key=compaction_gateway.gateway.token,
        max_retries=0,
        http_client=transport,
    ) as client:
        agent = agents.Agent(name="Ada", model=agents.OpenAIResponsesModel(model, client))
        memory = SQLiteSession("tests")
        session = OpenAIResponsesCompactionSession("tests", memory, client=client, model=model, compaction_mode=mode)
        texts = [*(f"Note fact-{number}." for number in range(1, 13)), "And now?"]
        answers = [await _ask(agent, text, session, stream) for text in texts]
        items: list[TResponseInputItem] = await session.get_items()
        memory.close()
    assert [item.get("type") for item in items].count("compaction") == 1
    return answers


async def _ask(agent: Any, text: str, session: Any, stream: bool) -> str:
    if not stream:
        return str((await agents.Runner.run(agent, text, session=session)).final_output)
    result = agents.Runner.run_streamed(agent, text, session=session)
    async for _ in result.stream_events():
        pass
    return str(result.final_output)


# --- Codex ------------------------------------------------------------------------------------------------------

FUNCTION = {"type": "function", "name": "exec_command", "strict": False, "parameters": {"type": "object"}}
TOOLS = [
    FUNCTION,
    {"type": "custom", "name": "apply_patch", "format": {"type": "grammar", "syntax": "lark", "definition": "x"}},
    {"type": "namespace", "name": "mcp__files", "description": "Files.", "tools": [{**FUNCTION, "name": "read"}]},
    {"type": "web_search", "external_web_access": False},
]


def codex(model: str, items: list[JSON]) -> JSON:
    """A body as Codex sends it: the whole history each time, nothing stored, always streamed."""
    return {
        "model": model,
        "instructions": "You are a coding agent. " * 1300,
        "input": items,
        "tools": TOOLS,
        "tool_choice": "auto",
        "parallel_tool_calls": True,
        "reasoning": {"summary": "auto"},
        "store": False,
        "stream": True,
        "include": ["reasoning.encrypted_content"],
        "prompt_cache_key": "01a2039a-2761-7dd3-8243-3f3a5860b23f",
        "client_metadata": {"session_id": "01a2039a-2761-7dd3-8243-3f3a5860b23f"},
    }


def codex_history() -> list[JSON]:
    rules = {"type": "message", "role": "developer", "content": [{"type": "input_text", "text": "Be careful."}]}
    call = {"type": "function_call", "name": "exec_command", "arguments": '{"cmd":"ls"}', "call_id": "call_1"}
    output = {"type": "function_call_output", "call_id": "call_1", "output": f"fact-9{FILLER}"}
    extras = {"type": "message", "id": "msg_01a2", "internal_chat_message_metadata_passthrough": {"turn": 1}}
    return [rules, {**extras, **conversation(1)[0]}, call, output, *conversation(2, first=2)]


def streamed(compaction_gateway: CompactionGateway, body: JSON) -> list[JSON]:
    answer = compaction_gateway.gateway.stream(body)
    assert answer.status_code == 200, answer.text
    return check_stream(answer.content, status="completed")


@everywhere
def test_codex_gets_exactly_one_item_and_goes_on_from_it(compaction_gateway: CompactionGateway, model: str) -> None:
    history = codex_history()
    events = streamed(compaction_gateway, codex(model, [*history, TRIGGER]))
    done = [event["item"] for event in events if event["type"] == "response.output_item.done"]
    assert kinds(done) == ["compaction"]
    assert events[-1]["type"] == "response.completed"

    # Codex keeps its own instructions and the users' messages, and puts the item behind them.
    retained = [item for item in history if item.get("role") in ("developer", "user")]
    after = streamed(compaction_gateway, codex(model, [*retained, *done, user("And now?")]))
    assert "And now?" in words(after[-1]["response"]["output"][-1])
    if model != "demo":
        given = compaction_gateway.given
        assert [words(item) for item in given].count("Be careful.") <= 1
        assert [facts(text) for text in users(given) if text.startswith("Note")] == [numbered(n) for n in (1, 2, 3)]
        assert users(given)[-1] == "And now?"
    assert model != "gpt-plain" or "Known: fact-1, fact-9, fact-2, fact-3" in str(compaction_gateway.given)


def test_codex_of_last_year_compacts_over_the_endpoint(compaction_gateway: CompactionGateway) -> None:
    body = {key: value for key, value in codex("gpt-native", codex_history()).items() if key not in ("stream", "store")}
    window = compaction_gateway.ok("/responses/compact", **body)
    assert kinds(window["output"]) == ["message"] * 3 + ["compaction"]
    sent = compaction_gateway.first.bodies[-1]
    assert sent.keys() == {"model", "input", "instructions", "prompt_cache_key"}
