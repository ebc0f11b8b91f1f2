"""antiphon channels and antiphon route, beside a gateway that runs or none at all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson
import pytest

from tests.conftest import MakeGateway, MakeUpstream
from tests.gateway import Gateway
from tests.ports import closed_port
from tests.relay.conftest import eventually
from tests.upstream import Answer, Exchange, ScriptedUpstream, html, rate_limited, refusal, silent

FAILING, NOT_FOUND, CONFIGURATION = 3, 4, 78
SECRET = "sk-canary-5d1e"
DEMO = {"name": "demo", "format": "demo", "models": ["demo", "m"], "priority": -1}
KEYLESS = {
    "name": "keyless",
    "format": "responses",
    "base_url": "https://models.example.com/v1",
    "api_key": "${A_KEY_THAT_IS_NOT_SET}",
    "models": ["m"],
}
OFF = {"name": "off", "format": "demo", "models": ["m"], "enabled": False}
DEAD = {
    "name": "dead",
    "format": "responses",
    "base_url": f"http://127.0.0.1:{closed_port()}/v1",
    "api_key": SECRET,
    "models": ["m"],
}


def _listed(gateway: Gateway) -> dict[str, dict[str, Any]]:
    listing = orjson.loads(gateway.command("channels", "list", "--json"))
    return {channel["name"]: channel for channel in listing["channels"]}


# list


def test_without_a_gateway_the_list_says_what_the_table_says(tmp_path: Path) -> None:
    directory = Gateway(tmp_path, [DEMO, KEYLESS, OFF, DEAD])
    listed = _listed(directory)
    assert [channel["state"] for channel in listed.values()] == ["unknown", "no key", "disabled", "unknown"]
    assert listed["dead"]["in_flight"] is None
    shown = directory.command("channels", "list")
    assert [line.split()[0] for line in shown.splitlines()[1:]] == ["demo", "keyless", "off", "dead"]
    assert "models.example.com" in shown
    assert SECRET not in shown + orjson.dumps(listed).decode()


def test_workers_report_requests_in_flight_and_cooldowns(
    gateway: MakeGateway, make_upstream: MakeUpstream, database_url: str
) -> None:
    busy, limited = make_upstream(), make_upstream()
    limited.always(rate_limited("50"))
    running = gateway(
        [limited.channel("limited", priority=1), busy.channel("busy", max_concurrency=1)],
        database_url=database_url,
    )
    _until_state(running, "busy", "ok")
    answer = running.post("/responses", {"model": "m", "input": "hello"})
    assert answer.status_code == 200
    _until_state(running, "limited", "resting")
    row = _listed(running)["limited"]
    assert 0 < row["resting_seconds"] <= 50
    assert row["last_error"] == "rate_limit_exceeded"
    assert row["detail"].endswith(" s: rate_limit_exceeded")
    route = orjson.loads(running.command("route", "m", "--json"))["channels"]
    assert [(way["channel"], way["place"]) for way in route] == [("busy", 1), ("limited", None)]


def test_a_full_channel_is_full_until_its_streams_end(gateway: MakeGateway, upstream: ScriptedUpstream) -> None:
    upstream.enqueue(silent())
    running = gateway([upstream.channel(max_concurrency=1)])
    with running.dial({"model": "m", "input": "hello", "stream": True}):
        upstream.wait_for_request()
        _until_state(running, "exact", "full")
        assert _listed(running)["exact"]["in_flight"] == 1
    _until_state(running, "exact", "ok")


def test_a_gateway_that_has_ended_reports_nothing(gateway: MakeGateway) -> None:
    running = gateway([DEMO], workers=2)
    eventually(lambda: _workers(running) == 2, "both workers to report their channels")
    running.stop()
    assert _workers(running) == 0


def _workers(running: Gateway) -> int:
    workers: int = orjson.loads(running.command("channels", "list", "--json"))["workers"]
    return workers


def _until_state(running: Gateway, name: str, state: str) -> None:
    eventually(lambda: _listed(running)[name]["state"] == state, f"{name} to be {state}")


# test


def test_every_channel_is_tested_through_its_own_format(tmp_path: Path, upstream: ScriptedUpstream) -> None:
    translated = upstream.channel("translated", format="chat_completions")
    directory = Gateway(tmp_path, [DEMO, KEYLESS, OFF, upstream.channel(), translated])
    tested = orjson.loads(directory.command("channels", "test", "--json"))
    assert [row["result"] for row in tested] == ["ok", "not asked", "not asked", "ok", "ok"]
    assert "A_KEY_THAT_IS_NOT_SET" in tested[1]["cause"]
    paths = [request.path for request in upstream.requests]
    assert paths == ["/v1/responses"] * 5 + ["/v1/chat/completions"] * 5
    for row in (tested[0], *tested[3:]):
        assert [step["step"] for step in row["steps"]] == ["text", "tool call", "second turn", "image"]


@pytest.mark.parametrize(
    ("script", "fix"),
    [
        (refusal(401, "Incorrect API key provided.", code="invalid_api_key"), "api_key"),
        (refusal(404, "The model 'm' does not exist.", code="model_not_found"), "models"),
        (html(200), "base_url"),
        (rate_limited(), "wait"),
    ],
)
def test_an_error_comes_with_its_remedy(tmp_path: Path, upstream: ScriptedUpstream, script: Any, fix: str) -> None:
    upstream.enqueue(script)
    directory = Gateway(tmp_path, [upstream.channel(api_key=SECRET)])
    (row,) = orjson.loads(directory.command("channels", "test", "exact", "--json", exit_code=FAILING))
    assert row["result"] == "failed"
    assert fix in row["fix"]
    assert SECRET not in orjson.dumps(row).decode()


def textual(exchange: Exchange, answer: Answer) -> Answer:
    """A model that takes no images."""
    shown = b"image_url" in orjson.dumps(exchange.request.body)
    return refusal(400, "Text only.")(exchange, answer) if shown else answer


def test_each_step_is_a_line(tmp_path: Path, upstream: ScriptedUpstream) -> None:
    upstream.always(textual)
    directory = Gateway(tmp_path, [upstream.channel("c", format="chat_completions")])
    first, *lines = directory.command("channels", "test", "c").splitlines()
    assert first.startswith("c  ok")
    assert [line.split("ms")[1].split() for line in lines[:3]] == [["text"], ["tool", "call"], ["second", "turn"]]
    assert lines[3].split()[:2] == ["not", "taken"]
    assert "image        Text only. (status=400" in lines[3]


def test_one_dead_channel_among_others_is_an_exit_code(tmp_path: Path) -> None:
    directory = Gateway(tmp_path, [DEMO, DEAD])
    shown = directory.command("channels", "test", exit_code=FAILING)
    assert "channels.yaml:" in shown
    assert shown.startswith("demo  ok")
    assert "cannot be reached. (errno=ECONNREFUSED)" in shown


def test_a_disabled_channel_is_tested_when_it_is_named(tmp_path: Path) -> None:
    directory = Gateway(tmp_path, [DEMO, OFF, {**DEMO, "name": "globs", "models": ["g-*"]}])
    assert directory.command("channels", "test", "off").startswith("off  ok")
    directory.command("channels", "test", "globs", exit_code=FAILING)
    directory.command("channels", "test", "globs", "--model", "g-1")
    directory.command("channels", "test", "nobody", exit_code=NOT_FOUND)


# route and models


def test_a_route_names_the_eligible_channels_and_why_the_others_are_not(tmp_path: Path) -> None:
    heavy = {**DEAD, "weight": 3, "models": {"m": "m-large"}}
    equal = {**DEAD, "name": "equal", "models": ["m"]}
    chat = {**DEAD, "name": "chat", "models": ["m", "n"], "bridge": False}
    other = {"name": "other", "format": "demo", "models": ["x"]}
    table = {"limits": {"tags": ["cloud"]}}
    directory = Gateway(tmp_path, [DEMO, heavy, KEYLESS, OFF, chat, other, {**equal, "tags": ["cloud", "eu"]}], table)
    route = orjson.loads(directory.command("route", "m", "--json"))
    ways = {way["channel"]: way for way in route["channels"]}
    assert [(name, way["place"], way["share"]) for name, way in ways.items() if way["asked"]] == [
        ("dead", 1, 0.75),
        ("equal", 1, 0.25),
        ("demo", 2, 1.0),
    ]
    assert ways["dead"]["upstream_model"] == "m-large"
    assert "A_KEY_THAT_IS_NOT_SET" in ways["keyless"]["why_not"]
    assert ways["off"]["why_not"] == "disabled"
    assert "bridge" in ways["chat"]["why_not"]
    assert route["others"] == ["other"]
    assert (ways["equal"]["tags"], ways["dead"]["tags"], route["default_tags"]) == (["cloud", "eu"], [], ["cloud"])
    shown = directory.command("route", "m")
    assert "cloud, eu" in next(line for line in shown.splitlines() if " equal " in line)
    assert "tokens without tags of their own use only channels with one of the tags cloud" in shown


def test_a_model_without_a_channel_has_no_route(tmp_path: Path) -> None:
    directory = Gateway(tmp_path, [DEMO, OFF, KEYLESS])
    directory.command("route", "dmo", exit_code=NOT_FOUND)
    only_off = Gateway(tmp_path, [OFF])
    only_off.command("route", "m", exit_code=FAILING)


def test_models_are_listed_with_their_channels(tmp_path: Path) -> None:
    table = {"models": {"m": {"context_window": 8192}}}
    directory = Gateway(tmp_path, [DEMO, {**DEAD, "models": ["m", "g-*"]}, OFF, KEYLESS], table)
    listed = orjson.loads(directory.command("models", "--json"))
    assert [(model["id"], model["channels"], model["context_window"]) for model in listed] == [
        ("demo", ["demo"], None),
        ("g-*", ["dead"], None),
        ("m", ["dead", "demo"], 8192),
    ]
    assert "8,192" in directory.command("models")


@pytest.mark.parametrize("command", [["channels", "list"], ["channels", "test"], ["route", "m"], ["models"]])
def test_a_wrong_table_is_a_matter_of_configuration(tmp_path: Path, command: list[str]) -> None:
    directory = Gateway(tmp_path, [{"name": "broken", "format": "responses"}])
    directory.command(*command, exit_code=CONFIGURATION)
