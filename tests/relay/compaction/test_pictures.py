"""Old pictures: a summariser that sees them gets them, another one reads their names."""

from __future__ import annotations

import base64
import struct
from collections.abc import Iterator
from typing import Any

import orjson
import pytest

from tests.gateway import Gateway
from tests.relay.compaction.conftest import CompactionGateway, requests_summary, summarising
from tests.upstream import Answer, Exchange, ScriptedUpstream, refusal

JSON = dict[str, Any]
FORMATS = ("responses", "chat_completions", "messages")


def url(width: int = 64, height: int = 64, size: int = 100) -> str:
    """A PNG by its header, with so many bytes behind it."""
    header = b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return "data:image/png;base64," + base64.b64encode(header + bytes(size)).decode()


URL = url()
DATA = URL.rpartition(",")[2]


def history() -> list[JSON]:
    """A picture in a message, one in the output of a tool, and later turns without any."""
    call = {"type": "function_call", "call_id": "call_1", "name": "look", "arguments": "{}"}
    image = {"type": "input_image", "image_url": URL}
    return [
        {"role": "user", "content": [{"type": "input_text", "text": "Note fact-1."}, image]},
        {"role": "assistant", "content": "A dot."},
        call,
        {"type": "function_call_output", "call_id": "call_1", "output": [image]},
        {"role": "assistant", "content": "The same dot."},
        {"role": "user", "content": "Note fact-2. " + "word " * 200},
        {"role": "assistant", "content": "Noted."},
    ]


@pytest.fixture(scope="module")
def upstream() -> Iterator[ScriptedUpstream]:
    with ScriptedUpstream() as upstream:
        yield upstream


@pytest.fixture(scope="module", params=["seeing", "blind", "unknown"])
def sighted(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, upstream: ScriptedUpstream
) -> Iterator[tuple[Gateway, bool]]:
    """A gateway whose table names a model for summaries, and whether its facts say that it sees pictures."""
    rows = [upstream.channel(name, format=name, models=[f"m-{name}"]) for name in FORMATS]
    rows.append(upstream.channel("summaries", models=["seeing", "blind", "unknown"]))
    facts = {"seeing": {"modalities": ["text", "image"]}, "blind": {"modalities": ["text"]}}
    table = {"compaction": {"model": request.param}, "models": facts}
    with Gateway(tmp_path_factory.mktemp("pictures"), rows, table, workers=1) as gateway:
        yield gateway, request.param == "seeing"


def pass_of(upstream: ScriptedUpstream) -> str:
    return orjson.dumps(next(body for body in reversed(upstream.bodies) if requests_summary(body))).decode()


@pytest.mark.parametrize("name", FORMATS)
def test_the_tables_model_gets_the_pictures_that_it_sees(
    sighted: tuple[Gateway, bool], upstream: ScriptedUpstream, name: str
) -> None:
    gateway, sees = sighted
    upstream.reset()
    upstream.always(summarising)
    answer = gateway.post("/responses/compact", {"model": f"m-{name}", "input": history(), "store": False})
    assert answer.status_code == 200, answer.text
    assert pass_of(upstream).count(DATA) == (2 if sees else 0)
    assert "[image]" in pass_of(upstream)


def test_the_own_model_sees_them_also_when_the_history_is_text(compaction_gateway: CompactionGateway) -> None:
    compaction_gateway.first.enqueue(refusal(400, "That conversation is none of mine."))
    compaction_gateway.compact("gpt-plain", input=history())
    assert pass_of(compaction_gateway.first).count(DATA) == 2


def test_a_refusal_of_pictures_is_followed_by_a_pass_without(compaction_gateway: CompactionGateway) -> None:
    def blind(exchange: Exchange, answer: Answer) -> Answer:
        if DATA in orjson.dumps(exchange.request.body).decode():
            return refusal(400, "This model does not support image inputs.")(exchange, answer)
        return summarising(exchange, answer)

    compaction_gateway.first.always(blind)
    compaction_gateway.compact("gpt-plain", input=history())
    assert DATA not in pass_of(compaction_gateway.first)
    assert "fact-2" in pass_of(compaction_gateway.first)
