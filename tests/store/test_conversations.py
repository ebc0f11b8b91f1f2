from __future__ import annotations

import multiprocessing
import time
from collections.abc import Sequence
from dataclasses import replace
from multiprocessing.synchronize import Barrier
from typing import Any

import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from app import ids
from app.contract.items import derive_item_id
from app.contract.records import Chain, Conversation, ConversationTurn, EventBatch
from app.store.conversations import LONGEST
from app.store.errors import ConversationMissing, ConversationTooLong, FirstConversationMissing, ItemMissing
from app.store.store import Store
from tests.store import rows
from tests.store.turns import OWNER, draft, outcome, turn

JSON = dict[str, Any]
processes = multiprocessing.get_context("spawn")
on_any_store = settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
COMPACTION = {"type": "compaction", "encrypted_content": "sealed"}


def message(text: str, **fields: Any) -> JSON:
    return {"type": "message", "role": "user", "content": text, **fields}


def added(*texts: str) -> ConversationTurn:
    return ConversationTurn(created_at=1, input=orjson.dumps([message(text) for text in texts]))


def begin(store: Store, *texts: str, owner: str = OWNER) -> str:
    conversation = Conversation(ids.new("conv"), 1, {"topic": "tests"})
    store.conversations.create(owner, conversation, added(*texts))
    return conversation.id


def say(store: Store, conversation: str, text: str, *, status: str = "completed", **fields: Any) -> str:
    """A response in the conversation; its id."""
    if "seen" not in fields:
        fields["seen"] = store.conversations.chain(OWNER, conversation).conversation_position
    begun = draft(says=text, conversation=conversation, conversation_position=fields.pop("seen"))
    ended = outcome(status, says=f"answer to {text}", **fields)
    store.responses.finish(begun, ended)
    return begun.id


def compact(store: Store, conversation: str, text: str, **fields: Any) -> str:
    return say(store, conversation, text, compacted=True, output=orjson.dumps([COMPACTION, message(text)]), **fields)


def listed(
    store: Store, conversation: str, order: str = "asc", after: str | None = None, limit: int = 1000
) -> list[JSON]:
    found = store.conversations.items(OWNER, conversation, order=order, after=after, limit=limit)
    assert found is not None
    return found


def texts(items: Sequence[JSON]) -> list[str]:
    return [item["content"] if item["type"] == "message" else item["type"] for item in items]


def loaded(chain: Chain) -> list[str]:
    """What a model would be given."""
    own = [
        link.output if chain.compacted and not at else link.input[:-1] + b"," + link.output[1:]
        for at, link in enumerate(chain.links)
    ]
    return texts([item for array in own for item in orjson.loads(array.replace(b"[,", b"[").replace(b",]", b"]"))])


# --- turns ------------------------------------------------------------------------------------------------------


def test_a_turn_is_appended_with_the_end_of_its_response(store: Store) -> None:
    conversation = begin(store, "first")
    response = say(store, conversation, "hello")
    assert texts(listed(store, conversation)) == ["first", "hello", "answer to hello"]
    chain = store.conversations.chain(OWNER, conversation)
    assert [(link.id, link.channel, link.input_tokens) for link in chain.links] == [
        ("", None, None),
        (response, "first", 3),
    ]
    stored = store.responses.read(OWNER, response)
    assert stored is not None
    assert (stored.conversation, stored.conversation_position, chain.conversation_position) == (conversation, 1, 2)


@pytest.mark.parametrize(("status", "appended"), [("completed", 2), ("incomplete", 2), ("failed", 0), ("cancelled", 0)])
@pytest.mark.parametrize("announced", [False, True])
def test_only_what_ended_well_is_appended_and_once(store: Store, status: str, appended: int, announced: bool) -> None:
    conversation = begin(store)
    begun, ended = draft(conversation=conversation), outcome(status)
    if announced:
        store.responses.begin(begun)
    assert listed(store, conversation) == []
    assert store.responses.finish(begun, ended)
    store.responses.finish(begun, ended)
    assert len(listed(store, conversation)) == appended


