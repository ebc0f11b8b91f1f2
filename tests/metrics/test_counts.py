"""What a scrape shows of requests, whichever worker has served them."""

from __future__ import annotations

import pytest

from tests.metrics.conftest import Measured
from tests.metrics.scrapes import Scrape, await_value, scrape
from tests.relay.conftest import eventually
from tests.relay.tools.conftest import ASK, mcp
from tests.response_contract import check_stream
from tests.upstream import refusal, stepped


def total(measured: Measured, name: str, **labels: str) -> float:
    return scrape(measured.address).value(f"antiphon_{name}", **labels)


def await_more(measured: Measured, before: float, more: float, name: str, **labels: str) -> Scrape:
    return await_value(measured.gateway, measured.address, before + more, f"antiphon_{name}", **labels)


def test_responses_and_tokens_are_counted_once_over_all_workers(measured: Measured) -> None:
    mine = measured.gateway.new_token("counted")
    used = []
    for _ in range(6):
        # A new connection each, so that both workers serve some.
        with measured.gateway.client(mine) as client:
            used.append(client.responses.create(model="single", input="hello").to_dict()["usage"])
    for _ in range(3):
        body = {"model": "single", "input": "hello", "store": False}
        events = check_stream(measured.gateway.stream(body, token=mine).content)
        used.append(events[-1]["response"]["usage"])
    found = await_more(measured, 0, 9, "token_responses_total", token="counted")
    for kind in ("input", "output"):
        expected = sum(usage[f"{kind}_tokens"] for usage in used)
        assert found.value("antiphon_token_tokens_total", token="counted", type=kind) == expected
    cost = sum(2 * usage["input_tokens"] + 10 * usage["output_tokens"] for usage in used) / 1e6
    assert found.value("antiphon_token_cost_total", token="counted") == pytest.approx(cost)
    assert found.value("antiphon_responses_total", model="single", channel="single", status="completed") >= 9
    assert found.value("antiphon_time_to_first_token_seconds_count", model="single", channel="single") >= 3
    assert found.value("antiphon_response_seconds_count", model="single", channel="single") >= 9
    assert found.value("antiphon_attempts_total", channel="single", result="ok") >= 9


def test_the_name_of_each_new_token_is_known_from_its_first_response_on(measured: Measured) -> None:
    for name in ("new", "newer"):
        token = measured.gateway.new_token(name)
        answer = measured.gateway.post("/responses", {"model": "single", "input": "hello"}, token=token)
        assert answer.status_code == 200
        await_more(measured, 0, 1, "token_responses_total", token=name)


@pytest.mark.parametrize("streamed", [False, True])
def test_a_failover_names_the_channel_that_failed_and_why(measured: Measured, streamed: bool) -> None:
    labels = {"channel": "first", "reason": "upstream_error"}
    before = total(measured, "failovers_total", **labels)
    attempts = total(measured, "attempts_total", channel="first", result="upstream_error")
    measured.first.enqueue(refusal(500, "out of order"))
    body = {"model": "pair", "input": "hello"}
    answer = measured.gateway.stream(body) if streamed else measured.gateway.post("/responses", body)
    assert answer.status_code == 200
    assert answer.content
    found = await_more(measured, before, 1, "failovers_total", **labels)
    assert found.value("antiphon_attempts_total", channel="first", result="upstream_error") == attempts + 1


def test_a_channel_in_cooldown_is_down(measured: Measured) -> None:
    measured.first.enqueue(refusal(500, "out of order"))
    assert measured.gateway.post("/responses", {"model": "down", "input": "hello"}).status_code >= 500
    await_value(measured.gateway, measured.address, 0, "antiphon_channel_up", channel="down")
    # A scrape may come between two values of the same worker.
    eventually(lambda: 0 < _cooldown(scrape(measured.address)) <= 300, "its cooldown to show")
    found = scrape(measured.address)
    assert found.value("antiphon_responses_total", model="down", status="failed") >= 1


def test_a_drained_channel_is_paused_and_not_down(measured: Measured) -> None:
    measured.gateway.command("channels", "drain", "single")
    await_value(measured.gateway, measured.address, 1, "antiphon_channel_paused", channel="single")
    assert scrape(measured.address).value("antiphon_channel_up", channel="single") == 1
    measured.gateway.command("channels", "resume", "single")
    await_value(measured.gateway, measured.address, 0, "antiphon_channel_paused", channel="single")


def _cooldown(found: Scrape) -> float:
    return found.value("antiphon_channel_cooldown_seconds", channel="down")


def test_a_relayed_request_counts_as_well(measured: Measured) -> None:
    labels = {"model": "passed", "channel": "passed", "status": "completed"}
    before = total(measured, "responses_total", **labels)
    body = {"model": "passed", "messages": [{"role": "user", "content": "hello"}]}
    assert measured.gateway.post("/chat/completions", body).status_code == 200
    found = await_more(measured, before, 1, "responses_total", **labels)
    assert found.value("antiphon_http_requests_total", route="chat_completions.create", code="200") >= 1


def test_a_background_response_counts_in_its_worker(measured: Measured) -> None:
    token = measured.gateway.new_token("in-background")
    body = {"model": "single", "input": "hello", "background": True}
    assert measured.gateway.post("/responses", body, token=token).status_code == 200
    found = await_more(measured, 0, 1, "token_responses_total", token="in-background")
    assert found.value("antiphon_workers", kind="background") == 1
    assert found.value("antiphon_workers", kind="web") == 2


def test_calls_of_tools_are_counted_by_server_and_tool(measured: Measured) -> None:
    labels = {"server": "docs", "tool": "echo", "result": "ok"}
    before = total(measured, "tool_calls_total", **labels)
    body = {"model": "single", "input": ASK, "tools": [mcp("echo")]}
    answer = measured.gateway.post("/responses", body)
    assert answer.status_code == 200, answer.text
    calls = [item for item in answer.json()["output"] if item["type"] == "mcp_call"]
    assert calls
    found = await_more(measured, before, len(calls), "tool_calls_total", **labels)
    assert found.value("antiphon_tool_call_seconds_count", server="docs") >= len(calls)


def test_names_that_only_clients_know_are_no_labels(measured: Measured) -> None:
    before = total(measured, "http_requests_total", route="responses.create", code="400")
    body = {"model": "zebra-unknown", "input": "hello"}
    assert measured.gateway.post("/responses", body).status_code == 400
    assert measured.gateway.get("/zebra-path").status_code == 404
    found = await_more(measured, before, 1, "http_requests_total", route="responses.create", code="400")
    found = await_value(measured.gateway, measured.address, 1, "antiphon_http_requests_total", route="none", code="404")
    assert not any("zebra" in value for label in ("model", "route", "channel") for value in found.values_of(label))


def test_requests_in_flight_end_with_their_answers(measured: Measured) -> None:
    measured.first.enqueue(stepped())
    stream = measured.gateway.stream({"model": "single", "input": "hello"})
    measured.first.wait_for_request()
    found = await_value(measured.gateway, measured.address, 1, "antiphon_channel_requests_in_flight", channel="single")
    assert found.value("antiphon_requests_in_flight") >= 1
    measured.first.release(1000)
    assert stream.content
    await_value(measured.gateway, measured.address, 0, "antiphon_channel_requests_in_flight", channel="single")
    await_value(measured.gateway, measured.address, 0, "antiphon_requests_in_flight")
