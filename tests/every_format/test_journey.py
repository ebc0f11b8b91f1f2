"""A conversation that moves from one format to the next loses nothing that the next one can carry."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest

from tests.every_format.conversations import (
    CUSTOM,
    IMAGE,
    SKY,
    WEATHER,
    answered,
    called,
    calls_of,
    message_item,
    text_of,
)
from tests.gateway import Gateway
from tests.relay.conftest import eventually
from tests.response_contract import check_item_list
from tests.upstream import ScriptedUpstream
from tests.upstream_formats import FORMAT_SETUPS, FormatCase, SentLine, lines, row_of

JSON = dict[str, Any]
WORLDS = [name for name in FORMAT_SETUPS if name != "sloppy"]
ENCRYPTED: JSON = {"include": ["reasoning.encrypted_content"], "reasoning": {"effort": "low"}}


class Conversation:
    """Turns over `previous_response_id`, and the lines that an upstream must have received by now."""

    def __init__(self) -> None:
        self.lines: list[SentLine] = []
        self._parent: JSON = {}

    def turn(self, format_case: FormatCase, streamed: bool, *items: JSON, **keys: Any) -> JSON:
        response = format_case.ask(streamed, input=list(items), **self._parent, **keys)
        self.lines += lines({"input": list(items)})
        assert [line for line in format_case.sent_lines if line[0] != "system"] == self.lines
        self.lines += lines({"input": response["output"]})
        self._parent = {"previous_response_id": response["id"]}
        return response


@pytest.mark.parametrize("order", [*itertools.permutations(WORLDS)], ids="-".join)
def test_five_turns_over_all_formats_lose_nothing(format_cases: dict[str, FormatCase], order: tuple[str, ...]) -> None:
    conversation, stops = Conversation(), itertools.cycle(format_cases[name] for name in order)
    keys: JSON = {"tools": [WEATHER, {**WEATHER, "name": "get_tides"}], "instructions": "Be brief."}
    conversation.turn(next(stops), True, message_item("think: my name is Ada."), **ENCRYPTED, **keys)
    first = conversation.turn(next(stops), False, message_item("explain both weathers"), **keys)
    results = [answered(call, f"{call['name']} is fine") for call in calls_of(first)]
    second = conversation.turn(next(stops), True, *results, **ENCRYPTED, **keys)
    assert "get_weather is fine, get_tides is fine" in text_of(second)
    conversation.turn(next(stops), True, message_item("think again"), message_item("and be quick"), **ENCRYPTED, **keys)
    last = conversation.turn(next(stops), False, message_item("Grüße 👋🏽"), **keys)
    assert "Grüße 👋🏽" in text_of(last)

    listed = (
        format_cases[order[0]]
        .gateway.get(f"/responses/{last['id']}/input_items", params={"order": "asc", "limit": 100})
        .json()
    )
    items = [item for item in check_item_list(listed) if item["type"] != "reasoning"]
    assert lines({"input": items}) == conversation.lines[: -len(lines({"input": last["output"]}))]


@pytest.mark.parametrize("order", [*itertools.permutations(WORLDS, 2)], ids="-".join)
def test_every_kind_of_call_moves_on(format_cases: dict[str, FormatCase], order: tuple[str, str]) -> None:
    start, end = (format_cases[name] for name in order)
    for tool in (WEATHER, CUSTOM, SKY):
        first = start.create(input="weather", tools=[tool])
        (call,) = calls_of(first)
        second = end.create(input=[answered(call)], previous_response_id=first["id"], tools=[tool])
        assert "The tools said: sunny." in text_of(second)
        third = start.create(input="and now?", previous_response_id=second["id"], tools=[tool])
        assert ("output", "sunny") in start.sent_lines
        assert third["status"] == "completed"


@pytest.mark.parametrize("order", [*itertools.permutations(WORLDS, 2)], ids="-".join)
def test_a_call_moves_on_with_any_id(format_cases: dict[str, FormatCase], order: tuple[str, str]) -> None:
    start, end = (format_cases[name] for name in order)
    for call_id in ("call_" + "x" * 59, "functions.get_weather:0", "chatcmpl-tool-ä", "a"):
        call = called(call_id)
        first = start.create(input=[message_item("hi"), call, answered(call)], tools=[WEATHER])
        second = end.create(input="go on", previous_response_id=first["id"], tools=[WEATHER])
        assert end.sent_lines[1:3] == [("call", "get_weather", '{"city":"Oslo"}'), ("output", "sunny")]
        assert second["status"] == "completed"


@pytest.mark.parametrize("order", [*itertools.permutations(WORLDS, 2)], ids="-".join)
def test_images_cuts_and_refusals_move_on(format_cases: dict[str, FormatCase], order: tuple[str, str]) -> None:
    start, end = (format_cases[name] for name in order)
    look = {"role": "user", "content": [{"type": "input_text", "text": "look"}, IMAGE]}
    first = start.create(input=[look], max_output_tokens=16)
    second = start.create(input="refuse", previous_response_id=first["id"])
    third = end.create(input="go on", previous_response_id=second["id"])
    assert [line[0] for line in end.sent_lines if line[1] != "<image>"] == [
        "user",
        "assistant",
        "user",
        "assistant",
        "user",
    ]
    assert "I see 1 images." in text_of(third)


def test_a_model_that_is_served_by_another_format_from_now_on_goes_on(tmp_path: Path) -> None:
    """The table is rewritten under a running gateway, and the conversation does not notice."""
    with ScriptedUpstream() as upstream, Gateway(tmp_path, [serving(upstream, WORLDS[0], 0)]) as gateway:
        conversation = Conversation()
        for number, name in enumerate([*WORLDS, WORLDS[0]]):
            if number:
                gateway.write_channels([serving(upstream, name, number)])
            eventually(lambda n=number: f"since-{n}" in listed_models(gateway), f"table {number}")
            format_case = FormatCase(name, gateway, upstream, (), "m")
            for streamed in (False, True):
                response = conversation.turn(format_case, streamed, message_item(f"turn {number}"))
                assert response["model"] == "m"
                assert upstream.requests[-1].path == PATHS[name]


PATHS = {"exact": "/v1/responses", "chat": "/v1/chat/completions", "messages": "/v1/messages"}


def serving(upstream: ScriptedUpstream, name: str, number: int) -> JSON:
    return row_of(name, upstream, name="only", models=["m", f"since-{number}"])


def listed_models(gateway: Gateway) -> list[str]:
    return [model["id"] for model in gateway.get("/models").json()["data"]]
