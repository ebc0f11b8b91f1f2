"""What the table says about models and storing, for tokens that say nothing themselves."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.console.visitors import Person
from tests.gateway import Gateway
from tests.relay.conftest import eventually
from tests.response_contract import check_error
from tests.websocket_client import Socket

JSON = dict[str, Any]
LIMITS = {"models": ["m", "open-*"], "no_store": True}


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    rows = [{"name": "demo", "format": "demo", "models": ["m", "open-one", "closed"]}]
    with Gateway(tmp_path_factory.mktemp("defaults"), rows, {"limits": LIMITS}) as gateway:
        yield gateway


@pytest.fixture(scope="module")
def lifted(gateway: Gateway) -> str:
    return gateway.new_token("lifted", "--models", "*", "--store")


def ask(gateway: Gateway, token: str | None = None, model: str = "m", **keys: Any) -> Any:
    return gateway.post("/responses", {"model": model, "input": "hello", **keys}, token=token)


def models(gateway: Gateway, token: str | None = None) -> set[str]:
    return {model["id"] for model in gateway.get("/models", token=token).json()["data"]}


def is_stored(gateway: Gateway, response: JSON, token: str | None = None) -> bool:
    return gateway.get(f"/responses/{response['id']}", token=token).status_code == 200


def test_a_token_without_models_of_its_own_has_those_of_the_table(gateway: Gateway, lifted: str) -> None:
    assert models(gateway) == {"m", "open-one"}
    assert check_error(ask(gateway, model="closed"), 400)["code"] == "model_not_found"
    chat = {"model": "closed", "messages": [{"role": "user", "content": "hello"}]}
    assert gateway.post("/chat/completions", chat).status_code == 404
    assert models(gateway, lifted) == {"m", "open-one", "closed"}
    assert ask(gateway, lifted, "closed").status_code == 200
    other = gateway.new_token("other", "--models", "closed")
    assert models(gateway, other) == {"closed"}


@pytest.mark.parametrize("stream", [False, True])
def test_a_token_stores_nothing_unless_it_was_made_to(gateway: Gateway, lifted: str, stream: bool) -> None:
    unstored = ask(gateway, stream=stream, store=True)
    assert unstored.status_code == 200
    if not stream:
        assert unstored.json()["store"] is False
        assert not is_stored(gateway, unstored.json())
        stored = ask(gateway, lifted).json()
        assert stored["store"] is True
        assert is_stored(gateway, stored, lifted)


def test_nothing_of_the_kind_can_be_asked_for(gateway: Gateway, lifted: str) -> None:
    assert check_error(ask(gateway, background=True), 400)["param"] == "background"
    assert gateway.post("/conversations", {}).status_code == 400
    assert gateway.post("/conversations", {}, token=lifted).status_code == 200
    with Socket(gateway) as socket:
        assert not is_stored(gateway, socket.answer(model="m"))


def test_update_lifts_the_defaults_and_sets_them_again(gateway: Gateway, lifted: str) -> None:
    token = gateway.new_token("changed")
    for options, allowed, stored in (
        (["--models", "*", "--store"], {"m", "open-one", "closed"}, True),
        (["--models", "closed,m", "--no-store"], {"m", "closed"}, False),
    ):
        gateway.command("tokens", "update", "changed", *options)
        eventually(lambda allowed=allowed: models(gateway, token) == allowed, "the change to reach the worker")
        assert is_stored(gateway, ask(gateway, token).json(), token) is stored
    lines = {line.split()[0]: line for line in gateway.command("tokens", "list").splitlines()}
    assert "every model, may store" in lines["lifted"]
    assert "every model" not in lines["changed"]
    assert "may store" not in lines["changed"]


def test_they_hold_for_the_playground(gateway: Gateway) -> None:
    with Person(gateway, "player", owner="player", role="owner") as person:
        headers = {"X-CSRF-Token": person.sign_in().csrf}
        answers = [
            person.send("POST", "/console/playground", headers=headers, json={"model": model, "input": "hello"})
            for model in ("closed", "m")
        ]
        assert check_error(answers[0], 400)["code"] == "model_not_found"
        assert answers[1].json()["store"] is False
        page = person.get("/console/playground").text
        assert "<option>open-one</option>" in page
        assert "<option>closed</option>" not in page
        assert 'id="f-store" disabled' in page
