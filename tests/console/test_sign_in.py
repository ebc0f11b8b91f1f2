"""Signing in and out: who may, what a session is, and what a request must prove."""

from __future__ import annotations

import socket
from collections.abc import Callable

import pytest
import requests

from tests.console.conftest import OpenPage
from tests.console.visitors import Person
from tests.gateway import Gateway

NewPerson = Callable[..., Person]


def test_a_token_with_the_right_signs_in_and_out(new_person: NewPerson) -> None:
    person = new_person("in-and-out", role="owner")
    answer = person.send("POST", "/console/sign-in", data={"token": person.token}, allow_redirects=False)

    assert (answer.status_code, answer.headers["Location"]) == (303, "/console/overview")
    cookie = answer.headers["Set-Cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=Lax" in cookie
    assert person.token not in cookie
    assert person.get("/console/overview").status_code == 200
    held = dict(person.cookies)

    assert person.post("/console/sign-out").status_code == 303
    assert (
        requests.get(f"{person.gateway.url}/console/overview", cookies=held, allow_redirects=False).status_code == 303
    )


@pytest.mark.parametrize("role", [None, "wrong"])
def test_a_token_without_the_right_does_not(new_person: NewPerson, role: str | None) -> None:
    person = new_person(f"no-right-{role}", role=None)
    token = "ap_wrong" if role == "wrong" else person.token
    answer = person.send("POST", "/console/sign-in", data={"token": token}, allow_redirects=False)

    assert answer.status_code == 401
    assert "Set-Cookie" not in answer.headers
    assert token not in answer.text


@pytest.mark.parametrize(
    ("place", "leads_to"),
    [
        ("/console/requests?status=failed", "/console/requests?status=failed"),
        ("https://evil.example/console/", "/console/overview"),
        ("//evil.example", "/console/overview"),
        ("/console//evil.example", "/console/overview"),
        ("/console/\\evil.example", "/console/overview"),
        ("/v1/models", "/console/overview"),
    ],
)
def test_after_signing_in_one_goes_on_where_one_was(owner: Person, place: str, leads_to: str) -> None:
    answer = owner.send("POST", "/console/sign-in", data={"token": owner.token, "next": place}, allow_redirects=False)

    assert answer.headers["Location"] == leads_to


def test_a_revoked_token_ends_its_sessions(new_person: NewPerson) -> None:
    person = new_person("soon-revoked", role="operator").sign_in()
    assert person.get("/console/overview", allow_redirects=False).status_code == 200

    person.gateway.command("tokens", "revoke", "soon-revoked")

    assert person.get("/console/overview", allow_redirects=False).status_code == 303


def test_a_right_that_is_taken_away_ends_the_sessions(new_person: NewPerson) -> None:
    person = new_person("no-longer", role="operator").sign_in()

    person.gateway.command("tokens", "update", "no-longer", "--console", "none")

    assert person.get("/console/overview", allow_redirects=False).status_code == 303


def test_bearer_tokens_do_not_open_pages_and_cookies_do_not_open_the_api(owner: Person) -> None:
    bearer = {"Authorization": f"Bearer {owner.token}"}
    url = owner.gateway.url

    assert requests.get(f"{url}/console/overview", headers=bearer, allow_redirects=False).status_code == 303
    assert requests.get(f"{url}/v1/models", cookies=owner.cookies).status_code == 401


@pytest.mark.parametrize(
    "headers",
    [
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Sec-Fetch-Site": "none"},
        {"Sec-Fetch-Site": None, "Origin": "http://evil.example"},
        {"Sec-Fetch-Site": None, "Origin": "null"},
        {"Sec-Fetch-Site": None, "Origin": None},
    ],
)
def test_other_sites_cannot_post(owner: Person, headers: dict[str, str | None]) -> None:
    for path in ("/console/sign-out", "/console/sign-in", "/console/sign-in/code"):
        answer = owner.send("POST", path, headers=headers, data={"csrf": owner.csrf, "token": owner.token})
        assert answer.status_code == 403, path
    assert owner.get("/console/overview", allow_redirects=False).status_code == 200


@pytest.mark.parametrize("csrf", ["", "0" * 64, "é" * 64, b"\xff"])
def test_a_form_without_its_csrf_token_changes_nothing(owner: Person, csrf: str | bytes) -> None:
    assert owner.send("POST", "/console/sign-out", data={"csrf": csrf}).status_code == 403
    assert owner.get("/console/overview", allow_redirects=False).status_code == 200


def test_a_csrf_token_of_another_session_does_not_count(owner: Person, other_owner: Person) -> None:
    assert owner.send("POST", "/console/sign-out", data={"csrf": other_owner.csrf}).status_code == 403


def test_over_http_only_this_machine_gets_pages(console: Gateway) -> None:
    url = f"{console.url}/console/sign-in"

    assert requests.get(url).status_code == 200
    assert "https" in requests.get(url, headers={"Host": "antiphon.internal"}).text
    assert requests.get(url, headers={"Host": "antiphon.internal"}).status_code == 403
    assert requests.get(url, headers={"X-Forwarded-For": "10.0.0.7"}).status_code == 403


def test_over_https_the_cookie_has_the_prefix(owner: Person) -> None:
    """As behind nginx, which says that the client came by https."""
    headers = {"X-Forwarded-Proto": "https", "X-Forwarded-For": "10.0.0.7", "Host": "antiphon.internal"}
    answer = requests.post(
        f"{owner.gateway.url}/console/sign-in",
        headers={**headers, "Origin": "https://antiphon.internal"},
        data={"token": owner.token},
        allow_redirects=False,
    )

    cookie = answer.headers["Set-Cookie"]
    assert cookie.startswith("__Host-antiphon-")
    assert {"Secure", "HttpOnly", "Path=/"} <= set(cookie.split("; "))
    assert "Domain" not in cookie


def test_every_answer_forbids_what_pages_do_not_need(owner: Person, console: Gateway) -> None:
    answers = [
        owner.get("/console/overview"),
        owner.get("/console/nowhere"),
        requests.get(f"{console.url}/console/sign-in"),
        requests.get(f"{console.url}/console/static/style.css"),
    ]
    for answer in answers:
        policy = answer.headers["Content-Security-Policy"]
        assert "default-src 'none'" in policy
        assert "frame-ancestors 'none'" in policy
        assert "unsafe" not in policy
        assert answer.headers["X-Frame-Options"] == "DENY"
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert answer.headers["Referrer-Policy"] == "same-origin"


def test_a_sign_in_link_works_once_and_leaves_no_code_in_the_address(
    console: Gateway, operator: Person, open_page: OpenPage, new_person: NewPerson
) -> None:
    guest = new_person("link-guest", role=None)
    code = console.command("console", "--code", "--token", operator.name).strip()

    page = open_page(guest, f"/console/sign-in#code={code}")
    page.wait_for_url("**/console/overview")
    assert "ops" in page.inner_text(".who")
    assert code not in page.url

    again = open_page(guest, f"/console/sign-in#code={code}")
    again.wait_for_selector("#e1")
    assert "used already" in again.inner_text("#e1")


def test_the_console_can_be_switched_off(console: Gateway, tmp_path_factory: pytest.TempPathFactory) -> None:
    with Gateway(
        tmp_path_factory.mktemp("off"), [{"name": "demo", "format": "demo", "models": ["demo"]}], console="off"
    ) as off:
        assert requests.get(f"{off.url}/console/sign-in").json()["error"]["code"] == "unknown_url"


def test_a_form_that_breaks_off_or_is_too_large_is_refused(owner: Person) -> None:
    assert owner.send("POST", "/console/sign-in", data={"token": "x" * 300_000}).status_code == 413
    # In chunks it could hold the memory of other clients' bodies before anyone is known.
    assert owner.send("POST", "/console/sign-in", data=iter([b"token=", b"x" * 300_000])).status_code == 400
    with socket.create_connection(("127.0.0.1", owner.gateway.port), timeout=20) as sock:
        sock.sendall(
            b"POST /console/sign-in HTTP/1.1\r\nHost: 127.0.0.1\r\nOrigin: http://127.0.0.1\r\n"
            b"Content-Type: application/x-www-form-urlencoded\r\nContent-Length: 50\r\n\r\ntoken="
        )
        sock.shutdown(socket.SHUT_WR)
        assert b" 400 " in sock.recv(4096).partition(b"\r\n")[0]


def test_browsers_keep_the_files_of_pages(console: Gateway) -> None:
    url = f"{console.url}/console/static/console.js"
    first = requests.get(url)

    assert requests.get(f"{url}?v=1").headers["Cache-Control"] == "public, max-age=31536000, immutable"
    assert first.headers["Cache-Control"] == "no-cache"
    assert requests.get(url, headers={"If-None-Match": first.headers["ETag"]}).status_code == 304
    assert requests.get(f"{console.url}/console/static/../base.html").status_code == 404
