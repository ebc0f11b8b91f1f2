"""Background responses as clients see them: asked for, polled, streamed, taken up again, cancelled."""

from __future__ import annotations

import secrets
from typing import Any

import openai
import orjson
import pytest

from tests.gateway import portions
from tests.relay.background.conftest import FORMATS, Stage, await_post
from tests.relay.conftest import SOME_TEXT, check_failed_stream, response_id_in, text_of
from tests.response_contract import check_error, check_response, check_stream
from tests.sse_reader import SENTINEL, follow
from tests.store import rows
from tests.upstream import Script, failing, refusal, respelled, silent, stalled

JSON = dict[str, Any]
OPENING = ["response.created", "response.queued", "response.in_progress"]
#: Three events of ours and those of an item that has said something.
TOLD = 3 + SOME_TEXT - 2


@pytest.fixture(params=FORMATS)
def anyway(request: pytest.FixtureRequest, stage: Stage) -> Stage:
    """A model of each format."""
    return stage.on(request.param)


# --- asked for and polled ---------------------------------------------------------------------------------------


def test_a_response_is_answered_at_once_and_made_later(anyway: Stage) -> None:
    waiting = anyway.create(metadata={"k": "v"})
    assert (waiting["output"], waiting["usage"]) == ([], None)
    done = check_response(anyway.ended(waiting["id"]), status="completed", background=True)
    assert text_of(done)
    assert done["metadata"] == {"k": "v"}
    assert done["created_at"] == waiting["created_at"]


def test_the_sdk_polls_it(stage: Stage) -> None:
    asked = stage.client.responses.create(model="m", input="hello", background=True)
    assert asked.status == "queued"
    assert asked.background is True
    stage.ended(asked.id)
    assert "You said: hello" in stage.client.responses.retrieve(asked.id).output_text


def test_the_upstream_is_asked_for_a_stream_and_never_for_a_background_response(stage: Stage) -> None:
    stage.ended(stage.create(background_options={"completion_window": "soonest"})["id"])
    (body,) = stage.upstream.bodies
    assert body["stream"] is True
    assert not {"background", "background_options"} & body.keys()


@pytest.mark.parametrize("streamed", [False, True])
def test_without_the_store_it_is_refused(stage: Stage, streamed: bool) -> None:
    answer = stage.gateway.post("/responses", stage.body(store=False, stream=streamed))
    error = check_error(answer, 400, param="background")
    assert error["message"] == "background can only be used when `store` is true"


def test_a_token_that_keeps_nothing_is_refused(stage: Stage) -> None:
    token = stage.gateway.new_token(f"keepless-{secrets.token_hex(4)}", "--no-store")
    check_error(stage.gateway.post("/responses", stage.body(), token=token), 400, param="background")


def test_what_nobody_could_answer_is_refused_at_once(stage: Stage) -> None:
    check_error(stage.gateway.post("/responses", stage.body(model="nobody")), 400, code="model_not_found")
    parent = {"previous_response_id": "resp_" + "0" * 48}
    check_error(stage.gateway.post("/responses", stage.body(**parent)), 400, code="previous_response_not_found")


def test_a_refusal_of_the_upstream_is_how_it_ends(stage: Stage) -> None:
    stage.upstream.enqueue(refusal(400, "That is not allowed.", code="invalid_prompt"))
    ended = check_response(stage.ended(stage.create()["id"]), status="failed")
    assert ended["error"]["message"] == "That is not allowed."


def test_a_failure_in_the_middle_keeps_what_was_said(stage: Stage) -> None:
    stage.upstream.enqueue(failing(after=SOME_TEXT, code="server_error"))
    ended = check_response(stage.ended(stage.create()["id"]), status="failed")
    assert text_of(ended)


def in_delta(number: int, spelling: bytes) -> Script:
    """The delta of that number begins with these bytes; its event is passed on unread."""

    def change(body: bytes) -> bytes:
        deltas = body.split(b'"delta":"')
        deltas[number] = spelling + deltas[number]
        return b'"delta":"'.join(deltas)

    return respelled(change)


def test_an_event_that_is_no_json_is_the_upstreams_fault(stage: Stage) -> None:
    stage.upstream.enqueue(in_delta(3, rb"\q"))
    ended = check_response(stage.ended(stage.create()["id"]), status="failed")
    assert ended["error"]["code"] == "upstream_protocol_error"


def test_half_a_character_in_an_event_is_replaced(stage: Stage) -> None:
    stage.upstream.enqueue(in_delta(3, rb"\ud83d"))
    waiting = stage.create()
    check_response(stage.ended(waiting["id"]), status="completed")
    deltas = [event for event in follow([stage.follow(waiting["id"]).content]) if "delta" in (event.name or "")]
    assert any("\N{REPLACEMENT CHARACTER}" in orjson.loads(event.data)["delta"] for event in deltas)


