"""The request for an upstream: the whole context in a form that all servers accept, with only readable items."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import orjson
import pytest

from app.contract.items import Item
from app.contract.records import Chain, UpstreamResponse
from app.errors import UpstreamError, UpstreamRefused
from app.formats import responses
from app.sealing import PREFIX
from tests.formats.responses.transcripts import link, row, sent, turn

USER: Item = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": "Hi"}]}
ANSWER: Item = {
    "type": "message",
    "role": "assistant",
    "content": [{"type": "output_text", "text": "Yes", "annotations": []}],
}
SECRET: Item = {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "gAAA"}
PLAIN: Item = {"type": "reasoning", "id": "rs_2", "summary": [], "content": [{"type": "reasoning_text", "text": "Hm"}]}
BOTH: Item = {**PLAIN, "encrypted_content": "gAAA"}
SEALED: Item = {**PLAIN, "encrypted_content": f"{PREFIX}ab.cd"}
COMPACTION: Item = {"type": "compaction", "id": "cmp_1", "encrypted_content": "gAAA"}


TEXT = {"type": "output_text", "annotations": []}


def is_note(item: Item) -> bool:
    return item.get("role") == "user" and "compacted by another model server" in item["content"][0]["text"]


# --- the form ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "content", ["Yes", [{"type": "output_text", "text": "Yes"}], [{"type": "text", "text": "Yes"}]]
)
@pytest.mark.parametrize("stored", [True, False])
def test_messages_of_an_assistant_are_sent_in_their_full_form(content: Any, stored: bool) -> None:
    answer = {"type": "message", "role": "assistant", "content": content}
    request_turn = turn(chain=Chain((link(input=(USER, answer)),))) if stored else turn(USER, answer)
    full = {"type": "output_text", "text": "Yes", "annotations": []}
    assert sent(request_turn) == [USER, {**answer, "content": [full]}]


@pytest.mark.parametrize(
    "answer",
    [
        {"type": "message", "id": "msg_1", "role": "assistant", "content": [{"type": "refusal", "refusal": "No"}]},
        {"type": "message", "role": "user", "content": "An assistant's"},
        {"type": "function_call", "call_id": "call_1", "name": "f", "arguments": "{}", "status": "completed"},
        {"type": "dreamt_up", "role": "assistant", "content": "kept"},
    ],
)
def test_an_item_in_its_full_form_is_sent_unchanged(answer: Item) -> None:
    assert sent(turn(answer)) == [answer]
    assert sent(turn(chain=Chain((link(answer, input=(answer,)),)))) == [answer, answer]


@pytest.mark.parametrize("question", ["?", "?" * 20_000], ids=["small", "large"])
@pytest.mark.parametrize("position", [0, 70, 99])
def test_a_brought_message_in_a_long_history_is_sent_in_its_full_form(question: str, position: int) -> None:
    asked = {"type": "message", "role": "user", "content": question}
    brought = {"type": "message", "role": "assistant", "content": "brought"}
    answer = {"type": "message", "role": "assistant", "content": [{**TEXT, "text": "answer"}]}
    links = [link(answer, input=(asked, *([brought] if at == position else []))) for at in range(100)]

    items = sent(turn(chain=Chain(tuple(links))))

    expected: list[Item] = [item for _ in links for item in (asked, answer)]
    expected.insert(2 * position + 1, {**brought, "content": [{**TEXT, "text": "brought"}]})
    assert items == expected


@pytest.mark.parametrize("position", [0, 70, 99])
def test_a_call_without_arguments_in_a_long_history_gets_an_empty_object(position: int) -> None:
    call = {"type": "function_call", "call_id": "c", "name": "f", "arguments": "", "status": "completed"}
    answer = {"type": "message", "role": "assistant", "content": [{**TEXT, "text": "answer"}]}
    links = [link(call if at == position else answer) for at in range(100)]

    items = sent(turn(chain=Chain(tuple(links))))

    assert items == [{**call, "arguments": "{}"} if at == position else answer for at in range(100)]


def test_stored_items_are_spliced_as_bytes() -> None:
    spaced = b'[ {"type":"message",  "role":"user","content":"Hi"} ]'
    chain = Chain((link()._replace(input=spaced, output=spaced),))
    assert responses.encode(turn(chain=chain), row(), "up").count(spaced[1:-1]) == 2


# --- reasoning --------------------------------------------------------------------------------------------------

OPEN_BOTH = {**PLAIN}


@pytest.mark.parametrize(
    ("item", "keys", "read"),
    [
        (SECRET, {"family": "f", "encrypted_reasoning": True}, SECRET),
        (SECRET, {"family": "f"}, None),
        (SECRET, {"family": "g", "encrypted_reasoning": True}, None),
        (PLAIN, {"family": "f"}, PLAIN),
        (PLAIN, {"family": "g"}, None),
        (PLAIN, {"family": "g", "reasoning_text": True}, PLAIN),
        (BOTH, {"family": "f", "encrypted_reasoning": True}, BOTH),
        (BOTH, {"family": "f"}, OPEN_BOTH),
        (BOTH, {"family": "g", "encrypted_reasoning": True, "reasoning_text": True}, OPEN_BOTH),
        (SEALED, {"family": "g", "reasoning_text": True}, OPEN_BOTH),
    ],
)
def test_reasoning_of_a_chain_goes_to_the_family_that_can_read_it(item: Item, keys: Any, read: Item | None) -> None:
    request_turn = turn(USER, chain=Chain((link(item, ANSWER, input=(USER,)),)))
    assert sent(request_turn, **keys) == [USER, *([read] if read else []), ANSWER, USER]


@pytest.mark.parametrize(
    ("item", "keys", "read"),
    [
        (SECRET, {"encrypted_reasoning": True}, SECRET),
        (SECRET, {}, None),
        (PLAIN, {}, None),
        (PLAIN, {"reasoning_text": True}, PLAIN),
        (BOTH, {"encrypted_reasoning": True}, {**SECRET, "id": "rs_2"}),
        (BOTH, {"encrypted_reasoning": True, "reasoning_text": True}, BOTH),
        (BOTH, {"reasoning_text": True}, OPEN_BOTH),
        ({**SECRET, "status": "completed"}, {"encrypted_reasoning": True}, SECRET),
        ({**BOTH, "status": "completed"}, {"encrypted_reasoning": True, "reasoning_text": True}, BOTH),
        ({**BOTH, "status": "completed"}, {"reasoning_text": True}, OPEN_BOTH),
        ({**SECRET, "content": None}, {"encrypted_reasoning": True}, {**SECRET, "content": None}),
        (SEALED, {"encrypted_reasoning": True}, None),
    ],
)
def test_reasoning_that_a_client_brings_back_is_tried_where_it_may_be_read(
    item: Item, keys: Any, read: Item | None
) -> None:
    expected = [*([read] if read else []), ANSWER, USER]
    assert sent(turn(item, ANSWER, USER), **keys) == expected
    assert sent(turn(chain=Chain((link(input=(item, ANSWER, USER)),))), **keys) == expected


# --- what was cut off -------------------------------------------------------------------------------------------

HALF: Item = {"type": "function_call", "id": "fc_1", "call_id": "call_1", "name": "f", "arguments": '{"a":'}
CALL: Item = {**HALF, "arguments": "{}"}
SEEN: Item = {"type": "function_call_output", "call_id": "call_1", "output": "seen"}


@pytest.mark.parametrize("status", ["incomplete", "in_progress"])
@pytest.mark.parametrize("call", [HALF, CALL], ids=["half", "whole"])
def test_a_call_that_says_it_was_cut_off_needs_no_output(call: Item, status: str) -> None:
    """Some upstreams complete a response with such a call, and the client does not run it."""
    output = ({**PLAIN}, {**call, "status": status})
    assert sent(turn(USER, chain=Chain((link(*output, input=(USER,)),))), reasoning_text=True) == [USER, USER]


def test_the_output_of_a_call_that_is_left_out_becomes_text() -> None:
    chain = Chain((link(HALF, input=(USER,), status="incomplete"), link(ANSWER, input=(SEEN,))))
    (_, note, answer, _) = sent(turn(USER, chain=chain))
    assert answer == ANSWER
    assert "seen" in note["content"][0]["text"]


def test_an_answered_call_of_a_cut_response_stays() -> None:
    chain = Chain((link(CALL, input=(USER,), status="incomplete"), link(ANSWER, input=(SEEN,))))
    assert sent(turn(USER, chain=chain)) == [USER, CALL, SEEN, ANSWER, USER]


def test_items_go_without_ids_where_the_row_says_so() -> None:
    asked = turn(USER, chain=Chain((link(CALL, input=(USER,)), link({**ANSWER, "id": "msg_1"}, input=(SEEN,)))))
    assert all("id" in item for item in sent(asked) if item.get("role") == "assistant" or item["type"] == CALL["type"])
    assert not any("id" in item for item in sent(asked, item_ids="omit"))


def test_messages_get_an_id_and_a_status_where_the_row_says_so() -> None:
    bare = {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "Hi."}]}
    first, *_ = items = sent(turn(bare, USER, bare), item_ids="made")
    assert [item.get("status") for item in items] == ["completed", USER.get("status"), "completed"]
    assert first["id"].startswith("msg_")
    assert first["id"] != items[2]["id"]
    # The next turn begins with the same items.
    assert sent(turn(bare, USER, bare, USER), item_ids="made")[:3] == items
    assert sent(turn({**bare, "id": "msg_1", "status": "incomplete"}), item_ids="made")[0]["id"] == "msg_1"


def test_reasoning_whose_secret_is_missing_is_left_out_where_it_is_unreadable() -> None:
    again = responses.amended(turn(USER, PLAIN, ANSWER, USER), row(reasoning_text=True), UNREADABLE)
    assert again is not None
    assert [item["type"] for item in sent(again, reasoning_text=True)] == ["message"] * 3


# --- compactions ------------------------------------------------------------------------------------------------


def test_a_foreign_compaction_is_tried_and_becomes_a_note_where_it_is_refused() -> None:
    request_turn = turn(COMPACTION, USER)
    assert sent(request_turn)[0] == COMPACTION
    again = responses.amended(request_turn, row(), UpstreamRefused("Unknown item.", code="invalid_value"))
    assert again is not None
    assert is_note(sent(again)[0])
    too_long = UpstreamRefused("Too long.", code="context_length_exceeded")
    assert responses.amended(request_turn, row(), too_long) is None


@pytest.mark.parametrize(
    ("param", "sentence"),
    [
        ("temperature", "Unsupported parameter: 'temperature' is not supported with this model."),
        ("tools[0].type", "Invalid value: 'web_search'. Supported values are: 'function'."),
        ("include", "Encrypted content is not supported with this model."),
        ("input[0].id", "Invalid 'input[0].id': 'cmp_1'. Expected an ID that begins with 'cm'."),
        ("input[1].content", "Invalid value."),
        (None, "Unsupported parameter: temperature"),
    ],
)
@pytest.mark.parametrize("stored", [True, False])
def test_a_compaction_stays_where_something_else_is_refused(stored: bool, param: str | None, sentence: str) -> None:
    items = ({**COMPACTION, "id": "cmp_1"}, USER)
    settings = {"temperature": 0.2, "include": ["reasoning.encrypted_content"], "tools": [{"type": "web_search"}]}
    asked = turn(USER, chain=Chain((link(input=items),)), **settings) if stored else turn(*items, **settings)
    answer = {"error": {"message": sentence, "type": "invalid_request_error", "param": param, "code": None}}
    assert responses.amended(asked, READS, responses.decode_error(400, {}, orjson.dumps(answer))) is None


@pytest.mark.parametrize("sentence", ["Could not decode the compaction blob.", "Cannot determine type of 'item'"])
@pytest.mark.parametrize("stored", [True, False])
def test_a_compaction_becomes_a_note_however_it_is_refused(stored: bool, sentence: str) -> None:
    asked = turn(USER, chain=Chain((link(input=(COMPACTION,)),))) if stored else turn(COMPACTION, USER)
    again = responses.amended(asked, READS, refused(sentence))
    assert again is not None
    assert is_note(sent(again)[0])


def test_a_seal_of_ours_is_read_by_no_upstream() -> None:
    (first, _) = sent(turn({**COMPACTION, "encrypted_content": f"{PREFIX}ab.cd"}, USER), compact="native")
    assert is_note(first)


@pytest.mark.parametrize(("family", "read"), [("f", True), ("g", False)])
def test_a_compaction_of_a_chain_goes_to_its_own_family(family: str, read: bool) -> None:
    (first, _) = sent(turn(USER, chain=Chain((link(COMPACTION),))), family=family, compact="native")
    assert first == COMPACTION if read else is_note(first)


# --- once more --------------------------------------------------------------------------------------------------

UNREADABLE = UpstreamRefused("Could not be verified.", code="invalid_encrypted_content")


@pytest.mark.parametrize(("keys", "text"), [({"reasoning_text": True}, [PLAIN]), ({}, [])], ids=["text", "none"])
def test_a_turn_whose_encrypted_items_were_refused_is_sent_without_them(keys: Any, text: list[Item]) -> None:
    chain = Chain((link(SECRET, USER, input=(COMPACTION,)),))
    request_turn = turn(BOTH, ANSWER, SECRET, COMPACTION, USER, chain=chain)
    again = responses.amended(request_turn, row(**keys), UNREADABLE)
    assert again is not None
    items = sent(again, encrypted_reasoning=True, compact="native", **keys)
    assert b"gAAA" not in orjson.dumps(items)
    shown = [is_note(item) if item.get("role") else item for item in items]
    assert shown == [True, False, *text, False, True, False]
    last = responses.amended(again, row(**keys), UNREADABLE)
    # An upstream that finds even the text unreadable gets none.
    assert (last is None) is not bool(text)
    assert last is None or not any(item["type"] == "reasoning" for item in sent(last, **keys))


def test_a_turn_without_encrypted_items_is_not_sent_again() -> None:
    request_turn = turn(PLAIN, USER, chain=Chain((link(PLAIN, input=(USER,)),)))
    assert responses.amended(request_turn, row(), UNREADABLE) is None


def test_another_refusal_is_final() -> None:
    assert responses.amended(turn(SECRET), READS, UpstreamRefused("No.", code="invalid_value")) is None


READS = row(encrypted_reasoning=True)
#: Refusals of the conversation [user, reasoning, answer, user], as servers word them.
OF_REASONING = [
    "Invalid 'input[1].content': array too long. Expected an array with maximum length 0, but got one with length 1.",
    "input.1.encrypted_content: Input should be a valid string",
    "Invalid value at input[1].",
    "The encrypted content gAAA... could not be verified. Reason: Encrypted content could not be decrypted or parsed.",
    "The encrypted content for item rs_1 could not be verified.",
    "Item 'rs_1' of type 'reasoning' was provided without its required following item.",
    "Item with id 'rs_1' not found. Items are not persisted when `store` is set to false.",
    "Reasoning items from another model are not accepted.",
    "Could not decrypt the provided ciphertext.",
    "Failed to parse the reasoning content.",
    "This model does not take reasoning of others.",
    "Invalid signature in thinking block.",
    # They do not say which item they mean.
    "Failed to deserialize the JSON body into the target type: input: data did not match any variant of untagged enum "
    "ModelInput at line 1 column 1234",
    "item['content'] is not array",
    "Cannot determine type of 'item'",
    "Invalid",
    "1 validation error for ValidatorIterator\n1.ResponseReasoningItem.status\n  Input should be 'in_progress'",
    "[{'type': 'missing', 'loc': ('body', 'input', 'list[...]', 1, 'ResponseReasoningItemParam', 'content')}]",
    "messages.1.content.0: reasoningContent is not supported by this model",
]
#: Refusals of something else, although reasoning is mentioned.
OF_OTHER_THINGS = [
    "Unsupported value: 'reasoning.effort' does not support 'none' with this model.",
    "Unsupported parameter: 'reasoning_effort' is not supported with this model.",
    "Your organization must be verified to generate reasoning summaries.",
    "Invalid 'input[2].content[0].text': string too long.",
    "Invalid 'input[3].content': this model does not support images of a reasoning task.",
    "Invalid value for 'include': reasoning.encrypted_content is not known.",
    "Unknown parameter: 'unheard_of'.",
    "Invalid schema for function 'f': In context=('properties', 'x'), array schema missing items.",
    "Invalid value for reasoningEffort.",
]


def refused(sentence: str, code: str | None = None) -> UpstreamError:
    answer = {"error": {"message": sentence, "type": "invalid_request_error", "param": None, "code": code}}
    return responses.decode_error(400, {}, orjson.dumps(answer))


@pytest.mark.parametrize("sentence", OF_REASONING)
@pytest.mark.parametrize("code", [None, "array_above_max_length", "invalid_encrypted_content"])
@pytest.mark.parametrize("stored", [True, False])
def test_one_retry_goes_without_refused_reasoning(sentence: str, code: str | None, stored: bool) -> None:
    items = (USER, {**SECRET, "status": "completed"}, ANSWER)
    asked = turn(USER, chain=Chain((link(input=items),))) if stored else turn(*items, USER)
    again = responses.amended(asked, READS, refused(sentence, code))
    assert again is not None
    assert sent(again, encrypted_reasoning=True) == [USER, ANSWER, USER]
    assert responses.amended(again, READS, refused(sentence, code)) is None
    # What the client sent, and the store has, is as it was.
    assert sent(asked, encrypted_reasoning=True) == [USER, SECRET, ANSWER, USER]


@pytest.mark.parametrize("sentence", OF_OTHER_THINGS)
def test_other_refusals_leave_reasoning_where_it_is(sentence: str) -> None:
    asked = turn(USER, SECRET, ANSWER, USER, reasoning={"effort": "none"})
    assert responses.amended(asked, READS, refused(sentence)) is None


@pytest.mark.parametrize("path", ["input[1].status", "input[1].private"])
def test_a_remedy_for_one_member_keeps_the_reasoning(path: str) -> None:
    own = {**SECRET, "status": "completed", "private": 1}
    asked = turn(USER, chain=Chain((link(own, ANSWER, input=(USER,)),)))
    assert responses.amended(asked, READS, refused(f"Unknown parameter: '{path}'.")) is None


def test_reasoning_that_is_not_sent_is_not_left_out() -> None:
    assert responses.amended(turn(USER, SECRET, ANSWER, USER), row(), refused(OF_REASONING[-2])) is None


# --- the response to compare with -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "family", "expected"),
    [
        ({}, "f", {"comparison_response_id": "resp_up"}),
        ({"mode": "explicit"}, "f", {"mode": "explicit", "comparison_response_id": "resp_up"}),
        ({}, "g", None),
        ({"mode": "explicit"}, "g", {"mode": "explicit"}),
    ],
)
def test_a_response_to_compare_with_has_the_upstreams_id_or_none(options: Any, family: str, expected: Any) -> None:
    given = {**options, "comparison_response_id": "resp_ours"}
    asked = replace(turn(USER, prompt_cache_options=given), comparison=UpstreamResponse("resp_up", "f"))
    body = orjson.loads(responses.encode(asked, row(family=family), "up"))
    assert body.get("prompt_cache_options") == expected
    unknown = orjson.loads(responses.encode(turn(USER, prompt_cache_options=given), row(family=family), "up"))
    assert unknown.get("prompt_cache_options") == (options or None)


def test_a_response_that_the_upstream_has_forgotten_is_left_out_of_this_turn() -> None:
    asked = turn(USER, prompt_cache_options={"comparison_response_id": "resp_ours"})
    asked = replace(asked, comparison=UpstreamResponse("resp_up", "f"))
    gone = refused("prompt_cache_options.comparison_response_id: response 'resp_up' was not found.")
    again = responses.amended(asked, row(), gone)
    assert again is not None
    assert "prompt_cache_options" not in orjson.loads(responses.encode(again, row(), "up"))
    # A server that does not know the member at all is remembered instead.
    unknown = refused("Unknown parameter: 'prompt_cache_options.comparison_response_id'.")
    assert responses.amended(asked, row(), unknown) is None


_LOOK: Item = {"type": "function", "name": "look"}
_OWN: Item = {"type": "mcp", "server_label": "mine", "server_url": "https://mcp.example.com/mcp"}
_CONNECTED: Item = {"type": "mcp", "server_label": "mail", "connector_id": "connector_gmail"}
_LABEL: Item = {"type": "mcp", "server_label": "docs"}
_PLACEHOLDER: Item = {**_LABEL, "server_url": "https://tools.antiphon.invalid/docs"}


@pytest.mark.parametrize(
    ("keys", "sent_tools"),
    [({}, [_LOOK]), ({"mcp": "native"}, [_LOOK, _OWN, _CONNECTED])],
    ids=["gateway", "native"],
)
def test_an_upstream_gets_only_mcp_servers_that_it_can_call(keys: Any, sent_tools: list[Item]) -> None:
    wanted = turn(tools=[_LOOK, _OWN, _CONNECTED, _LABEL, _PLACEHOLDER])
    for encode in (responses.encode, responses.encode_count):
        body = orjson.loads(encode(wanted, row(**keys), "m"))
        assert body["tools"] == sent_tools
    assert responses.dropped(wanted, row(**keys)) == ("mcp",)
    assert responses.dropped(turn(tools=sent_tools), row(**keys)) == ()


def test_a_choice_of_a_server_that_is_left_out_is_left_out_as_well() -> None:
    wanted = turn(tools=[_OWN], tool_choice={"type": "mcp", "server_label": "mine"})
    body = orjson.loads(responses.encode(wanted, row(), "m"))
    assert {"tools", "tool_choice"}.isdisjoint(body)
