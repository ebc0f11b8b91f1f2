"""Items of any type and order become messages that every chat upstream accepts."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.contract.items import Item
from app.contract.records import Chain
from app.errors import InvalidRequest
from tests.formats.chat_completions.conversations import encoded, results_after
from tests.formats.conversations import answered, called, link, message_item, turn

COMPACTION = {"type": "compaction", "id": "cmp_1", "encrypted_content": "gAAA"}


def messages(*items: Item, chain: Chain | None = None, request: Any = None, **keys: Any) -> list[dict[str, Any]]:
    sent: list[dict[str, Any]] = encoded(turn(*items, chain=chain, **(request or {})), **keys)["messages"]
    return sent


def reasoned(text: str | None, **more: Any) -> Item:
    content = {} if text is None else {"content": [{"type": "reasoning_text", "text": text}]}
    return {"type": "reasoning", "id": "rs_1", "summary": [], **content, **more}


def roles(sent: list[dict[str, Any]]) -> list[str]:
    return [message["role"] for message in sent]


# --- any conversation -------------------------------------------------------------------------------------------

texts = st.text(max_size=5)
call_ids = st.sampled_from(["a", "b", "c"])
parts = st.one_of(
    texts.map(lambda text: {"type": "input_text", "text": text}),
    st.just({"type": "input_image", "image_url": "data:,", "detail": "original"}),
    st.just({"type": "input_file", "file_data": "data:,", "filename": "f"}),
)
roles_of_clients = st.sampled_from(["user", "system", "developer", "assistant"])
any_item = st.one_of(
    st.builds(message_item, roles_of_clients, st.one_of(texts, st.lists(parts, max_size=3))),
    st.builds(called, call_ids, st.just("f"), st.one_of(texts, st.just('{"x":1}'))),
    st.builds(answered, call_ids, st.one_of(texts, st.lists(parts, max_size=3))),
    call_ids.map(lambda call_id: {"type": "custom_tool_call", "call_id": call_id, "name": "c", "input": "x"}),
    call_ids.map(lambda call_id: {"type": "custom_tool_call_output", "call_id": call_id, "output": "y"}),
    call_ids.map(lambda call_id: {"type": "shell_call", "call_id": call_id, "action": {"commands": ["ls"]}}),
    call_ids.map(lambda call_id: {"type": "shell_call_output", "call_id": call_id, "output": [{"stdout": "x"}]}),
    st.just({"type": "web_search_call", "id": "ws_1", "status": "completed"}),
    st.just({"type": "mcp_call", "id": "mcp_1", "server_label": "s", "name": "n", "arguments": "{}", "output": "o"}),
    st.builds(reasoned, st.one_of(st.none(), texts)),
    st.just(COMPACTION),
    st.just({"type": "unheard_of"}),
)


@given(items=st.lists(any_item, max_size=12), instructions=st.sampled_from(["Be brief.", None]), thoughts=st.booleans())
def test_messages_are_valid_whatever_the_items(items: list[Item], instructions: str | None, thoughts: bool) -> None:
    request = {"instructions": instructions} if instructions else {}
    sent = messages(*items, request=request, reasoning_text=thoughts)
    assert "system" not in roles(sent)[1:]
    for position, message in enumerate(sent):
        made = [call["id"] for call in message.get("tool_calls", ())]
        assert results_after(sent, position)[: len(made)] == made
        if message["role"] == "tool":
            assert sent[position - 1]["role"] in ("tool", "assistant")
            assert isinstance(message["content"], str)
        elif not made:
            assert message["content"]
    assert roles(sent).count("tool") == sum(len(message.get("tool_calls", ())) for message in sent)


@given(items=st.lists(any_item, max_size=12))
def test_a_stored_conversation_reads_like_one_that_is_sent(items: list[Item]) -> None:
    stored = Chain((link(*items[:6]), link(*items[6:])))
    assert messages(chain=stored) == messages(*items)


# --- who speaks -------------------------------------------------------------------------------------------------


def test_instructions_and_the_messages_that_lead_are_one_system_message() -> None:
    lead = [message_item("system", "S"), message_item("developer", [{"type": "input_text", "text": "D"}])]
    sent = messages(*lead, message_item("user", "U"), message_item("developer", "late"), request={"instructions": "I"})
    assert sent[0] == {"role": "system", "content": "I\n\nS\n\nD"}
    assert sent[1:] == [{"role": "user", "content": "U"}, {"role": "user", "content": "late"}]


def test_a_row_may_keep_system_messages_apart() -> None:
    items = [message_item("system", "S"), message_item("user", "U"), message_item("developer", "late")]
    sent = messages(*items, request={"instructions": "I"}, system_messages="keep")
    assert [(message["role"], message["content"]) for message in sent] == [
        ("system", "I"),
        ("system", "S"),
        ("user", "U"),
        ("system", "late"),
    ]


def test_instructions_may_be_a_message() -> None:
    given_ = {"role": "developer", "content": [{"type": "input_text", "text": "I"}]}
    assert messages(message_item("user", "U"), request={"instructions": given_})[0]["content"] == "I"


def test_only_what_comes_after_a_compaction_is_sent() -> None:
    chain = Chain((link(message_item("user", "kept"), input=(message_item("user", "gone"),)),), compacted=True)
    assert [message["content"] for message in messages(message_item("user", "new"), chain=chain)] == ["kept", "new"]


def test_a_foreign_compaction_leaves_a_note() -> None:
    sent = messages(COMPACTION, message_item("user", "U"))
    assert roles(sent) == ["user", "user"]
    assert "compacted" in sent[0]["content"]


# --- calls and results ------------------------------------------------------------------------------------------


def test_calls_of_one_turn_are_one_message_with_their_results_behind_it() -> None:
    sent = messages(
        message_item("user", "U"),
        message_item("assistant", "Let me look."),
        called("a", arguments='{"x":1}'),
        called("b"),
        message_item("user", "Hurry!"),
        answered("b", "B"),
        answered("a", "A"),
    )
    assert roles(sent) == ["user", "assistant", "tool", "tool", "user"]
    assert sent[1]["content"] == "Let me look."
    assert [call["function"] for call in sent[1]["tool_calls"]] == [
        {"name": "get_weather", "arguments": '{"x":1}'},
        {"name": "get_weather", "arguments": "{}"},
    ]
    assert [message["content"] for message in sent[2:]] == ["A", "B", "Hurry!"]


def test_calls_one_after_the_other_stay_apart() -> None:
    sent = messages(called("a"), answered("a"), called("b"), answered("b"))
    assert roles(sent) == ["assistant", "tool", "assistant", "tool"]


def test_call_ids_may_repeat_from_turn_to_turn() -> None:
    sent = messages(called("0"), answered("0", "first"), called("0"), answered("0", "second"))
    assert [message["content"] for message in sent if message["role"] == "tool"] == ["first", "second"]


def test_images_in_results_follow_them_in_a_message_of_the_user() -> None:
    image = {"type": "input_image", "image_url": "data:,", "detail": "low"}
    sent = messages(called("a"), called("b"), answered("a", [image]), answered("b", [_text("x"), image, _text("y")]))
    assert roles(sent) == ["assistant", "tool", "tool", "user"]
    assert sent[2]["content"] == "x\ny"
    assert sent[3]["content"] == [{"type": "image_url", "image_url": {"url": "data:,", "detail": "low"}}] * 2


def _text(text: str) -> Item:
    return {"type": "input_text", "text": text}


@pytest.mark.parametrize(
    ("arguments", "sent"),
    [("", "{}"), ("{oops", '{"arguments":"{oops"}'), ("[1]", '{"arguments":"[1]"}'), ('{ "a":1}', '{ "a":1}')],
)
def test_arguments_are_sent_as_an_object_that_can_be_parsed(arguments: str, sent: str) -> None:
    call = messages(called("a", arguments=arguments), answered("a"))[0]["tool_calls"][0]
    assert call["function"]["arguments"] == sent


def test_calls_without_a_result_are_left_out() -> None:
    chain = Chain((link(called("a", status="incomplete"), input=(message_item("user", "U"),), status="incomplete"),))
    assert messages(message_item("user", "Go on."), chain=chain) == [
        {"role": "user", "content": "U"},
        {"role": "user", "content": "Go on."},
    ]


def test_a_result_without_a_call_becomes_a_user_message() -> None:
    sent = messages({"type": "function_call_output", "name": "clock", "output": "noon"})
    assert sent == [{"role": "user", "content": "[Output of the tool clock]\nnoon"}]


def test_custom_and_namespaced_calls_are_sent_as_the_functions_they_are_here() -> None:
    tools = [
        {"type": "custom", "name": "apply_patch"},
        {"type": "namespace", "name": "crm", "description": "d", "tools": [{"type": "function", "name": "find"}]},
    ]
    sent = messages(
        {"type": "custom_tool_call", "call_id": "a", "name": "apply_patch", "input": 'x"y'},
        called("b", "find", namespace="crm"),
        {"type": "custom_tool_call_output", "call_id": "a", "output": "done"},
        answered("b"),
        request={"tools": tools},
    )
    assert [call["function"] for call in sent[0]["tool_calls"]] == [
        {"name": "apply_patch", "arguments": '{"input":"x\\"y"}'},
        {"name": "crm__find", "arguments": "{}"},
    ]


def test_calls_of_tools_that_only_other_upstreams_have_stay_in_the_history() -> None:
    sent = messages(
        {"type": "local_shell_call", "id": "lsh_1", "call_id": "a", "action": {"command": ["ls"]}},
        {"type": "local_shell_call_output", "id": "a", "output": "file"},
        {"type": "apply_patch_call", "call_id": "b", "operation": {"type": "delete_file", "path": "x"}},
        {"type": "apply_patch_call_output", "call_id": "b", "status": "completed"},
        {"type": "computer_call", "call_id": "c", "action": {"type": "screenshot"}},
        {"type": "computer_call_output", "call_id": "c", "output": {"type": "computer_screenshot", "image_url": "u"}},
        {"type": "tool_search_call", "call_id": "d", "arguments": {"q": "x"}},
        {"type": "tool_search_output", "call_id": "d", "tools": [{"type": "function", "name": "find"}]},
    )
    assert [message["content"] for message in sent if message["role"] == "tool"] == [
        "file",
        "completed",
        "[The output is in the next message.]",
        '["find"]',
    ]


# --- reasoning --------------------------------------------------------------------------------------------------


def test_reasoning_text_returns_only_to_a_row_that_wants_it() -> None:
    items = [message_item("user", "U"), reasoned("Hm."), called("a"), answered("a"), called("b"), answered("b")]
    assert all("reasoning_content" not in message for message in messages(*items))
    sent = messages(*items, reasoning_text=True)
    assert [message["reasoning_content"] for message in sent if message["role"] == "assistant"] == ["Hm.", ""]


def test_reasoning_that_cannot_be_read_is_left_out() -> None:
    sent = messages(reasoned(None, encrypted_content="gAAA"), message_item("assistant", "A"), message_item("user", "U"))
    assert roles(sent) == ["assistant", "user"]


# --- content ----------------------------------------------------------------------------------------------------


def test_images_of_a_user_are_sent_as_parts_and_text_alone_as_text() -> None:
    shown = [
        _text("Look:"),
        {"type": "input_image", "image_url": "https://x/y.png", "detail": "original"},
        {"type": "input_file", "file_data": "data:,x", "filename": "f.pdf"},
        {"type": "input_audio", "input_audio": {"data": "AA==", "format": "wav"}},
    ]
    assert messages(message_item("user", shown))[0]["content"] == [
        {"type": "text", "text": "Look:"},
        {"type": "image_url", "image_url": {"url": "https://x/y.png", "detail": "high"}},
        {"type": "file", "file": {"file_data": "data:,x", "filename": "f.pdf"}},
        {"type": "input_audio", "input_audio": {"data": "AA==", "format": "wav"}},
    ]
    assert messages(message_item("user", [_text("a"), _text("b")]))[0]["content"] == "a\nb"


@pytest.mark.parametrize(
    ("part", "param"),
    [
        ({"type": "input_video"}, "input[1].content[1].type"),
        ({"type": "input_image", "file_id": "file_1"}, "input[1].content[1]"),
        ({"type": "input_file", "file_url": "https://x/y.pdf"}, "input[1].content[1]"),
    ],
)
def test_content_that_would_be_lost_is_refused_in_the_input_and_noted_in_the_history(part: Item, param: str) -> None:
    message = message_item("user", [_text("a"), part])
    with pytest.raises(InvalidRequest) as refusal:
        messages(message_item("user", "U"), message)
    assert refusal.value.param == param
    sent = messages(message_item("user", "U"), chain=Chain((link(input=(message,)),)))
    assert "cannot be read here" in sent[0]["content"]


def test_messages_of_an_assistant_are_text_refusals_too() -> None:
    content = [
        {"type": "output_text", "text": "So.", "annotations": [], "logprobs": []},
        {"type": "refusal", "refusal": "No."},
    ]
    assert messages(message_item("assistant", content))[0] == {"role": "assistant", "content": "So.\nNo."}
