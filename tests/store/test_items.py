from __future__ import annotations

import orjson

from app.contract.items import derive_item_id
from app.store.store import Store
from tests.store.turns import OWNER, draft, outcome, turn


def message_item(store: Store, **item: object) -> str:
    """A turn whose input is one item with an id; the response's id."""
    begun = draft(input=orjson.dumps([{"type": "message", **item}]), item_ids=(str(item["id"]),))
    store.responses.finish(begun, outcome())
    return begun.id


def test_an_item_is_found_in_inputs_and_outputs(store: Store) -> None:
    response_id = message_item(store, id="msg_in", content="asked")
    answered = draft()
    store.responses.finish(
        answered, outcome(output=b'[{"id":"rs_1"},{"id":"msg_out","content":"told"}]', item_ids=("msg_out",))
    )
    found = store.items.in_responses(OWNER, ["msg_in", "msg_out"])
    input_item, output_item = found["msg_in"], found["msg_out"]
    assert (input_item.response_id, input_item.item["content"]) == (response_id, "asked")
    assert (output_item.response_id, output_item.item["content"]) == (answered.id, "told")


def test_the_newest_copy_counts(store: Store) -> None:
    message_item(store, id="msg_1", content="old")
    newest = message_item(store, id="msg_1", content="new")
    found = store.items.in_responses(OWNER, ["msg_1"])["msg_1"]
    assert (found.response_id, found.item["content"]) == (newest, "new")


def test_an_older_copy_is_found_when_the_newest_was_deleted(store: Store) -> None:
    message_item(store, id="msg_1", content="old")
    store.responses.delete(OWNER, message_item(store, id="msg_1", content="new"))
    found = store.items.in_responses(OWNER, ["msg_1"])["msg_1"]
    assert found.item["content"] == "old"


def test_an_item_without_an_id_is_found_by_its_place(store: Store) -> None:
    begun = draft(input=b'[{"content":"zero"},{"content":"one"}]')
    store.responses.finish(begun, outcome())
    item_id = derive_item_id("message", begun.id, 1)
    found = store.items.in_responses(OWNER, [item_id])[item_id]
    assert found.item == {"content": "one", "id": item_id}
    assert store.items.in_responses(OWNER, [derive_item_id("message", begun.id, 2)]) == {}


def test_a_replayed_copy_of_a_derived_id_outlives_the_original(store: Store) -> None:
    original = turn(store)
    item_id = derive_item_id("message", original, 0)
    message_item(store, id=item_id, content="replayed")
    store.responses.delete(OWNER, original)
    found = store.items.in_responses(OWNER, [item_id])[item_id]
    assert found.item["content"] == "replayed"


def test_foreign_unstored_and_unknown_items_are_not_found(store: Store) -> None:
    foreign = draft(owner="bob", item_ids=("msg_bob",), input=b'[{"id":"msg_bob"}]')
    store.responses.finish(foreign, outcome())
    unkept = draft(stored=False, item_ids=("msg_unkept",), input=b'[{"id":"msg_unkept"}]')
    store.responses.finish(unkept, outcome())
    wrong = ["msg_bob", "msg_unkept", "msg_none", "", "x" * 500, "MSG_BOB", derive_item_id("message", foreign.id, 0)]
    assert store.items.find(OWNER, wrong) == {}
    assert store.items.find("bob", ["msg_bob", "msg_bob ", "Msg_bob"]).keys() == {"msg_bob"}


def test_many_are_found_at_once(store: Store) -> None:
    for number in range(3):
        message_item(store, id=f"msg_{number}", content=number)
    wanted = [f"msg_{number}" for number in range(2000)]
    found = store.items.find(OWNER, wanted)
    assert {item_id: item["content"] for item_id, item in found.items()} == {"msg_0": 0, "msg_1": 1, "msg_2": 2}
    assert store.items.find(OWNER, []) == {}


def test_the_same_id_can_stand_twice_in_one_response(store: Store) -> None:
    begun = draft(input=b'[{"id":"msg_1","n":1},{"id":"msg_1","n":2}]', item_ids=("msg_1", "msg_1"))
    store.responses.finish(begun, outcome(output=b"[]", item_ids=("msg_1",)))
    found = store.items.in_responses(OWNER, ["msg_1"])["msg_1"]
    assert found.item["n"] == 2
