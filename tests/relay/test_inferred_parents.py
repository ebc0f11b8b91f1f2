"""What makes an item the same, and where a conversation goes on from when its client keeps it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.contract.records import Trace
from app.relay.client_thread import ClientThread
from app.relay.inferred_parents import identity, trace, trace_chained

Item = dict[str, Any]

SESSION = "one session"


def _user(text: str, **more: Any) -> Item:
    return {"type": "message", "role": "user", "content": [{"type": "input_text", "text": text}], **more}


def _answer(text: str, **more: Any) -> Item:
    part = {"type": "output_text", "text": text, "annotations": [], "logprobs": []}
    return {"type": "message", "id": "msg_1", "status": "completed", "role": "assistant", "content": [part], **more}


def _call(call_id: str, **more: Any) -> Item:
    return {"type": "function_call", "call_id": call_id, "name": "look", "arguments": '{"at": 1}', "id": "fc_1", **more}


def _output(call_id: str, text: str) -> Item:
    return {"type": "function_call_output", "call_id": call_id, "output": text}


def _compaction(secret: str) -> Item:
    return {"type": "compaction", "id": "cmp_1", "encrypted_content": secret}


def _trace(input: list[Item], output: list[Item] | None, thread: ClientThread | None = None) -> Trace:
    return trace("resp_1", 1, thread or ClientThread(SESSION), input, output)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (_answer("Yes."), {"role": "assistant", "content": "Yes."}),
        (_answer("Yes."), _answer("Yes.", id=None, status=None, phase="final_answer")),
        (_user("Go on", id="msg_2"), _user("Go on", internal_chat_message_metadata_passthrough={"turn_id": "t"})),
        (_call("c"), _call("c", arguments='{"at":1}', status="completed", id=None)),
        (
            {"type": "web_search_call", "id": "ws_1", "status": "completed", "action": {"query": "q", "sources": []}},
            {"type": "web_search_call", "action": {"query": "q", "url": None}},
        ),
    ],
)
def test_an_item_is_the_same_when_it_comes_back(ours: Item, theirs: Item) -> None:
    assert identity(ours) == identity(theirs)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (_user("a"), _user("b")),
        (_user("a"), _answer("a")),
        (_user("a"), {**_user("a"), "content": [*_user("a")["content"], {"type": "input_image", "image_url": "u"}]}),
        (_call("a"), _call("b")),
        (_output("a", "1"), _output("a", "2")),
        (_compaction("a"), _compaction("b")),
    ],
)
def test_different_content_is_another_item(one: Item, other: Item) -> None:
    assert identity(one) != identity(other)


_words = st.text(max_size=5)
_calls = st.integers(0, 99).map(str)
_questions = st.one_of(_words.map(_user), st.builds(_output, _calls, _words))
_answered = st.lists(st.one_of(_words.map(_answer), _calls.map(_call)), min_size=1, max_size=3)
_talk = st.lists(st.tuples(st.lists(_questions, min_size=1, max_size=3), _answered), min_size=2, max_size=6)


@given(_talk)
def test_every_turn_is_found_from_the_next_and_the_nearest_first(talk: list[tuple[list[Item], list[Item]]]) -> None:
    history: list[Item] = []
    ends: list[bytes | None] = []
    for question, answered in talk:
        history = [*history, *question]
        traced = _trace(history, answered)
        assert list(traced.starts) == ends[::-1]
        ends.append(traced.end)
        history = [*history, *answered]


def _reasoned(items: list[Item]) -> list[Item]:
    reasoning = {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "secret"}
    return [piece for item in items for piece in (reasoning, item)]


def _rekeyed(items: list[Item]) -> list[Item]:
    return [dict(reversed(item.items())) for item in items]


@pytest.mark.parametrize("resent", [_reasoned, _rekeyed])
def test_reasoning_and_the_order_of_keys_make_no_difference(resent: Callable[[list[Item]], list[Item]]) -> None:
    question, answered = [_user("Look"), _call("c")], [_answer("Seen.")]
    end = _trace(question, answered).end
    assert _trace([*resent([*question, *answered]), _user("And?")], None).starts[0] == end


def test_after_a_compaction_nothing_before_it_counts() -> None:
    made = _trace([_user("a"), _answer("b"), _user("c")], [_user("c"), _compaction("s")])
    goes_on = _trace([_user("only this was kept"), _compaction("s"), _user("d")], [_answer("e")])
    assert goes_on.starts == (made.end,)
    later = _trace([_compaction("s"), _user("d"), _answer("e"), _user("f")], None)
    assert later.starts == (goes_on.end, made.end)


def test_threads_have_nothing_in_common() -> None:
    question, answered = [_user("a")], [_answer("b")]
    ended = _trace(question, answered)
    other = _trace([*question, *answered, _user("c")], None, ClientThread("another"))
    assert ended.end not in other.starts
    assert ended.thread != other.thread
    assert _trace(question, answered, ClientThread("another", parents=(SESSION,))).parents == (ended.thread,)


def test_no_parent_is_inferred_without_an_answer() -> None:
    found = _trace([_user("a")], None)
    assert (found.starts, found.end) == ((), None)


def test_only_the_same_input_in_the_same_thread_is_a_retry() -> None:
    question = _trace([_user("a")], [_answer("b")]).question
    assert question is not None
    assert question == _trace([_user("a", id="msg_9")], None).question
    assert question != _trace([_user("a"), {"type": "compaction_trigger"}], None).question
    assert question != _trace([_user("a"), _user("a")], None).question
    assert question != _trace([_user("a")], None, ClientThread("another")).question


def test_a_turn_whose_parent_is_named_has_a_thread_and_nothing_inferred() -> None:
    child = ClientThread("child", parents=(SESSION,), subagent="review")
    found = trace_chained("resp_2", 1, child, "resp_1", [_user("a"), _answer("b"), _user("c")])
    alike = _trace([_user("a")], None, child)
    assert (found.starts, found.end) == ((), None)
    assert (found.thread, found.parents, found.subagent) == (alike.thread, alike.parents, "review")


def test_only_the_same_input_after_the_same_response_is_a_retry() -> None:
    def question(history: str, text: str, thread: str = SESSION) -> bytes | None:
        return trace_chained("resp_2", 1, ClientThread(thread), history, [_user(text)]).question

    asked = question("resp_1", "a")
    assert asked == question("resp_1", "a")
    others = [question("resp_2", "a"), question("resp_1", "b"), question("resp_1", "a", "another")]
    assert asked not in [*others, None]
    # A conversation goes on by itself.
    assert question("conv_1", "a") is None


def test_a_first_question_under_a_cache_key_alone_may_be_another_conversations() -> None:
    shared = ClientThread("app", has_id=False)
    assert _trace([_user("a")], [_answer("b")], shared).question is None
    assert _trace([_user("a"), _answer("b"), _user("c")], None, shared).question is not None
