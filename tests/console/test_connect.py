"""The page Connect: the texts of the command, with the URL by which the reader came and a token that is theirs."""

from __future__ import annotations

import html
import re

import orjson
import pytest
import requests

from app.reports.connect import CLIENTS, TITLES
from tests.console.conftest import OpenPage
from tests.console.visitors import Person
from tests.gateway import Gateway


def _texts(page: str) -> list[str]:
    return [html.unescape(text) for text in re.findall(r'<pre id="s\d+" tabindex="0">(.*?)</pre>', page, re.S)]


def _words(page: str) -> str:
    return html.unescape(re.sub(r"<[^>]+>", "", page))


def _keys(gateway: Gateway) -> dict[str, int]:
    return {token["name"]: token["id"] for token in orjson.loads(gateway.command("tokens", "list", "--json"))}


@pytest.mark.parametrize("client", CLIENTS)
def test_the_page_says_what_the_command_says(owner: Person, console: Gateway, client: str) -> None:
    page = owner.get(f"/console/connect?client={client}&model=demo").text
    recipe = orjson.loads(console.command("connect", client, "--model", "demo", "--url", console.url, "--json"))
    assert _texts(page) == [step["text"].rstrip("\n") for step in recipe["steps"]]
    for trouble in recipe["errors"]:
        assert trouble["cause"].replace("`", "") in _words(page)
    assert f'aria-current="true">{TITLES[client]}</a>' in page


def test_the_url_is_the_one_by_which_a_proxy_is_reached(owner: Person) -> None:
    behind = {"X-Forwarded-Proto": "https", "X-Forwarded-For": "10.0.0.7", "Host": "antiphon.internal"}
    session = requests.Session()
    session.trust_env = False
    own = {"Sec-Fetch-Site": "same-origin", **behind}
    url = owner.gateway.url
    done = session.post(f"{url}/console/sign-in", headers=own, data={"token": owner.token}, allow_redirects=False)
    (cookie,) = re.findall(r"^([^;]+)", done.headers["Set-Cookie"])
    page = session.get(f"{url}/console/connect", headers={**behind, "Cookie": cookie}).text
    session.close()
    assert 'value="https://antiphon.internal/v1"' in page
    assert "base_url = &#34;https://antiphon.internal/v1&#34;" in page


def test_a_model_is_chosen_among_those_that_the_token_may_use(operator: Person, console: Gateway) -> None:
    console.new_token("scripted-alone", "--owner", "ops", "--models", "m*")
    key = _keys(console)["scripted-alone"]
    page = operator.get(f"/console/connect?token={key}&model=demo").text
    assert re.findall(
        r"<option[^>]*>([^<(]+)</option>", page.partition('id="f-model"')[2].partition("</select>")[0]
    ) == ["m"]
    assert "model = &#34;m&#34;" in page


def test_an_owner_chooses_among_its_own_tokens(owner: Person, other_owner: Person, console: Gateway) -> None:
    key = _keys(console)[other_owner.name]
    page = owner.get(f"/console/connect?token={key}&client=nothing").text
    assert other_owner.name not in page
    assert owner.name in page
    assert owner.get(f"/console/connect/seen?token={key}").status_code == 404


def test_no_secret_is_on_the_page(owner: Person) -> None:
    page = owner.get("/console/connect?client=curl").text
    assert "export ANTIPHON_TOKEN=ap_...\n" in page or "export ANTIPHON_TOKEN=ap_...</pre>" in page
    assert owner.token not in page


def test_the_first_request_appears_while_one_waits(owner: Person, console: Gateway, open_page: OpenPage) -> None:
    secret = console.new_token("never-used", "--owner", "ada")
    page = open_page(owner, f"/console/connect?token={_keys(console)['never-used']}&client=python")
    assert "Waiting for a first request of never-used" in page.inner_text("#seen")
    agent = {"User-Agent": "OpenAI/Python 3.1"}
    console.post("/responses", {"model": "demo", "input": "hello"}, token=secret, headers=agent)
    page.wait_for_selector("#seen :text('works')")
    assert "by openai-python" in page.inner_text("#seen")


def test_the_copy_button_copies_the_step(owner: Person, open_page: OpenPage) -> None:
    page = open_page(owner, "/console/connect?client=codex", permissions=["clipboard-read", "clipboard-write"])
    page.click("[data-copy=s1]")
    page.wait_for_selector("text=Copied")
    assert page.evaluate("navigator.clipboard.readText()") == page.inner_text("#s1")
