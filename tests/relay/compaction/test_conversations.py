"""Compaction inside a conversation: the item stands for the whole history, and no turn made meanwhile is lost."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.relay.compaction.conftest import (
    FORMATS,
    JSON,
    NATIVE,
    CompactionGateway,
    conversation,
    facts,
    kinds,
    numbered,
    users,
)
from tests.response_contract import check_error, check_item_list, check_window

everywhere = pytest.mark.parametrize("model", [*FORMATS.values(), *NATIVE], ids=[*FORMATS, *NATIVE])
TRIGGER = {"type": "compaction_trigger"}


def begin(compaction_gateway: CompactionGateway, turns: int = 4) -> str:
    """A conversation with a fact in each turn."""
    name = compaction_gateway.ok("/conversations", items=conversation(turns))["id"]
    assert isinstance(name, str)
    return name


def listed(compaction_gateway: CompactionGateway, name: str) -> list[JSON]:
    return check_item_list(compaction_gateway.get(f"/conversations/{name}/items?order=asc&limit=100"))


def answer(compaction_gateway: CompactionGateway, model: str, name: str) -> JSON:
    return compaction_gateway.compact(model, conversation=name, input="Now?")


def due(compaction_gateway: CompactionGateway, model: str, name: str) -> JSON:
    context = [{"type": "compaction", "compact_threshold": 10}]
    return compaction_gateway.ok("/responses", model=model, conversation=name, input="Now?", context_management=context)


def trigger(compaction_gateway: CompactionGateway, model: str, name: str) -> JSON:
    return compaction_gateway.ok("/responses", model=model, conversation=name, input=[TRIGGER])


def window(compaction_gateway: CompactionGateway, model: str, name: str) -> JSON:
    return check_window(compaction_gateway.compact(model, conversation=name))


@everywhere
@pytest.mark.parametrize("ask", [answer, due, trigger, window])
def test_a_conversation_goes_on_from_its_compaction(
    compaction_gateway: CompactionGateway, model: str, ask: Callable[[CompactionGateway, str, str], JSON]
) -> None:
    name = begin(compaction_gateway)
    before = listed(compaction_gateway, name)
    response = ask(compaction_gateway, model, name)
    assert kinds(response["output"]).count("compaction") == 1
    items = listed(compaction_gateway, name)
    assert items[: len(before)] == before
    assert "compaction" in kinds(items[len(before) :])

    later = compaction_gateway.ok("/responses", model=model, conversation=name, input="And then?")
    shown = check_item_list(compaction_gateway.get(f"/responses/{later['id']}/input_items?order=asc&limit=100"))
    assert "compaction" not in kinds(shown)
    assert users(shown)[-1] == "And then?"
    if model == "gpt-plain":
        assert facts(compaction_gateway.given) == numbered(1, 2, 3, 4)
        assert users(compaction_gateway.given)[-1] == "And then?"
        assert not any(item["type"] == "compaction" for item in compaction_gateway.given)


def test_turns_before_the_compaction_are_not_sent_again(compaction_gateway: CompactionGateway) -> None:
    name = begin(compaction_gateway)
    answer(compaction_gateway, "gpt-plain", name)
    compaction_gateway.ok("/responses", model="gpt-plain", conversation=name, input="And then?")
    assert len(compaction_gateway.given) == 6
    assert users(compaction_gateway.given)[-2:] == ["Now?", "And then?"]


def test_a_window_that_a_client_adds_stands_for_the_rest(compaction_gateway: CompactionGateway) -> None:
    compacted = compaction_gateway.compact("gpt-plain", input=conversation(4))
    name = begin(compaction_gateway, 1)
    compaction_gateway.ok(f"/conversations/{name}/items", items=compacted["output"])
    assert listed(compaction_gateway, name)[-1]["encrypted_content"] == compacted["output"][-1]["encrypted_content"]
    compaction_gateway.ok("/responses", model="gpt-plain", conversation=name, input="And then?")
    assert facts(compaction_gateway.given) == numbered(1, 2, 3, 4)
    assert "compaction" not in kinds(compaction_gateway.given)


def test_an_item_that_was_altered_never_gets_into_a_conversation(compaction_gateway: CompactionGateway) -> None:
    item = compaction_gateway.compact("gpt-plain", input=conversation(4))["output"][-1]
    altered = {**item, "encrypted_content": item["encrypted_content"][:-6] + "AAAAAA"}
    refused = compaction_gateway.post("/conversations", items=[altered])
    check_error(refused, status=400, code="invalid_encrypted_content")


def test_a_native_compaction_is_read_elsewhere_by_its_originals(compaction_gateway: CompactionGateway) -> None:
    name = begin(compaction_gateway)
    answer(compaction_gateway, "gpt-native", name)
    compaction_gateway.ok("/responses", model="gpt-plain", conversation=name, input="And then?")
    assert kinds(compaction_gateway.given).count("compaction") == 1
    compaction_gateway.ok("/responses", model="gpt-chat", conversation=name, input="And here?")
    assert facts(compaction_gateway.given) == numbered(1, 2, 3, 4)


def test_a_compaction_that_is_removed_gives_back_what_it_stood_for(compaction_gateway: CompactionGateway) -> None:
    name = begin(compaction_gateway)
    answer(compaction_gateway, "gpt-plain", name)
    (item,) = [item for item in listed(compaction_gateway, name) if item["type"] == "compaction"]
    assert compaction_gateway.gateway.delete(f"/conversations/{name}/items/{item['id']}").status_code == 200
    compaction_gateway.ok("/responses", model="gpt-plain", conversation=name, input="And then?")
    assert len(compaction_gateway.given) == 8 + 2 + 1


def test_an_empty_conversation_has_nothing_to_compact(compaction_gateway: CompactionGateway) -> None:
    name = compaction_gateway.ok("/conversations")["id"]
    check_error(
        compaction_gateway.post("/responses/compact", model="gpt-plain", conversation=name), status=400, param="input"
    )
