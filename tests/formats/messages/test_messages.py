"""Items of any type and order become messages that Anthropic accepts."""

import base64
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.contract.items import Item
from app.contract.records import Chain
from app.errors import InvalidRequest
from app.formats._message_order import GO_ON
from app.formats.messages import _thinking_blocks
from tests.formats.conversations import answered, called, link, message_item, turn
from tests.formats.messages.conversations import encoded, text, without_marks

COMPACTION = {"type": "compaction", "id": "cmp_1", "encrypted_content": "gAAA"}
FIT = re.compile(r"[a-zA-Z0-9_-]{1,64}")
SIGNED = {"type": "thinking", "thinking": "Hm.", "signature": "sig"}
REDACTED = {"type": "redacted_thinking", "data": "xyz"}


def messages(*items: Item, chain: Chain | None = None, request: Any = None, **keys: Any) -> list[dict[str, Any]]:
    sent = encoded(turn(*items, chain=chain, **(request or {})), **keys)["messages"]
    return [{**message, "content": without_marks(message["content"])} for message in sent]


def thought(block: Item | None, model: str = "m", spoken: str = "Hm.") -> Item:
    secret = {} if block is None else {"encrypted_content": _thinking_blocks.sealed(block, model)}
    content = [{"type": "reasoning_text", "text": spoken}] if spoken else []
    return {"type": "reasoning", "id": "rs_1", "summary": [], "content": content, **secret}


def input_text(spoken: str) -> Item:
    return {"type": "input_text", "text": spoken}


# --- any conversation -------------------------------------------------------------------------------------------

texts = st.text(max_size=5)
call_ids = st.sampled_from(["a", "b", "call:1", "x" * 64])
parts = st.one_of(
    texts.map(input_text),
    st.just({"type": "input_image", "image_url": "data:image/png;base64,AA==", "detail": "original"}),
    st.just({"type": "input_file", "file_data": "data:application/pdf;base64,AA==", "filename": "f.pdf"}),
)
any_item = st.one_of(
    st.builds(
        message_item,
        st.sampled_from(["user", "system", "developer", "assistant"]),
        st.one_of(texts, st.lists(parts, max_size=3)),
    ),
    st.builds(called, call_ids, st.just("f"), st.one_of(texts, st.just('{"x":1}'))),
    st.builds(answered, call_ids, st.one_of(texts, st.lists(parts, max_size=3))),
    call_ids.map(lambda call_id: {"type": "custom_tool_call", "call_id": call_id, "name": "c", "input": "x"}),
    call_ids.map(lambda call_id: {"type": "custom_tool_call_output", "call_id": call_id, "output": "y"}),
    call_ids.map(lambda call_id: {"type": "shell_call", "call_id": call_id, "action": {"commands": ["ls"]}}),
    call_ids.map(lambda call_id: {"type": "shell_call_output", "call_id": call_id, "output": [{"stdout": "x"}]}),
    st.just({"type": "web_search_call", "id": "ws_1", "status": "completed"}),
    st.just({"type": "mcp_call", "id": "mcp_1", "server_label": "s", "name": "n", "arguments": "{}", "output": "o"}),
    st.builds(thought, st.sampled_from([None, SIGNED, REDACTED]), st.sampled_from(["m", "other"])),
    st.just(COMPACTION),
    st.just({"type": "unheard_of"}),
)


def check(sent: list[dict[str, Any]]) -> None:
    """Anthropic's rules for messages: it refuses a request that breaks one."""
    assert [message["role"] for message in sent] == [("user", "assistant")[at % 2] for at in range(len(sent))]
    assert sent[-1]["role"] == "user"
    used: list[str] = []
    for position, message in enumerate(sent):
        assert message["content"]
        made = [block["id"] for block in message["content"] if block["type"] == "tool_use"]
        used += made
        if made:
            following = sent[position + 1]["content"][: len(made)]
            assert [block.get("tool_use_id") for block in following] == made
        if message["role"] == "assistant":
            assert message["content"][-1]["type"] in ("text", "tool_use")
    assert len(set(used)) == len(used)
    assert all(FIT.fullmatch(name) for name in used)
    results = [block for message in sent for block in message["content"] if block["type"] == "tool_result"]
    assert [block["tool_use_id"] for block in results] == used
    inner = [block for result in results for block in result.get("content", ())]
    assert all(block.get("text") != "" for message in sent for block in (*message["content"], *inner))


@given(items=st.lists(any_item, max_size=12), instructions=st.sampled_from(["Be brief.", None]), unsigned=st.booleans())
def test_messages_are_valid_whatever_the_items(items: list[Item], instructions: str | None, unsigned: bool) -> None:
    request = {"instructions": instructions} if instructions else {}
    check(messages(*items, request=request, reasoning_text=unsigned))


@given(items=st.lists(any_item, max_size=12))
def test_a_stored_conversation_reads_like_one_that_is_sent(items: list[Item]) -> None:
    stored = Chain((link(*items[:6]), link(*items[6:])))
    assert messages(chain=stored, family="other") == messages(*items)


