"""Words from models, tools, clients, upstreams and addresses never become markup, on any page."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson
import pytest

from app import console as console_package
from tests.console.conftest import PATIENCE
from tests.console.markup import ALL, LONG, MARK, RAN, WORDS, faults_of, read
from tests.console.routes import ROUTES, Route
from tests.console.visitors import Person
from tests.gateway import Gateway
from tests.store import rows
from tests.upstream import ScriptedUpstream, refusal, retold

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

NewPerson = Callable[..., Person]

PAGES = [route for route in ROUTES if route.method == "GET" and not route.endless and route.operator in (200, 404)]
_ARGUMENT = re.compile(r"""args\.get(?:list)?\(\s*"(\w+)\"""")
#: Of pages that read their arguments in a loop.
_MORE = (
    "actor",
    "action",
    "owner",
    "status",
    "token",
    "client",
    "channel",
    "id",
    "all",
    "unfold",
    "first",
    "last",
    "tip",
)
PARAMETERS = sorted(
    {
        name
        for file in Path(console_package.__file__).parent.rglob("*.py")
        for name in _ARGUMENT.findall(file.read_text())
    }
    | {*_MORE}
)


def _name(route: Route) -> str:
    return route.name


# --- words of clients, models and upstreams, as they come in


@pytest.fixture(scope="module")
def conversation(owner: Person, console_upstream: ScriptedUpstream) -> list[str]:
    """Turns of ada's: each asks, answers, calls and fails with words of the corpus. Each is a conversation too."""
    made = [_talk(owner, console_upstream, words) for words in (*WORDS, "NUL \0 in the middle", LONG)]
    _spoil(owner.gateway)
    return made


def _talk(owner: Person, upstream: ScriptedUpstream, words: str) -> str:
    """Returns the id of the last turn that is stored."""
    body = {
        "model": "m",
        "input": [{"role": "user", "content": words}, *_tool_result(words)],
        "instructions": words,
        "metadata": {"title": words[:512], words[:64]: "as a key"},
        "user": words,
        "safety_identifier": words[:64],
    }
    headers = {"User-Agent": _header(words), "X-OpenWebUI-Chat-Id": _header(words)}
    upstream.enqueue(retold(lambda answer: _says(answer, words)))
    answer = _post(owner, body, headers)
    assert answer.status_code == 200, answer.text
    made: str = answer.json()["id"]
    upstream.enqueue(refusal(400, words[:1000], words[:100], words[:100]))
    assert _post(owner, {**body, "previous_response_id": made, "input": words}, headers).status_code == 400
    return made


def _header(words: str) -> str:
    """As much as a header can hold."""
    return re.sub(r"[^\x20-\x7e]", "?", words)[:500]


def _post(owner: Person, body: dict[str, Any], headers: dict[str, str]) -> Any:
    return owner.gateway.post("/responses", body, token=owner.token, headers=headers)


def _tool_result(words: str) -> list[dict[str, Any]]:
    call = {
        "type": "function_call",
        "call_id": "call_1",
        "name": "look",
        "arguments": orjson.dumps({"q": "x"}).decode(),
    }
    return [call, {"type": "function_call_output", "call_id": "call_1", "output": words}]


def _says(answer: dict[str, Any], words: str) -> dict[str, Any]:
    for item in answer["output"]:
        for part in item.get("content", ()):
            if part["type"] == "output_text":
                part["text"] = words
    call = {"type": "function_call", "id": "fc_1", "call_id": "call_2", "name": "look", "status": "completed"}
    return {**answer, "output": [*answer["output"], {**call, "arguments": words}]}


