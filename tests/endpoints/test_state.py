"""Conversations that the gateway keeps: chains, branches, references, and whose they are."""

from __future__ import annotations

import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from tests.endpoints.conftest import EXACT
from tests.endpoints.vocabulary import ITEMS, JSON, WEATHER, answered, calls_of, message_item, text_of, user_texts
from tests.gateway import Gateway
from tests.response_contract import check_error, check_response, check_stream
from tests.stored_data import written
from tests.upstream import ScriptedUpstream, failing, refusal, rewritten

Create = Callable[..., JSON]
NOT_FOUND = {"code": "previous_response_not_found", "param": "previous_response_id", "type": "invalid_request_error"}


def _ids(items: list[JSON]) -> list[str]:
    return [item["id"] for item in items]


def _read(response: JSON) -> int:
    tokens: int = response["usage"]["input_tokens"]
    return tokens


# --- chains -----------------------------------------------------------------------------------------------------


def test_a_second_turn_knows_the_first(create: Create, model: str) -> None:
    alone = create(model, "What is my name?")
    first = create(model, "My name is Ada.")
    second = create(model, "What is my name?", previous_response_id=first["id"])

    check_response(second, status="completed", previous_response_id=first["id"])
    assert _read(second) > _read(alone)


def test_a_chain_may_be_streamed_in_every_turn(api: Gateway, model: str) -> None:
    parent = None
    for turn in ("one", "two", "three"):
        body = {"model": model, "input": turn, "previous_response_id": parent}
        end = check_stream(api.stream(body).content, status="completed", previous_response_id=parent)[-1]
        parent = end["response"]["id"]


def test_ten_turns_arrive_whole_and_in_order(create: Create, exact: ScriptedUpstream) -> None:
    response, expected = None, []
    for turn in range(10):
        response = create(EXACT, f"turn {turn}", previous_response_id=response and response["id"])
        expected += [f"turn {turn}", *_ids(response["output"])]

    sent = exact.bodies[-1]["input"]
    named = [user_texts([item])[0] if item.get("role") == "user" else item["id"] for item in sent]
    assert named == expected[:-2]


def test_ten_turns_on_every_format(create: Create, model: str) -> None:
    response, sizes = None, []
    for turn in range(10):
        response = create(model, f"turn {turn}", previous_response_id=response and response["id"])
        sizes.append(_read(response))

    assert sizes == sorted(set(sizes))


def test_a_conversation_moves_from_one_format_to_another_and_back(create: Create, exact: ScriptedUpstream) -> None:
    response = None
    for turn, model in enumerate(("demo", EXACT, "demo", EXACT)):
        response = create(model, f"turn {turn}", previous_response_id=response and response["id"])
        check_response(response, status="completed", model=model)

    assert user_texts(exact.bodies[-1]["input"]) == ["turn 0", "turn 1", "turn 2", "turn 3"]


def test_a_response_may_have_many_children(create: Create, exact: ScriptedUpstream) -> None:
    root = create(EXACT, "root")
    left = create(EXACT, "left", previous_response_id=root["id"])
    right = create(EXACT, "right", previous_response_id=root["id"])
    create(EXACT, "left leaf", previous_response_id=left["id"])
    create(EXACT, "right leaf", previous_response_id=right["id"])
    create(EXACT, "third", previous_response_id=root["id"])

    assert [user_texts(body["input"]) for body in exact.bodies[3:]] == [
        ["root", "left", "left leaf"],
        ["root", "right", "right leaf"],
        ["root", "third"],
    ]


def test_children_born_at_once_do_not_see_each_other(create: Create, exact: ScriptedUpstream) -> None:
    root = create(EXACT, "root")
    with ThreadPoolExecutor(8) as pool:
        children = list(pool.map(lambda n: create(EXACT, f"child {n}", previous_response_id=root["id"]), range(8)))
    for number, child in enumerate(children):
        create(EXACT, "leaf", previous_response_id=child["id"])
        assert user_texts(exact.bodies[-1]["input"]) == ["root", f"child {number}", "leaf"]


