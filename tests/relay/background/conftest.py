"""One gateway of each kind for all tests of background responses: two workers that serve, one that works."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import openai
import pytest
import requests

from tests.gateway import Gateway
from tests.queues import redis_url
from tests.relay.conftest import PROMPTLY, eventually
from tests.response_contract import check_response
from tests.upstream import ScriptedUpstream

__all__ = ["redis_url"]

JSON = dict[str, Any]
KINDS = ("sqlite", "mariadb", "redis")
#: The model of each format, and its row in the channel table.
FORMATS: dict[str, Callable[[ScriptedUpstream], JSON]] = {
    "m": lambda upstream: upstream.channel("exact", cooldown={"after": 1000}),
    "chat": lambda upstream: upstream.channel("chat", format="chat_completions", models=["chat"]),
    "demo": lambda _: {"name": "demo", "format": "demo", "models": ["demo"]},
}


@dataclass(frozen=True, slots=True)
class BackgroundGateway:
    gateway: Gateway
    upstream: ScriptedUpstream
    client: openai.OpenAI
    model: str = "m"

    def on(self, model: str) -> BackgroundGateway:
        return replace(self, model=model)

    def create(self, **keys: Any) -> JSON:
        answer = self.gateway.post("/responses", self.body(**keys))
        assert answer.status_code == 200, answer.text
        return check_response(answer.json(), status="queued", background=True)

    def body(self, **keys: Any) -> JSON:
        return {"model": self.model, "input": "Say something to me", "background": True, **keys}

    def get(self, response_id: str) -> JSON:
        return dict(self.gateway.get(f"/responses/{response_id}").json())

    def ended(self, response_id: str, within: float = PROMPTLY) -> JSON:
        """The response once it has ended, however."""

        def look() -> JSON | None:
            response = self.get(response_id)
            return None if response["status"] in ("queued", "in_progress") else response

        found: JSON = eventually(look, "the response to end", within)
        return found

    def follow(self, response_id: str, after: int | None = None) -> requests.Response:
        """On a connection of its own, so that any worker may take it."""
        query = "" if after is None else f"&starting_after={after}"
        return requests.get(
            f"{self.gateway.base_url}/responses/{response_id}?stream=true{query}",
            headers={"Authorization": f"Bearer {self.gateway.token}"},
            stream=True,
            timeout=30,
            proxies={"http": ""},
        )


def await_post(upstream: ScriptedUpstream) -> None:
    eventually(lambda: upstream.bodies, "a request to the upstream")


@pytest.fixture(scope="session")
def _upstream() -> Iterator[ScriptedUpstream]:
    with ScriptedUpstream() as upstream:
        yield upstream


@pytest.fixture(scope="session", params=KINDS)
def _gateway(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, _upstream: ScriptedUpstream
) -> Iterator[Gateway]:
    settings: JSON = {}
    if request.param == "mariadb":
        server = request.getfixturevalue("mariadb")
        server.run("CREATE DATABASE background")
        settings["database_url"] = server.url("background")
    if request.param == "redis":
        settings["queue_url"] = request.getfixturevalue("redis_url")
    rows = [*(row(_upstream) for row in FORMATS.values()), _upstream.channel("small", models=["small"])]
    table = {"models": {"small": {"context_window": 2000, "compact_at": 0.5}}}
    folder = tmp_path_factory.mktemp("background")
    with Gateway(folder, rows, table, workers=2, worker_processes=1, lease=4, **settings) as gateway:
        yield gateway


@pytest.fixture
def background_gateway(_gateway: Gateway, _upstream: ScriptedUpstream) -> Iterator[BackgroundGateway]:
    _upstream.reset()
    with _gateway.client() as client:
        yield BackgroundGateway(_gateway, _upstream, client)
    _upstream.reset()