def test_an_unstored_or_cancelled_response_appends_nothing(store: Store) -> None:
    conversation = begin(store)
    cancelled = draft(conversation=conversation)
    store.responses.begin(cancelled)
    store.responses.cancel(OWNER, cancelled.id)
    assert not store.responses.finish(cancelled, outcome())
    store.responses.note(draft(conversation=conversation, stored=False), outcome())
    store.close()
    assert listed(store, conversation) == []


def test_a_run_that_lost_its_lease_appends_nothing(store: Store, database_url: str) -> None:
    conversation, heir = begin(store), Store(database_url, peppers=[b"p"])
    waiting = draft(says="one", conversation=conversation, background=True)
    store.jobs.enqueue(waiting, b"{}", EventBatch(0, 0, b""), lambda _: None)
    assert store.jobs.claim(waiting.id)
    rows.execute(database_url, "UPDATE worker SET lease_until = 1")
    heir.reaper.reap()
    assert heir.jobs.claim(waiting.id)
    assert not store.responses.finish(waiting, outcome(says="too late"))
    assert listed(store, conversation) == []
    assert heir.responses.finish(waiting, outcome(says="answer to one"))
    assert not store.responses.finish(waiting, outcome("incomplete", says="later still"))
    assert texts(listed(store, conversation)) == ["one", "answer to one"]
    heir.close()


def test_a_turn_whose_conversation_is_gone_ends_all_the_same(store: Store) -> None:
    conversation = begin(store)
    begun = draft(conversation=conversation)
    store.conversations.delete(OWNER, conversation)
    assert store.responses.finish(begun, outcome())
    assert store.responses.read(OWNER, begun.id) is not None
    assert store.conversations.read(OWNER, conversation) is None


def test_items_have_ids_and_those_of_an_input_are_the_ones_its_response_lists(store: Store) -> None:
    conversation = begin(store)
    response = say(store, conversation, "hello")
    first, second = listed(store, conversation)
    assert first["id"] == derive_item_id("message", response, 0)
    assert second["id"].startswith("msg_")


def test_an_id_that_is_taken_or_unfit_is_replaced(store: Store) -> None:
    conversation = begin(store)
    given = [message("a", id="msg_1"), message("b", id="msg_1"), message("c", id="a/b"), message("d", id="é" * 200)]
    turn_of = ConversationTurn(created_at=1, input=orjson.dumps(given))
    first = store.conversations.add(OWNER, conversation, turn_of)
    second = store.conversations.add(OWNER, conversation, turn_of)
    assert first is not None
    assert second is not None
    assert first[0]["id"] == "msg_1"
    assert len({item["id"] for item in first + second}) == 8
    assert listed(store, conversation) == first + second
    assert texts(first) == texts(second) == ["a", "b", "c", "d"]


# --- one order --------------------------------------------------------------------------------------------------


def append_many(url: str, conversations: list[str], name: str, together: Barrier, results: Any) -> None:
    store = Store(url, peppers=[b"p"])
    store.database.ping()
    together.wait()
    for number in range(20):
        for conversation in conversations:
            say(store, conversation, f"{name} {number}", seen=0)
    results.put(name)
    store.close()


def test_turns_that_processes_append_at_once_are_whole_and_have_one_order(store: Store, database_url: str) -> None:
    conversations = [begin(store) for _ in range(2)]
    together, results = processes.Barrier(3), processes.Queue()
    running = [
        processes.Process(
            target=append_many, args=(database_url, conversations[::step], f"writer {at}", together, results)
        )
        for at, step in enumerate((1, -1, 1))
    ]
    for process in running:
        process.start()
    for _ in running:
        results.get(timeout=60)
    for process in running:
        process.join(60)
        assert process.exitcode == 0
    for conversation in conversations:
        stored_texts = texts(listed(store, conversation))
        assert stored_texts[1::2] == [f"answer to {text}" for text in stored_texts[::2]]
        for writer in range(3):
            own = [text for text in stored_texts[::2] if text.startswith(f"writer {writer} ")]
            assert own == [f"writer {writer} {number}" for number in range(20)]
        assert loaded(store.conversations.chain(OWNER, conversation)) == stored_texts