def test_instructions_tools_and_settings_are_not_carried_over(create: Create, exact: ScriptedUpstream) -> None:
    settings: JSON = {
        "instructions": "Be brief.",
        "tools": [WEATHER],
        "temperature": 0.5,
        "metadata": {"k": "v"},
        "max_output_tokens": 500,
        "text": {"verbosity": "low"},
        "reasoning": {"effort": "low"},
        "parallel_tool_calls": False,
        "user": "u",
    }
    first = create(EXACT, "one", **settings)
    second = create(EXACT, "two", previous_response_id=first["id"])

    assert not exact.bodies[-1].keys() & settings.keys()
    assert (second["instructions"], second["tools"], second["metadata"]) == (None, [], {})
    assert (second["temperature"], second["max_output_tokens"], second["user"]) == (1, None, None)


def test_instructions_go_to_the_turn_that_gives_them_alone(create: Create, exact: ScriptedUpstream) -> None:
    first = create(EXACT, "one", instructions="Be brief.")
    create(EXACT, "two", previous_response_id=first["id"], instructions="Be long.")

    assert exact.bodies[-1]["instructions"] == "Be long."
    assert b"Be brief." not in exact.requests[-1].raw


def test_a_turn_without_input_goes_on_from_where_it_was(create: Create, exact: ScriptedUpstream) -> None:
    first = create(EXACT, "one")
    create(EXACT, previous_response_id=first["id"])

    assert _ids(exact.bodies[-1]["input"][1:]) == _ids(first["output"])


def test_items_given_once_are_there_in_every_later_turn(create: Create, exact: ScriptedUpstream) -> None:
    items = [
        message_item("sys", "system"),
        message_item("dev", "developer"),
        *ITEMS["configuration_update"],
        message_item("one"),
    ]
    first = create(EXACT, items)
    create(EXACT, "two", previous_response_id=first["id"])

    sent = exact.bodies[-1]["input"]
    assert [item.get("role") for item in sent[:4]] == ["system", "developer", None, "user"]


@pytest.mark.parametrize("name", ITEMS)
def test_items_of_every_type_survive_storage(create: Create, exact: ScriptedUpstream, name: str) -> None:
    first = create(EXACT, [*ITEMS[name], message_item("one")])
    create(EXACT, "two", previous_response_id=first["id"])

    def without_ids(items: list[JSON]) -> list[JSON]:
        return [{key: value for key, value in item.items() if key != "id"} for item in items]

    given = without_ids(exact.bodies[0]["input"])
    assert without_ids(exact.bodies[1]["input"])[: len(given)] == given


def test_an_incomplete_response_can_be_gone_on_from(create: Create, model: str) -> None:
    first = create(model, "one", max_output_tokens=16)
    assert first["status"] == "incomplete"

    check_response(create(model, "two", previous_response_id=first["id"]), status="completed")


def test_a_failed_response_cannot_be_gone_on_from(api: Gateway, exact: ScriptedUpstream) -> None:
    exact.enqueue(failing(after=6, code="invalid_prompt"))
    failed = check_stream(api.stream({"model": EXACT, "input": "one"}).content, status="failed")[-1]["response"]
    answer = api.post("/responses", {"model": EXACT, "input": "two", "previous_response_id": failed["id"]})

    check_error(answer, 400, code="previous_response_failed", param="previous_response_id")


def test_a_turn_that_the_upstream_refused_leaves_the_conversation_as_it_was(
    api: Gateway, create: Create, exact: ScriptedUpstream
) -> None:
    first = create(EXACT, "one")
    exact.enqueue(refusal(400, "No.", "invalid_prompt"))
    assert (
        api.post("/responses", {"model": EXACT, "input": "bad", "previous_response_id": first["id"]}).status_code == 400
    )
    create(EXACT, "two", previous_response_id=first["id"])

    assert user_texts(exact.bodies[-1]["input"]) == ["one", "two"]


# --- what cannot be chained from --------------------------------------------------------------------------------


