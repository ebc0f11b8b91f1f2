"""The playground's requests by HTTP: who may send them, that they are the API's own, and the page itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import orjson
import pytest
import requests

from tests.console.visitors import Person
from tests.gateway import Gateway
from tests.relay.conftest import SOME_TEXT, events_of, eventually
from tests.store import rows
from tests.upstream import ScriptedUpstream, stalled

JSON = dict[str, Any]
NewPerson = Callable[..., Person]

URL = "/console/playground"
MODEL = "m"


@pytest.fixture(autouse=True)
def upstream(console_upstream: ScriptedUpstream) -> Iterator[ScriptedUpstream]:
    console_upstream.reset()
    yield console_upstream
    console_upstream.reset()


def body(**keys: Any) -> JSON:
    return {"model": MODEL, "input": "Say something to me", **keys}


def send(person: Person, path: str = "", value: JSON | None = None, **keys: Any) -> requests.Response:
    """Posts JSON as the page's script does."""
    headers = {"X-CSRF-Token": person.csrf, **keys.pop("headers", {})}
    return person.send("POST", URL + path, headers=headers, json=body() if value is None else value, **keys)


def error_of(answer: requests.Response) -> tuple[int, Any]:
    return answer.status_code, answer.json()["error"]["code"]


# --- the API's own views


def test_an_answer_is_the_apis(owner: Person) -> None:
    answer = send(owner)
    made = answer.json()

    assert answer.status_code == 200
    assert answer.headers["X-Request-Id"]
    assert answer.headers["Cross-Origin-Resource-Policy"] == "same-origin"
    assert owner.gateway.get(f"/responses/{made['id']}", token=owner.token).json() == made
    assert owner.get(f"{URL}/{made['id']}").json() == made


def test_a_stream_is_the_apis(owner: Person, upstream: ScriptedUpstream) -> None:
    played = send(owner, value=body(stream=True))
    asked = owner.gateway.post("/responses", body(stream=True), token=owner.token)

    assert played.headers["Content-Type"] == asked.headers["Content-Type"]
    kinds = [[event["type"] for event in events_of(answer.content)] for answer in (played, asked)]
    assert kinds[0] == kinds[1]
    sent = [{name: value for name, value in each.items() if name != "prompt_cache_key"} for each in upstream.bodies]
    assert sent[0] == sent[1]


def test_the_row_names_the_console_as_client_and_the_sessions_token(owner: Person) -> None:
    made = send(owner).json()
    found = rows.execute(
        owner.gateway.database_url,
        "SELECT r.client, r.owner, t.name FROM response r JOIN token t ON t.pk = r.token WHERE r.id = ?",
        (made["id"],),
    )
    assert [tuple(row) for row in found] == [("console", owner.owner, owner.name)]


def test_it_is_in_the_request_log(owner: Person) -> None:
    made = send(owner).json()
    owner.gateway.wait_for_log(f"response={made['id']}")
    line = next(line for line in owner.gateway.log.splitlines() if f"response={made['id']}" in line)
    assert f"path={URL}" in line
    assert f"token={owner.name}" in line


@pytest.mark.parametrize(
    ("path", "value", "code", "param"),
    [
        ("", {"model": MODEL}, "missing_required_parameter", "input"),
        ("", {"model": "nowhere", "input": "hi"}, "model_not_found", "model"),
        ("", {"model": MODEL, "input": "hi", "previous_response_id": "resp_0"}, "previous_response_not_found", None),
        ("/compact", {"model": MODEL}, "missing_required_parameter", "input"),
    ],
)
def test_errors_are_the_apis(owner: Person, path: str, value: JSON, code: str, param: str | None) -> None:
    played = send(owner, path, value)
    asked = owner.gateway.post(f"/responses{path}", value, token=owner.token)

    assert (played.status_code, played.json()) == (asked.status_code, asked.json())
    assert error_of(played)[1] == code
    assert param is None or played.json()["error"]["param"] == param


def test_a_body_that_is_no_json_is_refused_as_by_the_api(owner: Person) -> None:
    headers = {"X-CSRF-Token": owner.csrf}
    played = owner.send("POST", URL, headers=headers, data=b"{", allow_redirects=False)
    asked = owner.gateway.request("POST", "/responses", token=owner.token, data=b"{")
    assert (played.status_code, played.json()) == (asked.status_code, asked.json())


