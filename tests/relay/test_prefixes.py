"""An upstream gets each turn what it got in the turn before, over restarts and over turns that another one answered."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import pytest

from tests.caches.prompts import prompt_of
from tests.endpoints.vocabulary import WEATHER
from tests.gateway import Gateway
from tests.response_contract import check_stream
from tests.upstream import ScriptedUpstream, failing_at_once

JSON = dict[str, Any]
FORMATS = ("responses", "chat_completions", "messages")
KEEPERS = ("chain", "client", "conversation")
#: What the user says, turn by turn. One turn goes to another upstream, and the gateway restarts before another one.
SAID = ("Hello", "What is the weather? Both, please, and explain.", "Thanks", "And there?", "", "Bye")
FAILED_OVER, RESTARTED = 3, 4
#: Retries are a share of the load.
RETRY_EARNERS = 15


@pytest.fixture(scope="module")
def upstreams() -> Iterator[tuple[ScriptedUpstream, ScriptedUpstream]]:
    with ScriptedUpstream() as one, ScriptedUpstream() as two:
        yield one, two


@pytest.fixture(scope="module")
def gateway(
    tmp_path_factory: pytest.TempPathFactory, upstreams: tuple[ScriptedUpstream, ScriptedUpstream]
) -> Iterator[Gateway]:
    rows = [
        upstream.channel(
            f"{format_}-{place}",
            format=format_,
            models=[f"{format_}-{keep}" for keep in KEEPERS] + ["steady"] * (not place),
            priority=10 - place,
            cooldown={"after": 1000},
        )
        for format_ in FORMATS
        for place, upstream in enumerate(upstreams)
    ]
    with Gateway(tmp_path_factory.mktemp("prefixes"), rows) as gateway:
        yield gateway


class Client:
    """A client whose conversation is stored as a chain or a conversation, or that keeps it itself."""

    def __init__(self, gateway: Gateway, model: str, keep: str) -> None:
        self.model = model
        self._gateway = gateway
        self._keep = keep
        self._items: list[JSON] = []
        self._given = 0
        self._last: JSON = {}
        if keep == "conversation":
            self._last = {"conversation": gateway.post("/conversations", {}).json()["id"]}

    def says(self, words: str, *, streamed: bool) -> None:
        self._items.append({"role": "user", "content": words})
        body = {
            "model": self.model,
            "instructions": "Be brief.",
            "tools": [WEATHER],
            "include": ["reasoning.encrypted_content"],
            "input": self._items if self._keep == "client" else self._items[self._given :],
            **self._last,
            **({"store": False} if self._keep == "client" else {}),
        }
        response = self._streamed(body) if streamed else self._gateway.post("/responses", body).json()
        assert response.get("status") == "completed", response
        self._items += response["output"]
        self._given = len(self._items)
        self._items += [
            {"type": "function_call_output", "call_id": item["call_id"], "output": "sunny"}
            for item in response["output"]
            if item["type"] == "function_call"
        ]
        if self._keep == "chain":
            self._last = {"previous_response_id": response["id"]}

    def _streamed(self, body: JSON) -> JSON:
        response: JSON = check_stream(self._gateway.stream(body).content)[-1]["response"]
        return response


def test_every_upstream_gets_the_same_beginning(
    gateway: Gateway, upstreams: tuple[ScriptedUpstream, ScriptedUpstream]
) -> None:
    first, _ = upstreams
    clients = [Client(gateway, f"{format_}-{keep}", keep) for format_ in FORMATS for keep in KEEPERS]
    for _ in range(RETRY_EARNERS * len(clients)):
        assert gateway.post("/responses", {"model": "steady", "input": "Hi"}).status_code == 200
    for number, words in enumerate(SAID):
        if number == RESTARTED:
            gateway.restart()
        for client in clients:
            if number == FAILED_OVER:
                first.enqueue(failing_at_once())
            client.says(words, streamed=number % 2 == 1)
    for client in clients:
        for upstream in upstreams:
            sent = [
                [part.text for part in prompt_of(request.path, request.body).parts]
                for request in upstream.requests
                if request.body.get("model") == client.model
            ]
            assert len(sent) == (len(SAID) if upstream is first else 1)
            for earlier, later in pairwise(sent):
                assert later[: len(earlier)] == earlier, client.model