def _chained(api: Gateway, parent: str, model: str = "demo", **keys: Any) -> Any:
    return api.post("/responses", {"model": model, "input": "two", "previous_response_id": parent}, **keys)


def test_an_unstored_response_leaves_nothing_behind(api: Gateway, create: Create, model: str) -> None:
    response = create(model, "My canary sings.", store=False)
    check_response(response, store=False, status="completed")

    check_error(api.get(f"/responses/{response['id']}"), 404)
    check_error(_chained(api, response["id"], model), 400, **NOT_FOUND)
    check_error(api.delete(f"/responses/{response['id']}"), 404)


def test_nothing_of_an_unstored_response_is_written_down(api: Gateway, create: Create) -> None:
    stored, unstored = "Quetzalcoatlus-stored", "Quetzalcoatlus-unstored"
    for store, word in ((False, unstored), (True, stored)):
        tools = [{**WEATHER, "description": word}]
        create(EXACT, word, store=store, instructions=word, metadata={"k": word}, tools=tools)
        check_stream(api.stream({"model": EXACT, "input": word, "store": store}).content)

    found = written(api)
    assert stored.encode() in found
    assert unstored.encode() not in found


def test_an_unstored_turn_may_follow_a_stored_one(create: Create, exact: ScriptedUpstream) -> None:
    first = create(EXACT, "one")
    create(EXACT, "two", previous_response_id=first["id"], store=False)
    create(EXACT, "three", previous_response_id=first["id"])

    assert [user_texts(body["input"]) for body in exact.bodies[1:]] == [["one", "two"], ["one", "three"]]


def test_unknown_deleted_and_foreign_ids_look_the_same(
    api: Gateway, create: Create, exact: ScriptedUpstream, stranger: str
) -> None:
    deleted, anothers = create("demo", "one")["id"], create("demo", "one")["id"]
    assert api.delete(f"/responses/{deleted}").status_code == 200
    unknown = "resp_" + "0" * 48

    answers = {
        unknown: _chained(api, unknown),
        deleted: _chained(api, deleted),
        anothers: _chained(api, anothers, token=stranger),
    }
    for response_id, answer in answers.items():
        error = check_error(answer, 400, **NOT_FOUND)
        assert error["message"] == f"Previous response with id '{response_id}' not found."
    bodies = {answer.text.replace(response_id, "ID") for response_id, answer in answers.items()}
    assert len(bodies) == 1
    assert not exact.bodies


def test_a_deleted_ancestor_is_named_and_never_skipped(api: Gateway, create: Create) -> None:
    first = create("demo", "one")
    second = create("demo", "two", previous_response_id=first["id"])
    api.delete(f"/responses/{first['id']}")

    error = check_error(_chained(api, second["id"]), 400, **NOT_FOUND)
    assert first["id"] in error["message"]
    assert api.get(f"/responses/{second['id']}").status_code == 200


def test_a_deleted_child_leaves_parent_and_sibling_whole(api: Gateway, create: Create, exact: ScriptedUpstream) -> None:
    root = create(EXACT, "root")
    first = create(EXACT, "first", previous_response_id=root["id"])
    second = create(EXACT, "second", previous_response_id=root["id"])
    api.delete(f"/responses/{first['id']}")
    create(EXACT, "third", previous_response_id=root["id"])
    create(EXACT, "leaf", previous_response_id=second["id"])

    assert [user_texts(body["input"]) for body in exact.bodies[3:]] == [["root", "third"], ["root", "second", "leaf"]]


def test_the_place_of_a_deleted_tip_is_not_reused(api: Gateway, create: Create, exact: ScriptedUpstream) -> None:
    root = create(EXACT, "root")
    tip = create(EXACT, "tip", previous_response_id=root["id"])
    api.delete(f"/responses/{tip['id']}")
    other = create(EXACT, "other", previous_response_id=root["id"])
    create(EXACT, "leaf", previous_response_id=other["id"])

    assert user_texts(exact.bodies[-1]["input"]) == ["root", "other", "leaf"]


# --- calls in a chain -------------------------------------------------------------------------------------------


