"""One gateway for a module, with the people of a small team, and a browser that all tests of a process share."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.console.visitors import Person
from tests.gateway import Gateway
from tests.upstream import ScriptedUpstream

if TYPE_CHECKING:
    from playwright.sync_api import Browser, ConsoleMessage, Page

CHROMIUM = shutil.which("chromium")
#: Milliseconds for what a page must show. A busy machine needs less.
PATIENCE = 60_000

OpenPage = Callable[..., "Page"]


@pytest.fixture(scope="module")
def console_upstream() -> Iterator[ScriptedUpstream]:
    """The upstream behind the channel `scripted`, which serves every model but `demo`."""
    with ScriptedUpstream() as upstream:
        yield upstream


@pytest.fixture(scope="module")
def console(tmp_path_factory: pytest.TempPathFactory, console_upstream: ScriptedUpstream) -> Iterator[Gateway]:
    channels = [
        {"name": "demo", "format": "demo", "models": ["demo"]},
        console_upstream.channel(name="scripted"),
    ]
    table = {"models": {"gpt-6-sol": {"price": {"input": 2, "output": 10}}}}
    with Gateway(tmp_path_factory.mktemp("console"), channels, table) as gateway:
        yield gateway


@pytest.fixture(scope="module")
def new_person(console: Gateway) -> Iterator[Callable[..., Person]]:
    """Makes people with tokens of their own: `new_person("ada-mac", owner="ada", role="owner")`."""
    with ExitStack() as stack:
        yield lambda name, **keys: stack.enter_context(Person(console, name, **{"owner": name, "role": None, **keys}))


@pytest.fixture(scope="module")
def operator(new_person: Callable[..., Person]) -> Person:
    return new_person("ops-console", owner="ops", role="operator").sign_in()


@pytest.fixture(scope="module")
def owner(new_person: Callable[..., Person]) -> Person:
    return new_person("ada-console", owner="ada", role="owner").sign_in()


@pytest.fixture(scope="module")
def other_owner(new_person: Callable[..., Person]) -> Person:
    return new_person("bob-console", owner="bob", role="owner").sign_in()


@pytest.fixture(scope="package")
def browser() -> Iterator[Browser]:
    """Debian's Chromium, without a window. It ends with this folder's tests: playwright keeps an event loop running in
    the thread, in which no other test could start one."""
    if CHROMIUM is None:
        pytest.skip("chromium is not installed")
    from playwright.sync_api import sync_playwright  # a second that the other tests need not pay

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def open_page(browser: Browser, tmp_path: Path) -> Iterator[OpenPage]:
    """Opens pages: `open_page(operator, "/console/overview", width=320, scheme="dark")`. None for nobody. A page that
    logs an error or breaks its policy fails the test."""
    complaints: list[str] = []
    with ExitStack() as stack:

        def open_(person: Person | None, path: str, width: int = 1440, scheme: Any = "light", **keys: Any) -> Page:
            url = person.gateway.url if person else ""
            context = browser.new_context(
                viewport={"width": width, "height": 900}, color_scheme=scheme, reduced_motion="reduce", **keys
            )
            stack.callback(context.close)
            context.set_default_timeout(PATIENCE)
            if person is not None and person.cookies:
                context.add_cookies(
                    [{"name": name, "value": value, "url": url} for name, value in person.cookies.items()]
                )
            page = context.new_page()
            page.on("console", lambda message: complaints.append(message.text) if _is_fault(message) else None)
            page.on("pageerror", lambda error: complaints.append(str(error)))
            page.goto(url + path)
            return page

        yield open_
    assert not complaints


def _is_fault(message: ConsoleMessage) -> bool:
    """An error of the page's own, such as a breach of its policy; a status of an answer is none."""
    return message.type == "error" and not message.text.startswith("Failed to load resource")
