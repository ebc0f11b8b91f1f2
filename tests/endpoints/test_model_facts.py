"""What /v1/models and Codex's catalogue say about models whose upstreams tell their windows, or whose table does."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.gateway import Gateway
from tests.relay.conftest import eventually
from tests.upstream import ScriptedUpstream

JSON = dict[str, Any]

WINDOW, OUTPUT = 32_768, 4_096
LIST = "/v1/models"
TABLE: JSON = {
    "models": {
        "stated": {"context_window": 1_000, "modalities": ["text"], "display_name": "As stated"},
        "*-sol": {"max_output_tokens": 77},
        "gpt-6-luna": {"context_window": 2_000},
        "own-*": {"catalogue": False},
    }
}


@pytest.fixture(scope="module")
def servers() -> Iterator[tuple[ScriptedUpstream, ScriptedUpstream, ScriptedUpstream]]:
    with ScriptedUpstream() as vllm, ScriptedUpstream() as ollama, ScriptedUpstream() as anthropic:
        listed = {"max_model_len": WINDOW, "max_completion_tokens": OUTPUT, "capabilities": {"vision": True}}
        vllm.cards[LIST] = {"data": [{"id": name, **listed} for name in ("m", "stated", "found-1", "left-out")]}
        ollama.cards[LIST] = {
            "data": [{"id": "llama:latest", "owned_by": "library"}, {"id": "m", "owned_by": "library"}]
        }
        ollama.cards["/api/ps"] = {"models": [{"name": "llama:latest", "context_length": 8_192}]}
        anthropic.cards[LIST] = {"data": [{"id": "claude", "max_input_tokens": 200_000, "display_name": "Claude"}]}
        yield vllm, ollama, anthropic


@pytest.fixture(scope="module")
def gateway(
    tmp_path_factory: pytest.TempPathFactory, servers: tuple[ScriptedUpstream, ScriptedUpstream, ScriptedUpstream]
) -> Iterator[Gateway]:
    vllm, ollama, anthropic = servers
    rows = [
        vllm.channel("vllm", models={"fast": "m", "stated": None, "found-*": None, "own-1": "m"}),
        ollama.channel("ollama", format="chat_completions", models=["llama", "gpt-6-sol", "gpt-6-luna"]),
        anthropic.channel("anthropic", format="messages", models={"claude": None, "alias": "claude"}),
    ]
    with Gateway(tmp_path_factory.mktemp("facts"), rows, TABLE) as gateway:
        eventually(lambda: len(_with_windows(gateway)) == 8, "what the upstreams list")
        yield gateway


def _listed(gateway: Gateway, query: str = "", key: str = "data", **options: Any) -> dict[str, JSON]:
    listing = gateway.get(f"/models{query}", **options).json()
    return {entry["slug" if key == "models" else "id"]: entry for entry in listing[key]}


def _with_windows(gateway: Gateway) -> dict[str, int]:
    return {name: entry["context_window"] for name, entry in _listed(gateway).items() if "context_window" in entry}


def test_each_model_shows_the_window_that_its_upstream_tells(gateway: Gateway) -> None:
    assert _with_windows(gateway) == {
        **dict.fromkeys(("fast", "found-1", "own-1"), WINDOW),
        **{"llama": 8_192, "claude": 200_000, "alias": 200_000},
        **{"stated": 1_000, "gpt-6-luna": 2_000},
    }


def test_other_facts_stand_beside_the_window_and_unknown_ones_are_left_out(gateway: Gateway) -> None:
    listed = _listed(gateway)
    assert (listed["fast"]["max_output_tokens"], listed["fast"]["modalities"]) == (OUTPUT, ["text", "image"])
    assert (listed["stated"]["max_output_tokens"], listed["stated"]["modalities"]) == (OUTPUT, ["text"])
    assert listed["gpt-6-sol"]["max_output_tokens"] == 77
    assert listed["gpt-6-sol"].keys().isdisjoint({"context_window", "modalities"})
    assert gateway.get("/models/fast").json() == listed["fast"]


def test_codex_gets_an_entry_for_each_model_that_it_does_not_know_better(gateway: Gateway) -> None:
    catalogue = _listed(gateway, "?client_version=0.171.0", "models")
    # The window of one of Codex's own models is stated, that of the other is not; one model was left out by the table.
    assert list(catalogue) == ["alias", "claude", "fast", "found-1", "gpt-6-luna", "llama", "stated"]
    windows = {name: entry["context_window"] for name, entry in catalogue.items()}
    assert windows == {name: window for name, window in _with_windows(gateway).items() if name != "own-1"}
    names = {name: entry["display_name"] for name, entry in catalogue.items() if entry["display_name"] != name}
    # A model with a name of the table's own does not show the upstream's.
    assert names == {"claude": "Claude", "stated": "As stated"}
    assert catalogue["stated"]["input_modalities"] == ["text"]
    assert [entry["priority"] for entry in catalogue.values()] == list(range(1, 8))


def test_a_token_gets_the_catalogue_of_its_models(gateway: Gateway) -> None:
    token = gateway.new_token("only-fast", "--models", "fast,own-1")
    assert list(_listed(gateway, "?client_version=0.171.0", "models", token=token)) == ["fast"]


def test_the_list_of_messages_servers_is_asked_for_in_whole(
    gateway: Gateway, servers: tuple[ScriptedUpstream, ScriptedUpstream, ScriptedUpstream]
) -> None:
    assert {request.path for request in servers[2].listings} == {f"{LIST}?limit=1000"}
    assert {request.path for request in servers[1].listings} == {LIST, "/api/ps"}


def test_a_server_that_lists_nothing_leaves_the_facts_unknown_and_serves(
    gateway: Gateway, tmp_path_factory: pytest.TempPathFactory
) -> None:
    with ScriptedUpstream() as silent:
        silent.cards[LIST] = {"detail": "Not Found"}
        with Gateway(tmp_path_factory.mktemp("silent"), [silent.channel("one", models=["m"])]) as other:
            # The gateway asks by itself when it starts.
            eventually(lambda: bool(silent.listings), "the request for the list")
            assert "context_window" not in _listed(other)["m"]
            assert _listed(other, "?client_version=1", "models")["m"]["context_window"] == 128_000
            assert other.post("/responses", {"model": "m", "input": "hi"}).status_code == 200