def test_a_conversation_of_the_api_goes_on_and_is_compacted(owner: Person, upstream: ScriptedUpstream) -> None:
    first = owner.gateway.post("/responses", body(input="A first thing"), token=owner.token).json()
    second = send(owner, value=body(previous_response_id=first["id"])).json()
    assert second["previous_response_id"] == first["id"]
    assert "A first thing" in orjson.dumps(upstream.bodies[-1]).decode()

    window = send(owner, "/compact", {"model": MODEL, "previous_response_id": second["id"]}).json()
    assert window["object"] == "response.compaction"
    assert send(owner, value=body(previous_response_id=window["id"])).status_code == 200


def test_the_limits_of_the_token_hold_and_are_shown(new_person: NewPerson) -> None:
    person = new_person("one-a-minute", role="owner", options=("--rpm", "1")).sign_in()
    first, second = send(person), send(person)

    if second.status_code == 200:
        # A new minute has begun between the two.
        first, second = second, send(person)
    assert first.headers["x-ratelimit-limit-requests"] == "1"
    assert first.headers["x-ratelimit-remaining-requests"] == "0"
    assert error_of(second) == (429, "rate_limit_exceeded")
    assert second.headers["Retry-After"]


def test_its_turns_count_as_turns_of_the_token(new_person: NewPerson, upstream: ScriptedUpstream) -> None:
    person = new_person("one-at-once", role="owner", options=("--concurrency", "1")).sign_in()
    upstream.enqueue(stalled(SOME_TEXT))
    with send(person, value=body(stream=True), stream=True):
        upstream.wait_for_request()
        refused = person.gateway.post("/responses", body(), token=person.token)
        assert error_of(refused) == (429, "rate_limit_exceeded")
        assert error_of(send(person)) == (429, "rate_limit_exceeded")
        upstream.release()


def test_a_model_that_the_token_may_not_use_is_unknown(new_person: NewPerson) -> None:
    person = new_person("demo-only", role="owner", options=("--models", "demo")).sign_in()

    assert error_of(send(person)) == (400, "model_not_found")
    page = person.get(URL).text
    assert "<option>demo</option>" in page
    assert f"<option>{MODEL}</option>" not in page


def test_a_client_that_leaves_closes_the_upstream(owner: Person, upstream: ScriptedUpstream) -> None:
    upstream.enqueue(stalled(SOME_TEXT))
    answer = send(owner, value=body(stream=True), stream=True)
    made = orjson.loads(next(line for line in answer.iter_lines() if line.startswith(b"data: "))[6:])["response"]
    answer.close()

    upstream.wait_hangup()
    eventually(lambda: owner.get(f"{URL}/{made['id']}").json()["status"] == "cancelled", "the row's end")


def test_the_facts_of_a_response(owner: Person, other_owner: Person) -> None:
    made = send(owner).json()
    facts = owner.get(f"{URL}/{made['id']}/facts").json()

    assert facts["channel"] == "scripted"
    assert facts["totalMs"] >= 0
    assert (facts["cost"], facts["estimated"]) == (None, False)
    assert other_owner.get(f"{URL}/{made['id']}/facts").status_code == 404


# --- who may


ROUTES = [
    ("POST", ""),
    ("POST", "/compact"),
    ("GET", "/{id}"),
    ("POST", "/{id}/cancel"),
    ("GET", "/{id}/facts"),
]


def _go(person: Person, method: str, path: str, **keys: Any) -> requests.Response:
    headers = {"X-CSRF-Token": person.csrf} if method == "POST" else {}
    return person.send(method, URL + path, headers=headers, allow_redirects=False, **keys)


@pytest.fixture(scope="module")
def theirs(owner: Person) -> str:
    """A response of the owner."""
    made: str = send(owner).json()["id"]
    return made


@pytest.mark.parametrize(("method", "path"), ROUTES)
def test_nothing_without_a_session(console: Gateway, owner: Person, theirs: str, method: str, path: str) -> None:
    place, origin = URL + path.format(id=theirs), {"Sec-Fetch-Site": "same-origin", "Origin": console.url}
    bearer = {"Authorization": f"Bearer {owner.token}"}
    for headers in (origin, {**origin, **bearer}, {**origin, "X-CSRF-Token": owner.csrf}):
        answer = requests.request(method, console.url + place, headers=headers, json=body(), timeout=60)
        assert error_of(answer) == (401, "session_ended")
        assert "WWW-Authenticate" not in answer.headers


@pytest.mark.parametrize(("method", "path"), ROUTES[2:])
@pytest.mark.parametrize("who", ["other_owner", "operator"])
def test_what_another_owner_has_is_unknown(
    request: pytest.FixtureRequest, who: str, theirs: str, method: str, path: str
) -> None:
    person: Person = request.getfixturevalue(who)
    unknown = "resp_" + "0" * 48
    answers = [_go(person, method, path.format(id=each), json={}) for each in (theirs, unknown)]
    assert [answer.status_code for answer in answers] == [404, 404]
    assert answers[0].json()["error"]["message"].replace(theirs, unknown) == answers[1].json()["error"]["message"]


