"""Compaction inside a conversation: the item stands for all that was there, and nothing said meanwhile is lost."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.relay.compaction.conftest import FORMATS, JSON, NATIVE, House, conversation, facts, kinds, numbered, users
from tests.response_contract import check_error, check_item_list, check_window

everywhere = pytest.mark.parametrize("model", [*FORMATS.values(), *NATIVE], ids=[*FORMATS, *NATIVE])
TRIGGER = {"type": "compaction_trigger"}


def begin(house: House, turns: int = 4) -> str:
    """A conversation with a fact in each turn."""
    name = house.ok("/conversations", items=conversation(turns))["id"]
    assert isinstance(name, str)
    return name


def listed(house: House, name: str) -> list[JSON]:
    return check_item_list(house.get(f"/conversations/{name}/items?order=asc&limit=100"))


def answer(house: House, model: str, name: str) -> JSON:
    return house.compact(model, conversation=name, input="Now?")


def due(house: House, model: str, name: str) -> JSON:
    context = [{"type": "compaction", "compact_threshold": 10}]
    return house.ok("/responses", model=model, conversation=name, input="Now?", context_management=context)


def trigger(house: House, model: str, name: str) -> JSON:
    return house.ok("/responses", model=model, conversation=name, input=[TRIGGER])


def window(house: House, model: str, name: str) -> JSON:
    return check_window(house.compact(model, conversation=name))


@everywhere
@pytest.mark.parametrize("ask", [answer, due, trigger, window])
def test_a_conversation_goes_on_from_its_compaction(
    house: House, model: str, ask: Callable[[House, str, str], JSON]
) -> None:
    name = begin(house)
    before = listed(house, name)
    response = ask(house, model, name)
    assert kinds(response["output"]).count("compaction") == 1
    items = listed(house, name)
    assert items[: len(before)] == before
    assert "compaction" in kinds(items[len(before) :])

    later = house.ok("/responses", model=model, conversation=name, input="And then?")
    shown = check_item_list(house.get(f"/responses/{later['id']}/input_items?order=asc&limit=100"))
    assert "compaction" not in kinds(shown)
    assert users(shown)[-1] == "And then?"
    if model == "gpt-plain":
        assert facts(house.given) == numbered(1, 2, 3, 4)
        assert users(house.given)[-1] == "And then?"
        assert not any(item["type"] == "compaction" for item in house.given)


def test_what_was_said_before_the_compaction_is_not_sent_again(house: House) -> None:
    name = begin(house)
    answer(house, "gpt-plain", name)
    house.ok("/responses", model="gpt-plain", conversation=name, input="And then?")
    assert len(house.given) == 6
    assert users(house.given)[-2:] == ["Now?", "And then?"]


def test_a_window_that_a_client_adds_stands_for_the_rest(house: House) -> None:
    compacted = house.compact("gpt-plain", input=conversation(4))
    name = begin(house, 1)
    house.ok(f"/conversations/{name}/items", items=compacted["output"])
    assert listed(house, name)[-1]["encrypted_content"] == compacted["output"][-1]["encrypted_content"]
    house.ok("/responses", model="gpt-plain", conversation=name, input="And then?")
    assert facts(house.given) == numbered(1, 2, 3, 4)
    assert "compaction" not in kinds(house.given)


def test_an_item_that_was_altered_never_gets_into_a_conversation(house: House) -> None:
    item = house.compact("gpt-plain", input=conversation(4))["output"][-1]
    altered = {**item, "encrypted_content": item["encrypted_content"][:-6] + "AAAAAA"}
    refused = house.post("/conversations", items=[altered])
    check_error(refused, status=400, code="invalid_encrypted_content")


def test_a_native_compaction_is_read_elsewhere_by_its_originals(house: House) -> None:
    name = begin(house)
    answer(house, "gpt-native", name)
    house.ok("/responses", model="gpt-plain", conversation=name, input="And then?")
    assert kinds(house.given).count("compaction") == 1
    house.ok("/responses", model="gpt-chat", conversation=name, input="And here?")
    assert facts(house.given) == numbered(1, 2, 3, 4)


def test_a_compaction_that_is_removed_gives_back_what_it_stood_for(house: House) -> None:
    name = begin(house)
    answer(house, "gpt-plain", name)
    (item,) = [item for item in listed(house, name) if item["type"] == "compaction"]
    assert house.gateway.delete(f"/conversations/{name}/items/{item['id']}").status_code == 200
    house.ok("/responses", model="gpt-plain", conversation=name, input="And then?")
    assert len(house.given) == 8 + 2 + 1


def test_an_empty_conversation_has_nothing_to_compact(house: House) -> None:
    name = house.ok("/conversations")["id"]
    check_error(house.post("/responses/compact", model="gpt-plain", conversation=name), status=400, param="input")
