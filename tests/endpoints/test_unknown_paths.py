"""A request to a wrong path or with a wrong method is answered as JSON, in OpenAI's envelope."""

from __future__ import annotations

import re
from typing import Any

import pytest
import requests

from tests.gateway import Gateway
from tests.response_contract import check_error, check_response

UPGRADE = {
    "Connection": "Upgrade",
    "Upgrade": "websocket",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
    "OpenAI-Beta": "responses_websockets=2026-02-06",
}


@pytest.mark.parametrize(
    "path", ["/nope", "/responses/a/b/c", "/embeddings", "/assistants", "/responses/resp_x/nope", "/%00", "/é"]
)
@pytest.mark.parametrize("method", ["GET", "POST", "DELETE", "PUT"])
def test_an_unknown_path_is_a_json_404(api: Gateway, method: str, path: str) -> None:
    check_error(api.request(method, path), 404, type="invalid_request_error")


def test_an_unknown_path_names_the_base_url(api: Gateway) -> None:
    assert api.base_url in check_error(api.get("/nope"), 404)["message"]


def test_a_host_of_the_clients_making_does_not_reach_the_headers(api: Gateway) -> None:
    answer = api.get("/nope", headers={"Host": "evil.example"})

    assert not [value for value in answer.headers.values() if "evil" in value]


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("PUT", "/responses", "POST"),
        ("DELETE", "/responses", "POST"),
        ("PATCH", "/responses/resp_x", "GET"),
        ("POST", "/responses/resp_x", "GET"),
        ("GET", "/responses/resp_x/cancel", "POST"),
        ("POST", "/models", "GET"),
        ("DELETE", "/models/demo", "GET"),
    ],
)
def test_a_wrong_method_is_a_json_405_that_names_the_right_ones(
    api: Gateway, method: str, path: str, allowed: str
) -> None:
    answer = api.request(method, path)

    check_error(answer, 405, code="method_not_allowed")
    assert allowed in answer.headers["Allow"]


@pytest.mark.parametrize(
    ("method", "path", "token"),
    [("POST", "/responses", "wrong"), ("POST", "/nope", None), ("PUT", "/responses", None), ("POST", "/models", None)],
    ids=["wrong token", "unknown path", "wrong method", "read-only path"],
)
def test_an_unread_body_does_not_spoil_the_next_request(
    api: Gateway, method: str, path: str, token: str | None
) -> None:
    for size in (1_000, 70_000, 300_000, 2_000_000) * 2:
        check_error(api.request(method, path, data=b"x" * size, token=token))
        assert api.get("/models").status_code == 200, size


@pytest.mark.parametrize("change", [{"Upgrade": None}, {"Sec-WebSocket-Version": "12"}], ids=["no upgrade", "version"])
def test_another_upgrade_gets_426(api: Gateway, change: dict[str, str | None]) -> None:
    answer = api.get("/responses", headers={**UPGRADE, **change})

    check_error(answer, 426, code="upgrade_required")
    assert answer.headers["Upgrade"] == "websocket"
    assert answer.headers["Connection"].lower() == "upgrade"
    assert answer.headers["Sec-WebSocket-Version"] == "13"


@pytest.mark.parametrize("key", ["", "short", "c2hvcnQ=", "=" * 24])
def test_a_websocket_without_a_proper_key_is_refused(api: Gateway, key: str) -> None:
    check_error(api.get("/responses", headers={**UPGRADE, "Sec-WebSocket-Key": key}), 400)


@pytest.mark.parametrize("token", ["wrong", "sk-" + "x" * 40])
def test_a_websocket_with_a_wrong_token_is_refused_before_the_handshake(api: Gateway, token: str) -> None:
    check_error(api.get("/responses", headers=UPGRADE, token=token), 401, code="invalid_api_key")


@pytest.mark.parametrize("path", ["/responses", "/models", "/responses/resp_x"])
def test_head_and_options_are_no_accident(api: Gateway, path: str) -> None:
    for method in ("HEAD", "OPTIONS"):
        assert api.request(method, path).status_code < 500


def _bare(api: Gateway, method: str, path: str, **keys: Any) -> requests.Response:
    headers = {"Authorization": f"Bearer {api.token}"}
    return requests.request(method, api.url + path, headers=headers, timeout=20, **keys)


def test_the_suffix_v1_may_be_left_out(api: Gateway) -> None:
    answer = _bare(api, "POST", "/responses", json={"model": "demo", "input": "hello"})

    check_response(answer.json(), status="completed")
    assert _bare(api, "GET", "/models").json() == api.get("/models").json()


@pytest.mark.parametrize(
    "path", ["/", "/v1", "/v1/", "/v1/v1/responses", "/favicon.ico", "/../etc/passwd", "/static/x"]
)
def test_the_root_has_no_html(api: Gateway, path: str) -> None:
    check_error(_bare(api, "GET", path), 404)


@pytest.mark.parametrize("content_type", ["application/json", "application/json; charset=utf-8", "text/json"])
def test_json_is_taken_under_its_usual_names(api: Gateway, content_type: str) -> None:
    body = b'{"model":"demo","input":"hello"}'
    answer = api.request("POST", "/responses", data=body, headers={"Content-Type": content_type})

    check_response(answer.json(), status="completed")


@pytest.mark.parametrize(
    "content_type", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", None]
)
def test_another_content_type_is_json_all_the_same_or_refused(api: Gateway, content_type: str | None) -> None:
    body = b"model=demo&input=hello"
    answer = api.request("POST", "/responses", data=body, headers={"Content-Type": content_type})

    assert answer.status_code in (400, 415)
    check_error(answer)


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", "/models"), ("GET", "/nope"), ("PUT", "/responses"), ("GET", "/responses/resp_x"), ("POST", "/responses")],
)
@pytest.mark.parametrize("token", [None, "wrong"], ids=["right token", "wrong token"])
def test_every_answer_has_an_id_and_is_never_cached(api: Gateway, method: str, path: str, token: str | None) -> None:
    answer = api.request(method, path, token=token, headers={"X-Client-Request-Id": "mine-1"})

    assert re.fullmatch(r"req_[0-9a-f]{32}", answer.headers["x-request-id"])
    assert answer.headers["x-client-request-id"] == "mine-1"
    assert "no-store" in answer.headers["cache-control"]
    assert answer.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize("name", ["a" * 600, "é"], ids=["long", "beyond ASCII"])
def test_a_client_request_id_that_is_none_is_not_echoed(api: Gateway, name: str) -> None:
    answer = api.get("/models", headers={"X-Client-Request-Id": name.encode().decode("latin-1")})

    assert answer.status_code == 200
    assert answer.headers.get("x-client-request-id") != name


@pytest.mark.parametrize("path", ["/healthz", "/readyz"])
def test_health_needs_no_token_and_shows_nothing(api: Gateway, path: str) -> None:
    answer = requests.get(api.url + path, timeout=20)

    assert answer.status_code == 200
    assert "no-store" in answer.headers["cache-control"]


def test_no_header_of_a_client_changes_the_path(api: Gateway) -> None:
    answer = api.get("/models", headers={"PATH_INFO": "/healthz", "SCRIPT_NAME": "/v1"})

    assert (answer.status_code, answer.json()["object"]) == (200, "list")
