"""All turns of a conversation reach the same one of two equal channels, over two workers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.gateway import Gateway
from tests.upstream import ScriptedUpstream

JSON = dict[str, Any]
TURNS = 6
CONVERSATIONS = 12


@pytest.fixture(scope="module")
def pair() -> Iterator[tuple[ScriptedUpstream, ScriptedUpstream]]:
    with ScriptedUpstream() as one, ScriptedUpstream() as two:
        yield one, two


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory, pair: tuple[ScriptedUpstream, ScriptedUpstream]) -> Iterator[Gateway]:
    one, two = pair
    channels = [one.channel("one", chat=True), two.channel("two", chat=True)]
    with Gateway(tmp_path_factory.mktemp("affinity"), channels, workers=2) as gateway:
        yield gateway


@pytest.fixture
def count(pair: tuple[ScriptedUpstream, ScriptedUpstream]) -> Callable[[], tuple[int, ...]]:
    """The requests that each upstream gets during the test."""
    before = [len(upstream.bodies) for upstream in pair]
    return lambda: tuple(len(upstream.bodies) - earlier for upstream, earlier in zip(pair, before, strict=True))


def user(text: str) -> JSON:
    return {"type": "message", "role": "user", "content": text}


def stateless(api: Gateway, name: str, headers: JSON | None = None, **keys: Any) -> None:
    """A client that sends the whole conversation each turn, each time on a new connection."""
    items: list[JSON] = []
    for number in range(TURNS):
        items.append(user(f"{name}, turn {number}"))
        answer = api.request(
            "POST",
            "/responses",
            json={"model": "m", "input": items, "store": False, **keys},
            headers={"Connection": "close", **(headers or {})},
        )
        assert answer.status_code == 200, answer.text
        items += answer.json()["output"]


@pytest.mark.parametrize(
    ("headers", "keys"),
    [
        ({}, {"prompt_cache_key": "conversation-17"}),
        ({"session-id": "0199-aa"}, {}),
        ({"x-openwebui-chat-id": "chat-5"}, {}),
        ({}, {}),
        ({}, {"instructions": "Be brief.", "stream": False}),
    ],
)
def test_a_client_that_keeps_the_conversation_stays_on_one_channel(
    api: Gateway, count: Callable[[], tuple[int, ...]], headers: JSON, keys: JSON
) -> None:
    stateless(api, "one conversation", headers, **keys)
    assert sorted(count()) == [0, TURNS]


def test_a_chain_and_a_conversation_stay_on_one_channel(api: Gateway, count: Callable[[], tuple[int, ...]]) -> None:
    last: JSON = {}
    for number in range(TURNS):
        answer = api.post("/responses", {"model": "m", "input": f"turn {number}", **last}).json()
        last = {"previous_response_id": answer["id"]}
    assert sorted(count()) == [0, TURNS]
    conversation = api.post("/conversations", {}).json()["id"]
    before = count()
    for number in range(TURNS):
        api.post("/responses", {"model": "m", "input": f"turn {number}", "conversation": conversation})
    assert sorted(after - earlier for after, earlier in zip(count(), before, strict=True)) == [0, TURNS]


def test_a_passthrough_conversation_stays_on_one_channel(api: Gateway, count: Callable[[], tuple[int, ...]]) -> None:
    messages: list[JSON] = [{"role": "system", "content": "Be brief."}]
    for number in range(TURNS):
        messages.append({"role": "user", "content": f"turn {number}"})
        answer = api.post("/chat/completions", {"model": "m", "messages": messages})
        assert answer.status_code == 200, answer.text
        messages.append(answer.json()["choices"][0]["message"])
    assert sorted(count()) == [0, TURNS]


def test_new_conversations_use_both_channels(api: Gateway, count: Callable[[], tuple[int, ...]]) -> None:
    for number in range(CONVERSATIONS):
        api.post("/responses", {"model": "m", "input": f"conversation {number}", "store": False})
    assert min(count()) >= 2