def test_a_stored_call_must_be_answered(api: Gateway, create: Create, model: str) -> None:
    first = create(model, "go", tools=[WEATHER], tool_choice="required")
    (call,) = calls_of(first)

    error = check_error(_chained(api, first["id"], model), 400, param="input", code=None)
    assert error["message"] == f"No tool output found for function call {call['call_id']}."


def test_an_output_needs_its_call_in_the_chain(api: Gateway, create: Create, model: str) -> None:
    first = create(model, "one")
    output = {"type": "function_call_output", "call_id": "call_nobody", "output": "a"}
    answer = api.post("/responses", {"model": model, "input": [output], "previous_response_id": first["id"]})

    error = check_error(answer, 400, param="input", code=None)
    assert error["message"] == "No tool call found for function call output with call_id call_nobody."


def test_both_parallel_calls_must_be_answered_at_once(api: Gateway, create: Create, exact: ScriptedUpstream) -> None:
    first = create(EXACT, "weather in both", tools=[WEATHER, {**WEATHER, "name": "other"}])
    one, two = calls_of(first)
    body = {"model": EXACT, "input": [answered(one)], "previous_response_id": first["id"]}

    error = check_error(api.post("/responses", body), 400, param="input")
    assert error["message"] == f"No tool output found for function call {two['call_id']}."
    assert len(exact.bodies) == 1


def test_an_unfinished_call_of_an_incomplete_parent_is_not_replayed(create: Create, exact: ScriptedUpstream) -> None:
    def cut(body: JSON) -> JSON:
        output = [{**item, "status": "incomplete", "arguments": '{"ci'} for item in body["output"][-1:]]
        why = {"reason": "max_output_tokens"}
        return {**body, "status": "incomplete", "incomplete_details": why, "completed_at": None, "output": output}

    exact.enqueue(rewritten(cut))
    first = create(EXACT, "go", tools=[WEATHER], tool_choice="required")
    assert (first["status"], calls_of(first)[0]["status"]) == ("incomplete", "incomplete")
    create(EXACT, "go on", previous_response_id=first["id"])

    assert [item["type"] for item in exact.bodies[-1]["input"]] == ["message", "message"]


CALLS = [
    "function_call",
    "custom_tool_call",
    "shell_call",
    "local_shell_call",
    "apply_patch_call",
    "computer_call",
    "tool_search_call",
]


@pytest.mark.parametrize("name", CALLS)
def test_calls_of_every_kind_need_their_outputs_and_outputs_their_calls(
    api: Gateway, exact: ScriptedUpstream, name: str
) -> None:
    call, output = ITEMS[name]

    for model in ("demo", EXACT):
        error = check_error(api.post("/responses", {"model": model, "input": [call]}), 400, param="input", code=None)
        assert re.fullmatch(r"No tool output found for [a-z ]+ call_1\.", error["message"])
        error = check_error(api.post("/responses", {"model": model, "input": [output]}), 400, param="input", code=None)
        assert re.fullmatch(r"No tool call found for [a-z ]+ output with call_id call_1\.", error["message"])
    assert not exact.bodies


def _calls(call: JSON, **changes: Any) -> Callable[[JSON], JSON]:
    """An upstream's answer that ends with this call."""
    return lambda body: {**body, "output": [*body["output"], {**call, "id": "own_1", "status": "completed"}], **changes}


@pytest.mark.parametrize("name", ["local_shell_call", "tool_search_call"])
def test_a_stored_call_of_any_kind_waits_for_its_output(
    api: Gateway, create: Create, exact: ScriptedUpstream, name: str
) -> None:
    call, output = ITEMS[name]
    exact.enqueue(rewritten(_calls(call)))
    first = create(EXACT, "go")

    error = check_error(_chained(api, first["id"], EXACT), 400, param="input", code=None)
    assert error["message"] == f"No tool output found for {name.replace('_', ' ')} call_1."
    second = create(EXACT, [output], previous_response_id=first["id"])
    create(EXACT, "and on", previous_response_id=second["id"])
    sent = exact.bodies[-1]["input"]
    assert [item["type"] for item in sent if item.get("call_id")] == [call["type"], output["type"]]
    listed = api.get(f"/responses/{second['id']}/input_items").json()["data"]
    shown = next(item for item in listed if item["type"] == name)
    assert shown["status"] == "completed"
    assert shown["id"] == first["output"][-1]["id"]


