"""The streams that tell pages what has changed: whom they tell, when they end, and what they cost."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest
import requests

from tests.console.conftest import OpenPage
from tests.console.test_overview import held_stream
from tests.console.visitors import Person
from tests.gateway import Gateway
from tests.relay.conftest import eventually
from tests.upstream import ScriptedUpstream

#: Pages that one worker has: a quarter of the threads, which are enough for all 32.
THREADS = 132
PAGES = 32
NewPerson = Callable[..., Person]


@pytest.fixture(scope="module")
def console(tmp_path_factory: pytest.TempPathFactory, console_upstream: ScriptedUpstream) -> Iterator[Gateway]:
    channels = [
        {"name": "demo", "format": "demo", "models": ["demo"]},
        console_upstream.channel(name="scripted"),
    ]
    with Gateway(tmp_path_factory.mktemp("live"), channels, threads=THREADS) as gateway:
        yield gateway


class LivePage:
    """The stream of an open page."""

    def __init__(self, person: Person, topics: str) -> None:
        self.answer = person.get("/console/live", params={"topics": topics}, stream=True)
        self._lines = self.answer.iter_lines(chunk_size=1)

    def close(self) -> None:
        self.answer.close()

    def hear(self) -> str | None:
        """The next topic; None at the end of the stream."""
        for line in self._lines:
            if line.startswith(b"data: "):
                return str(line.removeprefix(b"data: ").decode())
        return None

    def hear_all(self, *topics: str) -> None:
        """Reads until each of these has come."""
        missing = set(topics)
        while missing:
            heard = self.hear()
            assert heard is not None, f"the stream ended before {missing}"
            missing.discard(heard)

    @property
    def rest(self) -> list[str]:
        """What comes until the stream ends."""
        return list(iter(self.hear, None))


@contextmanager
def listening(person: Person, topics: str) -> Iterator[LivePage]:
    """A page that a look has seen: each topic is announced once at the beginning."""
    page = LivePage(person, topics)
    try:
        assert page.answer.status_code == 200, page.answer.text
        page.hear_all(*topics.split(","))
        yield page
    finally:
        page.close()


def everyone_left(person: Person) -> bool:
    """Whether a page finds room again."""
    page = LivePage(person, "flight")
    page.close()
    return page.answer.status_code == 200


def test_a_page_learns_of_own_things_only(owner: Person, other_owner: Person, operator: Person) -> None:
    root = owner.create()["id"]
    topics = f"requests,tree:{root}"
    with (
        listening(owner, topics) as own,
        listening(operator, topics) as all_,
        listening(other_owner, topics) as foreign,
    ):
        owner.create(previous_response_id=root)
        own.hear_all(*topics.split(","))
        all_.hear_all(*topics.split(","))
        other_owner.create()
        # Whatever came before is in the order of its coming: a foreign change would be heard first.
        assert foreign.hear() == "requests"
        assert all_.hear() in topics


def test_a_stream_at_work_is_told_of_its_beginning_and_end(
    owner: Person, other_owner: Person, console_upstream: ScriptedUpstream
) -> None:
    with listening(owner, "flight") as page, held_stream(owner, console_upstream) as (_, _, _, pieces):
        assert page.hear() == "flight"
        console_upstream.release()
        list(pieces)
        assert page.hear() == "flight"


@pytest.mark.parametrize("topics", ["", "flight,x", "tree:", "tree:a b", "x" * 300, "tree:1,tree:2,tree:3,tree:4,x"])
def test_other_topics_are_refused(owner: Person, topics: str) -> None:
    assert owner.get("/console/live", params={"topics": topics}).status_code == 400


def test_nobody_listens_without_a_session(console: Gateway, owner: Person) -> None:
    answer = requests.get(f"{console.url}/console/live?topics=flight", allow_redirects=False, timeout=30)
    assert answer.status_code in (303, 401)
    headers = {"Authorization": f"Bearer {owner.token}"}
    answer = requests.get(
        f"{console.url}/console/live?topics=flight", headers=headers, allow_redirects=False, timeout=30
    )
    assert answer.status_code in (303, 401)


def test_sessions_that_end_lose_their_streams(console: Gateway, new_person: NewPerson) -> None:
    people = [new_person(name, owner="eve", role="operator").sign_in() for name in ("revoked", "leaving", "demoted")]
    revoked, leaving, demoted = people
    assert leaving.csrf
    with ExitStack() as stack:
        pages = [LivePage(person, "flight") for person in people]
        for page in pages:
            stack.callback(page.close)
        for page in pages:
            page.hear_all("flight")
        console.command("tokens", "revoke", revoked.name)
        leaving.post("/console/sign-out")
        console.command("tokens", "update", demoted.name, "--console", "owner")
        for page in pages:
            # Returns when the stream has ended.
            assert set(page.rest) <= {"flight"}


def test_as_many_pages_listen_as_may(open_page: OpenPage, owner: Person) -> None:
    eventually(lambda: everyone_left(owner), "room")
    with ExitStack() as stack:
        pages = [LivePage(owner, "flight") for _ in range(PAGES)]
        for page in pages:
            stack.callback(page.close)
        assert {page.answer.status_code for page in pages} == {200}
        refused = LivePage(owner, "flight")
        assert refused.answer.status_code == 503
        assert "pages are live here" in refused.answer.text
        assert int(refused.answer.headers["Retry-After"]) > 0
        # The page itself works, and says that it is not live.
        shown = open_page(owner, "/console/overview")
        shown.wait_for_selector("[data-stream=off]")
        assert shown.locator(".when-not-live").is_visible()
        assert owner.create()["status"] == "completed"
    eventually(lambda: everyone_left(owner), "room")


def test_a_browser_that_hangs_up_frees_its_place(owner: Person, console: Gateway) -> None:
    eventually(lambda: everyone_left(owner), "room")
    # An answer without a body ends at once.
    for _ in range(PAGES + 1):
        assert owner.send("HEAD", "/console/live?topics=flight").status_code == 200
    cookies = "; ".join(f"{name}={value}" for name, value in owner.cookies.items())
    socks: list[socket.socket] = []
    try:
        for _ in range(PAGES):
            sock = socket.create_connection(("127.0.0.1", console.port), timeout=30)
            head = f"GET /console/live?topics=flight HTTP/1.1\r\nHost: 127.0.0.1:{console.port}\r\n"
            sock.sendall(f"{head}Cookie: {cookies}\r\n\r\n".encode())
            assert b" 200 " in sock.recv(100)
            socks.append(sock)
        assert LivePage(owner, "flight").answer.status_code == 503
    finally:
        for sock in socks:
            sock.close()
    eventually(lambda: everyone_left(owner), "room")


def test_a_hidden_page_drops_its_stream_and_a_shown_one_has_it_again(open_page: OpenPage, owner: Person) -> None:
    page = open_page(owner, "/console/overview")
    page.wait_for_selector("[data-stream=on]")
    show = """(hidden) => {
      Object.defineProperty(document, "hidden", { value: hidden, configurable: true });
      document.dispatchEvent(new Event("visibilitychange"));
    }"""
    page.evaluate(show, True)
    page.wait_for_selector("body:not([data-stream])")
    eventually(lambda: _all_find_room(owner, PAGES), "the place of the hidden page")
    page.evaluate(show, False)
    page.wait_for_selector("[data-stream=on]")


def _all_find_room(person: Person, count: int) -> bool:
    """Whether so many pages can listen at once."""
    with ExitStack() as stack:
        for _ in range(count):
            page = LivePage(person, "flight")
            stack.callback(page.close)
            if page.answer.status_code != 200:
                return False
    return True


def test_a_revoked_token_ends_the_page_of_a_browser(
    open_page: OpenPage, console: Gateway, new_person: NewPerson
) -> None:
    person = new_person("gone-in-browser", owner="eve", role="owner").sign_in()
    page = open_page(person, "/console/overview")
    page.wait_for_selector("[data-stream=on]")
    console.command("tokens", "revoke", person.name)
    page.wait_for_selector("[data-stream=off]")


def test_listening_pages_do_not_keep_a_server_from_stopping(tmp_path: Any, owner: Person, console: Gateway) -> None:
    with (
        Gateway(tmp_path, [{"name": "demo", "format": "demo", "models": ["demo"]}], drain=60) as gateway,
        Person(gateway, "ops", owner="ops", role="operator") as person,
    ):
        person.sign_in()
        with listening(person, "flight,requests") as page:
            began = time.monotonic()
            # The drain is far longer than what the pages may take.
            assert gateway.stop() == 0
            assert page.rest == []
            assert time.monotonic() - began < 60