def _spoil(gateway: Gateway) -> None:
    """Words where no client could put them today, but a command, a table or an older version could."""
    url = gateway.database_url
    responses = rows.execute(url, "SELECT pk, status FROM response ORDER BY pk")
    for (pk, status), words in zip(responses, WORDS * 3, strict=False):
        error = orjson.dumps({"code": words, "message": words}).decode() if status == "failed" else None
        attempts = orjson.dumps(
            [{"channel": words, "outcome": "failed", "status": 500, "ms": 1, "error": words}]
        ).decode()
        rows.execute(
            url,
            "UPDATE response SET model = ?, channel = ?, upstream_model = ?, client = ?, request_id = ?, error ="
            " COALESCE(?, error), attempts = CASE WHEN ? THEN ? ELSE attempts END WHERE pk = ?",
            (*[words[:100]] * 5, error, status == "failed", attempts, pk),
        )
    for number, words in enumerate(WORDS):
        rows.execute(
            url,
            "INSERT INTO token (name, owner, hash, prefix, models, created_at, keeps, last_client)"
            " VALUES (?, ?, ?, ?, ?, 1, 1, ?)",
            (
                words[:150],
                words[:150] if number % 2 else "ada",
                f"spoilt-{number}",
                "ap_<b>",
                orjson.dumps([words]).decode(),
                _header(words)[:16],
            ),
        )
        rows.execute(
            url,
            "INSERT INTO audit (at, actor, token, action, subject, owner, reason) VALUES (1, ?, ?, ?, ?, 'ada', ?)",
            (*[words[:60]] * 2, _header(words)[:16], words[:150], words),
        )


# --- what is stored


@pytest.mark.parametrize("who", ["owner", "operator"])
def test_what_is_stored_appears_as_text(who: str, conversation: list[str], owner: Person, operator: Person) -> None:
    person = owner if who == "owner" else operator
    shown = []
    for route in PAGES:
        for turn in conversation if "{turn}" in route.path else conversation[:1]:
            answer = person.get(_path(owner, route, turn))
            assert answer.status_code in (200, 404), (route.name, turn)
            if answer.status_code == 200 and answer.headers["Content-Type"].startswith("text/html"):
                page = read(answer.text)
                assert not page.faults, (route.name, turn)
                shown += page.words
    text = "\n".join(shown)
    assert [words for words in WORDS if words.split()[0] not in text] == [], "they do not reach a page"


def test_the_text_of_a_turn_is_text(conversation: list[str], owner: Person, operator: Person) -> None:
    for turn, words in zip(conversation, WORDS, strict=False):
        for person in (owner, operator):
            for headers in ({}, {"HX-Request": "true"}):
                answer = person.post(f"/console/c/{turn}/text", {"reason": words, "before": "1"}, headers=headers)
                assert answer.status_code == 200
                page = read(answer.text)
                assert not page.faults, words
                assert "".join(words.split()) in "".join("".join(page.words).split())


def test_a_page_with_endless_words_is_whole(conversation: list[str], owner: Person) -> None:
    answer = owner.post(f"/console/c/{conversation[-1]}/text", {"all": "1"})
    assert LONG in answer.text
    assert answer.text.rstrip().endswith("</html>")


def _path(owner: Person, route: Route, turn: str) -> str:
    url = owner.gateway.database_url
    values = {"turn": turn, "fresh": turn, "channel": "demo"}
    if "token" in route.placeholders:
        ((key,),) = rows.execute(url, "SELECT MIN(pk) FROM token WHERE hash LIKE 'spoilt-%' AND owner = 'ada'")
        values["token"] = str(key)
    return route.path.format(**values)


# --- what an address says


@pytest.mark.parametrize("route", PAGES, ids=_name)
def test_the_parameters_of_an_address_are_text(route: Route, conversation: list[str], owner: Person) -> None:
    path = _path(owner, route, conversation[0]).partition("?")[0]
    usual = owner.get(path, allow_redirects=False).status_code
    tries: list[dict[str, str]] = [{name: ALL} for name in PARAMETERS]
    tries += [
        dict.fromkeys(PARAMETERS, words)
        for words in (
            "",
            "-1",
            "1e9",
            "9" * 40,
            "\0",
            "Ⅷ",
            f"{'9' * 30}-{'9' * 3}",
            f"{2**63}-{2**63}",
            "null",
            "w" * 100,
            WORDS[1],
            WORDS[5],
        )
    ]
    for parameters in tries:
        answer = owner.get(path, params=parameters, allow_redirects=False)
        # What names nothing is left out, refused, or not found.
        assert answer.status_code in (usual, 200, 400, 404), parameters
        if answer.headers["Content-Type"].startswith("text/html"):
            assert not faults_of(answer.text), parameters


