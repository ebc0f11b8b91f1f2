"""The overview: figures, what is in flight, cancelling it, and what needs attention."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import requests

from app.contract.usage import Usage
from app.store.store import Store
from tests.console.conftest import OpenPage
from tests.console.visitors import Person
from tests.gateway import Gateway, portions
from tests.relay.conftest import SOME_TEXT, check_failed_stream, eventually, response_id_in
from tests.store.turns import draft, outcome
from tests.stored_data import select
from tests.upstream import ScriptedUpstream, stalled

NewPerson = Callable[..., Person]


@pytest.fixture(scope="module")
def console(tmp_path_factory: pytest.TempPathFactory, console_upstream: ScriptedUpstream) -> Iterator[Gateway]:
    """Two workers, so that a page is answered by another one than the stream that it shows."""
    channels = [
        {"name": "demo", "format": "demo", "models": ["demo"]},
        console_upstream.channel(name="scripted"),
    ]
    with Gateway(tmp_path_factory.mktemp("console"), channels, workers=2) as gateway:
        yield gateway


@contextmanager
def held_stream(
    person: Person, upstream: ScriptedUpstream
) -> Iterator[tuple[str, requests.Response, bytes, Iterator[bytes]]]:
    """A stream of this person that its upstream holds: its id, the answer, what has been read, and the rest."""
    upstream.enqueue(stalled(SOME_TEXT))
    answer = person.gateway.stream({"model": "m", "input": "Say something"}, token=person.token)
    pieces, head = portions(answer), b""
    while b"output_text.delta" not in head:
        head += next(pieces)
    try:
        yield response_id_in(head), answer, head, pieces
    finally:
        answer.close()


def told(person: Person, path: str = "/console/overview") -> str:
    answer = person.get(path)
    assert answer.status_code == 200, answer.text
    return answer.text


# --- in flight --------------------------------------------------------------------------------------------------


def test_a_stream_is_shown_to_its_owner_and_to_operators(
    operator: Person, owner: Person, other_owner: Person, console_upstream: ScriptedUpstream
) -> None:
    with held_stream(owner, console_upstream) as (response_id, *_):
        for person in (operator, owner):
            for path in ("/console/overview", "/console/overview/now"):
                assert f"/console/requests/{response_id}/cancel" in told(person, path)
                assert "scripted" in told(person, path)
        assert response_id not in told(other_owner)


@pytest.mark.parametrize("who", ["operator", "owner"])
def test_any_worker_cancels_it(
    who: str, request: pytest.FixtureRequest, owner: Person, console: Gateway, console_upstream: ScriptedUpstream
) -> None:
    person: Person = request.getfixturevalue(who)
    audited = select(console.database_url, "SELECT COUNT(*) AS n FROM audit")[0]["n"]
    console_upstream.hangups.clear()
    with held_stream(owner, console_upstream) as (response_id, _, head, pieces):
        answer = person.post(f"/console/requests/{response_id}/cancel")
        assert (answer.status_code, answer.headers["Location"]) == (303, "/console/overview")
        assert response_id not in told(person)
        check_failed_stream(head + b"".join(pieces), "response_cancelled")
    console_upstream.wait_hangup()
    assert console.get(f"/responses/{response_id}", token=owner.token).json()["status"] == "cancelled"
    rows = select(console.database_url, "SELECT actor, action, subject, owner FROM audit ORDER BY pk")[audited:]
    by_operator = [{"actor": "ops", "action": "cancel", "subject": response_id, "owner": "ada"}]
    assert rows == (by_operator if who == "operator" else [])
    # A second click, and one on a page that is old.
    assert person.post(f"/console/requests/{response_id}/cancel", {"back": "/console/requests"}).status_code == 303
    assert len(select(console.database_url, "SELECT pk FROM audit")) == audited + len(rows)


def test_a_queued_response_is_cancelled_before_it_starts(operator: Person, owner: Person, console: Gateway) -> None:
    """The gateway runs no worker for background responses."""
    response_id = owner.create(background=True)["id"]
    assert "queued" in told(operator, "/console/overview/now")
    assert operator.post(f"/console/requests/{response_id}/cancel").status_code == 303
    assert console.get(f"/responses/{response_id}", token=owner.token).json()["status"] == "cancelled"
    assert response_id not in told(owner)


def test_what_is_not_ones_own_is_unknown(
    other_owner: Person, owner: Person, operator: Person, console_upstream: ScriptedUpstream
) -> None:
    with held_stream(owner, console_upstream) as (response_id, *_):
        assert other_owner.post(f"/console/requests/{response_id}/cancel").status_code == 404
        assert owner.send("POST", f"/console/requests/{response_id}/cancel", data={}).status_code == 403
        assert response_id in told(owner)
    assert operator.post("/console/requests/resp_unknown/cancel").status_code == 404


def test_a_request_without_a_row_is_counted(
    operator: Person, owner: Person, console_upstream: ScriptedUpstream
) -> None:
    console_upstream.enqueue(stalled(SOME_TEXT))
    body = {"model": "m", "input": "Say something", "store": False}
    answer = owner.gateway.stream(body, token=owner.token)
    try:
        eventually(lambda: "counted, not listed" in told(operator, "/console/overview/now"), "the count")
        assert "counted, not listed" not in told(owner, "/console/overview/now")
    finally:
        answer.close()
    eventually(lambda: "counted, not listed" not in told(operator, "/console/overview/now"), "its end")


# --- the figures ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def figures(console: Gateway, operator: Person, owner: Person, other_owner: Person) -> None:
    """A hundred responses of two people, an hour ago."""
    store = Store(console.database_url, peppers=[b"p"])
    keys = {token.owner: token.key for token in store.tokens.all()}
    an_hour_ago = int(time.time()) - 3600
    usage = Usage(10_000, cached_tokens=7_500, output_tokens=400, cost=20_000)
    for number in range(100):
        who = "ada" if number < 75 else "bob"
        ended = outcome(
            "failed" if number == 0 else "completed",
            completed_at=an_hour_ago,
            channel=f"of-{who}",
            usage=usage,
            first_byte_ms=400 if number % 10 else 4000,
        )
        store.responses.note(draft(owner=who, token=keys[who], model=f"gpt-{who}", client="codex", stored=False), ended)
    store.close()


@pytest.mark.usefixtures("figures")
def test_an_operator_sees_everyone_and_an_owner_the_own_figures_only(
    operator: Person, owner: Person, other_owner: Person
) -> None:
    everyone, ada, bob = told(operator), told(owner), told(other_owner)
    for name in ("of-ada", "of-bob", "gpt-ada", "gpt-bob"):
        assert name in everyone
        assert (name in ada) == name.endswith("ada")
        assert (name in bob) == name.endswith("bob")
    assert "Who and what" in everyone
    assert "Fine: schema" in everyone
    for page in (ada, bob):
        assert "Who and what" not in page
        assert "schema" not in page
    assert "75 %" in bob
    assert "$0.50" in bob
    # 23 of 25 came in the bucket from 300 to 500 ms.
    assert "0.41 s" in bob


@pytest.mark.usefixtures("figures")
@pytest.mark.parametrize("period", ["today", "1", "7", "30", "90", "nonsense"])
def test_each_period_has_its_page(operator: Person, owner: Person, period: str) -> None:
    for person in (operator, owner):
        page = told(person, f"/console/overview?d={period}")
        assert page.count('aria-current="true"') == 1
        shown = "1" if period == "nonsense" else period
        assert f'href="?d={shown}" aria-current="true"' in page


# --- what needs attention ---------------------------------------------------------------------------------------


def test_problems_are_shown_with_their_remedies(
    console: Gateway, operator: Person, owner: Person, new_person: NewPerson
) -> None:
    new_person("soon-gone", owner="ada", role=None, options=("--expires", "3d"))
    written = console.channels_file.read_text()
    console.channels_file.write_text(written + "\nwieght: 3\n")
    try:
        eventually(lambda: "wieght" in told(operator, "/console/overview/now"), "the refused table")
        page, own = told(operator, "/console/overview/now"), told(owner, "/console/overview/now")
    finally:
        console.channels_file.write_text(written)
    for text in (page, own):
        assert "soon-gone</b> expires on" in text
        # The link leads to the row of the token.
        (anchor,) = re.findall(r'soon-gone</b> expires on .*?href="/console/people#(t\d+)"', text)
        assert f'id="{anchor}"' in told(owner, "/console/people")
    assert "antiphon tokens update soon-gone" in page
    assert "Ask an operator for another expiry of soon-gone" in own
    assert "channels.yaml refused" in page
    assert "refused" not in own
    assert str(console.directory) not in page


# --- in a browser -----------------------------------------------------------------------------------------------


def test_a_row_appears_while_a_stream_runs_and_cancel_ends_it(
    open_page: OpenPage, operator: Person, owner: Person, console_upstream: ScriptedUpstream
) -> None:
    page = open_page(operator, "/console/overview")
    page.wait_for_selector("[data-stream=on]")
    with held_stream(owner, console_upstream) as (response_id, _, head, pieces):
        button = page.locator(f"#cancel-{response_id}")
        button.wait_for()
        assert page.locator(".when-live").is_visible()
        button.click()
        button.wait_for(state="detached")
        check_failed_stream(head + b"".join(pieces), "response_cancelled")
    assert page.url.endswith("/console/overview")


def test_it_works_without_scripts(open_page: OpenPage, owner: Person, console_upstream: ScriptedUpstream) -> None:
    with held_stream(owner, console_upstream) as (response_id, *_):
        page = open_page(owner, "/console/overview", java_script_enabled=False)
        page.locator(f"#cancel-{response_id}").click()
        page.wait_for_url("**/console/overview")
        assert page.locator(f"#cancel-{response_id}").count() == 0


def test_what_follows_an_event_does_not_keep_the_session(
    open_page: OpenPage, operator: Person, owner: Person, console_upstream: ScriptedUpstream
) -> None:
    page = open_page(operator, "/console/overview")
    page.wait_for_selector("[data-stream=on]")
    with (
        page.expect_request(lambda request: request.url.endswith("/overview/now")) as sent,
        held_stream(owner, console_upstream),
    ):
        pass
    assert sent.value.headers["x-unattended"] == "1"
