"""/console/channels: what operators and owners see of the channels, and every action of it."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.console.conftest import OpenPage
from tests.console.visitors import Person
from tests.gateway import Gateway
from tests.relay.conftest import eventually
from tests.store import rows
from tests.upstream import ScriptedUpstream, refusal

URL = "/console/channels"
KEY = "canary-key-of-the-channel"
MARKUP = "<script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">"


@pytest.fixture(scope="module")
def console(tmp_path_factory: pytest.TempPathFactory, console_upstream: ScriptedUpstream) -> Iterator[Gateway]:
    channels = [
        {"name": "demo", "format": "demo", "models": ["demo", "hers"]},
        *(
            console_upstream.channel(name, models=[name], api_key="${KEY}", cooldown={"after": 1000})
            for name in ("failing", "paused", "tested", "learning")
        ),
        console_upstream.channel("cooling", models=["cooling"], cooldown={"for": "300s"}),
        {
            "name": "keyless",
            "format": "responses",
            "base_url": "https://x.example/v1",
            "api_key": "${NO}",
            "models": ["k"],
        },
    ]
    directory = tmp_path_factory.mktemp("channels-page")
    (directory / ".env").write_text(f"KEY={KEY}\n")
    with Gateway(directory, channels) as gateway:
        yield gateway


@pytest.fixture(scope="module")
def eve(new_person: Callable[..., Person]) -> Person:
    """An owner whose token may use two models."""
    return new_person("eve-console", owner="eve", role="owner", options=("--models", "hers,paused")).sign_in()


def part(text: str, name: str) -> str:
    """The page's part about one channel."""
    found = re.search(rf'<article class="chan" id="{name}".*?</article>', text, re.DOTALL)
    assert found, f"the page has no channel {name}"
    return found[0]


def audited(console: Gateway, action: str) -> list[tuple[Any, ...]]:
    return rows.execute(console.database_url, "SELECT actor, subject, reason FROM audit WHERE action = ?", (action,))


def test_an_operator_sees_states_errors_and_rows(
    operator: Person, console: Gateway, console_upstream: ScriptedUpstream
) -> None:
    console_upstream.enqueue(refusal(503, f"overloaded {MARKUP} by {KEY}"))
    body = {"model": "failing", "input": "hello"}
    assert console.post("/responses", body, token=operator.token).status_code >= 500
    # The row of a request that has failed is written behind its answer.
    eventually(lambda: "&lt;script&gt;" in part(operator.get(URL).text, "failing"), "the row")
    shown = operator.get(URL).text
    failing = part(shown, "failing")
    assert "<script>document" not in shown
    assert 'href="/console/requests?at=resp_' in failing
    assert "1 failed" in failing
    assert re.search(r"<details class=\"more-d\" open>", failing)
    assert "api_key: ••••" in failing
    assert KEY not in shown
    keyless = part(shown, "keyless")
    assert "off: the variable NO is not set" in keyless
    assert "Pause" not in keyless
    assert "digest" in shown


def test_an_owner_sees_states_and_nothing_of_others(eve: Person, operator: Person, console: Gateway) -> None:
    operator.post(f"{URL}/paused/pause", {"reason": "the reason"})
    shown = eve.get(URL).text
    assert re.findall(r'<th scope="row">(\w+)</th>', shown) == ["demo", "paused"]
    assert "paused until" in shown
    for secret in ("the reason", "ops", "127.0.0.1", "failing", "keyless", "••••", "overloaded"):
        assert secret not in shown.partition("<main")[2].partition("</main>")[0], secret
    operator.post(f"{URL}/paused/resume")


def test_pausing_draining_and_resuming_take_effect_and_are_recorded(operator: Person, console: Gateway) -> None:
    def status() -> int:
        return console.post("/responses", {"model": "paused", "input": "hello"}).status_code

    for verb, words in (("pause", "paused until"), ("drain", "drained since")):
        answer = operator.post(f"{URL}/paused/{verb}", {"reason": f"because of {verb}"})
        assert (answer.status_code, answer.headers["Location"]) == (303, f"{URL}#paused")
        shown = part(operator.get(URL).text, "paused")
        assert words in shown
        assert f"by ops: because of {verb}" in shown
        assert status() == 503
        assert operator.post(f"{URL}/paused/resume").status_code == 303
        assert "by ops" not in part(operator.get(URL).text, "paused")
        assert status() == 200
        assert ("ops", "paused", f"because of {verb}") in audited(console, verb)
    assert ("ops", "paused", None) in audited(console, "resume")


