"""An acknowledged response is stored, every worker reads it, and an ending worker ends its streams first."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import orjson
import pytest
import requests

from tests.gateway import Gateway, portions
from tests.outages import outage
from tests.relay.conftest import (
    FIRST_KEY,
    SOME_TEXT,
    ChannelPair,
    check_failed_stream,
    eventually,
    read_until,
    response_id_in,
    sent_items,
    text_of,
)
from tests.response_contract import check_error, check_response, check_stream
from tests.sse_reader import Event, follow
from tests.upstream import ScriptedUpstream, stalled
from tests.websocket_client import Socket

BODY = {"model": "m", "input": "Say something"}
#: Two seconds are promised; a loaded machine gets one more.
REVOKED_WITHIN = 3.0


@pytest.fixture
def upstream(upstreams: tuple[ScriptedUpstream, ScriptedUpstream]) -> Iterator[ScriptedUpstream]:
    first, _ = upstreams
    first.reset()
    yield first
    first.reset()


def row(upstream: ScriptedUpstream) -> list[dict[str, object]]:
    return [upstream.channel(models=["m"], **FIRST_KEY)]


@pytest.fixture(scope="module")
def twins(
    tmp_path_factory: pytest.TempPathFactory, upstreams: tuple[ScriptedUpstream, ScriptedUpstream]
) -> Iterator[Gateway]:
    """A gateway with two workers."""
    with Gateway(tmp_path_factory.mktemp("twins"), row(upstreams[0]), workers=2) as gateway:
        yield gateway


@pytest.fixture(scope="module")
def brief(
    tmp_path_factory: pytest.TempPathFactory, upstreams: tuple[ScriptedUpstream, ScriptedUpstream]
) -> Iterator[Gateway]:
    """A gateway that gives its streams three seconds when it has to end."""
    with Gateway(tmp_path_factory.mktemp("brief"), row(upstreams[0]), drain=3) as gateway:
        yield gateway


def ask_elsewhere(gateway: Gateway, body: dict[str, object]) -> requests.Response:
    """On a connection of its own, so that any worker may take it."""
    with requests.Session() as session:
        session.trust_env = False
        headers = {"Authorization": f"Bearer {gateway.token}"}
        return session.post(f"{gateway.base_url}/responses", json=body, headers=headers, timeout=20)


def test_after_the_end_every_worker_can_go_on_at_once(twins: Gateway, upstream: ScriptedUpstream) -> None:
    parent = None
    for turn in range(1, 51):
        with twins.dial({**BODY, "stream": True, "previous_response_id": parent}) as sock:
            received = read_until(sock, b"event: response.completed")
            parent = response_id_in(received)
            answer = ask_elsewhere(twins, {**BODY, "previous_response_id": parent})
        assert answer.status_code == 200, answer.text
        assert len(sent_items(upstream)) == 2 * turn + 1
    assert len(twins.workers) == 2


def test_after_the_body_every_worker_can_go_on_at_once(twins: Gateway, upstream: ScriptedUpstream) -> None:
    parent = None
    for turn in range(30):
        answer = ask_elsewhere(twins, {**BODY, "previous_response_id": parent})
        assert answer.status_code == 200, answer.text
        parent = answer.json()["id"]
        assert len(sent_items(upstream)) == 2 * turn + 1


def test_a_running_response_is_there_but_cannot_be_gone_on_from(channel_pair: ChannelPair) -> None:
    channel_pair.first.enqueue(stalled(SOME_TEXT))
    with channel_pair.dial(stream=True) as sock:
        response_id = response_id_in(read_until(sock, b"output_text.delta"))
        check_response(channel_pair.stored(response_id), status="in_progress")
        answer = channel_pair.post(previous_response_id=response_id)
        check_error(answer, 400, "previous_response_not_ready", "previous_response_id")
        check_error(channel_pair.gateway.post(f"/responses/{response_id}/cancel", {}), 400)
        channel_pair.first.release()
        read_until(sock, b"[DONE]")
    assert channel_pair.post(previous_response_id=response_id).status_code == 200


def test_a_stream_that_is_not_stored_is_not_taken_for_one_that_was_deleted(channel_pair: ChannelPair) -> None:
    channel_pair.first.enqueue(stalled(SOME_TEXT), times=2)
    with channel_pair.dial(stream=True, store=False) as unstored, channel_pair.dial(stream=True) as stored:
        read_until(unstored, b"output_text.delta")
        response_id = response_id_in(read_until(stored, b"output_text.delta"))
        channel_pair.gateway.delete(f"/responses/{response_id}")
        read_until(stored, b"response_cancelled")
        channel_pair.first.release(2)
        assert b"response.completed" in read_until(unstored, b"[DONE]")


def test_the_stored_response_equals_the_stream(channel_pair: ChannelPair) -> None:
    response = check_stream(channel_pair.stream(metadata={"a": "b"}).content)[-1]["response"]
    assert channel_pair.stored(response["id"]) == response


def test_a_row_that_was_ended_elsewhere_just_before_the_commit_fails_the_stream(channel_pair: ChannelPair) -> None:
    channel_pair.first.enqueue(stalled(SOME_TEXT))
    pieces, head = portions(channel_pair.stream()), b""
    while b"output_text.delta" not in head:
        head += next(pieces)
    response_id = response_id_in(head)
    assert channel_pair.gateway.delete(f"/responses/{response_id}").status_code == 200
    # At once: the keeper, which looks every second, would stop the stream before it comes to its end.
    channel_pair.first.release()
    check_failed_stream(head + b"".join(pieces), "response_cancelled")
    assert channel_pair.gateway.get(f"/responses/{response_id}").status_code == 404


def test_an_end_that_cannot_be_stored_is_never_sent(twins: Gateway, upstream: ScriptedUpstream) -> None:
    upstream.always(stalled(SOME_TEXT))
    answer = twins.stream(BODY)
    events = follow(portions(answer))
    assert [next(events).name for _ in range(SOME_TEXT)][-1] == "response.output_text.delta"
    upstream.always()
    with outage(twins.database_url):
        upstream.release()
        unstreamed: list[requests.Response] = []
        asking = threading.Thread(target=lambda: unstreamed.append(ask_elsewhere(twins, dict(BODY))))
        asking.start()
        names = [event.name for event in events]
        asking.join()
    assert names[-3:] == ["error", "response.failed", None]
    assert "response.completed" not in names
    check_error(unstreamed[0], 503)
    assert int(unstreamed[0].headers["Retry-After"]) >= 1
    assert twins.post("/responses", BODY).status_code == 200


def test_an_acknowledged_response_survives_a_power_cut(twins: Gateway, upstream: ScriptedUpstream) -> None:
    responses = [check_stream(twins.stream(BODY).content)[-1]["response"] for _ in range(5)]
    upstream.enqueue(stalled(SOME_TEXT))
    with twins.dial({**BODY, "stream": True}) as sock:
        running = response_id_in(read_until(sock, b"output_text.delta"))
        twins.kill()
    twins.start()
    for response in responses:
        assert twins.get(f"/responses/{response['id']}").json() == response
        assert twins.post("/responses", {**BODY, "previous_response_id": response["id"]}).status_code == 200
    answer = twins.post("/responses", {**BODY, "previous_response_id": running})
    check_error(answer, 400, param="previous_response_id")


def test_a_revoked_token_is_refused_soon(brief: Gateway, upstream: ScriptedUpstream) -> None:
    token = brief.new_token("short-lived")
    upstream.enqueue(stalled(SOME_TEXT))
    stream = brief.stream(BODY, token=token)
    with Socket(brief, token) as sock:
        assert sock.answer()
        brief.command("tokens", "revoke", "short-lived")
        create = partial(brief.post, "/responses", BODY, token=token)
        eventually(lambda: create().status_code == 401, "the refusal", REVOKED_WITHIN)
        # The answer from memory was the same one for both, so it has ended for both.
        assert sock.refused()["code"] == "invalid_api_key"
        assert sock.ended() == ([], 1008)
        upstream.release()
        check_stream(stream.content, status="completed")
    wrong = brief.post("/responses", BODY, token="gw_no-such-token")
    assert wrong.json()["error"]["code"] == "invalid_api_key"


def test_an_ending_worker_ends_its_streams_and_stores_them(brief: Gateway, upstream: ScriptedUpstream) -> None:
    upstream.always(stalled(SOME_TEXT))
    streams = [follow_all(brief) for _ in range(8)]
    for _, events in streams:
        assert [next(events).name for _ in range(SOME_TEXT)][-1] == "response.output_text.delta"
    upstream.wait_for_request(8)
    stopping = threading.Thread(target=brief.stop)
    stopping.start()
    ended = []
    for _, events in streams:
        rest = list(events)
        assert [event.name for event in rest] == ["error", "response.failed", None]
        failed = orjson.loads(rest[1].data)["response"]
        assert failed["error"]["code"] == "server_shutting_down"
        ended.append(failed)
    stopping.join()
    upstream.always()
    brief.start()
    for failed in ended:
        stored = brief.get(f"/responses/{failed['id']}").json()
        check_response(stored, status="failed", error=failed["error"])
        assert text_of(stored) == "You said:"


def follow_all(gateway: Gateway) -> tuple[requests.Response, Iterator[Event]]:
    answer = gateway.stream(BODY)
    return answer, follow(portions(answer))


def test_a_stream_that_can_finish_in_time_does(brief: Gateway, upstream: ScriptedUpstream) -> None:
    upstream.enqueue(stalled(SOME_TEXT))
    answer = brief.stream(BODY)
    upstream.wait_for_request()
    stopping = threading.Thread(target=brief.stop)
    stopping.start()
    upstream.release()
    check_stream(answer.content, status="completed")
    stopping.join()


def test_more_than_a_worker_can_hold_is_refused_at_once(tmp_path: Path, upstream: ScriptedUpstream) -> None:
    upstream.always(stalled(SOME_TEXT))
    with Gateway(tmp_path, row(upstream), threads=8) as gateway:
        socks = []
        refused = None
        while refused is None:
            assert len(socks) < 8, "eight threads hold eight streams: none is left to answer"
            sock = gateway.dial({**BODY, "stream": True})
            socks.append(sock)
            received = read_until(sock, b"\r\n\r\n")
            refused = received if b" 503 " in received.split(b"\r\n")[0] else None
        assert b"retry-after: " in refused.lower()
        assert len(socks) >= 4
        assert requests.get(f"{gateway.url}/healthz", timeout=5).status_code == 200
        check_error(gateway.post("/responses", BODY, timeout=5), 503)
        upstream.always()
        upstream.release(len(socks))
        for sock in socks[:-1]:
            sock.close()
        eventually(lambda: gateway.post("/responses", BODY).status_code == 200, "a place")
        socks[-1].close()
