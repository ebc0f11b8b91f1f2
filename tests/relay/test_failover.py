"""Which failures another channel makes good, which the client gets, and what no error shows."""

from __future__ import annotations

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.gateway import Gateway
from tests.ports import closed_port
from tests.relay.conftest import (
    FIRST_KEY,
    PROMPTLY,
    SOME_TEXT,
    ChannelPair,
    check_failed_stream,
    eventually,
    read_until,
    response_id_in,
)
from tests.response_contract import check_error, check_response, check_stream
from tests.upstream import (
    RESET,
    Script,
    ScriptedUpstream,
    black_hole,
    dropped,
    ended,
    failing,
    failing_at_once,
    garbage,
    going_stale,
    html,
    rate_limited,
    raw,
    redirect,
    refusal,
    silent,
    slammed,
    sse,
    stalled,
)

CANARY = "canary: https://10.0.0.7/v1 sk-canary-of-the-upstream"
REFUSALS: dict[str, Script] = {
    "429": rate_limited(),
    "429 quota": rate_limited(None, "insufficient_quota"),
    **{str(status): refusal(status, CANARY) for status in (500, 502, 503, 504, 529, 401, 403)},
    "404 model": refusal(404, "The model does not exist.", "model_not_found"),
    "redirect": redirect("http://127.0.0.1:9/elsewhere"),
    "HTML 200": html(),
    "HTML 502": html(502),
    "no JSON": raw(200, b"{half", "application/json"),
    "a list": raw(200, b"[]", "application/json"),
    "empty 200": raw(200, b""),
    "another object": raw(200, b'{"object":"list","data":[]}'),
    "204": raw(204),
}
BEFORE_OUTPUT: dict[str, Script] = {
    "error at once": failing_at_once(),
    "failed after created": failing(1),
    "failed after in_progress": failing(2),
    "dropped at once": dropped(0),
    "dropped after created": dropped(1),
    "reset after in_progress": dropped(2, RESET),
    "ended at once": ended(0),
    "ended after in_progress": ended(2),
    "garbage at once": garbage(0),
    "garbage after created": garbage(1),
    "no events": sse(b"hello\n\n" * 10),
    "only comments": sse(b": hello\n\n" * 10),
    "only the sentinel": sse(b"data: [DONE]\n\n"),
    "slammed": slammed(),
    "reset": slammed(RESET),
}


@pytest.fixture(autouse=True)
def _budget(request: pytest.FixtureRequest) -> None:
    """The retries that a test may need."""
    for name in {"channel_pair", "steady_pair"} & set(request.fixturenames):
        channel_pair: ChannelPair = request.getfixturevalue(name)
        channel_pair.earn_retries()


def answered(answer: requests.Response, streamed: bool) -> dict[str, Any]:
    assert answer.status_code == 200, answer.text
    response = check_stream(answer.content)[-1]["response"] if streamed else answer.json()
    return check_response(response, status="completed")


def check_nothing_leaks(channel_pair: ChannelPair, answer: requests.Response) -> None:
    shown = answer.text + str(answer.headers)
    for secret in ("canary-key", "sk-", "10.0.0.7", str(channel_pair.first.port), str(channel_pair.second.port)):
        assert secret not in shown


# --- another channel makes it good ------------------------------------------------------------------------------


@pytest.mark.parametrize("streamed", [True, False])
@pytest.mark.parametrize("refused", REFUSALS)
def test_a_refusal_that_is_not_the_clients_fault_is_made_good_elsewhere(
    channel_pair: ChannelPair, refused: str, streamed: bool
) -> None:
    channel_pair.first.enqueue(REFUSALS[refused])
    answered(channel_pair.ask(streamed), streamed)
    assert (len(channel_pair.first.requests), len(channel_pair.second.requests)) == (1, 1)


@pytest.mark.parametrize("fault", BEFORE_OUTPUT)
def test_a_stream_that_fails_before_its_first_output_goes_on_elsewhere(channel_pair: ChannelPair, fault: str) -> None:
    channel_pair.first.enqueue(BEFORE_OUTPUT[fault])
    response = answered(channel_pair.stream(), True)
    assert (len(channel_pair.first.requests), len(channel_pair.second.requests)) == (1, 1)
    assert channel_pair.stored(response["id"])["output"] == response["output"]


