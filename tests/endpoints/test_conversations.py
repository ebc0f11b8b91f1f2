"""/v1/conversations: what goes in comes back, page by page, and only to its owner."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import openai
import pytest

from tests.endpoints.conftest import EXACT
from tests.endpoints.vocabulary import ITEMS, JSON, message_item, user_texts
from tests.gateway import Gateway
from tests.response_contract import check_error, check_item_list
from tests.upstream import ScriptedUpstream

Create = Callable[..., JSON]
UNKNOWN = "conv_" + "0" * 48


@pytest.fixture
def client(api: Gateway) -> Iterator[openai.OpenAI]:
    with api.client() as client:
        yield client


def made(api: Gateway, *items: Any, **keys: Any) -> str:
    answer = api.post("/conversations", {"items": list(items), **keys})
    assert answer.status_code == 200, answer.text
    return str(answer.json()["id"])


def listed(api: Gateway, conversation: str, query: str = "order=asc&limit=100") -> list[JSON]:
    return check_item_list(api.get(f"/conversations/{conversation}/items?{query}").json())


# --- the conversation -------------------------------------------------------------------------------------------


def test_a_conversation_lives_and_dies(client: openai.OpenAI) -> None:
    made = client.conversations.create(metadata={"topic": "a"})
    assert made.id.startswith("conv_")
    assert (made.object, made.metadata) == ("conversation", {"topic": "a"})
    assert client.conversations.retrieve(made.id) == made

    updated = client.conversations.update(made.id, metadata={"topic": "b"})
    assert updated == client.conversations.retrieve(made.id) == made.model_copy(update={"metadata": {"topic": "b"}})

    deleted = client.conversations.delete(made.id)
    assert deleted.to_dict() == {"id": made.id, "object": "conversation.deleted", "deleted": True}
    with pytest.raises(openai.NotFoundError, match=f"Conversation with id .{made.id}. not found"):
        client.conversations.retrieve(made.id)


def test_metadata_is_an_object_when_there_is_none(api: Gateway) -> None:
    for body in ({}, {"items": [], "metadata": None}):
        made = api.post("/conversations", body).json()
        assert made.keys() == {"id", "object", "created_at", "metadata"}
        assert made["metadata"] == {}
    assert api.post(f"/conversations/{made['id']}", {"metadata": {"a": "b"}}).json()["metadata"] == {"a": "b"}
    assert api.post(f"/conversations/{made['id']}", {"metadata": None}).json()["metadata"] == {}


def test_a_conversation_may_be_made_without_the_v1(api: Gateway) -> None:
    answer = api.request("POST", "/../conversations", json={})
    assert answer.json()["object"] == "conversation"


# --- its items --------------------------------------------------------------------------------------------------


def test_items_come_back_whole_with_ids_and_in_the_order_given(client: openai.OpenAI) -> None:
    made = client.conversations.create(items=[{"role": "user", "content": "first"}])
    added = client.conversations.items.create(
        made.id,
        items=[
            {"role": "developer", "content": "Be brief."},
            {"type": "message", "role": "assistant", "content": "Yes.", "id": "msg_mine"},  # type: ignore[list-item]
        ],
    )
    assert (added.object, added.has_more) == ("list", False)
    assert (added.first_id, added.last_id) == (added.data[0].id, "msg_mine")
    assert added.data[1].to_dict() == {
        "id": "msg_mine",
        "type": "message",
        "role": "assistant",
        "status": "completed",
        "content": [{"type": "output_text", "text": "Yes.", "annotations": [], "logprobs": []}],
    }

    newest_first = [item.id for item in client.conversations.items.list(made.id, limit=1)]
    assert newest_first[:2] == ["msg_mine", added.data[0].id]
    assert len(newest_first) == 3
    assert [item.id for item in client.conversations.items.list(made.id, order="asc")] == newest_first[::-1]
    assert client.conversations.items.retrieve("msg_mine", conversation_id=made.id) == added.data[1]

    left = client.conversations.items.delete("msg_mine", conversation_id=made.id)
    assert left == client.conversations.retrieve(made.id)
    with pytest.raises(openai.NotFoundError, match="msg_mine"):
        client.conversations.items.retrieve("msg_mine", conversation_id=made.id)
    assert [item.id for item in client.conversations.items.list(made.id)] == newest_first[1:]


#: As clients send them, with keys, nulls or a type that the SDK does not know in a conversation.
STRANGE = (
    "custom_tool_call",
    "hosted tool_search_call",
    "local_shell_call",
    "mcp_call",
    "an unknown type",
    "unknown keys",
)


@pytest.mark.parametrize("kind", ITEMS)
def test_items_of_every_type_are_stored_and_go_back_as_input(api: Gateway, create: Create, kind: str) -> None:
    conversation = made(api, *ITEMS[kind])
    items = api.get(f"/conversations/{conversation}/items?order=asc").json()["data"]
    assert kind in STRANGE or items == listed(api, conversation)
    given = [item.get("type") or "message" for item in ITEMS[kind]]
    assert [item["type"] for item in items] == given
    # Without their ids they are others, and the conversation holds both.
    create(EXACT, [*items, message_item("Go on.")])
    create(EXACT, "Go on.", conversation=conversation)


def test_items_that_go_back_are_not_repeated(api: Gateway, create: Create, exact: ScriptedUpstream) -> None:
    conversation = made(api, message_item("one"))
    create(EXACT, [*listed(api, conversation), message_item("two")], conversation=conversation)
    assert user_texts(exact.bodies[-1]["input"]) == ["one", "two"]
    assert user_texts(listed(api, conversation)) == ["one", "two"]


def test_references_become_copies_that_stay(api: Gateway, create: Create) -> None:
    response = create(EXACT, "hello")
    answer = response["output"][-1]["id"]
    conversation = made(api, {"type": "item_reference", "id": answer}, {"id": answer})
    first, second = listed(api, conversation)
    assert first == response["output"][-1]
    assert second == {**first, "id": second["id"]}
    assert second["id"] != answer

    assert api.delete(f"/responses/{response['id']}").status_code == 200
    assert listed(api, conversation) == [first, second]
    again = create(EXACT, [{"type": "item_reference", "id": answer}, message_item("more")])
    assert check_item_list(api.get(f"/responses/{again['id']}/input_items").json())[-1]["id"] == answer


def test_optional_parts_of_an_item_are_shown_on_request(api: Gateway) -> None:
    secret = {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "gAAAA"}
    conversation = made(api, secret)
    path, include = f"/conversations/{conversation}/items", "include[]=reasoning.encrypted_content"
    assert "encrypted_content" not in listed(api, conversation)[0]
    assert listed(api, conversation, include)[0]["encrypted_content"] == "gAAAA"
    assert api.get(f"{path}/rs_1?{include}").json()["encrypted_content"] == "gAAAA"
    added = api.post(f"{path}?{include}", {"items": [{**secret, "id": "rs_2"}]}).json()
    assert added["data"][0]["encrypted_content"] == "gAAAA"


# --- refusals ---------------------------------------------------------------------------------------------------


def test_a_conversation_is_found_by_its_owner_only(api: Gateway, stranger: str) -> None:
    mine = made(api, {**message_item("secret"), "id": "msg_secret"})
    calls: list[tuple[str, str, JSON | None]] = [
        ("GET", "", None),
        ("POST", "", {"metadata": {}}),
        ("DELETE", "", None),
        ("GET", "/items", None),
        ("POST", "/items", {"items": [message_item("x")]}),
        ("GET", "/items/msg_secret", None),
        ("DELETE", "/items/msg_secret", None),
    ]
    for conversation, token in ((mine, stranger), (UNKNOWN, api.token), ("x", api.token)):
        for method, path, body in calls:
            answer = api.request(method, f"/conversations/{conversation}{path}", token=token, json=body)
            error = check_error(answer, status=404)
            assert error["message"] == f"Conversation with id '{conversation}' not found."
        if conversation != "x":
            turn = {"model": EXACT, "input": "x", "conversation": conversation}
            error = check_error(api.post("/responses", turn, token=token), status=404)
            assert error["message"] == f"Conversation with id '{conversation}' not found."
    assert user_texts(listed(api, mine)) == ["secret"]


@pytest.mark.parametrize(
    ("query", "code", "param"),
    [
        ("limit=0", "integer_below_min_value", "limit"),
        ("limit=101", "integer_above_max_value", "limit"),
        ("order=up", "invalid_value", "order"),
        ("after=msg_other", "invalid_value", "after"),
        ("include[]=everything", "invalid_value", "include[0]"),
    ],
)
def test_a_listing_takes_the_parameters_of_the_contract(api: Gateway, query: str, code: str, param: str) -> None:
    check_error(api.get(f"/conversations/{made(api)}/items?{query}"), status=400, code=code, param=param)


def test_an_empty_conversation_is_listed_and_needs_an_input(api: Gateway) -> None:
    conversation = made(api)
    assert listed(api, conversation) == []
    turn = {"model": EXACT, "conversation": conversation}
    check_error(api.post("/responses", turn), status=400, code="missing_required_parameter", param="input")


def test_a_reference_to_nothing_is_refused(api: Gateway) -> None:
    error = check_error(api.post("/conversations", {"items": [{"id": "msg_none"}]}), status=404)
    assert error["message"] == "Item with id 'msg_none' not found."


def test_a_token_that_stores_nothing_creates_no_conversation(api: Gateway) -> None:
    token = api.new_token("without-conversations", "--no-store")
    check_error(api.post("/conversations", {}, token=token), status=400, code="unsupported_parameter")