@pytest.mark.parametrize("after", [0, TOLD])
def test_events_that_cannot_be_read_end_a_stream_all_the_same(stage: Stage, after: int) -> None:
    waiting = stage.create()
    stage.ended(waiting["id"])
    damage = "UPDATE event SET body = ? WHERE response = (SELECT pk FROM response WHERE id = ?)"
    rows.execute(stage.gateway.database_url, damage, ("data: {\n\n", waiting["id"]))
    *_, error = follow([stage.follow(waiting["id"], after).content])
    assert error.name == "error"
    assert orjson.loads(error.data)["error"]["code"] == "server_error"


def test_a_conversation_goes_on_from_it_and_in_it(anyway: Stage) -> None:
    first = anyway.ended(anyway.create(input="My name is Ada.")["id"])
    second = anyway.ended(anyway.create(input="And now?", previous_response_id=first["id"])["id"])
    assert second["previous_response_id"] == first["id"]
    items = anyway.gateway.get(f"/responses/{second['id']}/input_items?order=asc").json()["data"]
    assert len(items) == 3


def test_nothing_goes_on_from_what_has_not_ended(stage: Stage) -> None:
    stage.upstream.enqueue(stalled(after=SOME_TEXT))
    running = stage.create()
    refused = stage.gateway.post("/responses", stage.body(previous_response_id=running["id"], background=False))
    check_error(refused, 400, code="previous_response_not_ready")
    await_post(stage.upstream)
    stage.upstream.release()
    assert stage.ended(running["id"])["status"] == "completed"


def test_a_context_over_the_threshold_is_compacted_first(stage: Stage) -> None:
    parent = stage.ended(stage.create(input="word " * 400)["id"])
    asked = {"context_management": [{"type": "compaction", "compact_threshold": 100}]}
    waiting = stage.create(previous_response_id=parent["id"], stream=False, **asked)
    done = stage.ended(waiting["id"])
    assert [item["type"] for item in done["output"]] == ["compaction", "message"]
    check_stream(stage.follow(waiting["id"]).content, status="completed")


def test_a_trigger_is_compacted_in_the_background(stage: Stage) -> None:
    said = {"type": "message", "role": "user", "content": "word " * 400}
    waiting = stage.create(input=[said, {"type": "compaction_trigger"}])
    assert [item["type"] for item in stage.ended(waiting["id"])["output"]] == ["compaction"]


# --- streamed and taken up again --------------------------------------------------------------------------------


def test_it_is_streamed_in_order_and_ends_as_it_is_stored(anyway: Stage) -> None:
    events = check_stream(anyway.gateway.stream(anyway.body()).content, status="completed")
    assert [event["type"] for event in events[:3]] == OPENING
    assert events[-1]["response"] == anyway.get(events[0]["response"]["id"])


def test_the_events_come_while_they_are_made(stage: Stage) -> None:
    stage.upstream.enqueue(stalled(after=SOME_TEXT))
    seen = []
    for event in follow(portions(stage.gateway.stream(stage.body()))):
        seen.append(event.name)
        if len(seen) == TOLD:
            # The upstream says nothing more before it is told to.
            stage.upstream.release()
    assert seen[: len(OPENING)] == OPENING
    assert "response.completed" in seen


def test_a_stream_is_taken_up_after_any_event(stage: Stage) -> None:
    waiting = stage.create()
    whole = check_stream(stage.follow(waiting["id"]).content, status="completed")
    check_every_place(stage, waiting["id"], whole)


def test_a_failed_stream_is_taken_up_after_any_event(stage: Stage) -> None:
    stage.upstream.enqueue(failing(after=SOME_TEXT, code="server_error"))
    waiting = stage.create()
    check_every_place(stage, waiting["id"], check_failed_stream(stage.follow(waiting["id"]).content))


def check_every_place(stage: Stage, response_id: str, whole: list[JSON]) -> None:
    """A reader gets what it has not seen: from behind the error the end alone, from behind the end nothing more."""
    for after in range(len(whole) + 2):
        *rest, sentinel = follow([stage.follow(response_id, after).content])
        assert [orjson.loads(event.data) for event in rest] == whole[after + 1 :]
        assert sentinel.data == SENTINEL


def test_several_readers_follow_one_response_and_none_stops_it(stage: Stage) -> None:
    stage.upstream.enqueue(stalled(after=SOME_TEXT))
    waiting = stage.create()
    readers = [stage.follow(waiting["id"]) for _ in range(4)]
    pieces = [portions(reader) for reader in readers]
    heads = [next(received) for received in pieces]
    readers.pop().close()
    stage.upstream.release()
    wholes = [head + b"".join(received) for head, received in list(zip(heads, pieces, strict=True))[:-1]]
    assert stage.ended(waiting["id"])["status"] == "completed"
    assert len({tuple(map(str, check_stream(whole, status="completed"))) for whole in wholes}) == 1


