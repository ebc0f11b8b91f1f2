"""What a session is bound to, when it ends, and where its secret shows."""

from __future__ import annotations

import re
import socket
from collections.abc import Callable

import pytest
import requests

from app.store.console_sessions import IDLE, LIFETIME
from tests.console.visitors import Person
from tests.gateway import Gateway
from tests.store import rows

NewPerson = Callable[..., Person]


def _is_signed_in(person: Person, cookies: dict[str, str] | None = None) -> bool:
    answer = requests.get(
        f"{person.gateway.url}/console/overview",
        cookies=person.cookies if cookies is None else cookies,
        allow_redirects=False,
        timeout=60,
    )
    assert answer.status_code in (200, 303)
    return answer.status_code == 200


def test_a_cookie_from_before_the_sign_in_is_not_adopted(new_person: NewPerson) -> None:
    person = new_person("fixed", role="owner")
    name = f"antiphon-{person.gateway.port}"
    planted = {name: "planted-by-someone-else"}
    answer = requests.post(
        f"{person.gateway.url}/console/sign-in",
        data={"token": person.token},
        headers={"Sec-Fetch-Site": "same-origin"},
        cookies=planted,
        allow_redirects=False,
        timeout=60,
    )

    assert answer.status_code == 303
    assert answer.cookies[name] != planted[name]
    assert not _is_signed_in(person, planted)
    assert _is_signed_in(person, {name: answer.cookies[name]})


def test_signing_in_again_ends_the_former_session_of_that_browser_only(new_person: NewPerson) -> None:
    person = new_person("again", role="owner").sign_in()
    elsewhere = new_person("again-elsewhere", owner="again", role="owner").sign_in()
    former = person.cookies

    person.sign_in()

    assert person.cookies != former
    assert _is_signed_in(person)
    assert not _is_signed_in(person, former)
    assert _is_signed_in(elsewhere)


def test_two_sessions_of_a_token_end_separately(new_person: NewPerson) -> None:
    person = new_person("two-browsers", role="owner").sign_in()
    first = person.cookies
    person.http.cookies.clear()
    person.sign_in()

    assert person.post("/console/sign-out").status_code == 303

    assert not _is_signed_in(person)
    assert _is_signed_in(person, first)


def test_a_session_without_requests_ends_and_one_with_requests_goes_on(new_person: NewPerson) -> None:
    person = new_person("resting", role="owner").sign_in()
    _set_back(person, "used_at", IDLE - 600)
    assert _is_signed_in(person)
    ((used_at, created_at),) = _row(person)
    assert used_at >= created_at, "the request counts as use"

    _set_back(person, "used_at", IDLE + 1)
    assert not _is_signed_in(person)


@pytest.mark.parametrize("headers", [{"X-Unattended": "1"}, {"Accept": "text/event-stream"}])
def test_what_a_page_asks_by_itself_does_not_keep_its_session(new_person: NewPerson, headers: dict[str, str]) -> None:
    person = new_person(f"absent-{'-'.join(headers)}", role="owner").sign_in()
    _set_back(person, "used_at", IDLE - 60)
    before = _row(person)
    assert person.get("/console/overview", headers=headers).status_code == 200
    assert _row(person) == before


def test_a_session_in_use_ends_with_its_lifetime(new_person: NewPerson) -> None:
    person = new_person("busy", role="owner").sign_in()
    ((used_at, created_at),) = _row(person)
    assert used_at == created_at
    _set_back(person, "ends_at", LIFETIME - 600)
    assert _is_signed_in(person)

    _set_back(person, "ends_at", 601)
    assert not _is_signed_in(person)


def test_requests_write_the_use_of_a_session_once_a_minute(new_person: NewPerson) -> None:
    person = new_person("frugal", role="owner").sign_in()
    _set_back(person, "used_at", 1)
    before = _row(person)
    assert _is_signed_in(person)
    assert _row(person) == before


