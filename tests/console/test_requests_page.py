"""/console/requests: the list with its filters, the selected request, its curl, and what is live."""

from __future__ import annotations

import html
import re
import shlex
from collections.abc import Iterator
from typing import Any

import orjson
import pytest

from tests.console.conftest import OpenPage
from tests.console.visitors import Person
from tests.gateway import Gateway
from tests.relay.conftest import eventually
from tests.store import rows
from tests.upstream import ScriptedUpstream, refusal

URL = "/console/requests"
MARKUP = "<script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">"


@pytest.fixture(scope="module")
def console(tmp_path_factory: pytest.TempPathFactory, console_upstream: ScriptedUpstream) -> Iterator[Gateway]:
    channels = [
        {"name": "demo", "format": "demo", "models": ["demo"]},
        console_upstream.channel("first", models=["pair"], priority=10, cooldown={"after": 1000}),
        {"name": "second", "format": "demo", "models": ["pair"]},
        console_upstream.channel("alone", models=["alone"], cooldown={"after": 1000}),
    ]
    with Gateway(tmp_path_factory.mktemp("requests-page"), channels) as gateway:
        yield gateway


def listed(page: str) -> list[str]:
    """The ids of the page's rows, in their order."""
    return re.findall(r'data-row href="[^"]*at=(resp_[0-9a-f]+)', html.unescape(page))


def test_operators_see_all_and_owners_their_own(operator: Person, owner: Person, other_owner: Person) -> None:
    hers, his = owner.create()["id"], other_owner.create()["id"]
    eventually(lambda: {hers, his} <= {*listed(operator.get(URL).text)}, "both rows")
    for person, own, other in ((owner, hers, his), (other_owner, his, hers)):
        shown = person.get(f"{URL}?owner=ada").text
        assert own in shown
        assert other not in shown
        assert person.get(f"{URL}?at={other}").status_code == 404
        assert person.get(f"{URL}?q={other}").status_code == 404
        assert person.post(f"{URL}/{other}/curl", {"reason": "x"}).status_code == 404
    assert {*listed(operator.get(f"{URL}?owner=ada").text)} <= {*listed(owner.get(URL).text)}


def test_filters_are_values_of_a_url(operator: Person, owner: Person) -> None:
    made = owner.create(model="demo")["id"]
    assert made in listed(operator.get(f"{URL}?token=ada-console&model=demo&kind=JSON&client=python").text)
    empty = operator.get(f"{URL}?token=ada-console&status=in+flight&client=codex").text
    assert "No request matches" in empty
    assert "client codex" in empty
    for wrong in ("status=gone", "kind=x", "before=x", "before=-1", "before=" + "9" * 30):
        assert operator.get(f"{URL}?{wrong}").status_code == 400, wrong


def test_pages_are_reached_by_keys(operator: Person, owner: Person) -> None:
    made = [owner.create()["id"] for _ in range(52)][::-1]
    first = operator.get(f"{URL}?owner=ada").text
    assert listed(first) == made[:50]
    older = re.search(r'href="([^"]+)" rel="next"', first)
    assert older
    second = operator.get(html.unescape(older[1])).text
    assert listed(second)[:2] == made[50:]
    assert ">Newest</a>" in second
    assert "live:requests" in first
    assert "live:requests" not in second


def test_a_failover_is_explained(operator: Person, owner: Person, console_upstream: ScriptedUpstream) -> None:
    console_upstream.enqueue(refusal(429, f"limit 200000, used 199120 {MARKUP}"))
    made = owner.create(model="pair")
    shown = operator.get(f"{URL}?at={made['id']}").text
    text = html.unescape(shown)
    assert listed(shown)[0] == made["id"]
    assert "completed, 2nd try" in text
    assert "first → second" in text
    assert "first failed before its first output, so that second took over." in text
    assert "limit 200000, used 199120" in text
    assert f'href="/console/c/{made["id"]}?at={made["id"]}"' in text
    assert "<script>document" not in shown
    assert "<img" not in shown
    # An owner reads their own attempts, and nothing of the table.
    own = owner.get(f"{URL}?at={made['id']}").text
    assert "limit 200000" in own
    assert "Why these channels" not in own


