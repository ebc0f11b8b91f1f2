"""What a page of another origin gets of the console in a real browser: nothing."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING

import pytest

from tests.console.conftest import PATIENCE
from tests.console.visitors import Person
from tests.store import rows

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

NewPerson = Callable[..., Person]

#: Another port of the same host, which gets the cookies of a same-site request, and another host of this machine.
HOSTS = ("127.0.0.1", "localhost")

FORMS = ("/console/sign-out", "/console/sign-in", "/console/sign-in/code", "/console/playground", "/console/people")

_READ = """async (url) => {
    const read = (mode) => fetch(url, { credentials: "include", mode });
    return [
        await read("cors").then((answer) => answer.text(), () => "refused"),
        await read("no-cors").then((answer) => answer.type, () => "refused"),
    ];
}"""


class _Site(ThreadingHTTPServer):
    daemon_threads = True
    body = ""


class _Handler(BaseHTTPRequestHandler):
    server: _Site

    def do_GET(self) -> None:
        body = self.server.body.encode()
        self.send_response(200)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        # The browser goes away before it has its icon.
        with suppress(ConnectionError):
            self.wfile.write(body)

    def log_message(self, format: str, *values: object) -> None:
        """Nothing."""


@pytest.fixture(scope="module")
def site() -> Iterator[_Site]:
    """A site of someone else."""
    server = _Site(("127.0.0.1", 0), _Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@contextmanager
def _visit(browser: Browser, site: _Site, host: str, person: Person) -> Iterator[Page]:
    """The other site in a browser in which the person is signed in."""
    context = browser.new_context()
    context.set_default_timeout(PATIENCE)
    context.add_cookies(
        [
            {"name": name, "value": value, "url": person.gateway.url, "sameSite": "Lax"}
            for name, value in person.cookies.items()
        ]
    )
    try:
        page = context.new_page()
        page.goto(f"http://{host}:{site.server_port}/")
        yield page
    finally:
        context.close()


@pytest.fixture
def victim(new_person: NewPerson, request: pytest.FixtureRequest) -> Person:
    return new_person(request.node.name, role="operator").sign_in()


@pytest.mark.parametrize("host", HOSTS)
def test_its_forms_change_nothing(browser: Browser, site: _Site, victim: Person, host: str) -> None:
    """The forms even know the CSRF token; the browser says where they come from."""
    fields = {"csrf": victim.csrf, "token": victim.token, "code": "x", "name": "theirs", "model": "demo", "input": "hi"}
    inputs = "".join(f'<input type="hidden" name="{name}" value="{value}">' for name, value in fields.items())
    site.body = f"<!doctype html><title>Prizes</title><form method=post>{inputs}</form>"
    before = _written(victim)

    with _visit(browser, site, host, victim) as page:
        for path in FORMS:
            page.goto(f"http://{host}:{site.server_port}/")
            with page.expect_navigation() as navigation:
                page.evaluate(
                    "url => { document.forms[0].action = url; document.forms[0].submit() }", victim.gateway.url + path
                )
            # Without a cookie, which the browser sends to the same site alone, the answer is 401.
            assert navigation.value.status in (401, 403), path
        page.goto(f"{victim.gateway.url}/console/overview")
        assert page.url.endswith("/console/overview"), "the session has ended"

    assert _written(victim) == before


def _written(person: Person) -> list[int]:
    return [
        rows.count(person.gateway.database_url, table) for table in ("console_session", "response", "token", "audit")
    ]


@pytest.mark.parametrize("host", HOSTS)
def test_it_cannot_frame_read_or_hold_a_page(browser: Browser, site: _Site, victim: Person, host: str) -> None:
    console = f"{victim.gateway.url}/console/overview"
    site.body = '<!doctype html><title>Prizes</title><iframe id="frame" name="frame"></iframe>'
    with _visit(browser, site, host, victim) as page:
        with page.expect_response(console):
            page.evaluate("url => { document.getElementById('frame').src = url }", console)
        page.wait_for_function("window.frame.length === 0 && document.getElementById('frame').contentDocument === null")
        frame = page.frame(name="frame")
        assert frame is not None
        assert "Sign out" not in frame.content()

        fetched, blind = page.evaluate(_READ, console)
        assert fetched == "refused"
        assert blind in ("opaque", "refused")

        with page.context.expect_page() as opened:
            page.evaluate("url => { window.held = window.open(url) }", console)
        opened.value.wait_for_load_state()
        assert "Sign out" in opened.value.inner_text("body")
        assert opened.value.evaluate("window.opener") is None
        page.wait_for_function("window.held.closed")


def test_a_link_from_another_site_finds_the_session_and_changes_nothing(
    browser: Browser, site: _Site, victim: Person
) -> None:
    """Links in chats and mails lead to pages; SameSite is Lax for them."""
    site.body = f'<!doctype html><a href="{victim.gateway.url}/console/overview">console</a>'
    with _visit(browser, site, "localhost", victim) as page:
        page.click("a")
        page.wait_for_url("**/console/overview")
        assert "Sign out" in page.inner_text("body")
