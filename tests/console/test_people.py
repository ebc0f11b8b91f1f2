"""The page of people and tokens: secrets shown once, forms that say what is wrong, and who may change what."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import orjson
import pytest
import requests

from tests.console.conftest import OpenPage
from tests.console.visitors import Person
from tests.gateway import Gateway

NewPerson = Callable[..., Person]

_SECRET = re.compile(r'<output id="secret">(ap_[\w-]+)</output>')
_ONCE = re.compile(r'name="once" value="([\w-]+)"')
HOSTILE = "<img src=x onerror=alert(1)>\"'{{7*7}}"


def _form(page: str, **fields: str) -> dict[str, str]:
    """What a browser sends from a page with a form that works once."""
    once = _ONCE.search(page)
    assert once
    return {"once": once[1], **fields}


def _create(person: Person, **fields: str) -> requests.Response:
    return person.post("/console/people", _form(person.get("/console/people").text, **fields))


def _secret(answer: requests.Response) -> str:
    found = _SECRET.search(answer.text)
    assert found, answer.text
    return found[1]


def _tokens(gateway: Gateway) -> dict[str, dict[str, Any]]:
    return {token["name"]: token for token in orjson.loads(gateway.command("tokens", "list", "--json"))}


def _models(gateway: Gateway, secret: str) -> int:
    """The status of a request with the secret."""
    return requests.get(f"{gateway.base_url}/models", headers={"Authorization": f"Bearer {secret}"}).status_code


def test_an_operator_makes_a_token_as_the_command_would(operator: Person, console: Gateway) -> None:
    answer = _create(
        operator,
        name="eve-laptop",
        owner="eve",
        models="demo, gpt-6-*",
        tools="docs",
        rpm="60",
        tpm="none",
        concurrency="4",
        budgets="20usd/month",
        tags="*",
        expires_at="2031-02-03",
        retention="7d",
        no_store="on",
        metrics="on",
        console="owner",
    )
    secret = _secret(answer)
    words = ("--owner", "eve", "--models", "demo,gpt-6-*", "--tools", "docs", "--rpm", "60", "--tpm", "none")
    words += ("--concurrency", "4", "--budget", "20usd/month", "--tags", "*", "--expires", "2031-02-03")
    words += ("--retention", "7d", "--no-store", "--metrics", "--console", "owner")
    console.new_token("as-the-command", *words)
    made, same = (_tokens(console)[name] for name in ("eve-laptop", "as-the-command"))

    apart = {"id", "name", "prefix", "created_at", "last_used_at"}
    assert {key: made[key] for key in made.keys() - apart} == {key: same[key] for key in same.keys() - apart}
    assert _models(console, secret) == 200


def test_a_secret_is_shown_once_and_stays_nowhere(operator: Person, console: Gateway) -> None:
    answer = _create(operator, name="shown-once", owner="eve")
    secret = _secret(answer)

    assert answer.status_code == 200
    assert "no-store" in answer.headers["Cache-Control"]
    assert f"export ANTIPHON_TOKEN={secret}" in answer.text
    assert f"{console.url}/v1/responses" in answer.text
    for path in ("/console/people", "/console/audit", "/console/connect"):
        assert secret not in operator.get(path).text
    assert secret not in console.log
    assert secret not in console.command("tokens", "list", "--json")


def test_a_form_that_is_sent_twice_makes_one_token(operator: Person, console: Gateway) -> None:
    form = _form(operator.get("/console/people").text, name="sent-twice", owner="eve")
    secret = _secret(operator.post("/console/people", form))
    again = operator.post("/console/people", form)
    assert again.status_code == 422
    assert "already a token" in again.text

    console.command("tokens", "revoke", "sent-twice")
    reload = operator.post("/console/people", form)
    assert (reload.status_code, _SECRET.search(reload.text)) == (409, None)
    assert "sent before" in reload.text
    assert _models(console, secret) == 401
    assert _tokens(console)["sent-twice"]["revoked_at"]


@pytest.mark.parametrize("once", ["", None])
def test_a_form_without_its_mark_makes_nothing(operator: Person, console: Gateway, once: str | None) -> None:
    form = {"name": "unmarked", "owner": "eve", **({"once": once} if once is not None else {})}
    assert operator.post("/console/people", form).status_code == 409
    assert "unmarked" not in _tokens(console)


@pytest.mark.parametrize(
    ("field", "text", "sentence"),
    [
        ("name", "", "A token needs a name."),
        ("name", "x" * 192, "At most 191 characters."),
        ("owner", "x" * 192, "At most 191 characters."),
        ("name", "two\nlines", "No control characters, such as line breaks."),
        ("owner", "two\nlines", "No control characters, such as line breaks."),
        ("models", "a,,b", "holds an empty name"),
        ("tools", ",", "holds an empty name"),
        ("rpm", "many", "neither a number above 0"),
        ("rpm", "0", "neither a number above 0"),
        ("tpm", "1.5", "neither a number above 0"),
        ("concurrency", "-1", "neither a number above 0"),
        ("budgets", "$20", "must be a budget"),
        ("budgets", "1usd/day,2usd/day", "two budgets of the same kind"),
        ("tags", "Not A Tag", "a tag"),
        ("expires_at", "2020-01-01", "in the past"),
        ("expires_at", "soon", "neither a duration"),
        ("retention", "1h", "not a duration"),
        ("console", "root", "no right to the console"),
    ],
)
def test_an_error_stands_at_its_field_and_what_was_entered_stays(
    operator: Person, console: Gateway, field: str, text: str, sentence: str
) -> None:
    answer = _create(operator, **{"name": "wrong", "owner": "eve", "budgets": "5usd/day", field: text})

    assert answer.status_code == 422
    errors = re.findall(r'id="e-(\w+)">.*?<span>(.*?)</span>', answer.text)
    assert [name for name, _ in errors] == [field]
    assert sentence in errors[0][1]
    assert re.search(rf'name="{field}"[^>]*aria-describedby="e-{field} [^>]*aria-invalid="true"', answer.text)
    kept = {"name": "wrong", "owner": "eve", "budgets": "5usd/day", field: text}
    for name, value in kept.items():
        if name != "console":
            assert f'name="{name}" value="{value}"' in answer.text
    assert "wrong" not in _tokens(console)


def test_a_taken_name_is_an_error_at_the_name(operator: Person) -> None:
    answer = _create(operator, name=operator.name, owner="eve")
    assert answer.status_code == 422
    assert 'id="e-name"' in answer.text


def test_a_change_keeps_what_stays_and_says_in_the_audit_what_changed(operator: Person, console: Gateway) -> None:
    console.new_token("to-change", "--owner", "eve", "--rpm", "60", "--expires", "9d", "--budget", "1Mtok/day")
    before = _tokens(console)["to-change"]
    path = f"/console/people/{before['id']}"
    fields = dict(re.findall(r'name="(\w+)" value="([^"]*)" autocomplete', operator.get(path).text))
    assert (fields["rpm"], fields["budgets"]) == ("60", "1Mtok/day")

    answer = operator.post(path, {**fields, "rpm": "120", "console": "owner"})

    assert (answer.status_code, answer.headers["Location"]) == (303, f"/console/people#t{before['id']}")
    after = _tokens(console)["to-change"]
    assert after["limits"] == {**before["limits"], "rpm": 120}
    assert {key for key in after if after[key] != before[key]} == {"limits", "console"}
    assert "requests a minute 60 → 120, console – → owner" in operator.get("/console/audit").text

    wrong = operator.post(path, {**fields, "rpm": "x"})
    assert (wrong.status_code, 'id="e-rpm"' in wrong.text) == (422, True)
    assert _tokens(console)["to-change"] == after


def test_a_rotation_shows_another_secret_once_and_the_old_one_works_for_a_while(
    operator: Person, console: Gateway
) -> None:
    old = console.new_token("to-rotate", "--owner", "eve")
    path = f"/console/people/{_tokens(console)['to-rotate']['id']}/rotate"
    wrong = operator.post(path, _form(operator.get(path).text, overlap="91d"))
    assert (wrong.status_code, 'id="e-overlap"' in wrong.text) == (422, True)

    form = _form(operator.get(path).text, overlap="1h")
    fresh = _secret(operator.post(path, form))
    assert [_models(console, secret) for secret in (old, fresh)] == [200, 200]
    again = operator.post(path, form)
    assert (again.status_code, _SECRET.search(again.text)) == (409, None)
    assert _models(console, fresh) == 200
    assert "its old secret works until" in operator.get("/console/people").text


def test_revoking_asks_first_and_then_the_token_is_refused(operator: Person, console: Gateway) -> None:
    secret = console.new_token("to-revoke", "--owner", "eve")
    path = f"/console/people/{_tokens(console)['to-revoke']['id']}/revoke"
    assert "Revoke to-revoke?" in operator.get(path).text
    assert _models(console, secret) == 200

    assert operator.post(path).status_code == 303
    assert _models(console, secret) == 401
    assert operator.get(path).status_code == 404
    assert "revoked token to-revoke" in operator.get("/console/audit").text


def test_an_owner_sees_and_changes_what_is_its_own_alone(
    owner: Person, other_owner: Person, operator: Person, console: Gateway
) -> None:
    mine = console.new_token("ada-mac", "--owner", "ada", "--rpm", "60")
    console.new_token("bob-mac", "--owner", "bob")
    known = _tokens(console)
    page = owner.get("/console/people").text
    assert "ada-mac" in page
    assert "bob-mac" not in page
    assert "New token" not in page

    assert owner.post("/console/people", {"name": "x", "once": "y"}).status_code == 404
    assert owner.get(f"/console/people/{known['ada-mac']['id']}").status_code == 404
    for name in ("bob-mac", other_owner.name, operator.name):
        for deed in ("rotate", "revoke"):
            path = f"/console/people/{known[name]['id']}/{deed}"
            assert owner.get(path).status_code == 404
            assert owner.post(path, {"overlap": "1h", "once": name + deed}).status_code == 404
    assert owner.get("/console/people/999999/rotate").status_code == 404

    path = f"/console/people/{known['ada-mac']['id']}/rotate"
    fresh = _secret(owner.post(path, _form(owner.get(path).text, overlap="0s")))
    assert _models(console, fresh) == 200
    assert _models(console, mine) == 401
    assert owner.post(f"/console/people/{known['ada-mac']['id']}/revoke").status_code == 303
    assert _models(console, fresh) == 401


@pytest.mark.parametrize("right", [("--console", "operator"), ("--metrics",)])
def test_an_owner_cannot_get_a_secret_that_does_more(owner: Person, console: Gateway, right: tuple[str, ...]) -> None:
    name = f"ada {right[0]}"
    console.new_token(name, "--owner", "ada", *right)
    path = f"/console/people/{_tokens(console)[name]['id']}"
    assert f'{path}/rotate"' not in owner.get("/console/people").text
    for deed in ("rotate", "revoke"):
        assert owner.get(f"{path}/{deed}").status_code == 403
        assert owner.post(f"{path}/{deed}", {"overlap": "1h", "once": name}).status_code == 403


def test_names_that_look_like_markup_are_text(operator: Person, console: Gateway, open_page: OpenPage) -> None:
    _create(operator, name=HOSTILE, owner=f"<b>{HOSTILE}", models=HOSTILE.replace(",", ""))
    key = _tokens(console)[HOSTILE]["id"]
    for path in ("", f"/{key}", f"/{key}/rotate", f"/{key}/revoke"):
        text = operator.get(f"/console/people{path}").text
        assert "<img src=x" not in text
        assert "&lt;img src=x onerror=alert(1)&gt;" in text
    page = open_page(operator, "/console/people")
    assert HOSTILE in page.inner_text("main")
    assert page.locator("main img").count() == 0


def test_in_a_browser_a_token_is_made_copied_and_gone(operator: Person, console: Gateway, open_page: OpenPage) -> None:
    page = open_page(operator, "/console/people", permissions=["clipboard-read", "clipboard-write"])
    page.fill("#n-name", "browser-made")
    page.fill("#n-owner", "eve")
    page.click("text=Make the token")
    secret = page.inner_text("#secret")
    assert _models(console, secret) == 200
    page.click("text=Copy the token")
    page.wait_for_selector("text=Copied")
    assert page.evaluate("navigator.clipboard.readText()") == secret

    page.click("text=I have it, hide")
    assert secret not in page.content()
    page.click(f"#t{_tokens(console)['browser-made']['id']} summary")
    page.click(f"#t{_tokens(console)['browser-made']['id']} >> text=Revoke…")
    page.click("text=Revoke the token")
    page.wait_for_url("**/console/people**")
    assert _models(console, secret) == 401


def test_no_name_makes_a_narrow_page_wider(operator: Person, open_page: OpenPage) -> None:
    _create(operator, name="x" * 191, owner="y" * 191, models="z" * 191)
    page = open_page(operator, "/console/people", width=320)
    assert page.evaluate("document.documentElement.scrollWidth") <= 320