# --- who speaks -------------------------------------------------------------------------------------------------


def test_instructions_and_the_messages_that_lead_are_the_system_prompt() -> None:
    lead = [message_item("system", "S"), message_item("developer", [input_text("D")])]
    sent = encoded(turn(*lead, message_item("user", "U"), message_item("developer", "late"), instructions="I"))
    assert sent["system"] == [text("I\n\nS\n\nD")]
    assert sent["messages"] == [{"role": "user", "content": [text("U"), text("late")]}]


def test_instructions_alone_have_a_user_who_asks_to_go_on() -> None:
    sent = encoded(turn(message_item("developer", "Tell a joke.")))
    assert [block["text"] for block in sent["system"]] == ["Tell a joke."]
    assert sent["messages"] == [{"role": "user", "content": [text(GO_ON)]}]


def test_a_user_begins_and_a_user_ends() -> None:
    sent = messages(
        message_item("assistant", "Hello!"), message_item("user", "Hi."), message_item("assistant", "How are you?")
    )
    assert [message["role"] for message in sent] == ["user", "assistant", "user", "assistant", "user"]


def test_consecutive_messages_of_one_role_become_one() -> None:
    sent = messages(
        message_item("user", "a"), message_item("user", "b"), message_item("assistant", "c"), message_item("user", "d")
    )
    assert [len(message["content"]) for message in sent] == [2, 1, 1]


def test_a_foreign_compaction_leaves_a_note() -> None:
    assert "compacted" in messages(COMPACTION, message_item("user", "U"))[0]["content"][0]["text"]


# --- calls and results ------------------------------------------------------------------------------------------


def test_calls_of_one_turn_are_one_message_with_their_results_behind_it() -> None:
    sent = messages(
        message_item("user", "U"),
        message_item("assistant", "Let me look."),
        called("a", arguments='{"x":1}'),
        called("b", arguments="oops"),
        message_item("user", "Hurry!"),
        answered("b", ""),
        answered("a", "A"),
    )
    assert sent[1:] == [
        {
            "role": "assistant",
            "content": [
                text("Let me look."),
                {"type": "tool_use", "id": "a", "name": "get_weather", "input": {"x": 1}},
                {"type": "tool_use", "id": "b", "name": "get_weather", "input": {"arguments": "oops"}},
            ],
        },
        {
            "role": "user",
            "content": [
                {"type": "tool_result", "tool_use_id": "a", "content": [text("A")]},
                {"type": "tool_result", "tool_use_id": "b"},
                text("Hurry!"),
            ],
        },
    ]


def test_call_ids_that_do_not_fit_or_repeat_become_unique_and_stay_in_pairs() -> None:
    items = [item for call_id in ("0", "0", "call:1") for item in (called(call_id), answered(call_id))]
    blocks = [block for message in messages(*items) for block in message["content"]]
    made = [block["id"] for block in blocks if block["type"] == "tool_use"]
    assert [block["tool_use_id"] for block in blocks if block["type"] == "tool_result"] == made
    assert len(set(made)) == 3
    assert all(FIT.fullmatch(name) for name in made)
    assert made == [block["id"] for m in messages(*items) for block in m["content"] if block["type"] == "tool_use"]


def test_results_keep_their_images_where_they_stand() -> None:
    image = {"type": "input_image", "image_url": "https://x/y.png"}
    sent = messages(called("a"), answered("a", [input_text("x"), image, input_text("y")]))
    shown = {"type": "image", "source": {"type": "url", "url": "https://x/y.png"}}
    assert sent[-1]["content"][0]["content"] == [text("x"), shown, text("y")]


def test_an_unfinished_call_of_a_parent_is_not_sent_again() -> None:
    chain = Chain((link(called("a", status="incomplete"), input=(message_item("user", "U"),), status="incomplete"),))
    assert messages(message_item("user", "Go on."), chain=chain) == [
        {"role": "user", "content": [text("U"), text("Go on.")]}
    ]


def test_a_result_without_a_call_becomes_a_user_message() -> None:
    sent = messages({"type": "function_call_output", "name": "clock", "output": "noon"})
    assert sent[0]["content"] == [text("[Output of the tool clock]\nnoon")]


# --- thinking ---------------------------------------------------------------------------------------------------


def test_thinking_goes_back_unchanged_to_the_model_it_is_from() -> None:
    items = [message_item("user", "U"), thought(SIGNED), thought(REDACTED, spoken=""), called("a"), answered("a")]
    assert messages(*items)[1]["content"][:2] == [SIGNED, REDACTED]