def test_an_error_says_what_to_do(operator: Person, owner: Person, console_upstream: ScriptedUpstream) -> None:
    console_upstream.enqueue(refusal(500, f"out of order {MARKUP}"))
    body = {"model": "alone", "input": "hello"}
    assert owner.gateway.post("/responses", body, token=owner.token).status_code == 502
    (response,) = eventually(lambda: listed(operator.get(f"{URL}?status=failed&channel=alone").text), "the row")
    shown = operator.get(f"{URL}?q={response}").text
    assert "What to do:" in shown
    assert "upstream_error" in shown
    assert "out of order" in shown
    assert "<script>document" not in shown


def curl_of(page: str) -> dict[str, Any]:
    found = re.search(r'<pre id="curl" tabindex="0">(.*?)</pre>', page, re.DOTALL)
    assert found
    words = shlex.split(html.unescape(found[1]).replace("\\\n", ""))
    assert "Authorization: Bearer $ANTIPHON_TOKEN" in words
    body: dict[str, Any] = orjson.loads(words[words.index("-d") + 1])
    return body


def test_the_curl_has_text_only_when_it_is_asked_for(console: Gateway, operator: Person, owner: Person) -> None:
    said = f"what's the secret? {MARKUP} $HOME `id`"
    made = owner.create(input=said, instructions="Be brief.", metadata={"k": "v"})["id"]
    page = owner.get(f"{URL}?at={made}").text
    assert "secret?" not in page
    assert curl_of(page) == {"model": "demo", "input": "…"}
    own = owner.post(f"{URL}/{made}/curl")
    assert own.status_code == 200
    body = curl_of(own.text)
    assert body["input"][0]["content"][0]["text"] == said
    assert (body["instructions"], body["metadata"]) == ("Be brief.", {"k": "v"})
    assert "<script>document" not in own.text
    # What it sends gives the same answer again.
    again = console.post("/responses", body, token=owner.token).json()
    assert said in again["output"][0]["content"][0]["text"]
    sql = "SELECT actor, action, owner, reason FROM audit WHERE subject = ?"
    assert rows.execute(console.database_url, sql, (made,)) == []
    assert operator.post(f"{URL}/{made}/curl").status_code == 400
    assert operator.post(f"{URL}/{made}/curl", {"reason": "a ticket"}).status_code == 200
    assert rows.execute(console.database_url, sql, (made,)) == [("ops", "show text", "ada", "a ticket")]


def test_what_is_not_stored_has_no_text(owner: Person) -> None:
    owner.create(store=False, input="unheard")
    made = eventually(lambda: listed(owner.get(f"{URL}?kind=not+stored").text), "the row")[0]
    shown = owner.get(f"{URL}?at={made}").text
    assert "no: only these numbers" in shown
    assert "With its text" not in shown
    assert owner.post(f"{URL}/{made}/curl").status_code == 404


def test_new_requests_appear_by_themselves(open_page: OpenPage, owner: Person) -> None:
    owner.create()
    page = open_page(owner, URL)
    page.locator("[data-row]").first.wait_for()
    made = owner.create()["id"]
    page.locator(f"#r-{made[-12:]}").wait_for()


@pytest.mark.parametrize(("width", "scheme"), [(1440, "light"), (320, "dark")])
def test_a_request_is_found_and_read_in_a_browser(open_page: OpenPage, owner: Person, width: int, scheme: str) -> None:
    made = owner.create(input=f"read me {MARKUP}")["id"]
    page = open_page(owner, URL, width=width, scheme=scheme)
    page.get_by_label("Request or response id").fill(made)
    page.get_by_role("button", name="Filter", exact=True).click()
    page.locator("tr[aria-current=true]").wait_for()
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.get_by_text("With its text", exact=True).click()
    page.get_by_role("button", name="Show it with its text").click()
    page.get_by_text("as curl, with its text").wait_for()
    assert "read me <script>" in page.locator("#curl").inner_text()
    assert page.title() == "Requests · antiphon"


def test_rows_are_reached_by_keys(open_page: OpenPage, owner: Person) -> None:
    newest = [owner.create()["id"] for _ in range(3)][::-1]
    page = open_page(owner, f"{URL}?kind=JSON")
    page.keyboard.press("j")
    page.keyboard.press("j")
    assert page.evaluate("document.activeElement.id") == f"r-{newest[1][-12:]}"
    page.keyboard.press("Enter")
    page.locator("tr[aria-current=true]").wait_for()
    assert newest[1] in page.url
    page.keyboard.press("/")
    assert page.evaluate("document.activeElement.id") == "q"
