"""Background responses as clients see them: created, polled, streamed, resumed, cancelled."""

from __future__ import annotations

import secrets
from typing import Any

import openai
import orjson
import pytest

from tests.gateway import portions
from tests.relay.background.conftest import FORMATS, BackgroundGateway, await_post
from tests.relay.conftest import SOME_TEXT, check_failed_stream, eventually, response_id_in, text_of
from tests.response_contract import check_error, check_response, check_stream
from tests.sse_reader import SENTINEL, follow
from tests.store import rows
from tests.stored_data import select
from tests.upstream import Script, failing, refusal, respelled, silent, stalled

JSON = dict[str, Any]
OPENING = ["response.created", "response.queued", "response.in_progress"]
#: Three events of the gateway and those of an item with some text.
EVENTS_OF_SOME_TEXT = 3 + SOME_TEXT - 2


@pytest.fixture(params=FORMATS)
def anyway(request: pytest.FixtureRequest, background_gateway: BackgroundGateway) -> BackgroundGateway:
    """A model of each format."""
    return background_gateway.on(request.param)


# --- created and polled -----------------------------------------------------------------------------------------


def test_a_response_is_answered_at_once_and_made_later(anyway: BackgroundGateway) -> None:
    waiting = anyway.create(metadata={"k": "v"})
    assert (waiting["output"], waiting["usage"]) == ([], None)
    done = check_response(anyway.ended(waiting["id"]), status="completed", background=True)
    assert text_of(done)
    assert done["metadata"] == {"k": "v"}
    assert done["created_at"] == waiting["created_at"]


def test_the_sdk_polls_it(background_gateway: BackgroundGateway) -> None:
    created = background_gateway.client.responses.create(model="m", input="hello", background=True)
    assert created.status == "queued"
    assert created.background is True
    background_gateway.ended(created.id)
    assert "You said: hello" in background_gateway.client.responses.retrieve(created.id).output_text


def test_the_upstream_gets_a_request_for_a_stream_and_never_for_a_background_response(
    background_gateway: BackgroundGateway,
) -> None:
    background_gateway.ended(background_gateway.create(background_options={"completion_window": "soonest"})["id"])
    (body,) = background_gateway.upstream.bodies
    assert body["stream"] is True
    assert not {"background", "background_options"} & body.keys()


@pytest.mark.parametrize("streamed", [False, True])
def test_without_the_store_it_is_refused(background_gateway: BackgroundGateway, streamed: bool) -> None:
    answer = background_gateway.gateway.post("/responses", background_gateway.body(store=False, stream=streamed))
    error = check_error(answer, 400, param="background")
    assert error["message"] == "background can only be used when `store` is true"


def test_a_token_that_stores_nothing_is_refused(background_gateway: BackgroundGateway) -> None:
    token = background_gateway.gateway.new_token(f"keepless-{secrets.token_hex(4)}", "--no-store")
    check_error(
        background_gateway.gateway.post("/responses", background_gateway.body(), token=token), 400, param="background"
    )


def test_a_request_without_a_channel_is_refused_at_once(background_gateway: BackgroundGateway) -> None:
    check_error(
        background_gateway.gateway.post("/responses", background_gateway.body(model="nobody")),
        400,
        code="model_not_found",
    )
    parent = {"previous_response_id": "resp_" + "0" * 48}
    check_error(
        background_gateway.gateway.post("/responses", background_gateway.body(**parent)),
        400,
        code="previous_response_not_found",
    )


def test_a_refusal_of_the_upstream_is_how_it_ends(background_gateway: BackgroundGateway) -> None:
    background_gateway.upstream.enqueue(refusal(400, "That is not allowed.", code="invalid_prompt"))
    ended = check_response(background_gateway.ended(background_gateway.create()["id"]), status="failed")
    assert ended["error"]["message"] == "That is not allowed."


def test_a_failure_in_the_middle_keeps_the_output_before(background_gateway: BackgroundGateway) -> None:
    background_gateway.upstream.enqueue(failing(after=SOME_TEXT, code="server_error"))
    ended = check_response(background_gateway.ended(background_gateway.create()["id"]), status="failed")
    assert text_of(ended)


def in_delta(number: int, spelling: bytes) -> Script:
    """The delta of that number begins with these bytes; its event is passed on unread."""

    def change(body: bytes) -> bytes:
        deltas = body.split(b'"delta":"')
        deltas[number] = spelling + deltas[number]
        return b'"delta":"'.join(deltas)

    return respelled(change)