def _set_back(person: Person, column: str, seconds: int) -> None:
    sql = f"UPDATE console_session SET {column} = {column} - ? WHERE token = (SELECT pk FROM token WHERE name = ?)"
    rows.execute(person.gateway.database_url, sql, (seconds, person.name))


def _row(person: Person) -> list[tuple[int, ...]]:
    sql = "SELECT used_at, created_at FROM console_session WHERE token = (SELECT pk FROM token WHERE name = ?)"
    return rows.execute(person.gateway.database_url, sql, (person.name,))


def test_the_database_holds_neither_the_cookie_nor_the_code(operator: Person) -> None:
    code = operator.gateway.command("console", "--code", "--token", operator.name).strip()
    url = operator.gateway.database_url
    hashes = {hash for (hash,) in rows.execute(url, "SELECT hash FROM console_session")}
    codes = {hash for (hash,) in rows.execute(url, "SELECT hash FROM sign_in_code")}
    assert hashes
    assert codes
    assert not hashes & set(operator.cookies.values())
    assert code not in codes


def test_a_code_ends_after_a_minute(operator: Person) -> None:
    code = operator.gateway.command("console", "--code", "--token", operator.name).strip()
    rows.execute(operator.gateway.database_url, "UPDATE sign_in_code SET expires_at = expires_at - 61")
    answer = operator.send("POST", "/console/sign-in/code", data={"code": code}, allow_redirects=False)

    assert answer.status_code == 401
    assert "Set-Cookie" not in answer.headers


def test_secrets_are_in_no_page_no_address_and_no_log(new_person: NewPerson) -> None:
    person = new_person("discreet", role="operator")
    answer = person.send("POST", "/console/sign-in", data={"token": person.token, "next": "/console/connect"})
    secrets = {person.token, *person.cookies.values()}
    pages = [answer, *answer.history, person.get("/console/overview"), person.get("/console/people")]

    for page in pages:
        assert not [secret for secret in secrets if secret in page.text]
        assert not [secret for secret in secrets if secret in page.url]
    assert not [secret for secret in secrets if secret in person.gateway.log]


def test_no_page_is_stored_by_browsers_or_proxies(owner: Person) -> None:
    for path in ("/console/overview", "/console/sign-in", "/console/nowhere"):
        assert owner.get(path).headers["Cache-Control"] == "no-store"


def test_two_gateways_of_one_host_use_different_cookies(
    console: Gateway, owner: Person, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """Browsers share cookies between ports."""
    demo = [{"name": "demo", "format": "demo", "models": ["demo"]}]
    with Gateway(tmp_path_factory.mktemp("second"), demo) as second, Person(second, "x", owner="x", role="owner") as x:
        names = [
            _cookie(person, headers)
            for person in (owner, x)
            for headers in ({}, {"X-Forwarded-Proto": "https", "Host": "antiphon.internal"})
        ]
    assert len(set(names)) == 4, names


def _cookie(person: Person, headers: dict[str, str]) -> str:
    answer = requests.post(
        f"{person.gateway.url}/console/sign-in",
        data={"token": person.token},
        headers={"Sec-Fetch-Site": "same-origin", **headers},
        allow_redirects=False,
        timeout=60,
    )
    assert answer.status_code == 303
    return answer.headers["Set-Cookie"].partition("=")[0]


@pytest.mark.parametrize("host", ["127.0.0.1:99999", "[", "a:b", "", "127.0.0.1, evil.example", "é"])
def test_a_host_that_makes_no_sense_gets_no_page_and_breaks_nothing(console: Gateway, host: str) -> None:
    with socket.create_connection(("127.0.0.1", console.port), timeout=60) as sock:
        sock.sendall(f"GET /console/sign-in HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
        answer = b""
        while data := sock.recv(65536):
            answer += data
    found = re.match(rb"HTTP/1.1 (\d+)", answer)
    assert found
    assert found[1] in (b"400", b"403"), answer[:300]