def test_a_head_that_was_sent_is_not_sent_again(channel_pair: ChannelPair) -> None:
    """The first channel is held behind its own beginning; the client has ours; then it breaks."""
    channel_pair.first.enqueue(dropped(2), stalled(1))
    with channel_pair.dial(stream=True) as sock:
        head = read_until(sock, b"response.in_progress")
        channel_pair.first.release()
        rest = read_until(sock, b"[DONE]")
    assert head.count(b"event: response.created") == 1
    assert b"event: response.created" not in rest
    assert b"response.failed" not in rest
    assert response_id_in(head) in rest.decode()
    assert len(channel_pair.second.requests) == 1
    numbers = [int(part.split(b",")[0]) for part in (head + rest).split(b'"sequence_number":')[1:]]
    assert numbers == list(range(len(numbers)))


def test_the_request_is_the_same_on_every_channel(channel_pair: ChannelPair) -> None:
    channel_pair.first.enqueue(REFUSALS["500"])
    channel_pair.post(metadata={"a": "b"}, temperature=0.5)
    assert channel_pair.first.bodies == channel_pair.second.bodies
    assert channel_pair.first.requests[0].headers["authorization"] == "Bearer canary-key-of-first"
    assert channel_pair.second.requests[0].headers["authorization"] == "Bearer canary-key-of-second"


@pytest.mark.parametrize("streamed", [True, False])
def test_connections_that_cannot_be_made_are_made_elsewhere(tmp_path: Path, streamed: bool) -> None:
    with ScriptedUpstream() as good, black_hole() as hole, ExitStack() as stack:
        refused = {"base_url": f"http://127.0.0.1:{closed_port()}/v1"}
        gone = {"base_url": "http://no-such-host.invalid/v1"}
        channels = [
            good.channel("refused", models=["refused"], priority=9, **refused),
            good.channel("hole", models=["hole"], priority=9, timeout={"connect": 1}) | {"base_url": hole},
            good.channel("gone", models=["gone"], priority=9) | gone,
            good.channel("good", models=["refused", "hole", "gone"]),
            good.channel("only", models=["only"]) | refused,
        ]
        gateway = stack.enter_context(Gateway(tmp_path, channels))
        for model in ("refused", "hole", "gone"):
            body = {"model": model, "input": "x"}
            answered(gateway.stream(body) if streamed else gateway.post("/responses", body), streamed)
        last = gateway.post("/responses", {"model": "only", "input": "x", "stream": streamed})
        check_error(last, code="upstream_unavailable")
        assert last.status_code in (502, 503)
        assert refused["base_url"] not in last.text


# --- errors of the client ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("streamed", [True, False])
def test_the_upstreams_400_is_the_clients_with_its_sentence(channel_pair: ChannelPair, streamed: bool) -> None:
    sentence = "Unsupported parameter: 'temperature' is not supported with this model."
    channel_pair.first.enqueue(refusal(400, sentence, "unsupported_parameter", "temperature"))
    error = check_error(
        channel_pair.ask(streamed), 400, "unsupported_parameter", "temperature", "invalid_request_error"
    )
    assert error["message"] == sentence
    assert channel_pair.second.requests == []


@pytest.mark.parametrize("streamed", [True, False])
def test_a_400_does_not_make_a_channel_rest(channel_pair: ChannelPair, streamed: bool) -> None:
    channel_pair.first.enqueue(refusal(400, "No."), times=8)
    for _ in range(8):
        assert channel_pair.ask(streamed).status_code == 400
    answered(channel_pair.ask(streamed), streamed)
    assert channel_pair.second.requests == []


TOO_LONG = "Your input exceeds the context window of this model. Please adjust your input and try again."


@pytest.mark.parametrize("streamed", [True, False])
def test_too_long_a_context_is_the_clients_400(channel_pair: ChannelPair, streamed: bool) -> None:
    channel_pair.first.enqueue(refusal(400, TOO_LONG, "context_length_exceeded", "input"))
    assert check_error(channel_pair.ask(streamed), 400, "context_length_exceeded", "input")["message"] == TOO_LONG
    assert channel_pair.second.requests == []