@pytest.mark.parametrize(
    "secret",
    [
        "gAAAforeign",
        "anthropic:{",
        "anthropic:[]",
        'anthropic:{"model":"m"}',
        'anthropic:{"model":"m","block":{"type":"text","text":"x"}}',
        'anthropic:{"model":"m","block":{"type":"thinking","thinking":"x"}}',
        _thinking_blocks.sealed(SIGNED, "another-model"),
    ],
)
def test_thinking_of_another_family_is_left_out(secret: str) -> None:
    items = [message_item("user", "U"), {**thought(None), "encrypted_content": secret}, called("a"), answered("a")]
    assert [block["type"] for block in messages(*items)[1]["content"]] == ["tool_use"]


def test_thinking_that_was_stored_goes_to_its_own_family_only() -> None:
    chain = Chain((link(thought(SIGNED), called("a"), input=(message_item("user", "U"),), opaque=True),))
    same, other = (messages(answered("a"), chain=chain, family=family) for family in ("other", "another"))
    assert [block["type"] for block in same[1]["content"]] == ["thinking", "tool_use"]
    assert [block["type"] for block in other[1]["content"]] == ["tool_use"]


def test_a_row_may_want_unsigned_thinking_back() -> None:
    items = [message_item("user", "U"), thought(None), message_item("assistant", "A"), message_item("user", "B")]
    assert messages(*items, reasoning_text=True)[1]["content"][0]["thinking"] == "Hm."
    assert messages(*items)[1]["content"] == [text("A")]


def test_thinking_that_led_to_nothing_ends_no_message() -> None:
    sent = messages(message_item("user", "U"), thought(SIGNED), message_item("user", "Go on."))
    assert sent == [{"role": "user", "content": [text("U"), text("Go on.")]}]


# --- content ----------------------------------------------------------------------------------------------------

JPEG = "/9j/4A=="
PNG, PDF, NOTE = "iVBORw0=", "JVBERi0=", base64.b64encode("Grüße".encode()).decode()


@pytest.mark.parametrize(
    ("part", "block"),
    [
        (
            {"type": "input_image", "image_url": f"data:image/jpg;base64,{JPEG}"},
            {"type": "image", "source": {"type": "base64", "media_type": "image/jpeg", "data": JPEG}},
        ),
        (
            {"type": "input_image", "image_url": f"data:image/png;base64,{JPEG}"},
            {"type": "image", "source": {"type": "base64", "media_type": "image/jpeg", "data": JPEG}},
        ),
        (
            {"type": "input_image", "image_url": f"data:application/octet-stream;base64,{PNG}"},
            {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PNG}},
        ),
        (
            {"type": "input_image", "image_url": "https://x/y.png", "detail": "low"},
            {"type": "image", "source": {"type": "url", "url": "https://x/y.png"}},
        ),
        (
            {"type": "input_file", "file_data": f"data:application/pdf;base64,{PDF}", "filename": "a.pdf"},
            {
                "type": "document",
                "source": {"type": "base64", "media_type": "application/pdf", "data": PDF},
                "title": "a.pdf",
            },
        ),
        (
            {"type": "input_file", "file_data": PDF},
            {"type": "document", "source": {"type": "base64", "media_type": "application/pdf", "data": PDF}},
        ),
        (
            {"type": "input_file", "file_data": NOTE, "filename": "a.txt"},
            {
                "type": "document",
                "source": {"type": "text", "media_type": "text/plain", "data": "Grüße"},
                "title": "a.txt",
            },
        ),
        (
            {"type": "input_file", "file_data": f"data:image/png;base64,{PNG}"},
            {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PNG}},
        ),
        (
            {"type": "input_file", "file_url": "https://x/y.pdf"},
            {"type": "document", "source": {"type": "url", "url": "https://x/y.pdf"}},
        ),
    ],
)
def test_images_and_files_of_a_user_are_blocks(part: Item, block: dict[str, Any]) -> None:
    assert messages(message_item("user", [input_text("Look:"), part]))[0]["content"] == [text("Look:"), block]


@pytest.mark.parametrize(
    ("part", "param"),
    [
        ({"type": "input_video"}, "input[1].content[1].type"),
        ({"type": "input_image", "file_id": "file_1"}, "input[1].content[1]"),
        ({"type": "input_image", "image_url": "data:image/svg+xml,<svg/>"}, "input[1].content[1]"),
        ({"type": "input_file", "file_id": "file_1"}, "input[1].content[1]"),
        ({"type": "input_file", "file_data": "UEs=", "filename": "a.docx"}, "input[1].content[1]"),
        ({"type": "input_file", "file_data": "data:text/plain;base64,/w=="}, "input[1].content[1]"),
        ({"type": "input_audio", "input_audio": {"data": "", "format": "wav"}}, "input[1].content[1]"),
    ],
)
def test_content_that_would_be_lost_is_refused_in_the_input_and_noted_in_the_history(part: Item, param: str) -> None:
    message = message_item("user", [input_text("a"), part])
    with pytest.raises(InvalidRequest) as refusal:
        messages(message_item("user", "U"), message)
    assert refusal.value.param == param
    sent = messages(message_item("user", "U"), chain=Chain((link(input=(message,)),)))
    assert "cannot be read here" in sent[0]["content"][1]["text"]