@pytest.mark.parametrize("name", ["local_shell_call", "tool_search_call"])
def test_a_call_of_any_kind_that_broke_off_is_not_replayed(create: Create, exact: ScriptedUpstream, name: str) -> None:
    why = {"reason": "max_output_tokens"}
    broken = {**ITEMS[name][0], "id": "own_1", "status": "incomplete"}
    cut = {"status": "incomplete", "incomplete_details": why, "completed_at": None, "output": [broken]}
    exact.enqueue(rewritten(lambda body: {**body, **cut}))
    first = create(EXACT, "go")
    create(EXACT, "go on", previous_response_id=first["id"])

    assert [item["type"] for item in exact.bodies[-1]["input"]] == ["message", "message"]


def test_a_call_of_a_local_shell_is_answered_by_an_output_of_either_form(
    create: Create, exact: ScriptedUpstream
) -> None:
    """Codex answers as if a function was called; the API's own form may lack `call_id`."""
    call, _ = ITEMS["local_shell_call"]
    for output in (
        {"type": "function_call_output", "call_id": "call_1", "output": "a"},
        {"type": "local_shell_call_output", "id": "call_1", "output": "a"},
    ):
        exact.enqueue(rewritten(_calls(call)))
        first = create(EXACT, "go")
        create(EXACT, [output], previous_response_id=first["id"])
        assert exact.bodies[-1]["input"][-1] == output


def test_a_listed_call_of_a_local_shell_has_a_status(api: Gateway, create: Create, exact: ScriptedUpstream) -> None:
    call, output = ITEMS["local_shell_call"]
    without = {name: value for name, value in call.items() if name != "status"}
    response = create(EXACT, [without, output, message_item("go on")])
    listed = api.get(f"/responses/{response['id']}/input_items").json()["data"]
    assert [item["status"] for item in listed if item["type"] == "local_shell_call"] == ["completed"]


def test_a_tool_loop_of_three_rounds_goes_through(create: Create, model: str) -> None:
    response = create(model, "go", tools=[WEATHER], tool_choice="required")
    for _ in range(3):
        items = [*(answered(call) for call in calls_of(response)), message_item("again")]
        response = create(model, items, previous_response_id=response["id"], tools=[WEATHER], tool_choice="required")
    last = create(model, [answered(call) for call in calls_of(response)], previous_response_id=response["id"])

    assert "sunny" in text_of(last)


def test_a_call_with_a_long_id_goes_round(api: Gateway, create: Create, exact: ScriptedUpstream) -> None:
    long = "call_" + "x" * 100

    def lengthen(body: JSON) -> JSON:
        return {
            **body,
            "output": [{**item, **({"call_id": long} if "call_id" in item else {})} for item in body["output"]],
        }

    exact.enqueue(rewritten(lengthen))
    first = create(EXACT, "go", tools=[WEATHER], tool_choice="required")
    (call,) = calls_of(check_response(first))

    second = create(EXACT, [answered(call)], previous_response_id=first["id"])
    assert "sunny" in text_of(second)


# --- references -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("typed", [{"type": "item_reference"}, {"type": None}, {}], ids=["typed", "null", "bare"])
def test_a_reference_becomes_the_item_it_names(create: Create, exact: ScriptedUpstream, typed: JSON) -> None:
    first = create(EXACT, "one")
    create(
        EXACT, [message_item("one"), *({**typed, "id": item["id"]} for item in first["output"]), message_item("two")]
    )

    sent = exact.bodies[-1]["input"]
    assert _ids(sent[1:-1]) == _ids(first["output"])
    assert sent[2]["content"] == first["output"][1]["content"]
    assert not any(item.get("type") == "item_reference" for item in sent)