# --- reading ----------------------------------------------------------------------------------------------------


@on_any_store
@given(
    turns=st.lists(st.integers(1, 4), max_size=6),
    limit=st.integers(1, 5),
    order=st.sampled_from(["asc", "desc"]),
    gone=st.sets(st.integers(0, 20)),
)
def test_pages_hold_every_item_once_in_order(
    store: Store, turns: list[int], limit: int, order: str, gone: set[int]
) -> None:
    conversation = begin(store)
    names = iter(range(100))
    for length in turns:
        store.conversations.add(OWNER, conversation, added(*(f"item {next(names)}" for _ in range(length))))
    everything = listed(store, conversation)
    assert texts(everything) == [f"item {number}" for number in range(sum(turns))]
    for at in sorted(gone & set(range(len(everything)))):
        assert store.conversations.delete_item(OWNER, conversation, everything[at]["id"])
    left = [item for at, item in enumerate(everything) if at not in gone]
    assert loaded(store.conversations.chain(OWNER, conversation)) == texts(left)

    paged: list[JSON] = []
    while page := listed(store, conversation, order, paged[-1]["id"] if paged else None, limit):
        assert len(page) <= limit
        paged += page
    assert paged == (left if order == "asc" else left[::-1])


def test_a_page_cannot_begin_behind_an_item_of_elsewhere(store: Store) -> None:
    conversation, other = begin(store, "a"), begin(store, "b")
    with pytest.raises(ItemMissing):
        listed(store, conversation, after=listed(store, other)[0]["id"])


def test_a_conversation_is_its_owners_alone(store: Store) -> None:
    conversation = begin(store, "secret")
    item_id = listed(store, conversation)[0]["id"]
    conversations = store.conversations
    for name in (conversation, "conv_", "x", "conv_" + "0" * 48, f"{conversation} "):
        owner = "eve" if name == conversation else OWNER
        assert conversations.read(owner, name) is None
        assert conversations.items(owner, name, order="asc", after=None, limit=9) is None
        assert conversations.item(owner, name, item_id) is None
        assert conversations.add(owner, name, added("x")) is None
        assert not conversations.update(owner, name, {})
        assert not conversations.delete_item(owner, name, item_id)
        assert not conversations.delete(owner, name)
        with pytest.raises(ConversationMissing):
            conversations.chain(owner, name)
    assert store.items.find("eve", [item_id]) == {}
    assert texts(listed(store, conversation)) == ["secret"]


def test_metadata_is_replaced(store: Store) -> None:
    conversation = begin(store)
    assert store.conversations.update(OWNER, conversation, {"a": "b"})
    assert store.conversations.read(OWNER, conversation) == Conversation(conversation, 1, {"a": "b"})


# --- compaction -------------------------------------------------------------------------------------------------


def test_a_load_starts_at_the_newest_compaction(store: Store) -> None:
    conversation = begin(store, "old")
    say(store, conversation, "older")
    compact(store, conversation, "short")
    say(store, conversation, "new")
    chain = store.conversations.chain(OWNER, conversation)
    assert chain.compacted
    assert loaded(chain) == ["compaction", "short", "new", "answer to new"]
    whole = store.conversations.full_chain(OWNER, conversation)
    assert len(whole.links) == 4
    assert not whole.compacted


def test_a_turn_during_a_compaction_is_not_lost(store: Store) -> None:
    conversation = begin(store, "old")
    seen = store.conversations.chain(OWNER, conversation).conversation_position
    say(store, conversation, "meanwhile", seen=seen)
    compact(store, conversation, "one", seen=seen)
    compact(store, conversation, "two", seen=seen)
    chain = store.conversations.chain(OWNER, conversation)
    assert loaded(chain)[:4] == ["compaction", "two", "meanwhile", "answer to meanwhile"]
    assert len(chain.links) == 3


def test_a_compaction_that_is_removed_stands_for_nothing_any_more(store: Store) -> None:
    conversation = begin(store, "old")
    compact(store, conversation, "short")
    (item,) = [item for item in listed(store, conversation) if item["type"] == "compaction"]
    assert store.conversations.delete_item(OWNER, conversation, item["id"])
    assert loaded(store.conversations.chain(OWNER, conversation)) == ["old", "short", "short"]