def test_the_sdk_takes_a_stream_up(stage: Stage) -> None:
    seen = []
    stream = stage.client.responses.create(model="m", input="hello", background=True, stream=True)
    for event in stream:
        seen.append(event)
        if len(seen) == TOLD:
            break
    stream.close()
    assert seen[0].type == "response.created"
    response_id, last = seen[0].response.id, seen[-1].sequence_number
    rest = list(stage.client.responses.retrieve(response_id, stream=True, starting_after=last))
    assert [event.sequence_number for event in [*seen, *rest]] == list(range(len(seen) + len(rest)))
    assert rest[-1].type == "response.completed"


def test_the_helper_of_the_sdk_takes_a_stream_up(stage: Stage) -> None:
    waiting = stage.create(input="hello")
    with stage.client.responses.stream(response_id=waiting["id"], starting_after=5) as stream:
        events = list(stream)
        assert events[0].sequence_number == 6
        assert "You said: hello" in stream.get_final_response().output_text


@pytest.mark.parametrize("wrong", ["-1", "x", "1.5"])
def test_a_place_that_is_no_number_is_refused(stage: Stage, wrong: str) -> None:
    waiting = stage.create()
    answer = stage.gateway.get(f"/responses/{waiting['id']}?stream=true&starting_after={wrong}")
    check_error(answer, 400, param="starting_after")
    stage.ended(waiting["id"])


def test_a_failed_run_ends_its_stream_as_any_other(stage: Stage) -> None:
    stage.upstream.enqueue(failing(after=SOME_TEXT, code="server_error", message="The model broke."))
    events = check_failed_stream(stage.gateway.stream(stage.body()).content)
    response_id = events[0]["response"]["id"]
    assert check_failed_stream(stage.follow(response_id).content) == events
    assert events[-1]["response"] == stage.get(response_id)


def test_another_owner_sees_nothing_of_it(stage: Stage) -> None:
    waiting = stage.create()
    stranger = stage.gateway.new_token(f"stranger-{secrets.token_hex(4)}", "--owner", "stranger")
    for method, path in (("GET", "?stream=true"), ("POST", "/cancel")):
        check_error(stage.gateway.request(method, f"/responses/{waiting['id']}{path}", token=stranger), 404)
    assert stage.ended(waiting["id"])["status"] == "completed"


# --- cancelled --------------------------------------------------------------------------------------------------


def test_a_cancelled_response_stops_its_upstream_and_stays_cancelled(stage: Stage) -> None:
    stage.upstream.enqueue(stalled(after=SOME_TEXT))
    stream = stage.gateway.stream(stage.body())
    pieces, head = portions(stream), b""
    while b"output_text.delta" not in head:
        head += next(pieces)
    response_id = response_id_in(head)
    cancelled = stage.client.responses.cancel(response_id)
    assert (cancelled.status, cancelled.output) == ("cancelled", [])
    stage.upstream.wait_hangup(1)
    events = check_failed_stream(head + b"".join(pieces), "response_cancelled")
    assert events[-1]["response"]["id"] == response_id
    assert stage.client.responses.cancel(response_id).status == "cancelled"
    assert stage.get(response_id)["status"] == "cancelled"


def test_one_that_waits_for_its_upstream_to_answer_at_all_is_stopped_as_well(stage: Stage) -> None:
    stage.upstream.enqueue(silent())
    waiting = stage.create()
    await_post(stage.upstream)
    assert stage.gateway.post(f"/responses/{waiting['id']}/cancel", {}).json()["status"] == "cancelled"
    stage.upstream.wait_hangup(1)


def test_what_was_finished_before_the_cancel_is_kept(stage: Stage) -> None:
    tool = {"type": "function", "name": "look", "parameters": {"type": "object", "properties": {}}}
    stage.upstream.enqueue(stalled(after=12))
    asked = {"reasoning": {"effort": "low", "summary": "auto"}, "tools": [tool]}
    stream = stage.gateway.stream(stage.body(**asked))
    pieces, head = portions(stream), b""
    while b"event: response.output_item.done" not in head:
        head += next(pieces)
    response_id = response_id_in(head)
    kept = stage.gateway.post(f"/responses/{response_id}/cancel", {}).json()
    assert [item["type"] for item in kept["output"]] == ["reasoning"]
    stage.upstream.wait_hangup(1)


def test_cancelling_what_has_ended_returns_it_unchanged(stage: Stage) -> None:
    done = stage.ended(stage.create()["id"])
    assert stage.gateway.post(f"/responses/{done['id']}/cancel", {}).json() == done


def test_deleting_a_running_response_ends_it(stage: Stage) -> None:
    stage.upstream.enqueue(stalled(after=SOME_TEXT))
    waiting = stage.create()
    reader = stage.follow(waiting["id"])
    pieces, head = portions(reader), b""
    while b"output_text.delta" not in head:
        head += next(pieces)
    assert stage.gateway.delete(f"/responses/{waiting['id']}").status_code == 200
    stage.upstream.wait_hangup(1)
    check_failed_stream(head + b"".join(pieces), "response_cancelled")
    with pytest.raises(openai.NotFoundError):
        stage.client.responses.retrieve(waiting["id"])