@pytest.mark.parametrize("words", [*WORDS, "%", "%zz", "%ff", "%00", "..", "%ed%a0%80"])
def test_a_path_is_text(words: str, owner: Person) -> None:
    for prefix in ("/console/", "/console/c/", "/console/static/", "/console/playground/"):
        answer = owner.get(prefix + words.replace("\r\n", " ").replace("?", "").replace("#", ""), allow_redirects=False)
        assert answer.status_code in (303, 308, 404), prefix
        if answer.headers["Content-Type"].startswith("text/html"):
            assert not faults_of(answer.text), prefix


@pytest.mark.parametrize("words", WORDS)
def test_what_is_posted_is_text(words: str, owner: Person, operator: Person) -> None:
    fields = (
        "name",
        "owner",
        "models",
        "budgets",
        "rpm",
        "expires_at",
        "overlap",
        "reason",
        "as",
        "next",
        "token",
        "code",
    )
    for path in ("/console/sign-in/code", "/console/people", f"/console/c/{words.replace('/', '')[:3]}/text"):
        answer = operator.post(path, dict.fromkeys(fields, words))
        assert answer.status_code in (303, 400, 401, 404, 405, 422), path
        assert not faults_of(answer.text), path


# --- in a browser that obeys no policy


@pytest.fixture
def unguarded(browser: Browser) -> Iterator[Callable[[Person, str], Page]]:
    """Opens pages in a browser that ignores their policy, so that markup which got in would run."""
    context = browser.new_context(bypass_csp=True)
    context.set_default_timeout(PATIENCE)

    def open_(person: Person, path: str) -> Page:
        context.add_cookies(
            [{"name": name, "value": value, "url": person.gateway.url} for name, value in person.cookies.items()]
        )
        page = context.new_page()
        page.goto(person.gateway.url + path)
        return page

    yield open_
    context.close()


def test_nothing_runs(
    unguarded: Callable[[Person, str], Page], conversation: list[str], operator: Person, owner: Person
) -> None:
    evil = next(turn for turn, words in zip(conversation, WORDS, strict=False) if words.startswith("<img"))
    for route in PAGES:
        if not route.is_part and route.operator == 200:
            page = unguarded(operator, _path(owner, route, evil))
            _check_nothing_ran(page)
            page.close()


def test_nothing_runs_when_a_text_is_shown_in_its_place(
    unguarded: Callable[[Person, str], Page], conversation: list[str], owner: Person
) -> None:
    evil = next(turn for turn, words in zip(conversation, WORDS, strict=False) if words.startswith("<img"))
    page = unguarded(owner, f"/console/c/{evil}?at={evil}")
    page.locator("#text summary").click()
    page.wait_for_selector("#said pre")
    assert "onerror=" in page.inner_text("#said")
    _check_nothing_ran(page)


#: Elements whose text turns the direction of reading for what stands beside them.
_TURNING = """() => [...document.querySelectorAll("main *")].filter((element) =>
    element.namespaceURI.endsWith("xhtml") && getComputedStyle(element).unicodeBidi === "normal" &&
    [...element.childNodes].some((node) => node.nodeType === Node.TEXT_NODE && node.data.includes("\u202e"))
).map((element) => element.outerHTML.slice(0, 200))"""


def _check_nothing_ran(page: Page) -> None:
    assert page.evaluate(_TURNING) == []
    assert page.evaluate(f"document.querySelectorAll('{MARK}, [{MARK}]').length") == 0
    assert page.evaluate("window.ran === undefined")


def test_the_check_finds_what_runs(unguarded: Callable[[Person, str], Page], owner: Person) -> None:
    """Otherwise the tests above could not fail."""
    page = unguarded(owner, "/console/overview")
    page.evaluate("words => document.querySelector('main').insertAdjacentHTML('beforeend', words)", WORDS[3])
    page.wait_for_function(RAN.replace(" = ", " === "))
    assert faults_of("".join(WORDS))
