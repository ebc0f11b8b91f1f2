"""Half a character in what a client sends or an upstream answers: a 400, or replaced, and never an outage."""

from __future__ import annotations

from typing import Any

import orjson
import pytest
import requests

from tests.endpoints.conftest import EXACT
from tests.endpoints.test_depth import BODIES
from tests.gateway import Gateway
from tests.response_contract import check_error, check_response, check_stream
from tests.upstream import ScriptedUpstream, refusal, respelled

HALF = rb"\ud83d"


@pytest.mark.parametrize("path", BODIES)
@pytest.mark.parametrize("half", [HALF, b"\xed\xa0\xbd"], ids=["escape", "bytes"])
def test_in_the_body_of_a_request_it_is_no_json(api: Gateway, path: str, half: bytes) -> None:
    body, (member, *_) = BODIES[path]
    data = orjson.dumps({**body, member: "half"}).replace(b"half", half)
    headers = {"Authorization": f"Bearer {api.token}", "Content-Type": "application/json"}
    check_error(requests.post(api.base_url + path, data=data, headers=headers, timeout=20), 400)


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/responses/resp_{}"),
        ("DELETE", "/responses/{}"),
        ("POST", "/responses/{}/cancel"),
        ("GET", "/responses/{}/input_items"),
        ("GET", "/conversations/conv_{}"),
        ("GET", "/conversations/conv_{}/items/{}"),
        ("GET", "/responses/resp_1?include[]={}"),
        ("GET", "/conversations/conv_1/items?after={}"),
    ],
)
@pytest.mark.parametrize("half", ["%ED%A0%BD", "%ff", "%00"])
def test_in_the_path_of_a_request_it_names_nothing(api: Gateway, method: str, path: str, half: str) -> None:
    answer = requests.request(
        method, api.base_url + path.replace("{}", half), headers={"Authorization": f"Bearer {api.token}"}, timeout=20
    )
    assert answer.status_code in (400, 404), answer.text


@pytest.mark.parametrize("name", ["Idempotency-Key", "Session-Id", "X-Request-Id", "Authorization"])
def test_in_a_header_it_does_no_harm(api: Gateway, name: str) -> None:
    headers: dict[str, Any] = {"Authorization": f"Bearer {api.token}", name: b"\xed\xa0\xbd"}
    body = {"model": EXACT, "input": "hello"}
    answer = requests.post(f"{api.base_url}/responses", json=body, headers=headers, timeout=20)
    assert answer.status_code in (200, 400, 401), answer.text


@pytest.mark.parametrize(
    ("member", "stream"),
    [(b'"id":"', False), (b'"model":"', False), (b'"text":"', False), (b'"id":"', True), (b'"model":"', True)],
)
def test_in_an_answer_it_is_replaced(api: Gateway, exact: ScriptedUpstream, stream: bool, member: bytes) -> None:
    exact.enqueue(respelled(lambda body: body.replace(member, member + HALF)))
    body = {"model": EXACT, "input": "hello", "stream": stream}
    if stream:
        response = check_stream(api.stream(body).content, status="completed")[-1]["response"]
    else:
        response = check_response(api.post("/responses", body).json(), status="completed")
    stored = api.get(f"/responses/{response['id']}").json()
    assert stored == response
    assert stored["output"]


def test_in_a_refusal_it_is_replaced(api: Gateway, exact: ScriptedUpstream) -> None:
    exact.enqueue(refusal(400, "No half.", code="invalid_value"), respelled(lambda body: body.replace(b"half", HALF)))
    error = check_error(api.post("/responses", {"model": EXACT, "input": "hello"}), 400, "invalid_value")
    assert error["message"] == "No \N{REPLACEMENT CHARACTER}."