# --- beside responses -------------------------------------------------------------------------------------------


def test_a_chain_from_a_response_has_the_conversation_as_it_was_then(store: Store) -> None:
    conversation = begin(store, "first")
    response = say(store, conversation, "one")
    say(store, conversation, "two")
    child = turn(store, response, says="aside")
    expected = ["first", "one", "answer to one", "aside", "welcome"]
    assert loaded(store.responses.chain(OWNER, child)) == expected
    compact(store, conversation, "short")
    assert loaded(store.responses.chain(OWNER, child)) == expected
    later = say(store, conversation, "three")
    assert loaded(store.responses.chain(OWNER, later)) == ["compaction", "short", "three", "answer to three"]
    assert loaded(store.responses.full_chain(OWNER, later))[:3] == ["first", "one", "answer to one"]


def test_a_background_run_has_the_conversation_as_it_was_when_it_began(store: Store) -> None:
    conversation = begin(store, "first")
    waiting = draft(says="asked early", conversation=conversation, conversation_position=1, background=True)
    store.jobs.enqueue(waiting, b"sealed", EventBatch(0, 0, b"event: response.created\ndata: {}\n\n"), [].append)
    say(store, conversation, "one")
    assert store.jobs.claim(waiting.id) is not None
    begun = replace(waiting, conversation_position=store.conversations.chain(OWNER, conversation).conversation_position)
    assert store.responses.finish(begun, outcome(says="late"))
    child = turn(store, waiting.id, says="aside")
    assert loaded(store.responses.chain(OWNER, child)) == [
        "first",
        "one",
        "answer to one",
        "asked early",
        "late",
        "aside",
        "welcome",
    ]


def test_a_chain_whose_conversation_is_gone_is_refused(store: Store) -> None:
    conversation = begin(store, "first")
    response = say(store, conversation, "one")
    compacted = compact(store, conversation, "short")
    store.conversations.delete(OWNER, conversation)
    with pytest.raises(FirstConversationMissing) as caught:
        store.responses.chain(OWNER, response)
    assert (caught.value.response_id, caught.value.conversation_id) == (response, conversation)
    # This one stands for all that it had seen.
    assert loaded(store.responses.chain(OWNER, compacted)) == ["compaction", "short"]


def test_items_of_a_conversation_outlive_the_response_and_its_retention(store: Store, database_url: str) -> None:
    conversation = begin(store, "first")
    deleted, pruned = say(store, conversation, "one"), say(store, conversation, "two")
    copied = [item["id"] for item in listed(store, conversation)]
    assert store.responses.delete(OWNER, deleted)
    rows.age(database_url, [pruned], 90)
    list(store.maintenance.prune(int(time.time()) - 30 * 86_400))
    assert store.responses.read(OWNER, pruned) is None
    assert texts(listed(store, conversation)) == ["first", "one", "answer to one", "two", "answer to two"]
    assert store.items.find(OWNER, copied).keys() == set(copied)


def test_a_deleted_conversation_leaves_nothing(store: Store, database_url: str) -> None:
    stored = begin(store, "kept")
    conversation = begin(store, "first")
    response = say(store, conversation, "one")
    item = listed(store, conversation)[0]["id"]
    assert store.conversations.delete(OWNER, conversation)
    assert not store.conversations.delete(OWNER, conversation)
    assert store.items.find(OWNER, [item]) == {}
    assert store.responses.read(OWNER, response) is not None
    assert [rows.count(database_url, f"conversation{part}") for part in ("", "_turn", "_item")] == [1, 1, 1]
    assert texts(listed(store, stored)) == ["kept"]


def test_the_newest_copy_of_an_item_is_found(store: Store) -> None:
    for text in ("old", "new"):
        conversation = begin(store)
        items = orjson.dumps([message(text, id="msg_mine")])
        store.conversations.add(OWNER, conversation, ConversationTurn(created_at=1, input=items))
    assert store.items.find(OWNER, ["msg_mine", "msg_none"])["msg_mine"]["content"] == "new"