def test_too_long_a_context_as_the_first_event_is_the_clients_400(channel_pair: ChannelPair) -> None:
    channel_pair.first.enqueue(failing_at_once("context_length_exceeded", TOO_LONG))
    assert check_error(channel_pair.stream(), 400, "context_length_exceeded")["message"] == TOO_LONG
    assert channel_pair.second.requests == []


def test_too_long_a_context_after_the_head_fails_the_stream_at_once(channel_pair: ChannelPair) -> None:
    channel_pair.first.enqueue(failing(2, "context_length_exceeded", TOO_LONG))
    answer = channel_pair.stream()
    if answer.status_code == 200:
        assert check_failed_stream(answer.content, "context_length_exceeded")[-2]["error"]["message"] == TOO_LONG
    else:
        check_error(answer, 400, "context_length_exceeded")
    assert channel_pair.second.requests == []


@pytest.mark.parametrize("streamed", [True, False])
@pytest.mark.parametrize("refused", [name for name in REFUSALS if name not in ("429", "429 quota", "404 model")])
def test_when_all_channels_fail_the_client_learns_that_and_nothing_else(
    channel_pair: ChannelPair, refused: str, streamed: bool
) -> None:
    for upstream in (channel_pair.first, channel_pair.second):
        upstream.enqueue(REFUSALS[refused])
    answer = channel_pair.ask(streamed)
    assert check_error(answer)["type"] in ("server_error", "service_unavailable_error")
    assert answer.status_code in (502, 503, 504)
    assert answer.headers["x-should-retry"] == "false"
    check_nothing_leaks(channel_pair, answer)


@pytest.mark.parametrize("fault", BEFORE_OUTPUT)
def test_when_all_streams_fail_before_their_output_the_client_learns_it(channel_pair: ChannelPair, fault: str) -> None:
    for upstream in (channel_pair.first, channel_pair.second):
        upstream.enqueue(BEFORE_OUTPUT[fault])
    answer = channel_pair.stream()
    if answer.status_code == 200:
        failed = check_failed_stream(answer.content)[-1]["response"]
        assert channel_pair.stored(failed["id"])["status"] == "failed"
    else:
        check_error(answer, type="server_error")
        assert answer.status_code == 502
    assert (len(channel_pair.first.requests), len(channel_pair.second.requests)) == (1, 1)


@pytest.mark.parametrize("streamed", [True, False])
def test_a_model_that_no_upstream_has_is_not_found(channel_pair: ChannelPair, streamed: bool) -> None:
    for upstream in (channel_pair.first, channel_pair.second):
        upstream.enqueue(REFUSALS["404 model"])
    check_error(channel_pair.ask(streamed), 404, "model_not_found", type="invalid_request_error")


def test_redirects_are_not_followed_and_keys_not_handed_on(channel_pair: ChannelPair) -> None:
    with ScriptedUpstream() as trap:
        for status in (301, 302, 303, 307, 308):
            channel_pair.first.enqueue(redirect(f"{trap.base_url}/responses", status))
            assert channel_pair.post().status_code == 200
        assert trap.requests == []


@pytest.mark.parametrize("streamed", [True, False])
def test_an_unanswered_request_is_not_sent_twice(short_timeouts: ChannelPair, streamed: bool) -> None:
    short_timeouts.first.enqueue(silent())
    check_error(short_timeouts.ask(streamed), 504, "upstream_timeout")
    short_timeouts.first.wait_hangup()
    assert short_timeouts.second.requests == []


@pytest.mark.parametrize("streamed", [True, False])
def test_an_unanswered_request_is_sent_elsewhere_where_the_table_allows_it(
    steady_pair: ChannelPair, streamed: bool
) -> None:
    steady_pair.first.enqueue(silent())
    answered(steady_pair.on("resending").ask(streamed), streamed)
    assert len(steady_pair.second.requests) == 1


# --- limits and rest --------------------------------------------------------------------------------------------

WAITS = {
    "seconds": "7",
    "a date": "in 40 s",
    "a date gone by": "Wed, 21 Oct 2015 07:28:00 GMT",
    "zero": "0",
    "negative": "-5",
    "a fraction": "1.5",
    "huge": "1000000000",
    "infinite": "inf",
    "not a number": "nan",
    "words": "soon",
    "empty": "",
    "absent": None,
}


