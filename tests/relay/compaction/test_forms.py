"""The four ways to ask for a compaction, and what each of them answers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.relay.compaction.conftest import (
    FILLER,
    FORMATS,
    JSON,
    NATIVE,
    CompactionGateway,
    answering_with,
    assistant,
    conversation,
    facts,
    forgetting,
    kinds,
    numbered,
    summarising,
    user,
    users,
    words,
)
from tests.response_contract import check_error, check_response, check_stream, check_window
from tests.upstream import Answer, Exchange, json_instead, refusal, retold, rewritten

COMPACT = "/responses/compact"
TRIGGER = {"type": "compaction_trigger"}
LOW = {"type": "compaction", "compact_threshold": 1000}
WEATHER = {
    "type": "function",
    "name": "weather",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
}
everywhere = pytest.mark.parametrize("model", [*FORMATS.values(), *NATIVE], ids=[*FORMATS, *NATIVE])
by_the_gateway = pytest.mark.parametrize("model", FORMATS.values(), ids=FORMATS)
streamed_or_not = pytest.mark.parametrize("stream", [False, True], ids=["json", "sse"])


def answered(compaction_gateway: CompactionGateway, path: str, stream: bool, **body: Any) -> JSON:
    """The final response, after the strict look at how it came."""
    if not stream:
        return check_response(compaction_gateway.ok(path, **body), status="completed")
    answer = compaction_gateway.gateway.stream(body, path)
    assert answer.status_code == 200, answer.text
    events = check_stream(answer.content, status="completed")
    return dict(events[-1]["response"])


def with_usage(compaction_gateway: CompactionGateway) -> list[int]:
    """Fills with the input tokens that the first upstream reports from now on."""
    seen: list[int] = []
    standing = compaction_gateway.first._standing

    def script(exchange: Exchange, answer: Answer) -> Answer:
        for inner in standing:
            answer = inner(exchange, answer)
        return retold(lambda body: seen.append(body["usage"]["input_tokens"]) or body)(exchange, answer)

    compaction_gateway.first.always(script)
    return seen


# --- /responses/compact with something to answer ----------------------------------------------------------------


@everywhere
@streamed_or_not
def test_the_answering_form_gives_the_item_and_then_the_answer(
    compaction_gateway: CompactionGateway, model: str, stream: bool
) -> None:
    last = compaction_gateway.talk(model, 4)
    body = {"model": model, "previous_response_id": last, "input": "And now?"}
    response = answered(compaction_gateway, COMPACT, stream, **body)
    assert kinds(response["output"]) == ["compaction", "message"]
    assert "And now?" in words(response["output"][-1])
    assert response["previous_response_id"] == last
    assert compaction_gateway.get(f"/responses/{response['id']}") == response


@pytest.mark.parametrize("model", ["gpt-plain", "gpt-chat"])
def test_the_answer_is_given_over_the_summary_and_the_newest_turn(
    compaction_gateway: CompactionGateway, model: str
) -> None:
    compaction_gateway.compact(model, previous_response_id=compaction_gateway.talk(model, 4), input="And now?")
    user_messages = users(compaction_gateway.given)
    assert [facts(text) for text in user_messages] == [numbered(1, 2, 3, 4), numbered(4), []]
    assert user_messages[0].endswith("Known: fact-1, fact-2, fact-3, fact-4")
    assert user_messages[1:] == [f"Note fact-4.{FILLER}", "And now?"]


def test_the_usage_of_both_passes_is_summed_up(compaction_gateway: CompactionGateway) -> None:
    last = compaction_gateway.talk("gpt-plain", 4)
    seen = with_usage(compaction_gateway)
    response = compaction_gateway.compact("gpt-plain", previous_response_id=last, input="And now?")
    assert len(seen) == 2
    assert response["usage"]["input_tokens"] == sum(seen)


@everywhere
def test_without_a_history_there_is_nothing_to_compact(compaction_gateway: CompactionGateway, model: str) -> None:
    response = check_response(compaction_gateway.compact(model, input="Hello!"), status="completed")
    assert kinds(response["output"]) == ["message"]


def test_an_array_can_be_compacted_and_answered_on_request(compaction_gateway: CompactionGateway) -> None:
    items = [*conversation(3), user("And now?")]
    response = compaction_gateway.compact("gpt-plain", input=items, context_management={"answer": True})
    assert kinds(response["output"]) == ["compaction", "message"]
    assert users(compaction_gateway.given)[-1] == "And now?"


# --- the window -------------------------------------------------------------------------------------------------


@everywhere
def test_a_chain_alone_becomes_a_window(compaction_gateway: CompactionGateway, model: str) -> None:
    last = compaction_gateway.talk(model, 3)
    window = check_window(compaction_gateway.compact(model, previous_response_id=last))
    assert users(window["output"]) == [f"Note fact-{number}.{FILLER}" for number in (1, 2, 3)]
    assert window["usage"]["input_tokens"] > 0
    stored = compaction_gateway.get(f"/responses/{window['id']}")
    assert (stored["output"], stored["usage"]) == (window["output"], window["usage"])
    # The SDK has no type for a user's message in an output, although OpenAI sends it.
    item = window["output"][-1]
    check_response({**stored, "output": [item]}, status="completed", previous_response_id=last)


@everywhere
def test_an_array_alone_becomes_a_window_that_goes_back_as_input(
    compaction_gateway: CompactionGateway, model: str
) -> None:
    window = check_window(compaction_gateway.compact(model, input=conversation(3)))
    assert len(window["output"]) == 4
    response = compaction_gateway.create(model, [*window["output"], user("And now?")])
    assert "And now?" in words(response["output"][-1])
    chained = compaction_gateway.create(model, "And then?", window["id"])
    assert "And then?" in words(chained["output"][-1])


def test_one_message_can_be_compacted(compaction_gateway: CompactionGateway) -> None:
    window = check_window(compaction_gateway.compact("gpt-plain", input=[user("Only this.")]))
    assert users(window["output"]) == ["Only this."]


def test_a_window_of_a_window_has_one_item(compaction_gateway: CompactionGateway) -> None:
    first = compaction_gateway.compact("gpt-plain", input=conversation(3))
    items = [*first["output"], *conversation(2, first=4)]
    window = check_window(compaction_gateway.compact("gpt-plain", input=items))
    assert [facts(text) for text in users(window["output"])] == [numbered(n) for n in (1, 2, 3, 4, 5)]


def test_messages_of_a_window_are_not_sent_twice(compaction_gateway: CompactionGateway) -> None:
    keep = {"type": "compaction", "keep_turns": 1}
    window = compaction_gateway.compact("gpt-plain", input=conversation(3), context_management=[keep])
    for new_input, previous in (([*window["output"], user("And now?")], None), ("And now?", window["id"])):
        compaction_gateway.create("gpt-plain", new_input, previous)
        assert [facts(text) for text in users(compaction_gateway.given) if text.startswith("Note")] == [
            numbered(n) for n in (1, 2, 3)
        ]


@pytest.mark.parametrize("body", [{"input": conversation(1)}, {"input": "Hi", "context_management": {"answer": False}}])
def test_a_window_is_never_streamed(compaction_gateway: CompactionGateway, body: JSON) -> None:
    answer = compaction_gateway.post(COMPACT, model="gpt-plain", stream=True, **body)
    error = check_error(answer, 400, param="stream")
    assert "previous_response_id" in error["message"]


def test_a_chain_and_words_become_a_window_when_no_answer_is_wanted(compaction_gateway: CompactionGateway) -> None:
    last = compaction_gateway.talk("gpt-plain", 2)
    window = check_window(
        compaction_gateway.compact(
            "gpt-plain", previous_response_id=last, input="Third.", context_management=[{"type": None, "answer": False}]
        )
    )
    assert users(window["output"])[-1] == "Third."


@pytest.mark.parametrize("body", [{}, {"input": None}, {"input": ""}, {"input": []}])
def test_nothing_at_all_cannot_be_compacted(compaction_gateway: CompactionGateway, body: JSON) -> None:
    check_error(compaction_gateway.post(COMPACT, model="gpt-plain", **body), 400, "missing_required_parameter", "input")


@pytest.mark.parametrize("model", ["gpt-plain", "gpt-chat"])
def test_a_json_answer_to_a_stream_stands_behind_the_item(compaction_gateway: CompactionGateway, model: str) -> None:
    previous = compaction_gateway.talk(model, 3)
    compaction_gateway.first.always(json_instead(), summarising)
    body = {"model": model, "input": "And now?", "previous_response_id": previous}
    events = check_stream(compaction_gateway.gateway.stream(body, COMPACT).content, status="completed")
    assert [event["output_index"] for event in events if event["type"] == "response.output_item.added"] == [0, 1]
    assert kinds(events[-1]["response"]["output"]) == ["compaction", "message"]


# --- a trigger --------------------------------------------------------------------------------------------------


@everywhere
@streamed_or_not
def test_a_trigger_gives_exactly_one_item(compaction_gateway: CompactionGateway, model: str, stream: bool) -> None:
    response = answered(compaction_gateway, "/responses", stream, model=model, input=[*conversation(3), TRIGGER])
    assert kinds(response["output"]) == ["compaction"]
    assert response["usage"]["input_tokens"] > 0


@everywhere
def test_a_trigger_alone_compacts_the_chain(compaction_gateway: CompactionGateway, model: str) -> None:
    last = compaction_gateway.talk(model, 3)
    response = compaction_gateway.create(model, [TRIGGER], last)
    assert kinds(response["output"]) == ["compaction"]
    answer = compaction_gateway.create(model, "And now?", response["id"])
    assert "And now?" in words(answer["output"][-1])


def test_a_trigger_with_nothing_before_it_is_refused(compaction_gateway: CompactionGateway) -> None:
    check_error(compaction_gateway.post("/responses", model="gpt-plain", input=[TRIGGER]), 400, param="input")


# --- a threshold ------------------------------------------------------------------------------------------------


@everywhere
@streamed_or_not
@pytest.mark.parametrize("form", [list, dict], ids=["array", "object"])
def test_over_the_threshold_the_history_is_compacted_first(
    compaction_gateway: CompactionGateway, model: str, stream: bool, form: Callable[[Any], Any]
) -> None:
    managed = [LOW] if form is list else LOW
    body = {"model": model, "input": "And now?", "context_management": managed}
    short = answered(
        compaction_gateway, "/responses", stream, previous_response_id=compaction_gateway.talk(model, 1), **body
    )
    assert kinds(short["output"]) == ["message"]
    long = answered(
        compaction_gateway, "/responses", stream, previous_response_id=compaction_gateway.talk(model, 8), **body
    )
    assert kinds(long["output"]) == ["compaction", "message"]


@everywhere
def test_once_compacted_it_is_not_compacted_again_at_once(compaction_gateway: CompactionGateway, model: str) -> None:
    compaction_gateway.first.always(summarising, forgetting)
    last = compaction_gateway.create(model, "And now?", compaction_gateway.talk(model, 8), context_management=[LOW])
    assert kinds(last["output"]) == ["compaction", "message"]
    for _ in range(2):
        last = compaction_gateway.create(model, "And now?", last["id"], context_management=[LOW])
        assert kinds(last["output"]) == ["message"]


@everywhere
def test_a_client_without_state_is_compacted_for_as_well(compaction_gateway: CompactionGateway, model: str) -> None:
    items = [*conversation(8), user("And now?")]
    response = compaction_gateway.create(model, items, store=False, context_management=[LOW])
    assert kinds(response["output"]) == ["compaction", "message"]
    following = [*items, *response["output"], user("And then?")]
    assert "And then?" in words(compaction_gateway.create(model, following, store=False)["output"][-1])


def test_one_long_turn_of_calls_is_compacted_but_for_the_newest_result(compaction_gateway: CompactionGateway) -> None:
    """A model that works by itself for hours: one question, and then only calls."""
    items: list[JSON] = [user(f"Note fact-1.{FILLER}")]
    for number in range(2, 10):
        call = {"type": "function_call", "call_id": f"call_{number}", "name": "weather", "arguments": "{}"}
        items += [
            call,
            {"type": "function_call_output", "call_id": call["call_id"], "output": f"fact-{number}{FILLER}"},
        ]
    compaction_gateway.create("gpt-plain", items, context_management=[LOW])
    assert kinds(compaction_gateway.given) == ["message", "function_call", "function_call_output"]
    assert facts(compaction_gateway.given[0]) == numbered(*range(1, 9))


# --- instructions of the summary pass ---------------------------------------------------------------------------


def test_trimming_sends_no_request_and_costs_nothing(compaction_gateway: CompactionGateway) -> None:
    last = compaction_gateway.talk("gpt-plain", 4)
    seen = with_usage(compaction_gateway)
    response = compaction_gateway.compact(
        "gpt-plain", previous_response_id=last, input="And now?", context_management={"strategy": "trim"}
    )
    assert len(seen) == 1
    assert response["usage"]["input_tokens"] == sum(seen)
    assert facts(compaction_gateway.given) == numbered(4)


@by_the_gateway
@pytest.mark.parametrize("keep", [0, 2, 3])
def test_so_many_turns_are_kept_word_for_word(compaction_gateway: CompactionGateway, model: str, keep: int) -> None:
    last = compaction_gateway.talk(model, 8)
    response = compaction_gateway.compact(
        model, previous_response_id=last, input="And now?", context_management=[{"keep_turns": keep}]
    )
    after = compaction_gateway.create(model, "And then?", response["id"])
    listed = compaction_gateway.get(f"/responses/{after['id']}/input_items?order=asc&limit=100")["data"]
    notes = [text for text in users(listed) if text.startswith("Note")]
    assert notes == [f"Note fact-{n}.{FILLER}" for n in range(9 - keep, 9)]


def test_the_summariser_gets_the_instructions_of_the_request(compaction_gateway: CompactionGateway) -> None:
    wish = {"type": "compaction", "instructions": "Only names, please.", "max_tokens": 123}
    last = compaction_gateway.talk("gpt-plain", 3)
    compaction_gateway.first.always(answering_with("Names: none."))
    compaction_gateway.compact("gpt-plain", previous_response_id=last, input="And now?", context_management=[wish])
    summary_request, answered = compaction_gateway.first.bodies[-2:]
    assert (words(summary_request["input"][-1]), summary_request["max_output_tokens"]) == ("Only names, please.", 123)
    assert "max_output_tokens" not in answered
    assert "tools" not in summary_request


@by_the_gateway
def test_instructors_are_never_summed_up(compaction_gateway: CompactionGateway, model: str) -> None:
    rule = {"type": "message", "role": "developer", "content": "Speak in rhymes, fact-99."}
    window = compaction_gateway.compact(model, input=[rule, *conversation(3)])
    answer = compaction_gateway.create(model, "And now?", window["id"])
    listed = compaction_gateway.get(f"/responses/{answer['id']}/input_items?limit=100")["data"]
    assert [words(item) for item in listed if item.get("role") == "developer"] == ["Speak in rhymes, fact-99."]


@everywhere
def test_a_call_that_waits_survives_and_can_be_answered(compaction_gateway: CompactionGateway, model: str) -> None:
    last = compaction_gateway.talk(model, 3)
    called = compaction_gateway.create(model, "What is the weather?", last, tools=[WEATHER])
    call = called["output"][-1]
    assert call["type"] == "function_call"
    output = {"type": "function_call_output", "call_id": call["call_id"], "output": "Rain."}
    window = check_window(compaction_gateway.compact(model, previous_response_id=called["id"]))
    for new_input, previous in (([output], window["id"]), ([*window["output"], output], None)):
        answer = compaction_gateway.create(model, new_input, previous, tools=[WEATHER])
        assert "Rain." in words(answer["output"][-1])
    error = check_error(
        compaction_gateway.post("/responses", model=model, input="Never mind.", previous_response_id=window["id"]), 400
    )
    assert error["message"] == f"No tool output found for function call {call['call_id']}."


def test_a_call_that_broke_off_does_not_block_the_conversation(compaction_gateway: CompactionGateway) -> None:
    last = compaction_gateway.talk("gpt-plain", 3)
    call = {"id": "fc_1", "type": "function_call", "call_id": "call_1", "name": "weather", "arguments": "{"}
    broken = {
        "status": "incomplete",
        "completed_at": None,
        "incomplete_details": {"reason": "max_output_tokens"},
        "output": [{**call, "status": "incomplete"}],
    }
    compaction_gateway.first.enqueue(rewritten(lambda body: {**body, **broken}))
    cut = compaction_gateway.create("gpt-plain", "What is the weather?", last, tools=[WEATHER])
    response = compaction_gateway.compact("gpt-plain", previous_response_id=cut["id"], input="And now?")
    compaction_gateway.create("gpt-plain", "And then?", response["id"])
    assert "function_call" not in kinds(compaction_gateway.given)


def test_the_conversations_own_model_sees_its_images_and_files_again(compaction_gateway: CompactionGateway) -> None:
    parts = [
        {"type": "input_image", "image_url": "https://example.org/cat.png"},
        {"type": "input_image", "image_url": "data:image/png;base64,QUFBQQ=="},
        {"type": "input_file", "filename": "plan.pdf", "file_data": "data:application/pdf;base64,QkJCQg=="},
    ]
    compaction_gateway.compact(
        "gpt-plain", input=[{"type": "message", "role": "user", "content": parts}, assistant("I see.")]
    )
    assert compaction_gateway.given[0]["content"] == parts


def test_a_foreign_item_is_tried_and_then_becomes_a_note_to_the_summarising_model(
    compaction_gateway: CompactionGateway,
) -> None:
    foreign = {"type": "compaction", "encrypted_content": "not ours"}
    answer = compaction_gateway.post(COMPACT, model="gpt-plain", input=[foreign, *conversation(2)])
    assert foreign in compaction_gateway.first.bodies[-2]["input"]
    assert foreign not in compaction_gateway.given
    assert "compacted by another model server" in str(compaction_gateway.given)
    assert answer.status_code == 200


# --- when it fails ----------------------------------------------------------------------------------------------

FAILURES = {
    "an error": (refusal(500, "Out of order."), 1),
    # These two are tried once more, with the history as text.
    "a refusal": (refusal(400, "Not that.", "invalid_prompt"), 2),
    "nothing": (answering_with("  "), 2),
    "a failed response": (
        retold(lambda body: {**body, "status": "failed", "error": {"code": "server_error", "message": "Broken."}}),
        1,
    ),
}
failing = pytest.mark.parametrize("failure", FAILURES.values(), ids=FAILURES)


@failing
@streamed_or_not
def test_a_compaction_that_was_demanded_fails_clearly_and_changes_nothing(
    compaction_gateway: CompactionGateway, failure: Any, stream: bool
) -> None:
    last = compaction_gateway.talk("gpt-plain", 3)
    bodies = [(COMPACT, "And now?"), ("/responses", [TRIGGER])]
    for path, new_input in bodies:
        compaction_gateway.first.enqueue(failure[0], times=failure[1])
        answer = compaction_gateway.post(
            path, model="gpt-plain", previous_response_id=last, input=new_input, stream=stream
        )
        check_error(answer, 502, "compaction_failed")
    compaction_gateway.create("gpt-plain", "And now?", last)
    assert facts(compaction_gateway.given) == numbered(1, 2, 3)


@failing
@streamed_or_not
def test_a_compaction_that_was_only_due_fails_silently(
    compaction_gateway: CompactionGateway, failure: Any, stream: bool
) -> None:
    last = compaction_gateway.talk("gpt-plain", 8)
    compaction_gateway.first.enqueue(failure[0], times=failure[1])
    body = {"model": "gpt-plain", "previous_response_id": last, "input": "And now?", "context_management": [LOW]}
    response = answered(compaction_gateway, "/responses", stream, **body)
    assert kinds(response["output"]) == ["message"]
    assert facts(compaction_gateway.given) == numbered(*range(1, 9))


def test_a_summary_longer_than_what_it_replaces_is_thrown_away(compaction_gateway: CompactionGateway) -> None:
    items = [user("Note fact-1."), assistant("Noted.")]
    compaction_gateway.first.enqueue(answering_with("Blah. " * 500))
    window = check_window(compaction_gateway.compact("gpt-plain", input=items, store=False))
    compaction_gateway.create("gpt-plain", [window["output"][-1], user("And now?")])
    assert users(compaction_gateway.given) == ["Note fact-1.", "And now?"]
    assert words(compaction_gateway.given[1]) == "Noted."


@pytest.mark.parametrize("body", [{"input": conversation(2)}, {"input": [TRIGGER]}, {"input": "And now?"}])
def test_no_channel_that_can_compact_is_an_error(compaction_gateway: CompactionGateway, body: JSON) -> None:
    path = "/responses" if body["input"] == [TRIGGER] else COMPACT
    previous = compaction_gateway.talk("gpt-plain", 2) if len(body["input"]) != 4 else None
    answer = compaction_gateway.post(path, model="gpt-chat-only", previous_response_id=previous, **body)
    check_error(answer, 503, "responses_compact_not_supported")
    assert answer.headers["X-Should-Retry"] == "false"


def test_native_is_refused_where_no_channel_has_it(compaction_gateway: CompactionGateway) -> None:
    answer = compaction_gateway.post(
        COMPACT, model="gpt-plain", input=conversation(2), context_management=[{"strategy": "native"}]
    )
    check_error(answer, 503, "responses_compact_not_supported", "model")


@pytest.mark.parametrize("strategy", ["auto", "native", "summary", "trim"])
def test_an_unknown_model_is_unknown_whatever_the_strategy(
    compaction_gateway: CompactionGateway, strategy: str
) -> None:
    body = {"model": "gpt-unheard-of", "input": conversation(2), "context_management": {"strategy": strategy}}
    check_error(compaction_gateway.post(COMPACT, **body), 400, "model_not_found", "model")


# --- natively ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("model", "path"), [("gpt-native", "/v1/responses/compact"), ("gpt-trigger", "/v1/responses")])
def test_the_upstream_compacts_where_its_row_says_so(
    compaction_gateway: CompactionGateway, model: str, path: str
) -> None:
    compaction_gateway.compact(model, input=conversation(3), tools=[WEATHER], text={"verbosity": "low"})
    assert [request.path for request in compaction_gateway.first.requests] == [path]
    assert (compaction_gateway.given[-1] == TRIGGER) == (model == "gpt-trigger")
    assert not {"context_management", "previous_response_id", "stream"} & compaction_gateway.first.bodies[-1].keys()


@pytest.mark.parametrize("model", NATIVE)
def test_the_answer_is_based_on_the_native_item_and_the_kept_turns(
    compaction_gateway: CompactionGateway, model: str
) -> None:
    rule = {"type": "message", "role": "developer", "content": "Speak in rhymes."}
    start = compaction_gateway.create(model, [rule, user("Note fact-0.")])["id"]
    response = compaction_gateway.compact(
        model, previous_response_id=compaction_gateway.talk(model, 4, previous=start), input="And now?"
    )
    given = compaction_gateway.given
    assert kinds(given) == ["compaction", "message", "message", "message", "message"]
    assert given[0]["encrypted_content"].startswith("gAAAA")
    assert [words(item) for item in given[1:3]] == ["Speak in rhymes.", f"Note fact-4.{FILLER}"]
    compaction_gateway.create(model, "And then?", response["id"])
    assert [words(item) for item in compaction_gateway.given[1:] if item.get("role") in ("developer", "user")] == [
        "Speak in rhymes.",
        f"Note fact-4.{FILLER}",
        "And now?",
        "And then?",
    ]


def test_native_passes_without_an_item_are_followed_by_a_summary(compaction_gateway: CompactionGateway) -> None:
    empty = rewritten(lambda body: {**body, "output": []})
    compaction_gateway.first.enqueue(empty, times=2)
    window = check_window(compaction_gateway.compact("gpt-native", input=conversation(3)))
    compaction_gateway.create("gpt-native", "And now?", window["id"])
    assert "Known: fact-1" in str(compaction_gateway.given)
    compaction_gateway.first.enqueue(empty)
    wish = {"strategy": "native"}
    answer = compaction_gateway.post(COMPACT, model="gpt-native", input=conversation(3), context_management=wish)
    check_error(answer, 502, "compaction_failed")


def test_an_upstream_that_only_cannot_compact_goes_on_answering(compaction_gateway: CompactionGateway) -> None:
    compaction_gateway.first.enqueue(refusal(404, "Invalid URL (POST /v1/responses/compact)"))
    check_window(compaction_gateway.compact("gpt-tired", input=conversation(3)))
    compaction_gateway.create("gpt-tired", "Hello!")


def test_only_the_channel_that_goes_on_compacts_natively(compaction_gateway: CompactionGateway) -> None:
    """Another family's item would be of no use to it."""
    response = compaction_gateway.compact(
        "gpt-mixed", previous_response_id=compaction_gateway.talk("gpt-mixed", 4), input="And now?"
    )
    assert kinds(response["output"]) == ["compaction", "message"]
    assert not compaction_gateway.second.requests
    assert "Known: fact-1, fact-2, fact-3" in users(compaction_gateway.given)[0]
