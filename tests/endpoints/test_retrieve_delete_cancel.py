"""A response after its creation: retrieved, cancelled, deleted, by its owner and by others."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.endpoints.conftest import EXACT
from tests.endpoints.vocabulary import JSON, WEATHER, message_item
from tests.gateway import Gateway
from tests.response_contract import check_error, check_response, check_stream
from tests.stored_data import values
from tests.upstream import ScriptedUpstream, failing

Create = Callable[..., JSON]
UNKNOWN = "resp_" + "0" * 48

REQUESTS: dict[str, JSON] = {
    "text": {"input": "hello", "instructions": "Be brief.", "metadata": {"k": "v"}},
    "call": {"input": "go", "tools": [WEATHER], "tool_choice": "required"},
    "reasoning": {"input": "go", "reasoning": {"effort": "low", "summary": "auto"}},
    "cut short": {"input": "go", "max_output_tokens": 16},
    "compaction": {"input": [message_item("hello"), {"type": "compaction_trigger"}]},
}


@pytest.mark.parametrize("request_body", REQUESTS.values(), ids=REQUESTS)
def test_a_retrieved_response_equals_the_created_one(
    api: Gateway, create: Create, model: str, request_body: JSON
) -> None:
    response = create(model, **request_body)
    answer = api.get(f"/responses/{response['id']}")

    assert answer.status_code == 200
    assert check_response(answer.json()) == response


@pytest.mark.parametrize("request_body", REQUESTS.values(), ids=REQUESTS)
def test_a_retrieved_response_equals_the_end_of_its_stream(api: Gateway, model: str, request_body: JSON) -> None:
    end = check_stream(api.stream({"model": model, **request_body}).content)[-1]["response"]

    assert api.get(f"/responses/{end['id']}").json() == end


def test_a_failed_stream_is_stored_with_its_error(api: Gateway, exact: ScriptedUpstream) -> None:
    exact.enqueue(failing(after=6, code="invalid_prompt", message="The model broke."))
    end = check_stream(api.stream({"model": EXACT, "input": "hello"}).content, status="failed")[-1]["response"]
    stored = check_response(api.get(f"/responses/{end['id']}").json(), status="failed")

    assert stored["error"]["code"] == end["error"]["code"]


INCLUDE = ["include[]=reasoning.encrypted_content", "include=reasoning.encrypted_content"]


@pytest.mark.parametrize("query", INCLUDE, ids=["brackets", "bare"])
def test_include_shows_stored_parts(api: Gateway, create: Create, query: str) -> None:
    response = create(EXACT, "hello")
    plain, included = (api.get(f"/responses/{response['id']}{suffix}").json() for suffix in ("", f"?{query}"))

    assert "encrypted_content" not in plain["output"][0]
    assert included["output"][0]["encrypted_content"]
    assert included["output"][1:] == plain["output"][1:]


def test_an_invalid_include_is_refused(api: Gateway, create: Create) -> None:
    response = create("demo", "hello")

    check_error(api.get(f"/responses/{response['id']}?include[]=everything"), 400, code="invalid_value")


def test_a_request_for_a_stream_never_gets_a_json_200(api: Gateway, create: Create) -> None:
    answer = api.get(f"/responses/{create('demo', 'hello')['id']}?stream=true")

    if answer.status_code == 200:
        check_stream(answer.content)
    else:
        check_error(answer, 400, param="stream")


@pytest.mark.parametrize("query", ["?stream=false", "?beta=true", "?include_obfuscation=false", "?invented=1"])
def test_other_queries_change_nothing(api: Gateway, create: Create, query: str) -> None:
    response = create("demo", "hello")

    assert api.get(f"/responses/{response['id']}{query}").json() == response


def test_cancelling_what_is_not_in_the_background_is_refused(api: Gateway, create: Create, model: str) -> None:
    response = create(model, "hello")
    error = check_error(api.post(f"/responses/{response['id']}/cancel", {}), 400, type="invalid_request_error")

    assert error["message"] == "Cannot cancel a synchronous response."
    assert api.get(f"/responses/{response['id']}").json() == response


def test_cancel_needs_no_body(api: Gateway, create: Create) -> None:
    response = create("demo", "hello")

    check_error(api.request("POST", f"/responses/{response['id']}/cancel"), 400, code=None)


def test_a_response_is_deleted_once_and_for_good(api: Gateway, create: Create, model: str) -> None:
    response = create(model, "hello")
    path = f"/responses/{response['id']}"
    answer = api.delete(path, headers={"Accept": "*/*"})

    assert answer.status_code == 200
    assert answer.json() == {"id": response["id"], "object": "response", "deleted": True}
    for gone in (api.get(path), api.delete(path), api.post(f"{path}/cancel", {})):
        check_error(gone, 404)


def _values_with(api: Gateway, word: str) -> list[bytes]:
    return [value for value in values(api.database_url) if word.encode() in value]


@pytest.mark.parametrize("place", ["input", "metadata", "instructions", "tools"])
def test_a_deleted_response_leaves_no_word_behind(api: Gateway, create: Create, place: str) -> None:
    word = f"Pachycephalosaurus-{place}"
    tool = {"type": "function", "name": "f", "description": word}
    settings = {"input": word, "metadata": {"k": word}, "instructions": word, "tools": [tool]}
    response = create("demo", **{"input": "hello", place: settings[place]})
    assert _values_with(api, word)

    assert api.delete(f"/responses/{response['id']}").status_code == 200
    assert not _values_with(api, word)


def test_shared_content_outlives_one_of_two_responses(api: Gateway, create: Create, model: str) -> None:
    shared = {"instructions": "Be brief, both of you.", "tools": [{**WEATHER, "description": "shared"}]}
    one, two = create(model, "one", **shared), create(model, "two", **shared)
    api.delete(f"/responses/{one['id']}")

    assert api.get(f"/responses/{two['id']}").json() == two


def _matrix(api: Gateway, response_id: str, token: str) -> list[Any]:
    path = f"/responses/{response_id}"
    return [
        api.get(path, token=token),
        api.get(f"{path}?include[]=reasoning.encrypted_content", token=token),
        api.get(f"{path}?stream=true", token=token),
        api.delete(path, token=token),
        api.post(f"{path}/cancel", {}, token=token),
    ]


def test_a_response_of_another_owner_looks_like_none_in_every_way(api: Gateway, create: Create, stranger: str) -> None:
    response, deleted = create("demo", "hello"), create("demo", "hello")
    api.delete(f"/responses/{deleted['id']}")

    foreign = _matrix(api, response["id"], stranger)
    unknown = _matrix(api, UNKNOWN, stranger)
    gone = _matrix(api, deleted["id"], api.token)

    for one, two, three in zip(foreign, unknown, gone, strict=True):
        assert check_error(one, 404)["message"] == f"Response with id '{response['id']}' not found."
        assert one.text.replace(response["id"], UNKNOWN) == two.text == three.text.replace(deleted["id"], UNKNOWN)
        varying = {"date", "x-request-id", "openai-processing-ms"}
        shown = [{name.lower(): value for name, value in answer.headers.items()} for answer in (one, two, three)]
        compared = [{name: value for name, value in headers.items() if name not in varying} for headers in shown]
        assert compared[0] == compared[1] == compared[2]
    assert api.get(f"/responses/{response['id']}").json() == response


@pytest.mark.parametrize(
    "response_id",
    [
        "resp_x",
        "x",
        "RESP_" + "0" * 48,
        "resp_" + "0" * 400,
        "%00",
        "%ff",
        "resp_%0d%0aX-Evil:%201",
        "'--",
        "%25",
        "msg_1",
    ],
)
def test_an_id_that_cannot_be_is_not_found_either(api: Gateway, response_id: str) -> None:
    for answer in (api.get(f"/responses/{response_id}"), api.delete(f"/responses/{response_id}")):
        check_error(answer, 404)
        assert "x-evil" not in answer.headers


def test_an_id_is_its_exact_letters(api: Gateway, create: Create) -> None:
    response_id = create("demo", "hello")["id"]

    for variant in (response_id.upper(), "resp_" + response_id[5:].upper(), f"{response_id}%20", f"%20{response_id}"):
        if variant != response_id:
            check_error(api.get(f"/responses/{variant}"), 404)
