"""The limits of a summary: its length, the time of its pass, and its end when the client leaves."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from app.contract.token_estimate import estimate_items
from tests.gateway import Gateway
from tests.relay.compaction.conftest import (
    FILLER,
    JSON,
    CompactionGateway,
    answering_with,
    conversation,
    kinds,
    summarising,
    words,
)
from tests.relay.conftest import PROMPTLY, SOME_TEXT
from tests.response_contract import check_error, check_response, check_stream, check_window
from tests.upstream import Answer, Exchange, Pause, Piece, Script, ScriptedUpstream, ended, silent, stalled

COMPACT = "/responses/compact"
TRIGGER = {"type": "compaction_trigger"}
DUE = {"type": "compaction", "compact_threshold": 100}
#: Of a table whose passes may take half a second.
HURRIED: JSON = {"defaults": {"cooldown": {"after": 1000}}, "compaction": {"timeout": "500ms"}}


def limits(upstream: ScriptedUpstream) -> list[int | None]:
    return [body.get("max_output_tokens", body.get("max_completion_tokens")) for body in upstream.bodies]


def test_a_summary_may_take_a_quarter_of_what_it_replaces(compaction_gateway: CompactionGateway) -> None:
    items = conversation(40)
    compaction_gateway.compact("gpt-plain", input=items)
    (limit,) = limits(compaction_gateway.first)
    assert limit == estimate_items(items) // 4


@pytest.mark.parametrize(("turns", "expected"), [(1, 256), (400, 4096)])
def test_it_has_room_to_say_something_and_no_more_than_4096_tokens(
    compaction_gateway: CompactionGateway, turns: int, expected: int
) -> None:
    compaction_gateway.compact("gpt-plain", input=conversation(turns))
    assert set(limits(compaction_gateway.first)) == {expected}


@pytest.mark.parametrize("model", ["gpt-plain", "gpt-chat"])
def test_the_upstream_gets_a_request_for_a_stream(compaction_gateway: CompactionGateway, model: str) -> None:
    window = check_window(compaction_gateway.compact(model, input=conversation(3)))
    (sent,) = compaction_gateway.first.bodies
    assert sent["stream"] is True
    answer = compaction_gateway.create(model, "And now?", window["id"])
    assert "Known: fact-1" in str(compaction_gateway.given)
    assert answer["status"] == "completed"


def test_a_summary_that_was_cut_off_is_used(compaction_gateway: CompactionGateway) -> None:
    cut = {"status": "incomplete", "completed_at": None, "incomplete_details": {"reason": "max_output_tokens"}}
    compaction_gateway.first.enqueue(answering_with("Known: fact-1, fact-2, and", **cut))
    window = check_window(compaction_gateway.compact("gpt-plain", input=conversation(3)))
    compaction_gateway.create("gpt-plain", "And now?", window["id"])
    assert "Known: fact-1, fact-2, and" in str(compaction_gateway.given)


def test_a_summary_that_breaks_off_is_made_by_another_channel(compaction_gateway: CompactionGateway) -> None:
    compaction_gateway.first.enqueue(ended(SOME_TEXT))
    compaction_gateway.second.always(summarising)
    wish = {"strategy": "summary"}
    window = check_window(compaction_gateway.compact("gpt-pair", input=conversation(3), context_management=wish))
    assert len(compaction_gateway.second.bodies) == 1
    compaction_gateway.create("gpt-plain", "And now?", window["id"])
    assert "Known: fact-1" in str(compaction_gateway.given)


# --- how long a pass may take -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def _hurried(tmp_path_factory: pytest.TempPathFactory) -> Iterator[CompactionGateway]:
    with ScriptedUpstream(family="one") as first, ScriptedUpstream(family="two") as second:
        rows = [
            first.channel("plain", models=["gpt-plain"], family="one"),
            first.channel("native", models=["gpt-native"], compact="native", family="one"),
        ]
        with Gateway(tmp_path_factory.mktemp("hurried"), rows, HURRIED) as gateway:
            yield CompactionGateway(gateway, first, second)


@pytest.fixture
def hurried(_hurried: CompactionGateway) -> CompactionGateway:
    _hurried.first.reset()
    return _hurried


def endless(exchange: Exchange, answer: Answer) -> Answer:
    """A model that never ends its summary."""
    *head, _ = answer.pieces
    return replace(answer, pieces=(*head[:SOME_TEXT], *_pauses()))


def _pauses() -> Iterator[Piece]:
    return (part for _ in range(600) for part in (Pause(0.02), b": still at it\n\n"))


SLOW: dict[str, Script] = {"silent": silent(), "stalled": stalled(SOME_TEXT), "endless": endless}


@pytest.mark.parametrize("slow", SLOW.values(), ids=SLOW)
def test_a_pass_that_takes_too_long_has_failed(hurried: CompactionGateway, slow: Script) -> None:
    hurried.first.enqueue(slow)
    error = check_error(hurried.post(COMPACT, model="gpt-plain", input=conversation(3)), 502, "compaction_failed")
    assert "longer than 0.5 s" in error["message"]
    hurried.first.wait_hangup(timeout=PROMPTLY)


def test_a_native_pass_that_takes_too_long_has_failed(hurried: CompactionGateway) -> None:
    hurried.first.enqueue(silent())
    answer = hurried.post(COMPACT, model="gpt-native", input=conversation(3), context_management={"strategy": "native"})
    check_error(answer, 502, "compaction_failed")


@pytest.mark.parametrize("stream", [False, True])
def test_a_turn_whose_compaction_takes_too_long_goes_on_without(hurried: CompactionGateway, stream: bool) -> None:
    previous = hurried.create("gpt-plain", f"Note this.{FILLER}")["id"]
    hurried.first.enqueue(silent())
    body = {"model": "gpt-plain", "input": "And now?", "previous_response_id": previous, "context_management": [DUE]}
    if stream:
        response = check_stream(hurried.gateway.stream(body).content, status="completed")[-1]["response"]
    else:
        response = check_response(hurried.post("/responses", **body).json(), status="completed")
    assert kinds(response["output"]) == ["message"]
    assert any("Note this." in words(item) for item in hurried.given)


def test_a_client_that_leaves_ends_an_unstreamed_pass_too(compaction_gateway: CompactionGateway) -> None:
    compaction_gateway.first.enqueue(stalled(SOME_TEXT))
    with compaction_gateway.gateway.dial({"model": "gpt-plain", "input": [*conversation(3), TRIGGER]}) as sock:
        compaction_gateway.first.wait_for_request()
        sock.close()
        compaction_gateway.first.wait_hangup(timeout=PROMPTLY)
