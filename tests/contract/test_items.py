"""The table of item types: complete, consistent, and what the schema of an input knows as well."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app import ids
from app.contract import events
from app.contract.items import (
    BARE_PARTS,
    CALL_TYPES,
    OUTPUT_TYPES,
    PART_TYPES,
    TRIGGER,
    TYPES,
    answers,
    call_of,
    description,
    gateway_item_id,
    gateway_round,
    is_call,
    is_client_side,
    is_output,
    prefix_of,
    unanswered,
)
from app.errors import InvalidRequest
from app.schemas.fields import Violation
from app.schemas.items import read_input

Item = dict[str, Any]


def call(kind: str, call_id: str = "call_1") -> Item:
    return {"type": kind, "call_id": call_id}


def output(kind: str, call_id: str = "call_1") -> Item:
    return {"type": TYPES[kind].outputs[0], "call_id": call_id}


@pytest.mark.parametrize("kind", sorted(TYPES.keys() - {TRIGGER, "item_reference", "configuration_update"}))
def test_the_schema_of_an_input_knows_every_type(kind: str) -> None:
    """An empty item of a known type lacks something; one of an unknown type passes."""
    if kind not in ("web_search_call", "image_generation_call", "code_interpreter_call", "tool_search_call"):
        with pytest.raises((Violation, InvalidRequest)):
            read_input([{"type": kind, "content": 1, "encrypted_content": 1}])
    assert read_input([{"type": "of_a_new_kind"}])


@pytest.mark.parametrize("kind", sorted(CALL_TYPES))
def test_a_call_waits_until_its_own_output_answers_it(kind: str) -> None:
    waiting = call(kind)
    assert is_call(waiting)
    assert unanswered([waiting, output(kind, "call_2")]) == [waiting]
    assert unanswered([waiting, output(kind)]) == []
    assert answers(output(kind), waiting)
    assert is_output(output(kind))
    assert call_of(output(kind)["type"]) == kind


def test_each_output_belongs_to_a_call_and_no_call_is_an_output() -> None:
    for kind in OUTPUT_TYPES:
        assert kind in TYPES[call_of(kind)].outputs
    assert not CALL_TYPES & OUTPUT_TYPES


def test_an_output_of_a_local_shell_names_its_call_by_either_id() -> None:
    waiting = {"type": "local_shell_call", "id": "lsh_1", "call_id": "call_1"}
    for name in ("lsh_1", "call_1"):
        assert unanswered([waiting, {"type": "local_shell_call_output", "id": name}]) == []
    assert unanswered([waiting, {"type": "local_shell_call_output", "id": "lsh_2"}]) == [waiting]
    assert unanswered([waiting, {"type": "function_call_output", "call_id": "call_1"}]) == []


def test_a_search_for_tools_that_the_upstream_ran_waits_for_nothing() -> None:
    searched = {"type": "tool_search_call", "call_id": "call_1", "execution": "server"}
    assert unanswered([searched, {"type": "tool_search_call", "call_id": None}]) == []
    assert unanswered([{**searched, "execution": "client"}]) == [{**searched, "execution": "client"}]


def test_the_client_writes_outputs_and_messages_of_its_roles() -> None:
    for kind in OUTPUT_TYPES | {"program_output", "an_output_of_a_new_kind_output"}:
        assert is_client_side({"type": kind})
    for kind in CALL_TYPES | {"reasoning", "mcp_list_tools", "of_a_new_kind"}:
        assert not is_client_side({"type": kind})
    assert [is_client_side({"type": "message", "role": role}) for role in ("user", "developer", "assistant")] == [
        True,
        True,
        False,
    ]


def test_every_streamed_text_has_events_and_a_member() -> None:
    for kind in TYPES.values():
        assert all(part in events.TEXT_EVENTS for part in kind.parts)
        assert bool(kind.arguments_events) == (kind.name in events.ARGUMENT_EVENTS)
    families = [family for family, _ in (*events.TEXT_EVENTS.values(), *events.ARGUMENT_EVENTS.values())]
    assert len(set(families)) == len(families)
    assert PART_TYPES.keys() >= BARE_PARTS


@pytest.mark.parametrize(
    ("item", "shown"),
    [
        ({"type": "message", "content": "Hello."}, ["Hello."]),
        ({"type": "message", "content": [{"type": "output_text", "text": "Yes."}]}, ["Yes."]),
        ({"type": "message", "content": [{"type": "refusal", "refusal": "No."}]}, ["No."]),
        ({"type": "message", "content": [{"type": "input_image", "image_url": "x"}]}, ["[input_image]"]),
        ({"type": "reasoning", "summary": [{"type": "summary_text", "text": "Why."}]}, ["Why."]),
        ({"type": "function_call", "arguments": "{}", "name": "add", "call_id": "c"}, ["add", "{}"]),
        ({"type": "apply_patch_call", "operation": {"type": "delete_file"}}, [{"type": "delete_file"}]),
        ({"type": "function_call_output", "output": "3"}, ["3"]),
        ({"type": "compaction", "encrypted_content": "s"}, ["s"]),
        ({"type": "no_known_type"}, []),
    ],
)
def test_a_reader_sees_what_an_item_holds(item: Item, shown: list[object]) -> None:
    assert [*description(item)] == shown


@given(
    st.sampled_from(["mcp_call", "web_search_call", "mcp_approval_request"]), st.integers(0, 40), st.integers(0, 255)
)
def test_an_id_shows_that_the_gateway_made_the_item(kind: str, number: int, round_: int) -> None:
    made = gateway_item_id(kind, ids.new("resp"), number, round_)

    assert re.fullmatch(f"{prefix_of(kind)}_[0-9a-f]{{48}}", made)
    assert gateway_round(made) == round_
    changed = "0" if made[-20] != "0" else "1"
    assert gateway_round(made[:-20] + changed + made[-19:]) is None


@pytest.mark.parametrize("other", [None, 7, "", "mcp_1", "mcp_" + "0" * 48, "mcp_" + "68a1f3c2" * 6])
def test_another_id_is_none_of_the_gateways(other: object) -> None:
    assert gateway_round(other) is None


def test_the_ids_of_two_items_differ() -> None:
    made = {gateway_item_id("mcp_call", response, number, 0) for response in ("resp_1", "resp_2") for number in (0, 1)}
    assert len(made) == 4
