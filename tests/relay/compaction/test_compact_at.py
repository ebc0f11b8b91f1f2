"""`compact_at`: the gateway compacts long chains and conversations by itself, and clients do not see the items."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from tests.relay.compaction.conftest import (
    DUE_AT,
    FORMATS,
    SMALL,
    CompactionGateway,
    conversation,
    facts,
    kinds,
    numbered,
    requests_summary,
    user,
    words,
)
from tests.response_contract import check_error, check_item_list, check_response, check_stream
from tests.upstream import Answer, Exchange, too_long
from tests.websocket_client import Socket

JSON = dict[str, Any]
everywhere = pytest.mark.parametrize("model", SMALL.values(), ids=SMALL)
#: Turns of some 800 tokens with their answers, which repeat them: together more than `DUE_AT`.
MANY = 7
LONG = "word " * 400
#: After three such turns: enough to be compacted.
DUE = "word " * 2500


def ask(gateway: CompactionGateway, stream: bool, **keys: Any) -> JSON:
    """The response, which shows no compaction and is the same when it is retrieved."""
    answer = gateway.post("/responses", stream=stream, **keys)
    assert answer.status_code == 200, answer.text
    events = check_stream(answer.content) if stream else []
    response: JSON = events[-1]["response"] if stream else answer.json()
    assert not [event for event in events[:-1] if event.get("item", {}).get("type") == "compaction"]
    check_response(response, status="completed")
    assert "compaction" not in kinds(response["output"])
    if keys.get("store", True):
        assert gateway.get(f"/responses/{response['id']}")["output"] == response["output"]
    return response


def talk(gateway: CompactionGateway, model: str, turns: int = MANY) -> str:
    last = None
    for number in range(1, turns + 1):
        last = gateway.create(model, f"Note fact-{number}. {LONG}", last)["id"]
    assert last is not None
    return last


def passes(gateway: CompactionGateway) -> int:
    return sum(map(requests_summary, gateway.first.bodies))


def compaction_of(gateway: CompactionGateway, response_id: str) -> JSON | None:
    """The operator's note of the compaction that the response began with."""
    shown = orjson.loads(gateway.gateway.command("show", response_id, "--json"))
    return dict(shown["compaction"]) if shown["compaction"] else None


def narrow(exchange: Exchange, answer: Answer) -> Answer:
    """An upstream that takes requests for a summary, and other ones up to 6 kB."""
    body = exchange.request.body
    if not requests_summary(body) and len(orjson.dumps(body.get("input") or body.get("messages"))) > 6000:
        return too_long()(exchange, answer)
    return answer


@everywhere
@pytest.mark.parametrize("stream", [False, True], ids=["json", "sse"])
def test_a_chain_at_that_share_of_the_window_is_compacted(
    compaction_gateway: CompactionGateway, model: str, stream: bool
) -> None:
    last, shown = None, []
    for number in range(1, MANY + 1):
        keys = {"input": f"Note fact-{number}. {LONG}", "previous_response_id": last}
        shown.append(ask(compaction_gateway, stream, model=model, **keys))
        last = shown[-1]["id"]
    if model != SMALL["demo"]:
        # Two passes at most: each one makes room for several turns.
        assert 1 <= passes(compaction_gateway) <= 2
        assert facts(compaction_gateway.given) == numbered(*range(1, MANY + 1))
        assert len(orjson.dumps(compaction_gateway.given)) < 5 * DUE_AT
    listed = compaction_gateway.get(f"/responses/{last}/input_items?limit=100")
    assert "compaction" not in kinds(check_item_list(listed))
    assert any("made to shorten it" in words(item) for item in listed["data"])


def test_the_operator_sees_when_it_was_due(compaction_gateway: CompactionGateway) -> None:
    first = talk(compaction_gateway, "gpt-small", 3)
    assert compaction_of(compaction_gateway, first) is None
    note = compaction_of(compaction_gateway, compaction_gateway.create("gpt-small", DUE, first)["id"])
    assert note is not None
    assert DUE_AT * 0.6 < note["before"] < DUE_AT * 1.4
    assert note["after"] < note["before"]


@everywhere
def test_a_conversation_is_compacted_and_lists_what_its_client_knows(
    compaction_gateway: CompactionGateway, model: str
) -> None:
    name = compaction_gateway.ok("/conversations", items=conversation(10))["id"]
    for first in (11, 21):
        compaction_gateway.ok(f"/conversations/{name}/items", items=conversation(10, first))
    before = listed(compaction_gateway, name)
    response = ask(compaction_gateway, False, model=model, input="Now?", conversation=name)
    items = listed(compaction_gateway, name)
    assert items[: len(before)] == before
    assert "compaction" not in kinds(items)
    assert items[-1]["id"] == response["output"][-1]["id"]
    ask(compaction_gateway, True, model=model, input="And now?", conversation=name)
    if model != SMALL["demo"]:
        assert passes(compaction_gateway) == 1
        assert facts(compaction_gateway.given) == numbered(*range(1, 31))