@on_any_store
@given(st.lists(st.tuples(st.booleans(), st.integers(0, 3)), max_size=8))
def test_no_turn_is_lost_however_compactions_and_turns_overtake_each_other(
    store: Store, turns: list[tuple[bool, int]]
) -> None:
    conversation = begin(store)
    seen_by: dict[str, int] = {}
    newest_compaction = None
    for position, (compacts, lag) in enumerate(turns, 1):
        name = f"turn {position}"
        seen_by[name] = max(0, position - 1 - lag)
        (compact if compacts else say)(store, conversation, name, seen=seen_by[name])
        newest_compaction = name if compacts else newest_compaction
    chain = store.conversations.chain(OWNER, conversation)
    stands_for = seen_by[newest_compaction] if newest_compaction else 0
    given_to_model = loaded(chain)
    for position, name in enumerate(seen_by, 1):
        assert position <= stands_for or name in given_to_model
    assert chain.compacted == (newest_compaction is not None)
    assert chain.conversation_position == len(turns)


def test_a_conversation_of_too_many_turns_is_refused_until_it_is_compacted(store: Store, database_url: str) -> None:
    conversation = begin(store, "first")
    rows.copy_turns(database_url, LONGEST)
    with pytest.raises(ConversationTooLong, match=conversation):
        store.conversations.chain(OWNER, conversation)
    compact(store, conversation, "short", seen=LONGEST)
    assert loaded(store.conversations.chain(OWNER, conversation))[:2] == ["compaction", "short"]


# --- why a cache missed -----------------------------------------------------------------------------------------


def removed(store: Store, response_id: str) -> int | None:
    """Where the first of the items stood that were deleted between a response and the one before it."""
    pair = store.prompts.pair(OWNER, response_id)
    assert pair is not None
    return pair.removed


def test_a_response_knows_which_items_were_deleted_since_the_one_before(store: Store) -> None:
    conversation = begin(store, "one", "two")
    ids_ = [item["id"] for item in listed(store, conversation)]
    first = say(store, conversation, "three")
    whole = listed(store, conversation)
    assert store.conversations.delete_item(OWNER, conversation, whole[2]["id"])
    assert store.conversations.delete_item(OWNER, conversation, ids_[1])
    second, third = say(store, conversation, "four"), say(store, conversation, "five")
    assert [removed(store, one) for one in (first, second, third)] == [None, 1, None]
    words = ["three", "four", "five"]
    answers = [f"answer to {word}" for word in words]
    assert texts(listed(store, conversation)) == ["one", answers[0], words[1], answers[1], words[2], answers[2]]


def test_a_turn_that_read_an_item_before_its_deletion_is_not_concerned(store: Store) -> None:
    conversation = begin(store, "one")
    first = say(store, conversation, "two")
    seen = store.conversations.chain(OWNER, conversation).conversation_position
    assert store.conversations.delete_item(OWNER, conversation, listed(store, conversation)[0]["id"])
    late, next_ = say(store, conversation, "three", seen=seen), say(store, conversation, "four")
    assert [removed(store, one) for one in (first, late, next_)] == [None, None, 0]


def test_an_item_behind_a_compaction_is_missed_by_nothing(store: Store) -> None:
    conversation = begin(store, "one")
    compact(store, conversation, "two")
    say(store, conversation, "three")
    old, *_, last = listed(store, conversation)
    assert store.conversations.delete_item(OWNER, conversation, old["id"])
    after = say(store, conversation, "four")
    assert store.conversations.delete_item(OWNER, conversation, last["id"])
    # Before it stand the compaction with its message, and the question.
    assert [removed(store, after), removed(store, say(store, conversation, "five"))] == [None, 3]


def test_a_conversation_takes_its_notes_with_it(store: Store, database_url: str) -> None:
    conversation = begin(store, "one", "two")
    store.conversations.delete_item(OWNER, conversation, listed(store, conversation)[0]["id"])
    assert rows.count(database_url, "removed_item") == 1
    assert store.conversations.delete(OWNER, conversation)
    assert rows.count(database_url, "removed_item") == 0