def limited(wait: str) -> Script:
    soon = format_datetime(datetime.now(UTC) + timedelta(seconds=40), usegmt=True)
    return rate_limited(soon if wait == "a date" else WAITS[wait])


@pytest.mark.parametrize("wait", WAITS)
def test_a_limit_of_all_channels_gives_a_sensible_retry_after(channel_pair: ChannelPair, wait: str) -> None:
    for upstream in (channel_pair.first, channel_pair.second):
        upstream.enqueue(limited(wait))
    answer = channel_pair.post()
    check_error(answer, 429, "rate_limit_exceeded")
    assert 1 <= int(answer.headers["Retry-After"]) <= 60
    assert answer.headers.get("x-should-retry") != "true"


@pytest.mark.parametrize("wait", ["seconds", "a date", "huge"])
def test_a_limited_channel_enters_cooldown_and_then_gets_no_request(channel_pair: ChannelPair, wait: str) -> None:
    channel_pair.first.enqueue(limited(wait))
    answered(channel_pair.post(), False)
    answered(channel_pair.post(), False)
    assert (len(channel_pair.first.requests), len(channel_pair.second.requests)) == (1, 2)
    channel_pair.second.enqueue(limited(wait))
    channel_pair.post()
    answer = channel_pair.post()
    check_error(answer, 503, type="service_unavailable_error")
    assert 1 <= int(answer.headers["Retry-After"]) <= 60
    assert (len(channel_pair.first.requests), len(channel_pair.second.requests)) == (1, 3)
    check_nothing_leaks(channel_pair, answer)


def test_a_channel_is_tried_again_after_its_cooldown(channel_pair: ChannelPair) -> None:
    channel_pair.first.enqueue(rate_limited("1"))
    answered(channel_pair.post(), False)
    eventually(
        lambda: channel_pair.post().status_code == 200 and len(channel_pair.first.requests) > 1, "the rest to end"
    )


def test_a_used_up_quota_has_its_code_and_a_longer_cooldown_than_requested(channel_pair: ChannelPair) -> None:
    for upstream in (channel_pair.first, channel_pair.second):
        upstream.enqueue(rate_limited("1", "insufficient_quota"))
    check_error(channel_pair.post(), 429, "insufficient_quota")
    answer = channel_pair.post()
    check_error(answer, 503)
    assert int(answer.headers["Retry-After"]) > 5


def test_a_channel_that_keeps_failing_enters_cooldown_and_the_next_one_serves(channel_pair: ChannelPair) -> None:
    channel_pair.first.always(REFUSALS["500"])
    for _ in range(10):
        answered(channel_pair.post(), False)
    assert len(channel_pair.first.requests) == 5


def test_a_key_that_is_not_taken_is_not_tried_again_at_once(channel_pair: ChannelPair) -> None:
    channel_pair.first.always(REFUSALS["401"])
    for _ in range(4):
        answered(channel_pair.post(), False)
    assert len(channel_pair.first.requests) == 1


def test_a_storm_of_failures_does_not_multiply(steady_pair: ChannelPair) -> None:
    """Channels that do not rest: only the budget bounds what is added."""
    for upstream in (steady_pair.first, steady_pair.second):
        upstream.always(REFUSALS["500"])
    request_count = 150
    with ThreadPoolExecutor(16) as pool:
        statuses = Counter(
            answer.status_code for answer in pool.map(lambda _: steady_pair.post(), range(request_count))
        )
    assert set(statuses) <= {502, 503}
    sent = len(steady_pair.first.requests) + len(steady_pair.second.requests)
    assert request_count <= sent <= request_count * 1.2 + 12


def test_a_full_channel_is_passed_over_and_when_all_are_full_the_client_waits(steady_pair: ChannelPair) -> None:
    limited = steady_pair.on("limited")
    for upstream in (limited.first, limited.second):
        upstream.always(stalled(SOME_TEXT))
    with limited.dial(stream=True) as one, limited.dial(stream=True) as two:
        limited.first.wait_for_request()
        limited.second.wait_for_request()
        answer = limited.post()
        check_error(answer, 503)
        assert int(answer.headers["Retry-After"]) >= 1
        assert (len(limited.first.requests), len(limited.second.requests)) == (1, 1)
        limited.first.release()
        limited.second.release()
        for sock in (one, two):
            read_until(sock, b"[DONE]")
    limited.first.always()
    eventually(lambda: limited.post().status_code == 200, "a place")