def listed(gateway: CompactionGateway, name: str) -> list[JSON]:
    """The items of a conversation, read in pages of seven."""
    items: list[JSON] = []
    while True:
        after = f"&after={items[-1]['id']}" if items else ""
        page = gateway.get(f"/conversations/{name}/items?order=asc&limit=7{after}")
        items += check_item_list(page)
        if not page["has_more"]:
            return items


def test_a_socket_shows_none_either(compaction_gateway: CompactionGateway) -> None:
    with Socket(compaction_gateway.gateway) as socket:
        last = socket.answer(model="gpt-small", input="Note fact-1.", store=False)["id"]
        for number in range(2, MANY + 1):
            keys = {"input": f"Note fact-{number}. {LONG}", "previous_response_id": last, "store": False}
            frames = socket.turn(model="gpt-small", **keys)
            last = frames[-1]["response"]["id"]
            assert "compaction" not in orjson.dumps(frames).decode()
    assert 1 <= passes(compaction_gateway) <= 2
    assert facts(compaction_gateway.given) == numbered(*range(1, MANY + 1))


def test_a_retry_with_the_same_key_shows_none_either(compaction_gateway: CompactionGateway) -> None:
    last = talk(compaction_gateway, "gpt-small", 3)
    body = {"model": "gpt-small", "input": DUE, "previous_response_id": last}
    headers = {"Idempotency-Key": f"key-{last}"}
    first, again = (compaction_gateway.gateway.post("/responses", body, headers=headers).json() for _ in range(2))
    assert first == again
    assert "compaction" not in kinds(again["output"])
    assert passes(compaction_gateway) == 1


def test_a_client_that_asks_for_compactions_gets_the_item(compaction_gateway: CompactionGateway) -> None:
    last = talk(compaction_gateway, "gpt-small", 3)
    managed = [{"type": "compaction", "compact_threshold": 10**6}]
    response = compaction_gateway.create("gpt-small", DUE, last, context_management=managed)
    assert kinds(response["output"]) == ["compaction", "message"]


def test_what_a_client_keeps_itself_is_not_compacted_before_it_is_refused(
    compaction_gateway: CompactionGateway,
) -> None:
    keys = {"model": "gpt-small", "input": [*conversation(2 * MANY), user("Now?")], "store": False}
    ask(compaction_gateway, False, **keys)
    assert len(compaction_gateway.first.bodies) == 1


@everywhere
@pytest.mark.parametrize("stream", [False, True], ids=["json", "sse"])
def test_a_refused_context_of_such_a_model_is_compacted_and_sent_again(
    compaction_gateway: CompactionGateway, model: str, stream: bool
) -> None:
    if model == SMALL["demo"]:
        pytest.skip("The demo model has no window.")
    compaction_gateway.first.always(narrow)
    items = [*conversation(2 * MANY), user("Now?")]
    ask(compaction_gateway, stream, model=model, input=items, store=False)
    assert passes(compaction_gateway)


@pytest.mark.parametrize("stream", [False, True], ids=["json", "sse"])
def test_other_clients_learn_how_to_get_it(compaction_gateway: CompactionGateway, stream: bool) -> None:
    last = compaction_gateway.talk("gpt-plain", 2)
    compaction_gateway.first.always(too_long())
    keys = {"model": "gpt-plain", "input": "x", "stream": stream}
    error = check_error(compaction_gateway.post("/responses", previous_response_id=last, **keys), 400)
    assert "exceeds the context window" in error["message"]
    assert all(name in error["message"] for name in ("context_management", "truncation: auto", "compact_at"))
    # Without a history nothing could be shortened.
    alone = check_error(compaction_gateway.post("/responses", **keys), 400, "context_length_exceeded", "input")
    assert "context_management" not in alone["message"]


@pytest.mark.parametrize("stream", [False, True], ids=["json", "sse"])
@pytest.mark.parametrize("model", [model for name, model in FORMATS.items() if name != "demo"])
def test_truncation_that_leaves_too_much_is_followed_by_a_compaction(
    compaction_gateway: CompactionGateway, model: str, stream: bool
) -> None:
    last = talk(compaction_gateway, model, 9)
    compaction_gateway.first.always(narrow)
    keys = {"model": model, "input": "Now?", "previous_response_id": last, "truncation": "auto"}
    ask(compaction_gateway, stream, **keys)
    assert passes(compaction_gateway)
