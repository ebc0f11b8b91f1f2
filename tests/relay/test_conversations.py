"""Turns in a conversation, with the official SDKs and two workers: the context of the model, and what is stored."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from threading import Barrier
from typing import Any

import agents
import openai
import pytest

from tests.endpoints.vocabulary import WEATHER, answered, calls_of, message_item, text_of, user_texts
from tests.gateway import Gateway
from tests.relay.conftest import eventually
from tests.response_contract import check_error, check_item_list, check_response, check_stream
from tests.upstream import Answer, Exchange, ScriptedUpstream, failing, rewritten, stalled

JSON = dict[str, Any]
FORMATS = ("one/exact", "two/exact", "bridged", "demo")
QUESTION = "Please get_weather: what is the weather?"
OPAQUE = "reasoning.encrypted_content"


@dataclass(frozen=True, slots=True)
class ConversationGateway:
    gateway: Gateway
    one: ScriptedUpstream
    two: ScriptedUpstream

    def begin(self, *items: JSON) -> str:
        return str(self.gateway.post("/conversations", {"items": list(items)}).json()["id"])

    def say(self, conversation: str, text: Any, model: str = "one/exact", **keys: Any) -> JSON:
        answer = self.gateway.post("/responses", self.body(conversation, text, model, **keys))
        assert answer.status_code == 200, answer.text
        return check_response(answer.json(), conversation={"id": conversation})

    def body(self, conversation: str, text: Any, model: str = "one/exact", **keys: Any) -> JSON:
        return {"model": model, "input": text, "conversation": conversation, **keys}

    def items(self, conversation: str, order: str = "asc") -> list[JSON]:
        path = f"/conversations/{conversation}/items?limit=100&order={order}"
        return check_item_list(self.gateway.get(path).json())

    def given(self) -> list[JSON]:
        return list(self.one.bodies[-1]["input"])


def test_the_upstream_gets_the_items_of_a_turn_as_in_all_later_turns(conversation_gateway: ConversationGateway) -> None:
    conversation = conversation_gateway.begin(message_item("Be brief.", "developer"))
    given: list[JSON] = []
    for number in range(3):
        items = [message_item(f"Number {number}."), {**message_item("And?"), "id": f"msg_own_{number}"}]
        conversation_gateway.say(conversation, items)
        assert conversation_gateway.given()[: len(given)] == given
        given = conversation_gateway.given()
    stored = conversation_gateway.items(conversation)
    assert [item["id"] for item in given] == [item["id"] for item in stored][: len(given)]


def kinds(items: list[JSON]) -> list[str]:
    """Types of the items, but for reasoning, which comes and goes."""
    return [item["type"] for item in items if item["type"] != "reasoning"]


@pytest.fixture(scope="module")
def _conversation_gateway(
    tmp_path_factory: pytest.TempPathFactory, module_database_url: str
) -> Iterator[ConversationGateway]:
    with ScriptedUpstream(family="one") as one, ScriptedUpstream(family="two") as two:
        rows = [
            one.channel("one", models=["one/exact"], family="one", encrypted_reasoning=True),
            two.channel("two", models=["two/exact"], family="two", encrypted_reasoning=True),
            one.channel("bridge", models=["bridged"], format="chat_completions"),
            one.channel("pair-a", models=["pair"], family="a"),
            two.channel("pair-b", models=["pair"], family="b"),
            {"name": "demo", "format": "demo", "models": ["demo"]},
        ]
        table = {"defaults": {"cooldown": {"after": 1000}}}
        directory = tmp_path_factory.mktemp("conversations")
        with Gateway(directory, rows, table, workers=2, database_url=module_database_url) as gateway:
            yield ConversationGateway(gateway, one, two)


@pytest.fixture
def conversation_gateway(_conversation_gateway: ConversationGateway) -> ConversationGateway:
    _conversation_gateway.one.reset()
    _conversation_gateway.two.reset()
    return _conversation_gateway


@pytest.fixture
def client(conversation_gateway: ConversationGateway) -> Iterator[openai.OpenAI]:
    with conversation_gateway.gateway.client() as client:
        yield client


# --- the context and what is stored -----------------------------------------------------------------------------


@pytest.mark.parametrize("model", FORMATS)
def test_each_turn_knows_all_that_stands_in_the_conversation(
    client: openai.OpenAI, conversation_gateway: ConversationGateway, model: str
) -> None:
    made = client.conversations.create(items=[{"role": "user", "content": "My name is Ada."}])
    first = client.responses.create(model=model, input="one", conversation=made.id)
    *_, end = client.responses.create(model=model, input="two", conversation={"id": made.id}, stream=True)
    assert end.type == "response.completed"
    second = end.response
    client.conversations.items.create(made.id, items=[{"role": "user", "content": "added"}])
    third = client.responses.create(model=model, input="three", conversation=made.id)

    for response in (first, second, third):
        assert response.conversation
        assert response.conversation.id == made.id
        assert client.responses.retrieve(response.id) == response
    assert first.usage
    assert second.usage
    assert third.usage
    assert first.usage.input_tokens < second.usage.input_tokens < third.usage.input_tokens
    items = conversation_gateway.items(made.id)
    assert user_texts(items) == ["My name is Ada.", "one", "two", "added", "three"]
    item_ids = [item["id"] for item in items]
    for response in (first, second, third):
        assert [item.id for item in response.output] == [
            name for name in item_ids if name in {i.id for i in response.output}
        ]


def test_the_upstream_is_given_the_items_and_never_the_name(conversation_gateway: ConversationGateway) -> None:
    conversation = conversation_gateway.begin(message_item("zero"), message_item("Be brief.", "developer"))
    conversation_gateway.say(conversation, "one")
    conversation_gateway.say(conversation, "two")
    assert user_texts(conversation_gateway.given()) == ["zero", "one", "two"]
    roles = [item["role"] for item in conversation_gateway.given() if item["type"] == "message"]
    assert roles == ["user", "developer", "user", "assistant", "user"]
    assert all("conversation" not in body for body in conversation_gateway.one.bodies)


def test_input_items_lists_the_context_as_it_was_then(conversation_gateway: ConversationGateway) -> None:
    conversation = conversation_gateway.begin(message_item("zero"))
    first = conversation_gateway.say(conversation, "one")
    conversation_gateway.say(conversation, "two")
    found = check_item_list(conversation_gateway.gateway.get(f"/responses/{first['id']}/input_items?order=asc").json())
    assert user_texts(found) == ["zero", "one"]
    assert [item["id"] for item in found] == [item["id"] for item in conversation_gateway.items(conversation)[:2]]


def test_a_turn_that_is_not_stored_reads_and_adds_nothing(conversation_gateway: ConversationGateway) -> None:
    conversation = conversation_gateway.begin(message_item("zero"))
    conversation_gateway.say(conversation, "one", store=False)
    assert user_texts(conversation_gateway.given()) == ["zero", "one"]
    assert user_texts(conversation_gateway.items(conversation)) == ["zero"]


def test_a_turn_cut_short_is_stored(conversation_gateway: ConversationGateway) -> None:
    conversation = conversation_gateway.begin()
    cut = conversation_gateway.say(conversation, "one", max_output_tokens=16)
    assert cut["status"] == "incomplete"
    assert [item["id"] for item in conversation_gateway.items(conversation)][1:] == [
        item["id"] for item in cut["output"]
    ]


def test_a_turn_that_fails_adds_nothing(conversation_gateway: ConversationGateway) -> None:
    conversation = conversation_gateway.begin(message_item("zero"))
    conversation_gateway.one.always(failing(4))
    check_stream(
        conversation_gateway.gateway.stream(conversation_gateway.body(conversation, "one")).content,
        status="failed",
        conversation={"id": conversation},
    )
    assert user_texts(conversation_gateway.items(conversation)) == ["zero"]
    conversation_gateway.one.reset()
    conversation_gateway.say(conversation, "two")
    assert user_texts(conversation_gateway.given()) == ["zero", "two"]


def test_a_turn_whose_client_left_adds_nothing(conversation_gateway: ConversationGateway) -> None:
    conversation = conversation_gateway.begin(message_item("zero"))
    conversation_gateway.one.always(stalled(5))
    with conversation_gateway.gateway.stream(conversation_gateway.body(conversation, "one")) as answer:
        name = str(next(answer.iter_content(chunk_size=None)).split(b'"id":"')[1].split(b'"')[0], "ascii")
        answer.raw.close()
    eventually(
        lambda: conversation_gateway.gateway.get(f"/responses/{name}").json()["status"] == "cancelled", "the row to end"
    )
    assert user_texts(conversation_gateway.items(conversation)) == ["zero"]


def test_after_the_end_every_worker_finds_the_turn(conversation_gateway: ConversationGateway) -> None:
    conversation = conversation_gateway.begin()
    for number in range(12):
        end = check_stream(
            conversation_gateway.gateway.stream(
                conversation_gateway.body(conversation, f"turn {number}", "demo")
            ).content
        )[-1]
        with conversation_gateway.gateway.client() as other:
            newest = other.conversations.items.list(conversation, limit=1).data[0]
        assert newest.id == end["response"]["output"][-1]["id"]


def test_turns_at_once_all_land_whole_and_in_one_order(conversation_gateway: ConversationGateway) -> None:
    conversation = conversation_gateway.begin(message_item("zero"))

    def say(number: int) -> JSON:
        body = conversation_gateway.body(conversation, f"turn {number}", "demo", stream=bool(number % 2))
        answer = conversation_gateway.gateway.request("POST", "/responses", json=body)
        return dict(check_stream(answer.content)[-1]["response"] if number % 2 else answer.json())

    with ThreadPoolExecutor(8) as threads:
        responses = {response["output"][-1]["id"]: response for response in threads.map(say, range(24))}
    zero, *items = conversation_gateway.items(conversation)
    assert len(items) == 48
    for question, output_id in zip(items[::2], items[1::2], strict=True):
        response = responses.pop(output_id["id"])
        assert question["id"].startswith(f"msg_{response['id'].removeprefix('resp_')}")
    assert responses == {}
    assert conversation_gateway.items(conversation, "desc") == [zero, *items][::-1]


def test_ids_that_an_upstream_gives_twice_become_unique(conversation_gateway: ConversationGateway) -> None:
    def same(body: JSON) -> JSON:
        body["output"][-1]["id"] = "msg_same"
        return body

    conversation_gateway.one.always(rewritten(same))
    conversation = conversation_gateway.begin()
    ids = [conversation_gateway.say(conversation, text)["output"][-1]["id"] for text in ("one", "two")]
    stored = conversation_gateway.items(conversation)
    assert len({item["id"] for item in stored}) == len(stored)
    assert ids[0] == "msg_same"
    assert [item["id"] for item in stored if item.get("role") == "assistant"] == ids


# --- calls ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", FORMATS)
def test_a_call_waits_in_the_conversation_for_its_output(conversation_gateway: ConversationGateway, model: str) -> None:
    conversation = conversation_gateway.begin()
    (call,) = calls_of(conversation_gateway.say(conversation, QUESTION, model, tools=[WEATHER]))
    error = check_error(
        conversation_gateway.gateway.post("/responses", conversation_gateway.body(conversation, "Well?", model)),
        status=400,
    )
    assert error["message"] == f"No tool output found for function call {call['call_id']}."
    conversation_gateway.say(conversation, [answered(call)], model, tools=[WEATHER])
    assert kinds(conversation_gateway.items(conversation))[:3] == ["message", "function_call", "function_call_output"]


def test_call_ids_that_restart_with_every_turn_become_unique(conversation_gateway: ConversationGateway) -> None:
    def counted(body: JSON) -> JSON:
        for item in body["output"]:
            if item["type"] == "function_call":
                item["call_id"] = "call_0"
        return body

    conversation_gateway.one.always(rewritten(counted))
    conversation = conversation_gateway.begin()
    for _ in range(2):
        call = conversation_gateway.say(conversation, QUESTION, tools=[WEATHER])["output"][-1]
        refused = conversation_gateway.gateway.post("/responses", conversation_gateway.body(conversation, "Well?"))
        assert check_error(refused, status=400)["message"].endswith(f"function call {call['call_id']}.")
        conversation_gateway.say(conversation, [answered(call)], tools=[WEATHER])
    assert kinds(conversation_gateway.items(conversation)).count("function_call_output") == 2


def test_calls_of_turns_made_at_once_all_wait(conversation_gateway: ConversationGateway) -> None:
    conversation, both = conversation_gateway.begin(), Barrier(2)

    def together(exchange: Exchange, answer: Answer) -> Answer:
        both.wait(10)
        return answer

    conversation_gateway.one.always(together)
    with ThreadPoolExecutor(2) as threads:
        turns = list(threads.map(lambda _: conversation_gateway.say(conversation, QUESTION, tools=[WEATHER]), range(2)))
    conversation_gateway.one.reset()
    calls = [call for turn in turns for call in calls_of(turn)]
    assert len(calls) == 2
    refused = conversation_gateway.gateway.post(
        "/responses", conversation_gateway.body(conversation, [answered(calls[0])], tools=[WEATHER])
    )
    assert calls[1]["call_id"] in check_error(refused, status=400)["message"]
    conversation_gateway.say(conversation, [answered(call) for call in calls], tools=[WEATHER])


def test_an_output_whose_call_was_removed_is_named_and_can_be_removed(
    conversation_gateway: ConversationGateway,
) -> None:
    conversation = conversation_gateway.begin()
    (call,) = calls_of(conversation_gateway.say(conversation, QUESTION, tools=[WEATHER]))
    conversation_gateway.say(conversation, [answered(call)], tools=[WEATHER])
    path = f"/conversations/{conversation}/items"
    assert conversation_gateway.gateway.delete(f"{path}/{call['id']}").status_code == 200
    error = check_error(
        conversation_gateway.gateway.post("/responses", conversation_gateway.body(conversation, "Well?")), status=400
    )
    assert error["message"] == f"No tool call found for function call output with call_id {call['call_id']}."
    (orphan,) = [item for item in conversation_gateway.items(conversation) if item["type"] == "function_call_output"]
    assert conversation_gateway.gateway.delete(f"{path}/{orphan['id']}").status_code == 200
    conversation_gateway.say(conversation, "Well?")


def test_a_call_that_a_client_added_is_answered_in_a_turn(conversation_gateway: ConversationGateway) -> None:
    call = {"type": "function_call", "call_id": "call_mine", "name": "get_weather", "arguments": "{}"}
    conversation = conversation_gateway.begin(message_item(QUESTION), call)
    check_error(
        conversation_gateway.gateway.post("/responses", conversation_gateway.body(conversation, "Well?")),
        status=400,
        param="input",
    )
    assert text_of(conversation_gateway.say(conversation, [answered(call)]))


# --- moving -----------------------------------------------------------------------------------------------------


def test_a_conversation_moves_between_formats_without_encrypted_items_of_another(
    conversation_gateway: ConversationGateway,
) -> None:
    conversation = conversation_gateway.begin(message_item("zero"))
    for number, model in enumerate(("one/exact", "bridged", "two/exact", "demo", "one/exact")):
        conversation_gateway.say(conversation, f"turn {number}", model, include=[OPAQUE])
    given = conversation_gateway.given()
    assert user_texts(given) == ["zero", "turn 0", "turn 1", "turn 2", "turn 3", "turn 4"]
    secrets = [item["encrypted_content"] for item in given if item.get("encrypted_content")]
    mine = conversation_gateway.one.bodies[0]
    assert mine["include"] == [OPAQUE]
    assert len(secrets) == 1


def test_the_channel_of_the_last_turn_comes_first(conversation_gateway: ConversationGateway) -> None:
    conversation = conversation_gateway.begin()
    for number in range(6):
        conversation_gateway.say(conversation, f"turn {number}", "pair")
        conversation_gateway.gateway.post(f"/conversations/{conversation}/items", {"items": [message_item("aside")]})
    assert sorted([len(conversation_gateway.one.bodies), len(conversation_gateway.two.bodies)]) == [0, 6]


def test_a_chain_may_go_on_from_a_response_of_a_conversation(conversation_gateway: ConversationGateway) -> None:
    conversation = conversation_gateway.begin(message_item("zero"))
    first = conversation_gateway.say(conversation, "one")
    conversation_gateway.say(conversation, "two")
    answer = conversation_gateway.gateway.post(
        "/responses", {"model": "one/exact", "input": "aside", "previous_response_id": first["id"]}
    )
    aside = check_response(answer.json(), previous_response_id=first["id"])
    assert aside.get("conversation") is None
    assert user_texts(conversation_gateway.given()) == ["zero", "one", "aside"]
    assert user_texts(conversation_gateway.items(conversation)) == ["zero", "one", "two"]
    listing = conversation_gateway.gateway.get(f"/responses/{aside['id']}/input_items?order=asc").json()
    assert user_texts(listing["data"]) == ["zero", "one", "aside"]

    assert conversation_gateway.gateway.delete(f"/conversations/{conversation}").status_code == 200
    error = check_error(
        conversation_gateway.gateway.post(
            "/responses", {"model": "one/exact", "input": "x", "previous_response_id": aside["id"]}
        ),
        status=400,
        code="previous_response_not_found",
    )
    assert conversation in error["message"]
    assert conversation_gateway.gateway.get(f"/responses/{first['id']}").json()["conversation"] == {"id": conversation}


def test_items_outlive_their_response(conversation_gateway: ConversationGateway) -> None:
    conversation = conversation_gateway.begin()
    first = conversation_gateway.say(conversation, "one")
    assert conversation_gateway.gateway.delete(f"/responses/{first['id']}").status_code == 200
    conversation_gateway.say(conversation, "two")
    assert user_texts(conversation_gateway.given()) == ["one", "two"]


# --- the Agents SDK ---------------------------------------------------------------------------------------------


@agents.function_tool
def get_weather(city: str) -> str:
    """The weather in a city."""
    return f"sunny in {city}"


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("model", FORMATS)
def test_an_agent_keeps_its_conversation_here(
    conversation_gateway: ConversationGateway, model: str, streamed: bool
) -> None:
    agents.set_tracing_disabled(True)

    async def run(agent: Any, text: str, conversation: str) -> str:
        if not streamed:
            return str((await agents.Runner.run(agent, text, conversation_id=conversation)).final_output)
        result = agents.Runner.run_streamed(agent, text, conversation_id=conversation)
        async for _ in result.stream_events():
            pass
        return str(result.final_output)

    async def converse(conversation: str) -> list[str]:
        transport = openai.DefaultAsyncHttpxClient(trust_env=False)
        key, base_url = conversation_gateway.gateway.token, conversation_gateway.gateway.base_url
        async with openai.AsyncOpenAI(base_url=base_url, api_key=key, max_retries=0, http_client=transport) as client:
            agent = agents.Agent(name="Ada", model=agents.OpenAIResponsesModel(model, client), tools=[get_weather])
            return [await run(agent, text, conversation) for text in (QUESTION, "Thank you.")]

    conversation = conversation_gateway.begin()
    assert all(asyncio.run(converse(conversation)))
    assert kinds(conversation_gateway.items(conversation)) == [
        "message",
        "function_call",
        "function_call_output",
        "message",
        "message",
        "message",
    ]
