"""Every page in a browser, narrow and wide, light and dark, with a team that has everything on it: axe-core finds no
serious fault, and nothing makes a narrow page scroll sideways. Pictures are written to $ANTIPHON_SCREENSHOTS, if set.
"""

from __future__ import annotations

import html
import re
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import urljoin

import pytest

from tests.console import team
from tests.console.conftest import OpenPage
from tests.console.looks import WIDTHS, faults, open_all, take_pictures
from tests.console.routes import ROUTES, Route
from tests.console.team import Team
from tests.console.visitors import Person
from tests.gateway import Gateway
from tests.tool_servers import ToolServer
from tests.upstream import ScriptedUpstream

if TYPE_CHECKING:
    from playwright.sync_api import Page

pytestmark = pytest.mark.release

NewPerson = Callable[..., Person]

#: Enough for every kind of link; the pages of a tree have a link for each turn, fold and tip.
MOST_LINKS = 300
_LINK = re.compile(r'(?:href|src|hx-get)="([^"#][^"]*)"')


@pytest.fixture(scope="module")
def console(tmp_path_factory: pytest.TempPathFactory, console_upstream: ScriptedUpstream) -> Iterator[Gateway]:
    with ExitStack() as stack:
        table = team.table(stack.enter_context(ToolServer()))
        folder = tmp_path_factory.mktemp("looks")
        yield stack.enter_context(Gateway(folder, team.channels(console_upstream), table))


@pytest.fixture(scope="module")
def owner(new_person: NewPerson) -> Person:
    return new_person("ada-mac", owner="ada", role="owner", options=("--tools", "docs")).sign_in()


@pytest.fixture(scope="module")
def filled(
    console: Gateway, console_upstream: ScriptedUpstream, owner: Person, new_person: NewPerson
) -> Iterator[Team]:
    bob = new_person("bob-agent", owner="bob", role=None, options=("--tools", "docs,calendar", "--rpm", "60"))
    filled = team.fill(console, console_upstream, owner, bob)
    team.reject_table(console)
    with team.at_work(owner, console_upstream):
        yield filled


@pytest.fixture(scope="module")
def stranger(new_person: NewPerson) -> Person:
    """Without a session."""
    return new_person("stranger", role=None)


def _stay(page: Page) -> None:
    """The page as it is opened."""


def _makes_a_token(page: Page) -> None:
    page.fill("[name=name]", "ada-phone")
    page.fill("[name=owner]", "ada")
    page.get_by_role("button", name="Make the token").click()
    page.wait_for_selector(".secret")


def _is_refused(page: Page) -> None:
    page.fill("[name=token]", "ap_unknown")
    page.get_by_role("button", name="Sign in").click()
    page.wait_for_selector("[role=alert]")


@dataclass(frozen=True, slots=True)
class View:
    """One page as one person sees it."""

    name: str
    path: str
    who: str = "operator"
    """`operator`, `owner` or nobody."""
    does: Callable[[Page], None] = _stay
    widths: tuple[int, ...] = WIDTHS


def _views_of(route: Route) -> Iterator[View]:
    """As an operator sees it, and as an owner does, whose pages are the same or less."""
    name = re.sub(r"[^a-z-]+", "-", route.path.removeprefix("/console/")).strip("-")
    if route.is_public:
        yield View(name, route.path, "")
        return
    if route.operator == 200:
        yield View(name, route.path, "operator")
    if route.owner == 200:
        yield View(f"{name}-owner", route.path, "owner", widths=WIDTHS[:1] if route.operator == 200 else WIDTHS)


VIEWS = (
    *(
        view
        for route in ROUTES
        if route.method == "GET" and not route.is_part and not route.endless and route.operator != 303
        for view in _views_of(route)
    ),
    View("tree-branches", "/console/c/{branches}"),
    View("tree-selected", "/console/c/{codex}?at={codex}"),
    View("tree-tools", "/console/c/{tools}?at={tools}", "owner"),
    View("tree-cancelled", "/console/c/{cancelled}?at={cancelled}"),
    View("tree-search", "/console/c/{codex}?q=exec_command"),
    View("tree-search-empty", "/console/c/{codex}?q=nothing-like-it"),
    View("token-made", "/console/people", does=_makes_a_token),
    View("sign-in-refused", "/console/sign-in", "", does=_is_refused),
    View("error", "/console/c/unknown"),
)


@pytest.mark.parametrize("view", VIEWS, ids=lambda view: view.name)
def test_a_page_reads_well(
    view: View, filled: Team, operator: Person, owner: Person, stranger: Person, open_page: OpenPage
) -> None:
    person = {"operator": operator, "owner": owner, "": stranger}[view.who]
    page = open_page(person, view.path.format(**_names(filled)))
    view.does(page)
    take_pictures(page, view.name)
    open_all(page)
    assert not [*faults(page, view.widths)]


def _names(filled: Team) -> dict[str, str]:
    """What the placeholders of paths stand for."""
    ids = {name: getattr(filled, name) for name in Team.__slots__}
    return {"turn": filled.codex, "fresh": filled.branches, "channel": "openai", **ids}


@pytest.mark.parametrize("who", ["operator", "owner"])
def test_every_link_and_every_file_of_a_page_leads_somewhere(
    who: str, filled: Team, request: pytest.FixtureRequest
) -> None:
    person: Person = request.getfixturevalue(who)
    start = [view.path.format(**_names(filled)) for view in VIEWS if view.who == who]
    seen = dict.fromkeys(start, "")
    waiting = deque(seen)
    broken: list[str] = []
    while waiting and len(seen) < MOST_LINKS:
        path = waiting.popleft()
        answer = person.get(path, allow_redirects=False, stream=True)
        if seen[path] and answer.status_code not in (200, 303, 304):
            broken.append(f"{answer.status_code}: {path} from {seen[path]}")
        found = answer.text if answer.headers["Content-Type"].startswith("text/html") else ""
        answer.close()
        for link in map(html.unescape, _LINK.findall(found)):
            target = urljoin(path, link).partition("#")[0]
            if target.startswith("/") and target not in seen:
                seen[target] = path
                waiting.append(target)
    assert not broken
