"""Upstreams that compact a history themselves, each in a way of its own: by an endpoint, by a trigger, or no longer."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from typing import Any

import orjson
import pytest

from tests.gateway import Gateway
from tests.upstream import Answer, Exchange, ScriptedUpstream, raw

JSON = dict[str, Any]
COMPACT = "/compact"
TRIGGER = {"type": "compaction_trigger"}
MODELS = [f"model-{number}" for number in range(12)]


@pytest.fixture(scope="module")
def scripted() -> Iterator[ScriptedUpstream]:
    with ScriptedUpstream() as scripted:
        yield scripted


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory, scripted: ScriptedUpstream) -> Iterator[Gateway]:
    """A channel for each test, because the gateway remembers what an upstream lacks."""
    rows = [scripted.channel(name, models=[name], compact="native", encrypted_reasoning=True) for name in MODELS]
    with Gateway(tmp_path_factory.mktemp("native"), rows) as gateway:
        yield gateway


@pytest.fixture
def upstream(scripted: ScriptedUpstream) -> Iterator[ScriptedUpstream]:
    scripted.reset()
    yield scripted
    scripted.reset()


numbers = count()


@pytest.fixture
def model() -> str:
    return MODELS[next(numbers)]


def is_trigger(exchange: Exchange) -> bool:
    return bool(exchange.request.body["input"][-1] == TRIGGER)


def without_endpoint(exchange: Exchange, answer: Answer) -> Answer:
    """It knows the trigger and has no endpoint for compactions."""
    return raw(404, b'{"detail":"Not Found"}')(exchange, answer) if exchange.request.path.endswith(COMPACT) else answer


def without_compaction(exchange: Exchange, answer: Answer) -> Answer:
    """It answers a trigger like any other input."""
    if not is_trigger(exchange):
        return without_endpoint(exchange, answer)
    said = {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "What is it?"}]}
    body = {"id": "resp_up", "object": "response", "status": "completed", "output": [said]}
    return raw(200, orjson.dumps(body))(exchange, answer)


def under_another_name(exchange: Exchange, answer: Answer) -> Answer:
    if not exchange.request.path.endswith(COMPACT):
        return answer
    body = orjson.loads(answer.body)
    for item in body["output"]:
        if item["type"] == "compaction":
            item["type"] = "compaction_summary"
            del item["id"]
    return raw(200, orjson.dumps(body))(exchange, answer)


def paths(upstream: ScriptedUpstream) -> list[str]:
    return [request.path.removeprefix("/v1/responses") for request in upstream.requests]


def compact(api: Gateway, model: str, strategy: str) -> JSON:
    first = api.post("/responses", {"model": model, "input": "My dog is called Rex."}).json()
    body = {
        "model": model,
        "previous_response_id": first["id"],
        "input": "And my cat?",
        "context_management": [{"type": "compaction", "strategy": strategy}],
    }
    answer = api.post("/responses/compact", body)
    assert answer.status_code == 200, answer.text
    return dict(answer.json())


def sealed_in(body: JSON) -> list[str]:
    return [item["type"] for item in body["input"] if item.get("encrypted_content") and item["type"] != "reasoning"]


def kinds(response: JSON) -> list[str]:
    return [item["type"] for item in response["output"]]


@pytest.mark.parametrize("strategy", ["native", "auto"])
def test_a_missing_endpoint_is_remembered_and_the_trigger_takes_its_place(
    api: Gateway, upstream: ScriptedUpstream, model: str, strategy: str
) -> None:
    upstream.always(without_endpoint)
    response = compact(api, model, strategy)
    assert kinds(response) == ["compaction", "reasoning", "message"]
    assert sealed_in(upstream.bodies[-1]) == ["compaction"]
    assert paths(upstream).count(COMPACT) == 1
    compact(api, model, strategy)
    assert paths(upstream).count(COMPACT) == 1


def test_an_upstream_that_cannot_compact_gets_no_second_trigger(
    api: Gateway, upstream: ScriptedUpstream, model: str
) -> None:
    upstream.always(without_compaction)
    for _ in range(2):
        assert kinds(compact(api, model, "auto"))[0] == "compaction"
    assert sum(body["input"][-1] == TRIGGER for body in upstream.bodies) == 1


def test_the_item_counts_under_its_other_name(api: Gateway, upstream: ScriptedUpstream, model: str) -> None:
    upstream.always(under_another_name)
    assert kinds(compact(api, model, "native")) == ["compaction", "reasoning", "message"]
    assert sealed_in(upstream.bodies[-1]) == ["compaction"]
    # The first turn, the compaction and the answer: no second pass.
    assert paths(upstream) == ["", COMPACT, ""]