def test_an_event_that_is_no_json_is_the_upstreams_fault(background_gateway: BackgroundGateway) -> None:
    background_gateway.upstream.enqueue(in_delta(3, rb"\q"))
    ended = check_response(background_gateway.ended(background_gateway.create()["id"]), status="failed")
    assert ended["error"]["code"] == "upstream_protocol_error"


def test_half_a_character_in_an_event_is_replaced(background_gateway: BackgroundGateway) -> None:
    background_gateway.upstream.enqueue(in_delta(3, rb"\ud83d"))
    waiting = background_gateway.create()
    check_response(background_gateway.ended(waiting["id"]), status="completed")
    deltas = [
        event for event in follow([background_gateway.follow(waiting["id"]).content]) if "delta" in (event.name or "")
    ]
    assert any("\N{REPLACEMENT CHARACTER}" in orjson.loads(event.data)["delta"] for event in deltas)


@pytest.mark.parametrize("after", [0, EVENTS_OF_SOME_TEXT])
def test_events_that_cannot_be_read_end_a_stream_all_the_same(
    background_gateway: BackgroundGateway, after: int
) -> None:
    waiting = background_gateway.create()
    background_gateway.ended(waiting["id"])
    damage = "UPDATE event SET body = ? WHERE response = (SELECT pk FROM response WHERE id = ?)"
    rows.execute(background_gateway.gateway.database_url, damage, ("data: {\n\n", waiting["id"]))
    *_, error = follow([background_gateway.follow(waiting["id"], after).content])
    assert error.name == "error"
    assert orjson.loads(error.data)["error"]["code"] == "server_error"


def test_a_conversation_goes_on_from_it_and_in_it(anyway: BackgroundGateway) -> None:
    first = anyway.ended(anyway.create(input="My name is Ada.")["id"])
    second = anyway.ended(anyway.create(input="And now?", previous_response_id=first["id"])["id"])
    assert second["previous_response_id"] == first["id"]
    items = anyway.gateway.get(f"/responses/{second['id']}/input_items?order=asc").json()["data"]
    assert len(items) == 3


def test_nothing_goes_on_from_what_has_not_ended(background_gateway: BackgroundGateway) -> None:
    background_gateway.upstream.enqueue(stalled(after=SOME_TEXT))
    running = background_gateway.create()
    refused = background_gateway.gateway.post(
        "/responses", background_gateway.body(previous_response_id=running["id"], background=False)
    )
    check_error(refused, 400, code="previous_response_not_ready")
    await_post(background_gateway.upstream)
    background_gateway.upstream.release()
    assert background_gateway.ended(running["id"])["status"] == "completed"


def test_a_context_over_the_threshold_is_compacted_first(background_gateway: BackgroundGateway) -> None:
    parent = background_gateway.ended(background_gateway.create(input="word " * 400)["id"])
    settings = {"context_management": [{"type": "compaction", "compact_threshold": 100}]}
    waiting = background_gateway.create(previous_response_id=parent["id"], stream=False, **settings)
    done = background_gateway.ended(waiting["id"])
    assert [item["type"] for item in done["output"]] == ["compaction", "message"]
    check_stream(background_gateway.follow(waiting["id"]).content, status="completed")


def test_a_trigger_is_compacted_in_the_background(background_gateway: BackgroundGateway) -> None:
    message = {"type": "message", "role": "user", "content": "word " * 400}
    waiting = background_gateway.create(input=[message, {"type": "compaction_trigger"}])
    assert [item["type"] for item in background_gateway.ended(waiting["id"])["output"]] == ["compaction"]


# --- streamed and taken up again --------------------------------------------------------------------------------


def test_it_is_streamed_in_order_and_ends_as_it_is_stored(anyway: BackgroundGateway) -> None:
    events = check_stream(anyway.gateway.stream(anyway.body()).content, status="completed")
    assert [event["type"] for event in events[:3]] == OPENING
    assert events[-1]["response"] == anyway.get(events[0]["response"]["id"])


def test_the_events_come_while_they_are_made(background_gateway: BackgroundGateway) -> None:
    background_gateway.upstream.enqueue(stalled(after=SOME_TEXT))
    seen = []
    for event in follow(portions(background_gateway.gateway.stream(background_gateway.body()))):
        seen.append(event.name)
        if len(seen) == EVENTS_OF_SOME_TEXT:
            # The upstream sends no more until it is released.
            background_gateway.upstream.release()
    assert seen[: len(OPENING)] == OPENING
    assert "response.completed" in seen


