"""Ids at the border: every upstream takes what a request holds, and a call and its output keep one id."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.contract.items import TYPES, Item
from app.contract.records import Chain
from app.formats import _ids
from app.formats._ids import ContextIds, Outgoing, chat_call_id, is_fit, usable_call_id, without_id
from app.sealing import PREFIX
from tests.formats.conversations import answered, link, turn

KINDS = sorted(TYPES)
ids = st.one_of(
    st.text(min_size=1, max_size=80),
    st.sampled_from(["chatcmpl-abc", "25fdab0e-8ec3-413c-8703-7ce5668ec990", "item_9", "call_1", "msg_1", "fc_1"]),
)


@given(ids, st.sampled_from(KINDS))
def test_a_fitted_id_is_fit(item_id: str, kind: str) -> None:
    fitted = _ids.fitted(item_id, kind)
    assert is_fit(fitted, kind)
    assert fitted == _ids.fitted(item_id, kind)
    assert is_fit(_ids.made("resp_1", kind, 3), kind)


@given(st.lists(st.tuples(ids, st.sampled_from(["message", "function_call", "reasoning", "web_search_call"]))))
def test_each_id_of_a_request_is_fit_and_sent_once(named: list[tuple[str, str]]) -> None:
    outgoing = Outgoing()
    sent = [outgoing.fit({"type": kind, "id": item_id}) for item_id, kind in named]
    assert len({item["id"] for item in sent}) == len(sent)
    assert all(is_fit(item["id"], item["type"]) for item in sent)


def test_ids_that_are_fit_stay() -> None:
    for item in ({"type": "message", "id": "msg_1"}, {"type": "dreamt_up", "id": "any-1"}, {"type": "message"}):
        assert Outgoing().fit(item) is item


@pytest.mark.parametrize(
    ("secret", "native"),
    [("gAAA", True), (f"{PREFIX}ab.cd", False), ("anthropic:{}", False), ("chat_completions:{}", False), ("", False)],
)
def test_an_encrypted_item_of_an_upstream_keeps_its_id(secret: str, native: bool) -> None:
    item: Item = {"type": "reasoning", "id": "x" * 400, "encrypted_content": secret}
    assert (Outgoing().fit(item) is item) is native
    assert (without_id(item) is item) is native


def test_an_output_names_the_fitted_id_of_its_call() -> None:
    outgoing = Outgoing()
    call = outgoing.fit({"type": "local_shell_call", "id": "item_1", "call_id": "call_1"})
    output = outgoing.fit({"type": "local_shell_call_output", "id": "item_1"})
    assert output["id"] == call["id"] != "item_1"
    assert without_id(output) is output


@given(st.text(min_size=1, max_size=200))
def test_a_call_id_has_the_shape_that_the_upstream_takes(call_id: str) -> None:
    assert re.fullmatch("[A-Za-z0-9]{9}", chat_call_id(call_id, "short"))
    assert chat_call_id(chat_call_id(call_id, "short"), "short") == chat_call_id(call_id, "short")
    assert 0 < len(chat_call_id(call_id, "given")) <= 40
    assert 0 < len(usable_call_id(call_id)) <= 64


@pytest.mark.parametrize("call_id", ["call_1", "functions.look:0", "AAAAAAAA1"])
def test_a_call_id_that_the_upstream_takes_stays(call_id: str) -> None:
    assert chat_call_id(call_id, "given") == call_id
    assert usable_call_id(call_id) == call_id
    assert chat_call_id("AAAAAAAA1", "short") == "AAAAAAAA1"


def test_calls_of_one_conversation_stay_apart() -> None:
    shorts = {chat_call_id(f"call_{number}", "short") for number in range(10_000)}
    assert len(shorts) == 10_000


@pytest.mark.parametrize("kind", KINDS)
def test_a_made_id_begins_as_its_type_does(kind: str) -> None:
    assert _ids.made("resp_1", kind, 0).startswith(TYPES[kind].prefix)
    assert _ids.made("resp_1", kind, 0).startswith(TYPES[kind].checked_prefix)


@given(st.text(min_size=1, max_size=30), st.text(min_size=1, max_size=30))
def test_the_ids_of_a_context_are_those_of_its_items_and_calls(stored: str, given_id: str) -> None:
    call = {"type": "function_call", "id": f"fc_{stored}", "call_id": stored, "name": "f", "arguments": '{"id":"a"}'}
    taken = ContextIds(turn(answered(given_id), chain=Chain(links=(link(call),))))

    assert all(name in taken for name in (stored, f"fc_{stored}", given_id))
    assert all(name in (stored, given_id) for name in ("a", "f", "function_call") if name in taken)
