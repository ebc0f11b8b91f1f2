"""GET /v1/models: OpenAI's list, one model of it, and the key that Codex looks for."""

from __future__ import annotations

import pytest
from openai.types import Model

from tests.endpoints.conftest import FORMATS, OPEN_MINDED
from tests.gateway import Gateway
from tests.response_contract import check_error

NAMES = sorted({OPEN_MINDED} | {model for model, _ in FORMATS.values()})


def test_all_models_are_listed_as_openai_lists_them(api: Gateway) -> None:
    listed = api.get("/models").json()

    assert listed["object"] == "list"
    assert sorted(model["id"] for model in listed["data"]) == NAMES
    for model in listed["data"]:
        Model.model_validate(model, strict=True)
        assert model["object"] == "model"


def test_the_list_does_not_change_by_itself(api: Gateway) -> None:
    assert api.get("/models").json() == api.get("/models").json()


def test_codex_finds_its_own_key_beside_the_list(api: Gateway) -> None:
    listed = api.get("/models?client_version=0.169.0").json()

    assert [entry["slug"] for entry in listed["models"]] == NAMES
    assert listed["data"] == api.get("/models").json()["data"]
    assert "models" not in api.get("/models").json()


@pytest.mark.parametrize("name", [*NAMES, "open%2Fminded"])
def test_one_model_is_what_the_list_says_of_it(api: Gateway, name: str) -> None:
    one = api.get(f"/models/{name}")

    assert one.status_code == 200
    assert one.json() in api.get("/models").json()["data"]


@pytest.mark.parametrize("name", ["nobody", "a/b/c", "DEMO", "demo%20", "%00"])
def test_an_unknown_model_is_not_found(api: Gateway, name: str) -> None:
    error = check_error(
        api.get(f"/models/{name}"), 404, code="model_not_found", param="model", type="invalid_request_error"
    )
    assert error["message"].startswith("The model '")
    assert error["message"].endswith("' does not exist")


def test_the_list_shows_nothing_of_the_channels(api: Gateway) -> None:
    text = api.get("/models?client_version=1").text

    assert "127.0.0.1" not in text
    assert "api_key" not in text