def test_a_cooldown_is_ended(operator: Person, console: Gateway, console_upstream: ScriptedUpstream) -> None:
    def shows(words: str) -> Callable[[], bool]:
        return lambda: words in part(operator.get(URL).text, "cooling")

    def status() -> int:
        return console.post("/responses", {"model": "cooling", "input": "hello"}).status_code

    assert "End cooldown" not in part(operator.get(URL).text, "cooling")
    console_upstream.enqueue(refusal(401, "no"))
    assert [status() >= 500, status()] == [True, 503]
    eventually(shows("End cooldown"), "the report of the worker")
    answer = operator.post(f"{URL}/cooling/end-cooldown")
    assert (answer.status_code, answer.headers["Location"]) == (303, f"{URL}#cooling")
    assert status() == 200
    assert ("ops", "cooling", None) in audited(console, "end cooldown")
    operator.post(f"{URL}/cooling/drain")
    assert "resume it first" in operator.post(f"{URL}/cooling/end-cooldown").text
    assert "drained since" in part(operator.get(URL).text, "cooling")
    operator.post(f"{URL}/cooling/resume")


def test_what_was_learnt_is_shown_and_forgotten(
    operator: Person, console: Gateway, console_upstream: ScriptedUpstream
) -> None:
    console_upstream.enqueue(refusal(400, "Unsupported parameter: 'temperature' is not supported with this model."))
    answer = console.post("/responses", {"model": "learning", "input": "hello", "temperature": 0.5})
    assert answer.status_code == 200, answer.text
    eventually(lambda: "Learnt from refusals" in part(operator.get(URL).text, "learning"), "the remedy")
    assert "temperature" in part(operator.get(URL).text, "learning")
    assert operator.post(f"{URL}/learning/forget").status_code == 303
    assert "Learnt from refusals" not in part(operator.get(URL).text, "learning")
    assert ("ops", "learning", None) in audited(console, "forget")


def test_a_test_says_what_it_costs_before_it_runs(
    operator: Person, console: Gateway, console_upstream: ScriptedUpstream
) -> None:
    before = len(console_upstream.requests)
    assert "may charge for" in operator.get(f"{URL}/tested/test").text
    assert len(console_upstream.requests) == before
    shown = operator.post(f"{URL}/tested/test", {"model": "tested"})
    assert shown.status_code == 200
    assert "tested answered with tested" in shown.text
    assert re.findall(r'<th scope="row">([^<]+)</th>', shown.text)[0] == "text"
    assert len(console_upstream.requests) > before
    assert ("ops", "tested", None) in audited(console, "test channel")
    assert operator.post(f"{URL}/tested/test", {"model": "unknown"}).status_code == 400


def test_a_failing_test_says_what_to_do(operator: Person, console_upstream: ScriptedUpstream) -> None:
    console_upstream.always(refusal(401, f"bad key {MARKUP}"))
    shown = operator.post(f"{URL}/tested/test").text
    console_upstream.always()
    assert "check its api_key" in shown
    assert "<script>document" not in shown


def test_a_file_with_an_error_is_shown_and_the_old_table_serves(operator: Person, console: Gateway) -> None:
    file = Path(console.channels_file)
    good = file.read_text()
    file.write_text(good.replace("format: demo", "fromat: demo"))
    try:
        assert operator.post(f"{URL}/reload").status_code == 303
        eventually(lambda: "was refused at" in operator.get(URL).text, "the worker to look at the file")
        shown = operator.get(URL).text
        assert "fromat" in shown
        assert "did you mean" in shown
        assert part(shown, "demo")
    finally:
        file.write_text(good)
    eventually(lambda: "was refused at" not in operator.get(URL).text, "the worker to look at the file")


@pytest.mark.parametrize("verb", ["pause", "drain", "forget", "test"])
def test_an_unknown_channel_is_not_found(operator: Person, verb: str) -> None:
    assert operator.post(f"{URL}/unknown/{verb}").status_code == 404


@pytest.mark.parametrize(("width", "scheme"), [(1440, "light"), (320, "dark")])
def test_every_action_works_in_a_browser(
    open_page: OpenPage, operator: Person, width: int, scheme: str, tmp_path: Path
) -> None:
    page = open_page(operator, URL, width=width, scheme=scheme)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert page.title() == "Channels · antiphon"
    page.screenshot(path=tmp_path / f"channels-{width}-{scheme}.png", full_page=True)
    page.get_by_role("button", name="Pause 10 min paused").click()
    page.get_by_text("paused until").wait_for()
    page.get_by_role("button", name="Resume paused").click()
    page.get_by_role("button", name="Drain paused").click()
    page.get_by_text("drained since").wait_for()
    page.get_by_role("button", name="Resume paused").click()
    page.get_by_role("link", name="Test tested").click()
    page.get_by_role("button", name="Run the test").click()
    page.get_by_text("tested answered with tested").wait_for()
    page.get_by_role("link", name="Back to the channels").click()
    page.get_by_role("button", name="Reload").click()
    page.get_by_role("heading", name="Channels", exact=True).wait_for()
