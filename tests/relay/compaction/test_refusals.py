"""A context that the upstream finds too long is compacted, although its estimate is below the threshold."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import orjson
import pytest
import requests

from tests.relay.compaction.conftest import FORMATS, CompactionGateway, facts, requests_summary, summarising
from tests.response_contract import check_error, check_response, check_stream
from tests.upstream import HOLD, Answer, Exchange, Script, failing, raw, refusal, too_long

JSON = dict[str, Any]
MANAGED = {"type": "compaction", "compact_threshold": 10**6}
UNBOUNDED = {"type": "compaction"}
#: Fewer bytes than five turns have, and more than their summary.
ROOM = 4000
MODELS = [*(model for name, model in FORMATS.items() if name != "demo"), "claude-9"]
LATE = "This model's maximum context length is 1000 tokens."


def narrow(room: int, refused: Script) -> Script:
    """An upstream with room for so many bytes of context. It sums up what it can read."""

    def script(exchange: Exchange, answer: Answer) -> Answer:
        body = exchange.request.body
        context = orjson.dumps(body.get("input") or body.get("messages"))
        if len(context) > room:
            return refused(exchange, answer)
        return summarising(exchange, answer)

    return script


def refused_late(exchange: Exchange, answer: Answer) -> Answer:
    """The refusal as an event after the first ones of the stream; without a stream, with its status."""
    script = failing(1, "server_error", LATE) if answer.streams else too_long()
    return script(exchange, answer)


def ask(gateway: CompactionGateway, stream: bool, **keys: Any) -> requests.Response:
    return gateway.post("/responses", stream=stream, **keys)


def ended(answer: requests.Response, stream: bool) -> JSON:
    assert answer.status_code == 200, answer.text
    response = check_stream(answer.content)[-1]["response"] if stream else answer.json()
    return check_response(response, status="completed")


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("managed", [MANAGED, UNBOUNDED], ids=["above the estimate", "without a threshold"])
@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("refused", [too_long(), refused_late], ids=["refused", "in the stream"])
def test_a_refused_context_is_compacted_and_asked_again(
    compaction_gateway: CompactionGateway, model: str, stream: bool, managed: JSON, refused: Script
) -> None:
    previous = compaction_gateway.talk(model, 5)
    compaction_gateway.first.always(narrow(ROOM, refused))
    keys = {"model": model, "input": "What do you know?", "previous_response_id": previous}
    response = ended(ask(compaction_gateway, stream, **keys, context_management=[managed]), stream)
    assert [item["type"] for item in response["output"]][:1] == ["compaction"]
    assert "fact-5" in orjson.dumps(compaction_gateway.given).decode()
    compaction_gateway.first.always(narrow(10**6, refused))
    ended(ask(compaction_gateway, stream, model=model, input="And?", previous_response_id=response["id"]), stream)


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("model", MODELS)
def test_truncation_leaves_out_the_oldest_turns(
    compaction_gateway: CompactionGateway, model: str, stream: bool
) -> None:
    previous = compaction_gateway.talk(model, 5)
    compaction_gateway.first.always(narrow(ROOM, too_long()))
    keys = {"model": model, "input": "x", "previous_response_id": previous, "truncation": "auto"}
    response = ended(ask(compaction_gateway, stream, **keys), stream)
    assert [item["type"] for item in response["output"]] == ["message"]
    assert facts(compaction_gateway.given)[-1] == "fact-5"
    assert "fact-1" not in facts(compaction_gateway.given)


def test_a_proxy_that_takes_fewer_bytes_does_not_end_a_conversation(compaction_gateway: CompactionGateway) -> None:
    model = MODELS[0]
    previous = compaction_gateway.talk(model, 5)
    too_large = raw(413, b"<html><body><h1>413 Request Entity Too Large</h1></body></html>", "text/html")
    compaction_gateway.first.always(narrow(ROOM, too_large))
    keys = {"model": model, "input": "x", "previous_response_id": previous}
    error = check_error(ask(compaction_gateway, stream=False, **keys), 413, "request_too_large")
    assert "413 Request Entity Too Large. The gateway shortens" in error["message"]
    response = ended(ask(compaction_gateway, stream=False, **keys, context_management=[MANAGED]), stream=False)
    assert [item["type"] for item in response["output"]][:1] == ["compaction"]


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_without_state_gets_the_item_as_well(compaction_gateway: CompactionGateway, stream: bool) -> None:
    turns = [
        {"role": role, "content": f"fact-{number} {'word ' * 100}"}
        for number in range(9)
        for role in ("user", "assistant")
    ]
    compaction_gateway.first.always(narrow(ROOM, too_long()))
    keys = {"model": "gpt-plain", "input": [*turns, {"role": "user", "content": "now"}], "store": False}
    response = ended(ask(compaction_gateway, stream, **keys, context_management=[MANAGED]), stream)
    assert response["output"][0]["type"] == "compaction"


def test_a_history_that_is_itself_too_long_is_read_in_parts(
    compaction_gateway: CompactionGateway,
) -> None:
    previous = compaction_gateway.talk("gpt-plain", 8)
    compaction_gateway.first.always(narrow(ROOM, too_long()))
    keys = {"model": "gpt-plain", "input": "x", "previous_response_id": previous, "context_management": [MANAGED]}
    ended(ask(compaction_gateway, False, **keys), False)
    read = [facts(body) for body in compaction_gateway.first.bodies if requests_summary(body)]
    assert len(read) > 2
    given = set(facts({"input": compaction_gateway.given}))
    assert given >= {f"fact-{number}" for number in range(1, 9)}


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("managed", [None, [MANAGED]], ids=["not managed", "nothing to compact"])
def test_otherwise_the_refusal_is_the_clients(
    compaction_gateway: CompactionGateway, stream: bool, managed: list[JSON] | None
) -> None:
    previous = None if managed else compaction_gateway.talk("gpt-plain", 2)
    compaction_gateway.first.always(too_long())
    keys = {"model": "gpt-plain", "input": "x", "previous_response_id": previous, "context_management": managed}
    check_error(ask(compaction_gateway, stream, **keys), 400, "context_length_exceeded", "input")


@pytest.mark.parametrize("stream", [True, False])
def test_a_compaction_that_does_not_help_ends_with_the_refusal(
    compaction_gateway: CompactionGateway, stream: bool
) -> None:
    previous = compaction_gateway.talk("gpt-plain", 5)
    compaction_gateway.first.always(
        lambda exchange, answer: (summarising if requests_summary(exchange.request.body) else too_long())(
            exchange, answer
        )
    )
    keys = {"model": "gpt-plain", "input": "x", "previous_response_id": previous, "context_management": [MANAGED]}
    check_error(ask(compaction_gateway, stream, **keys), 400, "context_length_exceeded", "input")


def held_then_refused(exchange: Exchange, answer: Answer) -> Answer:
    """The first event, and the refusal once the test has seen what the client got of it."""
    refused = failing(1, "server_error", LATE)(exchange, answer)
    first, *rest = refused.pieces
    return replace(refused, pieces=(first, HOLD, *rest))


def after_the_head(gateway: CompactionGateway, **keys: Any) -> list[JSON]:
    """The events of a stream whose head the client had before the upstream refused."""
    gateway.first.enqueue(held_then_refused)
    with gateway.gateway.stream({**keys, "stream": True}) as answer:
        received = answer.raw.read(1)
        gateway.first.release()
        return check_stream(received + answer.raw.read())


@pytest.mark.parametrize("model", MODELS)
def test_a_refusal_after_the_head_ends_the_stream_with_its_code(
    compaction_gateway: CompactionGateway, model: str
) -> None:
    events = after_the_head(compaction_gateway, model=model, input="x")
    assert events[-2]["error"]["code"] == "context_length_exceeded"
    assert events[-1]["response"]["error"] == {"code": "context_length_exceeded", "message": LATE}


@pytest.mark.parametrize("model", MODELS)
def test_a_refusal_after_the_head_is_compacted_within_the_stream(
    compaction_gateway: CompactionGateway, model: str
) -> None:
    keys = {"model": model, "input": "x", "previous_response_id": compaction_gateway.talk(model, 3)}
    compaction_gateway.first.always(narrow(10**6, too_long()))
    *_, end = after_the_head(compaction_gateway, **keys, context_management=[MANAGED])
    response = check_response(end["response"], status="completed")
    assert response["output"][0]["type"] == "compaction"


def test_a_compaction_after_the_head_that_fails_ends_the_stream_with_the_refusal(
    compaction_gateway: CompactionGateway,
) -> None:
    previous = compaction_gateway.talk("gpt-plain", 3)
    compaction_gateway.first.always(refusal(500, "Out of order."))
    keys = {"model": "gpt-plain", "input": "x", "previous_response_id": previous, "context_management": [MANAGED]}
    events = after_the_head(compaction_gateway, **keys)
    assert events[-1]["response"]["error"]["code"] == "context_length_exceeded"
