"""Who may speak: missing, wrong, revoked, expired and restricted tokens."""

from __future__ import annotations

from typing import Any

import pytest

from tests.endpoints.conftest import EXACT
from tests.gateway import Gateway
from tests.relay.conftest import eventually
from tests.response_contract import check_error, check_response
from tests.stored_data import written
from tests.upstream import ScriptedUpstream

ROUTES = [
    ("POST", "/responses"),
    ("GET", "/responses/resp_x"),
    ("DELETE", "/responses/resp_x"),
    ("POST", "/responses/resp_x/cancel"),
    ("GET", "/models"),
    ("GET", "/models/demo"),
]
HELLO = {"model": "demo", "input": "hello"}


def _response_to(api: Gateway, method: str, path: str, authorization: str | None, **keys: Any) -> Any:
    return api.request(method, path, headers={"Authorization": authorization}, **keys)


@pytest.mark.parametrize(("method", "path"), ROUTES)
def test_a_request_without_a_token_is_refused(api: Gateway, method: str, path: str) -> None:
    error = check_error(_response_to(api, method, path, None), 401, code=None, param=None, type="invalid_request_error")

    on_responses = "Missing bearer or basic authentication in header"
    elsewhere = "You didn't provide an API key."
    assert error["message"].startswith((on_responses,) if "responses" in path else (on_responses, elsewhere))


WRONG = ["sk-wrong-key-of-some-length", "x", "ap_" + "0" * 46, "' OR 1=1 --", "%", "\xe9", "a" * 4000, "ap_"]


@pytest.mark.parametrize(("method", "path"), ROUTES)
def test_a_wrong_token_is_refused_without_being_quoted(api: Gateway, method: str, path: str) -> None:
    error = check_error(
        _response_to(api, method, path, "Bearer sk-wrong-key-of-some-length"),
        401,
        code="invalid_api_key",
        param=None,
        type="invalid_request_error",
    )

    assert error["message"].startswith("Incorrect API key provided: ")
    assert "wrong-key-of-some-length" not in error["message"]


@pytest.mark.parametrize(
    ("token", "shown"),
    [
        ("sk-wrong-key-of-some-length", "sk-"),
        ("ap_" + "0" * 46, "ap_"),
        ("abcd", "abc"),
        ("x", "x"),
        ("ab\xe9cdef", ""),
        ("\xe9", ""),
    ],
)
def test_of_a_wrong_token_three_characters_are_shown(api: Gateway, token: str, shown: str) -> None:
    error = check_error(_response_to(api, "GET", "/models", f"Bearer {token}"), 401, code="invalid_api_key")
    assert error["message"].startswith(f"Incorrect API key provided: {shown}***. ")


@pytest.mark.parametrize("token", WRONG, ids=ascii)
def test_anything_else_than_a_token_is_a_wrong_one(api: Gateway, token: str) -> None:
    check_error(_response_to(api, "GET", "/models", f"Bearer {token}"), 401, code="invalid_api_key")


def test_a_token_is_its_exact_letters(api: Gateway) -> None:
    for token in (api.token.upper(), api.token[:-1], api.token + "x", f"{api.token} {api.token}"):
        check_error(_response_to(api, "GET", "/models", f"Bearer {token}"), 401)


@pytest.mark.parametrize("scheme", ["", "Basic ", "Token "])
def test_another_scheme_is_no_way_in(api: Gateway, scheme: str) -> None:
    check_error(_response_to(api, "GET", "/models", scheme + api.token), 401)


def test_the_scheme_is_read_in_any_case(api: Gateway) -> None:
    assert _response_to(api, "GET", "/models", f"bearer {api.token}").status_code == 200


def test_a_token_in_the_query_is_none(api: Gateway) -> None:
    check_error(_response_to(api, "GET", f"/models?api_key={api.token}&token={api.token}", None), 401)


def test_authentication_comes_before_everything_else(api: Gateway) -> None:
    for data in (b"{", b"", b'{"model":"nobody"}', b"x" * 20_000):
        check_error(_response_to(api, "POST", "/responses", "Bearer wrong", data=data), 401)


def test_a_revoked_token_is_refused_soon(api: Gateway) -> None:
    token = api.new_token("revoked")
    assert api.get("/models", token=token).status_code == 200
    api.command("tokens", "revoke", "revoked")

    eventually(lambda: api.get("/models", token=token).status_code != 200, "the refusal")
    check_error(api.get("/models", token=token), 401, code="invalid_api_key")


def test_an_expired_token_is_refused_in_the_same_words(api: Gateway) -> None:
    expired = api.new_token("expired", "--expires", "1s")
    eventually(lambda: api.post("/responses", HELLO, token=expired).status_code == 401, "the token to expire")
    answers = [api.post("/responses", HELLO, token=token) for token in (expired, "ap_unknown")]

    errors = [check_error(answer, 401, code="invalid_api_key") for answer in answers]
    assert len({error["message"].split(":")[0] for error in errors}) == 1


def test_a_restricted_token_sees_and_uses_its_models_only(api: Gateway, exact: ScriptedUpstream) -> None:
    token = api.new_token("restricted", "--owner", "tests", "--models", "demo,other-*")
    check_response(api.post("/responses", HELLO, token=token).json(), status="completed")

    foreign = api.post("/responses", {**HELLO, "model": EXACT}, token=token)
    unknown = api.post("/responses", {**HELLO, "model": "exact-nobody"}, token=token)
    for answer in (foreign, unknown):
        check_error(answer, 400, code="model_not_found", param="model")
    assert foreign.text.replace(EXACT, "NAME") == unknown.text.replace("exact-nobody", "NAME")

    assert [model["id"] for model in api.get("/models", token=token).json()["data"]] == ["demo"]
    check_error(api.get(f"/models/{EXACT}", token=token), 404, code="model_not_found")
    assert not exact.bodies


def test_the_nearest_name_is_one_that_the_token_may_use(api: Gateway) -> None:
    token = api.new_token("nearest", "--models", "demo")
    answer = api.post("/responses", {**HELLO, "model": EXACT + "s"}, token=token)

    assert f"'{EXACT}'" not in check_error(answer, 400, code="model_not_found")["message"]


def test_a_token_that_stores_nothing_ignores_the_request_to_store(api: Gateway) -> None:
    token = api.new_token("forgetful", "--no-store")
    body = api.post("/responses", {**HELLO, "store": True}, token=token).json()

    assert body["store"] is False
    check_error(api.get(f"/responses/{body['id']}", token=token), 404)


def test_no_token_is_ever_written_down_in_the_clear(api: Gateway) -> None:
    _response_to(api, "GET", "/models", f"Bearer {api.token}x")

    assert api.token.encode() not in written(api)