def test_references_work_on_every_format(create: Create, model: str) -> None:
    first = create(model, "one")
    references = [{"type": "item_reference", "id": item["id"]} for item in first["output"]]

    check_response(create(model, [message_item("one"), *references, message_item("two")]), status="completed")


def test_a_reference_to_an_input_item_works_too(create: Create, exact: ScriptedUpstream) -> None:
    create(EXACT, [{**message_item("My name is Ada."), "id": "msg_mine_1"}])
    create(EXACT, [{"type": "item_reference", "id": "msg_mine_1"}, message_item("two")])

    assert user_texts(exact.bodies[-1]["input"]) == ["My name is Ada.", "two"]


def test_a_referenced_call_can_be_answered(create: Create, model: str) -> None:
    first = create(model, "go", tools=[WEATHER], tool_choice="required")
    (call,) = calls_of(first)

    second = create(model, [message_item("go"), {"type": "item_reference", "id": call["id"]}, answered(call)])
    assert "sunny" in text_of(second)


def test_an_item_that_is_in_the_chain_already_is_not_added_twice(create: Create, exact: ScriptedUpstream) -> None:
    first = create(EXACT, "one")
    references = [{"type": "item_reference", "id": item["id"]} for item in first["output"]]
    create(EXACT, [*references, message_item("two")], previous_response_id=first["id"])
    create(EXACT, [*first["output"], message_item("two")], previous_response_id=first["id"])

    assert [len(body["input"]) for body in exact.bodies] == [1, 4, 4]


def test_an_unknown_deleted_or_foreign_reference_is_not_found(
    api: Gateway, create: Create, exact: ScriptedUpstream, stranger: str
) -> None:
    deleted, foreign, unstored = create("demo", "one"), create("demo", "one"), create("demo", "one", store=False)
    api.delete(f"/responses/{deleted['id']}")
    cases = [
        ("msg_nobody", api.token),
        (deleted["output"][0]["id"], api.token),
        (foreign["output"][0]["id"], stranger),
        (unstored["output"][0]["id"], api.token),
    ]
    for item_id, token in cases:
        body = {"model": EXACT, "input": [{"type": "item_reference", "id": item_id}, message_item("two")]}
        error = check_error(api.post("/responses", body, token=token), 404, param="input")
        assert error["message"] == f"Item with id '{item_id}' not found."
    assert not exact.bodies


# --- owners -----------------------------------------------------------------------------------------------------


def test_two_tokens_of_one_owner_share_a_conversation(api: Gateway, create: Create, model: str) -> None:
    second = api.new_token(f"second of tests, {model}", "--owner", "tests")
    first = create(model, "one")
    answer = _chained(api, first["id"], model, token=second)

    check_response(answer.json(), previous_response_id=first["id"])
    assert api.get(f"/responses/{first['id']}", token=second).json() == first


def test_a_conversation_survives_a_restart(api: Gateway, create: Create, exact: ScriptedUpstream) -> None:
    first = create(EXACT, "one")
    api.restart()
    create(EXACT, "two", previous_response_id=first["id"])

    assert user_texts(exact.bodies[-1]["input"]) == ["one", "two"]


@pytest.mark.parametrize("known_first", [True, False])
def test_one_unknown_reference_among_known_ones_is_not_found(
    api: Gateway, create: Create, exact: ScriptedUpstream, known_first: bool
) -> None:
    known = create(EXACT, "one")["output"][0]["id"]
    request_count = len(exact.bodies)
    names = [known, "msg_nobody", known] if known_first else ["msg_nobody", known]
    references = [{"type": "item_reference", "id": name} for name in names]
    answers = [
        api.post("/responses", {"model": EXACT, "input": [*references, message_item("two")]}),
        api.post("/conversations", {"items": references}),
    ]
    for answer in answers:
        error = check_error(answer, 404, param="input", type="invalid_request_error")
        assert error["message"] == "Item with id 'msg_nobody' not found."
    assert len(exact.bodies) == request_count