def test_a_stream_is_taken_up_after_any_event(background_gateway: BackgroundGateway) -> None:
    waiting = background_gateway.create()
    whole = check_stream(background_gateway.follow(waiting["id"]).content, status="completed")
    check_every_place(background_gateway, waiting["id"], whole)


def test_a_failed_stream_is_taken_up_after_any_event(background_gateway: BackgroundGateway) -> None:
    background_gateway.upstream.enqueue(failing(after=SOME_TEXT, code="server_error"))
    waiting = background_gateway.create()
    check_every_place(
        background_gateway, waiting["id"], check_failed_stream(background_gateway.follow(waiting["id"]).content)
    )


def check_every_place(background_gateway: BackgroundGateway, response_id: str, whole: list[JSON]) -> None:
    """A reader gets what it has not seen: from behind the error the end alone, from behind the end nothing more."""
    for after in range(len(whole) + 2):
        *rest, sentinel = follow([background_gateway.follow(response_id, after).content])
        assert [orjson.loads(event.data) for event in rest] == whole[after + 1 :]
        assert sentinel.data == SENTINEL


def test_several_readers_follow_one_response_and_none_stops_it(background_gateway: BackgroundGateway) -> None:
    background_gateway.upstream.enqueue(stalled(after=SOME_TEXT))
    waiting = background_gateway.create()
    readers = [background_gateway.follow(waiting["id"]) for _ in range(4)]
    pieces = [portions(reader) for reader in readers]
    heads = [next(received) for received in pieces]
    readers.pop().close()
    background_gateway.upstream.release()
    wholes = [head + b"".join(received) for head, received in list(zip(heads, pieces, strict=True))[:-1]]
    assert background_gateway.ended(waiting["id"])["status"] == "completed"
    assert len({tuple(map(str, check_stream(whole, status="completed"))) for whole in wholes}) == 1


def test_the_sdk_takes_a_stream_up(background_gateway: BackgroundGateway) -> None:
    seen = []
    stream = background_gateway.client.responses.create(model="m", input="hello", background=True, stream=True)
    for event in stream:
        seen.append(event)
        if len(seen) == EVENTS_OF_SOME_TEXT:
            break
    stream.close()
    assert seen[0].type == "response.created"
    response_id, last = seen[0].response.id, seen[-1].sequence_number
    rest = list(background_gateway.client.responses.retrieve(response_id, stream=True, starting_after=last))
    assert [event.sequence_number for event in [*seen, *rest]] == list(range(len(seen) + len(rest)))
    assert rest[-1].type == "response.completed"


def test_the_helper_of_the_sdk_takes_a_stream_up(background_gateway: BackgroundGateway) -> None:
    waiting = background_gateway.create(input="hello")
    with background_gateway.client.responses.stream(response_id=waiting["id"], starting_after=5) as stream:
        events = list(stream)
        assert events[0].sequence_number == 6
        assert "You said: hello" in stream.get_final_response().output_text


@pytest.mark.parametrize("wrong", ["-1", "x", "1.5"])
def test_a_place_that_is_no_number_is_refused(background_gateway: BackgroundGateway, wrong: str) -> None:
    waiting = background_gateway.create()
    answer = background_gateway.gateway.get(f"/responses/{waiting['id']}?stream=true&starting_after={wrong}")
    check_error(answer, 400, param="starting_after")
    background_gateway.ended(waiting["id"])


def test_a_failed_run_ends_its_stream_as_any_other(background_gateway: BackgroundGateway) -> None:
    background_gateway.upstream.enqueue(failing(after=SOME_TEXT, code="server_error", message="The model broke."))
    events = check_failed_stream(background_gateway.gateway.stream(background_gateway.body()).content)
    response_id = events[0]["response"]["id"]
    assert check_failed_stream(background_gateway.follow(response_id).content) == events
    assert events[-1]["response"] == background_gateway.get(response_id)


def test_another_owner_sees_nothing_of_it(background_gateway: BackgroundGateway) -> None:
    waiting = background_gateway.create()
    stranger = background_gateway.gateway.new_token(f"stranger-{secrets.token_hex(4)}", "--owner", "stranger")
    for method, path in (("GET", "?stream=true"), ("POST", "/cancel")):
        check_error(
            background_gateway.gateway.request(method, f"/responses/{waiting['id']}{path}", token=stranger), 404
        )
    assert background_gateway.ended(waiting["id"])["status"] == "completed"


