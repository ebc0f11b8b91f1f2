"""/console/tools: the tool servers, their calls and failures, and what they list."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.console.conftest import OpenPage
from tests.console.visitors import Person
from tests.gateway import Gateway
from tests.ports import closed_port
from tests.relay.conftest import eventually
from tests.relay.tools.conftest import ASK, mcp
from tests.store import rows
from tests.tool_servers import ToolServer
from tests.upstream import ScriptedUpstream

URL = "/console/tools"


@pytest.fixture(scope="module")
def tool_server() -> Iterator[ToolServer]:
    with ToolServer() as server:
        yield server


@pytest.fixture(scope="module")
def console(
    tmp_path_factory: pytest.TempPathFactory, console_upstream: ScriptedUpstream, tool_server: ToolServer
) -> Iterator[Gateway]:
    servers = [
        {"label": "docs", "url": tool_server.url, "require_approval": "never", "headers": {"X-Key": "canary-secret"}},
        {"label": "down", "url": f"http://127.0.0.1:{closed_port()}/mcp", "require_approval": {"never": ["read"]}},
        {"label": "waiting", "url": "https://mcp.example/${UNSET_PATH}/mcp"},
    ]
    table = {"tools": {"servers": servers}}
    with Gateway(tmp_path_factory.mktemp("tools-page"), [console_upstream.channel(models=["m"])], table) as gateway:
        yield gateway


@pytest.fixture(scope="module")
def ada(new_person: Callable[..., Person]) -> Person:
    return new_person("ada-tools", owner="ada", role="owner", options=("--tools", "docs")).sign_in()


def test_calls_of_the_day_and_who_may_use_a_server_are_shown(
    operator: Person, ada: Person, console: Gateway, tool_server: ToolServer
) -> None:
    assert "no calls today" in operator.get(URL).text
    answer = console.post("/responses", {"model": "m", "input": ASK, "tools": [mcp("echo")]}, token=ada.token)
    assert answer.status_code == 200, answer.text
    shown = eventually(lambda: "up</span>" in operator.get(URL).text and operator.get(URL).text, "the sums")
    assert 'id="t-docs">docs</h2>' in shown
    docs, down = (shown.partition(f'id="{label}" aria')[2].partition("</section>")[0] for label in ("docs", "down"))
    assert "ada-tools" in docs
    assert "ada-tools" not in down
    assert "left out: " in shown
    assert "never for read, else always" in shown
    assert "canary-secret" not in shown
    assert "UNSET_PATH" in shown


def test_a_server_that_does_not_list_its_tools_is_shown_as_down(
    operator: Person, console: Gateway, new_person: Callable[..., Person]
) -> None:
    bob = new_person("bob-tools", owner="bob", role=None, options=("--tools", "down"))
    body = {"model": "m", "input": "hello", "tools": [{"type": "mcp", "server_label": "down"}]}
    assert console.post("/responses", body, token=bob.token).status_code == 424

    shown = eventually(lambda: "did not list its tools" in operator.get(URL).text and operator.get(URL).text, "the row")
    down = shown.partition('id="down" aria')[2].partition("</section>")[0]
    assert "not listed" in down
    assert "bob" in down


def test_an_owner_sees_the_servers_of_their_token(ada: Person, other_owner: Person, tool_server: ToolServer) -> None:
    shown = ada.get(URL).text
    assert re.findall(r'<th scope="row">(\w+)', shown) == ["docs"]
    assert "127.0.0.1" not in shown.partition("<main")[2].partition("</main>")[0]
    assert "calls today" not in shown
    assert "Your token may use none" in other_owner.get(URL).text


def test_a_test_lists_the_tools_and_calls_none(
    operator: Person, ada: Person, console: Gateway, tool_server: ToolServer
) -> None:
    before = len(tool_server.calls)
    shown = operator.post(f"{URL}/docs/test")
    assert shown.status_code == 200
    assert "that its row allows" in shown.text
    assert len(re.findall(r'<th scope="row">', shown.text)) > 0
    assert len(tool_server.calls) == before
    failed = operator.post(f"{URL}/down/test").text
    assert "down does not list its tools" in failed
    assert "What to do:" in failed
    for label in ("waiting", "unknown"):
        assert operator.post(f"{URL}/{label}/test").status_code == 404
    assert ada.post(f"{URL}/docs/test").status_code == 404
    recorded = rows.execute(console.database_url, "SELECT subject FROM audit WHERE action = 'list tools'")
    assert {*recorded} == {("docs",), ("down",)}


@pytest.mark.parametrize(("width", "scheme"), [(1440, "dark"), (320, "light")])
def test_the_page_works_in_a_browser(open_page: OpenPage, operator: Person, width: int, scheme: Any) -> None:
    page = open_page(operator, URL, width=width, scheme=scheme)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.get_by_role("button", name="Test docs").click()
    page.get_by_text("that its row allows").wait_for()
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    page.get_by_role("link", name="Back to the tools").click()
    page.get_by_role("heading", name="Tools", exact=True).wait_for()
