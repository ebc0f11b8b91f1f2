"""What a compaction keeps: for any conversation nothing that is still needed is lost or put out of order."""

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from app.contract.items import CALL_TYPES, OUTPUT_TYPES, TYPES
from app.relay.compaction.folding import without_pictures
from app.relay.compaction.plan import divide, passages
from app.relay.compaction.sealed_item import (
    HEADER,
    Native,
    is_summary,
    open_item,
    portable,
    seal_items,
    seal_native,
    summary_message,
)
from app.sealing import Seal

SEAL = Seal("compaction", [b"k" * 32])
Item = dict[str, Any]


def message(role: str, text: str = "x") -> Item:
    return {"type": "message", "role": role, "content": text}


def call(call_id: str, kind: str = "function_call") -> Item:
    return {"type": kind, "call_id": call_id, "name": "f", "arguments": "{}"}


def output(call_id: str, kind: str = "function_call") -> Item:
    return {"type": TYPES[kind].outputs[0], "call_id": call_id, "output": "42"}


@st.composite
def conversations(draw: st.DrawFn) -> list[Item]:
    """Items in an order in which a client could have sent them: an output never comes before its call."""
    items: list[Item] = []
    waiting: list[tuple[str, str]] = []
    for number in range(draw(st.integers(0, 25))):
        kind = draw(st.sampled_from(["user", "assistant", "system", "developer", "call", "output", "reasoning"]))
        if kind == "call":
            waiting.append((f"call_{number}", draw(st.sampled_from(sorted(CALL_TYPES)))))
            items.append(call(*waiting[-1]))
        elif kind == "output" and waiting:
            items.append(output(*waiting.pop(draw(st.integers(0, len(waiting) - 1)))))
        elif kind == "reasoning":
            items.append({"type": "reasoning", "summary": []})
        else:
            items.append(message(kind if kind != "output" else "user", f"{number} " + "x" * draw(st.integers(0, 200))))
    return items


@given(conversations(), st.integers(0, 4))
def test_nothing_that_is_needed_is_lost(items: list[Item], keep_turns: int) -> None:
    plan = divide(items, keep_turns)
    assert [item for item in items if any(item is verbatim for verbatim in plan.verbatim)] == list(plan.verbatim)
    assert len(plan.old) + len(plan.verbatim) == len(items)
    answered = {item["call_id"] for item in items if item["type"] in OUTPUT_TYPES}
    verbatim_calls = {item["call_id"] for item in plan.verbatim if item["type"] in CALL_TYPES}
    verbatim_outputs = {item["call_id"] for item in plan.verbatim if item["type"] in OUTPUT_TYPES}
    assert {item["call_id"] for item in items if item["type"] in CALL_TYPES} - answered <= verbatim_calls
    assert verbatim_outputs == verbatim_calls & answered
    assert all(item in plan.verbatim for item in items if item.get("role") in ("system", "developer"))


@given(conversations())
def test_sealing_gives_back_the_same_items(items: list[Item]) -> None:
    sealed = seal_items(SEAL, "ada", items)
    assert open_item(SEAL, "ada", sealed).items == items


def test_a_native_item_names_its_family() -> None:
    native = Native({"type": "compaction", "id": "cmp_1", "encrypted_content": "gAAAA"}, "openai", "first", "resp_1")
    opened = open_item(SEAL, "ada", seal_native(SEAL, "ada", native, [message("user")]))
    assert (opened.native, opened.items) == (native, [message("user")])


def test_reasoning_that_only_its_maker_can_read_is_not_carried_along() -> None:
    secret = {"type": "reasoning", "summary": [], "encrypted_content": "gAAAA"}
    words = [{"type": "reasoning_text", "text": "hm"}]
    open_too = {**secret, "content": words}
    assert list(portable([message("user"), secret, open_too])) == [
        message("user"),
        {"type": "reasoning", "summary": [], "content": words},
    ]


def test_the_newest_turns_are_kept_from_their_first_word() -> None:
    items = [message("user", "1"), message("assistant", "2"), message("user", "3"), message("user", "4")]
    items += [call("a"), output("a"), message("assistant", "5")]
    plan = divide([message("user", "old " * 100), message("assistant"), *items], 1)
    assert list(plan.verbatim) == items[2:]


def test_a_turn_that_is_most_of_the_context_is_summed_up_as_well() -> None:
    items = [message("user"), message("assistant"), message("user", "y" * 1000)]
    assert list(divide(items, 1).old) == items


def test_a_turn_that_is_all_of_the_context_is_summed_up_but_for_the_call_that_waits() -> None:
    items = [message("user", "go"), call("a"), output("a"), call("b")]
    plan = divide(items, 1)
    assert (list(plan.old), list(plan.verbatim)) == (items[:3], items[3:])


def test_one_message_can_be_compacted() -> None:
    assert list(divide([message("user")], 0).old) == [message("user")]


def test_the_pass_is_given_words_only() -> None:
    items: list[Item] = [
        message("user", "look"),
        {
            "type": "message",
            "role": "user",
            "content": [
                {"type": "input_image", "image_url": "data:image/png;base64,AAAA"},
                {"type": "input_file", "filename": "plan.pdf", "file_data": "BBBB"},
            ],
        },
        call("a"),
        output("a"),
        {"type": "reasoning", "summary": [], "encrypted_content": "secret"},
    ]
    prompt = [passage.message for passage in without_pictures(list(passages(divide(items, 0).old)))]
    text = str(prompt)
    assert {item["type"] for item in prompt} == {"message"}
    assert all(word in text for word in ("look", "[image]", "plan.pdf", "calls f: {}", "42"))
    assert not any(word in text for word in ("AAAA", "BBBB", "secret"))


def test_a_summary_is_known_again_and_is_nobodys_words() -> None:
    assert is_summary(summary_message("facts"))
    assert is_summary(summary_message(None))
    assert not is_summary(message("user", HEADER))


def test_a_call_and_its_output_are_rendered_as_text() -> None:
    search = {"type": "tool_search_call", "call_id": "c", "execution": "client", "arguments": {"query": "tides"}}
    found = {"type": "tool_search_output", "call_id": "c", "execution": "client", "tools": [{"name": "tide_table"}]}
    shell = {"type": "local_shell_call", "call_id": "d", "action": {"type": "exec", "command": ["ls"]}}
    listed = {"type": "local_shell_call_output", "call_id": "d", "output": "README.md"}
    texts = [passage.text for passage in passages([search, found, shell, listed])]
    assert texts == [
        '[calls tool_search_call: {"query":"tides"}]',
        '[result of the call: [{"name":"tide_table"}]]',
        '[calls local_shell_call: {"type":"exec","command":["ls"]}]',
        "[result of the call: README.md]",
    ]


def test_tools_that_were_found_stay_with_the_calls_that_found_them() -> None:
    tools = [{"type": "function", "name": "grep", "parameters": {}}]
    found = [
        {"type": "tool_search_call", "call_id": "s1", "execution": execution, "arguments": {"goal": "search"}}
        if part == "call"
        else {"type": "tool_search_output", "call_id": "s1", "execution": execution, "tools": tools}
        for execution in ("client", "server")
        for part in ("call", "output")
    ]
    brought = {"type": "additional_tools", "role": "developer", "tools": tools}
    listed = {"type": "mcp_list_tools", "server_label": "docs", "tools": []}
    items = [message("user", "Find it."), *found, brought, listed, message("assistant", "It is in a.py.")]
    plan = divide(items, 0)
    assert plan.verbatim == [*found, brought, listed]
    assert [item["role"] for item in plan.old] == ["user", "assistant"]