def test_a_client_that_leaves_gives_its_place_back(steady_pair: ChannelPair) -> None:
    limited_alone = steady_pair.on("limited-alone")
    limited_alone.first.enqueue(stalled(SOME_TEXT))
    with limited_alone.dial(stream=True) as sock:
        read_until(sock, b"output_text.delta")
    limited_alone.first.wait_hangup(timeout=PROMPTLY)
    eventually(lambda: limited_alone.post().status_code == 200, "the place")


def test_a_conversation_stays_with_its_channel_while_that_one_serves(steady_pair: ChannelPair) -> None:
    equal = steady_pair.on("equal")
    upstreams = (equal.first, equal.second)
    for _ in range(4):
        for upstream in upstreams:
            upstream.reset()
        parent = None
        for _ in range(5):
            parent = equal.post(previous_response_id=parent).json()["id"]
        counts = [len(upstream.requests) for upstream in upstreams]
        assert sorted(counts) == [0, 5]
    home, other = upstreams if counts[0] else reversed(upstreams)
    home.enqueue(rate_limited("30"))
    for _ in range(2):
        assert equal.post(previous_response_id=parent).status_code == 200
    assert len(other.requests) == 2


# --- connections ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("streamed", [True, False])
def test_a_stale_connection_is_replaced_without_an_error(channel_pair: ChannelPair, streamed: bool) -> None:
    channel_pair.first.always(going_stale())
    for _ in range(4):
        answered(channel_pair.ask(streamed), streamed)
    assert (len(channel_pair.first.requests), len(channel_pair.second.requests)) == (4, 0)


def test_connections_that_went_stale_together_are_replaced_by_one(channel_pair: ChannelPair) -> None:
    together = 6
    channel_pair.first.enqueue(silent(), going_stale(), times=together)
    with ThreadPoolExecutor(together) as clients:
        pending = [clients.submit(channel_pair.ask, False) for _ in range(together)]
        channel_pair.first.wait_for_request(together)
        channel_pair.first.release(together)
        for answer in pending:
            answered(answer.result(), False)
    answered(channel_pair.ask(False), False)
    assert (len(channel_pair.first.requests), len(channel_pair.second.requests)) == (together + 1, 0)


def test_a_hostile_environment_changes_nothing(
    tmp_path: Path, upstreams: tuple[ScriptedUpstream, ScriptedUpstream]
) -> None:
    first, _ = upstreams
    first.reset()
    netrc = tmp_path / ".netrc"
    netrc.write_text("machine 127.0.0.1\nlogin mallory\npassword stolen\n")
    netrc.chmod(0o600)
    with ScriptedUpstream() as trap:

        class Hostile(Gateway):
            @property
            def environment(self) -> dict[str, str]:
                proxies = dict.fromkeys(("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"), trap.base_url)
                return {**super().environment, **proxies, "NETRC": str(netrc), "HOME": str(tmp_path)}

        with Hostile(tmp_path, [first.channel(**FIRST_KEY)]) as gateway:
            headers = {"Cookie": "a=b", "OpenAI-Organization": "org", "X-Forwarded-For": "1.2.3.4", "X-Api-Key": "k"}
            answer = gateway.post("/responses", {"model": "m", "input": "x"}, headers=headers)
            check_response(answer.json(), status="completed")
            assert trap.requests == []
            sent = first.requests[-1].headers
            assert sent["authorization"] == "Bearer canary-key-of-first"
            assert gateway.token not in str(sent)
            assert not {"cookie", "x-forwarded-for", "x-api-key", "proxy-authorization"} & set(sent)
            assert "canary-key" not in gateway.log


def test_no_cookie_of_an_upstream_comes_back_to_it_or_reaches_a_client(channel_pair: ChannelPair) -> None:
    channel_pair.first.enqueue(raw(500, b"{}", Set_Cookie="session=1; Path=/"))
    channel_pair.post()
    answer = channel_pair.post()
    assert "Set-Cookie" not in answer.headers
    assert "cookie" not in channel_pair.first.requests[-1].headers