@pytest.mark.parametrize("who", ["other_owner", "operator"])
def test_nobody_writes_into_another_owners_tree(request: pytest.FixtureRequest, who: str, theirs: str) -> None:
    person: Person = request.getfixturevalue(who)
    for path in ("", "/compact"):
        value = {"model": MODEL, "previous_response_id": theirs, **({} if path else {"input": "And mine"})}
        assert error_of(send(person, path, value)) == (400, "previous_response_not_found")
    referred = body(input=[{"type": "item_reference", "id": "msg_of_another"}])
    assert send(person, value=referred).status_code == 404


@pytest.mark.parametrize("who", ["owner", "other_owner", "operator"])
def test_the_page_offers_ones_own_responses_only(request: pytest.FixtureRequest, who: str, theirs: str) -> None:
    person: Person = request.getfixturevalue(who)
    answer = person.get(f"{URL}?from={theirs}")
    mine = who == "owner"

    assert answer.status_code == (200 if mine else 404)
    assert ('id="say"' in answer.text) is mine
    assert ("among yours" in answer.text) is not mine
    assert theirs not in answer.text or mine


def test_the_page_needs_a_session(console: Gateway) -> None:
    answer = requests.get(console.url + URL, allow_redirects=False, timeout=60)
    assert answer.status_code == 303
    assert "/console/sign-in" in answer.headers["Location"]


@pytest.mark.parametrize(("method", "path"), [route for route in ROUTES if route[0] == "POST"])
@pytest.mark.parametrize(
    ("headers", "code"),
    [
        ({}, "csrf_failed"),
        ({"X-CSRF-Token": "0" * 64}, "csrf_failed"),
        ({"X-CSRF-Token": "mine", "Sec-Fetch-Site": "cross-site"}, "cross_site"),
        ({"X-CSRF-Token": "mine", "Sec-Fetch-Site": "same-site"}, "cross_site"),
    ],
)
def test_another_site_cannot_send_anything(
    owner: Person, upstream: ScriptedUpstream, theirs: str, method: str, path: str, headers: dict[str, str], code: str
) -> None:
    upstream.reset()
    own = {name: owner.csrf if value == "mine" else value for name, value in headers.items()}
    answer = owner.send(method, URL + path.format(id=theirs), headers=own, json=body())
    assert error_of(answer) == (403, code)
    assert not upstream.requests


def test_a_csrf_token_of_another_session_does_not_count(owner: Person, other_owner: Person) -> None:
    assert error_of(send(owner, headers={"X-CSRF-Token": other_owner.csrf})) == (403, "csrf_failed")


def test_the_cookie_does_not_open_the_api(owner: Person) -> None:
    headers = {"X-CSRF-Token": owner.csrf}
    answer = owner.send("POST", "/v1/responses", headers=headers, json=body())
    assert answer.status_code == 401
    assert answer.headers["WWW-Authenticate"] == "Bearer"


def test_a_revoked_token_sends_nothing_more(new_person: NewPerson) -> None:
    person = new_person("revoked-player", role="owner").sign_in()
    made = send(person).json()["id"]
    person.gateway.command("tokens", "revoke", person.name)

    assert error_of(send(person)) == (401, "session_ended")
    for method, path in ROUTES:
        assert _go(person, method, path.format(id=made), json={}).status_code == 401


def test_a_token_that_stores_nothing_cannot_store_here(new_person: NewPerson) -> None:
    person = new_person("no-store-player", role="owner", options=("--no-store",)).sign_in()
    made = send(person).json()
    assert made["store"] is False
    assert person.get(f"{URL}/{made['id']}").status_code == 404
    assert 'id="f-store" disabled' in person.get(URL).text


def test_the_page_offers_no_response_that_is_not_stored(owner: Person) -> None:
    unstored, deleted = send(owner, value=body(store=False)).json()["id"], send(owner).json()["id"]
    assert owner.gateway.delete(f"/responses/{deleted}", token=owner.token).status_code == 200
    for each in (unstored, deleted, "resp_0", "' OR 1=1"):
        assert owner.get(URL, params={"from": each}).status_code == 404


def test_an_operator_plays_as_oneself(operator: Person) -> None:
    made = send(operator).json()
    found = rows.execute(operator.gateway.database_url, "SELECT owner FROM response WHERE id = ?", (made["id"],))
    assert [tuple(row) for row in found] == [(operator.owner,)]
    assert operator.get(f"{URL}?from={made['id']}").status_code == 200