# --- cancelled --------------------------------------------------------------------------------------------------


def test_a_cancelled_response_stops_its_upstream_and_stays_cancelled(background_gateway: BackgroundGateway) -> None:
    background_gateway.upstream.enqueue(stalled(after=SOME_TEXT))
    stream = background_gateway.gateway.stream(background_gateway.body())
    pieces, head = portions(stream), b""
    while b"output_text.delta" not in head:
        head += next(pieces)
    response_id = response_id_in(head)
    url, named = background_gateway.gateway.database_url, "SELECT channel FROM response WHERE id = ?"
    eventually(lambda: select(url, named, (response_id,))[0]["channel"], "the channel in the row")
    cancelled = background_gateway.client.responses.cancel(response_id)
    assert (cancelled.status, cancelled.output) == ("cancelled", [])
    background_gateway.upstream.wait_hangup(1)
    events = check_failed_stream(head + b"".join(pieces), "response_cancelled")
    assert events[-1]["response"]["id"] == response_id
    assert background_gateway.client.responses.cancel(response_id).status == "cancelled"
    assert background_gateway.get(response_id)["status"] == "cancelled"


def test_one_that_waits_for_its_upstream_to_answer_at_all_is_stopped_as_well(
    background_gateway: BackgroundGateway,
) -> None:
    background_gateway.upstream.enqueue(silent())
    waiting = background_gateway.create()
    await_post(background_gateway.upstream)
    assert background_gateway.gateway.post(f"/responses/{waiting['id']}/cancel", {}).json()["status"] == "cancelled"
    background_gateway.upstream.wait_hangup(1)


def test_items_finished_before_the_cancel_are_stored(background_gateway: BackgroundGateway) -> None:
    tool = {"type": "function", "name": "look", "parameters": {"type": "object", "properties": {}}}
    background_gateway.upstream.enqueue(stalled(after=12))
    settings = {"reasoning": {"effort": "low", "summary": "auto"}, "tools": [tool]}
    stream = background_gateway.gateway.stream(background_gateway.body(**settings))
    pieces, head = portions(stream), b""
    while b"event: response.output_item.done" not in head:
        head += next(pieces)
    response_id = response_id_in(head)
    cancelled = background_gateway.gateway.post(f"/responses/{response_id}/cancel", {}).json()
    assert [item["type"] for item in cancelled["output"]] == ["reasoning"]
    background_gateway.upstream.wait_hangup(1)


def test_cancelling_what_has_ended_returns_it_unchanged(background_gateway: BackgroundGateway) -> None:
    done = background_gateway.ended(background_gateway.create()["id"])
    assert background_gateway.gateway.post(f"/responses/{done['id']}/cancel", {}).json() == done


def test_deleting_a_running_response_ends_it(background_gateway: BackgroundGateway) -> None:
    background_gateway.upstream.enqueue(stalled(after=SOME_TEXT))
    waiting = background_gateway.create()
    reader = background_gateway.follow(waiting["id"])
    pieces, head = portions(reader), b""
    while b"output_text.delta" not in head:
        head += next(pieces)
    assert background_gateway.gateway.delete(f"/responses/{waiting['id']}").status_code == 200
    background_gateway.upstream.wait_hangup(1)
    check_failed_stream(head + b"".join(pieces), "response_cancelled")
    with pytest.raises(openai.NotFoundError):
        background_gateway.client.responses.retrieve(waiting["id"])


@pytest.mark.parametrize("stream", [False, True], ids=["poll", "stream"])
def test_a_compaction_that_the_client_did_not_ask_for_is_not_shown(
    background_gateway: BackgroundGateway, stream: bool
) -> None:
    small, last = background_gateway.on("small"), None
    for _ in range(2):
        keys = {"input": "word " * 1000, "previous_response_id": last, "stream": stream}
        if stream:
            with small.gateway.stream(small.body(**keys)) as answer:
                response = check_stream(answer.content)[-1]["response"]
        else:
            response = small.ended(small.create(**keys)["id"])
        last = response["id"]
        assert [item["type"] for item in response["output"]] == ["message"]
        assert small.get(last)["output"] == response["output"]
    assert any("Summarise the conversation above" in str(body) for body in small.upstream.bodies)
