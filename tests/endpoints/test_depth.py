"""JSON that is nested deeper than it could be written again is a 400 everywhere; what is let in works everywhere."""

from __future__ import annotations

from contextlib import closing

import orjson
import pytest

from app.nesting import FROM_CLIENTS
from tests.depth import nested, nested_text
from tests.endpoints.conftest import OPEN_MINDED
from tests.endpoints.vocabulary import JSON, message_item
from tests.gateway import Gateway
from tests.response_contract import check_error, check_stream
from tests.websocket_client import Socket

CREATE: JSON = {"model": OPEN_MINDED, "input": "a"}
#: Every path that takes JSON, the rest of its body, and a member of it that takes anything.
BODIES: dict[str, tuple[JSON, tuple[str, ...]]] = {
    "/responses": (CREATE, ("input", "tools", "text", "prompt", "metadata", "tool_choice", "something_new")),
    "/responses/compact": (CREATE, ("input", "something_new")),
    "/responses/input_tokens": (CREATE, ("input", "something_new")),
    "/chat/completions": ({"model": "m", "messages": [message_item("a")]}, ("messages", "tools", "something_new")),
    "/conversations": ({}, ("items", "metadata", "something_new")),
    "/conversations/conv_1": ({"metadata": {}}, ("metadata", "something_new")),
    "/conversations/conv_1/items": ({"items": [message_item("a")]}, ("items", "something_new")),
}
PLACES = [(path, member) for path, (_, members) in BODIES.items() for member in members]
#: Items with unchecked members, as deep as the body of a request may be: they stand on its second level.
DEEPEST = FROM_CLIENTS - 2


def deep_item(levels: int, shape: str = "{") -> JSON:
    return {"type": "something_new", "id": "new_1", "data": nested(levels - 1, shape)}


@pytest.mark.parametrize(("path", "member"), PLACES)
@pytest.mark.parametrize("levels", [FROM_CLIENTS, 251, 252, 300, 1019])
def test_a_body_that_is_too_deep_is_refused_by_name(api: Gateway, path: str, member: str, levels: int) -> None:
    whole = orjson.dumps({**BODIES[path][0], member: "here"}).replace(b'"here"', nested_text(levels))
    answer = api.request("POST", path, data=whole, headers={"Content-Type": "application/json"})
    check_error(answer.json(), code="invalid_value", param=member)
    assert answer.status_code == 400
    assert f"{FROM_CLIENTS} levels" in answer.json()["error"]["message"]


@pytest.mark.parametrize("shape", ["[", "{", "mixed"])
def test_the_deepest_item_is_answered_stored_listed_and_sent_back(api: Gateway, shape: str) -> None:
    items = [deep_item(DEEPEST, shape), message_item("a")]
    first = api.post("/responses", {**CREATE, "input": items})
    assert first.status_code == 200, first.text
    with closing(api.stream({**CREATE, "input": items, "previous_response_id": first.json()["id"]})) as second:
        check_stream(second.content)
    for path in ("", "/input_items"):
        assert api.get(f"/responses/{first.json()['id']}{path}").status_code == 200
    listed = api.get(f"/responses/{first.json()['id']}/input_items?order=asc").json()["data"]
    assert listed[0]["data"] == items[0]["data"]
    assert api.post("/responses", {**CREATE, "input": listed}).status_code == 200
    assert api.post("/responses", {**CREATE, "input": items, "background": True}).status_code == 200
    assert api.post("/responses/input_tokens", {**CREATE, "input": items}).status_code == 200
    window = api.post("/responses/compact", {"model": OPEN_MINDED, "input": items})
    assert window.status_code == 200, window.text
    assert api.post("/responses", {**CREATE, "input": [*window.json()["output"], message_item("b")]}).status_code == 200


def test_the_deepest_tool_is_echoed_in_every_event(api: Gateway) -> None:
    tool = {"type": "function", "name": "f", "parameters": nested(FROM_CLIENTS - 3, "{")}
    with closing(api.stream({**CREATE, "tools": [tool]})) as answer:
        events = check_stream(answer.content)
    assert all(event["response"]["tools"][0]["parameters"] == tool["parameters"] for event in (events[0], events[-1]))


def test_the_deepest_item_of_a_conversation_is_listed_and_removed(api: Gateway) -> None:
    made = api.post("/conversations", {"items": [deep_item(DEEPEST)]}).json()["id"]
    assert api.post(f"/conversations/{made}/items", {"items": [deep_item(DEEPEST, "mixed")]}).status_code == 200
    listed = api.get(f"/conversations/{made}/items")
    assert len(listed.json()["data"]) == 2
    assert api.post("/responses", {**CREATE, "conversation": made}).status_code == 200
    assert api.delete(f"/conversations/{made}/items/new_1").status_code == 200
    assert api.post(f"/conversations/{made}/items", {"items": [deep_item(DEEPEST + 1)]}).status_code == 400


def test_a_frame_that_is_too_deep_is_refused_in_its_stream_and_the_socket_goes_on(api: Gateway) -> None:
    with Socket(api) as sock:
        (refused,) = sock.turn(model=OPEN_MINDED, input=[deep_item(DEEPEST + 1)], stream_id="left")
        assert (refused["type"], refused["status"], refused["stream_id"]) == ("error", 400, "left")
        assert (refused["error"]["code"], refused["error"]["param"]) == ("invalid_value", "input")
        assert sock.answer(model=OPEN_MINDED, input=[deep_item(DEEPEST), message_item("a")])["status"] == "completed"
