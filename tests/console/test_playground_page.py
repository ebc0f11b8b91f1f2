"""The playground in a browser: what a person sees, and what the upstream gets."""

from __future__ import annotations

import base64
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson
import pytest

from tests.console.conftest import OpenPage
from tests.console.looks import WIDTHS, faults, take_pictures
from tests.console.visitors import Person
from tests.gateway import Gateway
from tests.relay.conftest import SOME_TEXT, eventually
from tests.tool_servers import ToolServer
from tests.tool_servers.tools import PIXEL
from tests.upstream import ScriptedUpstream, refusal, rewritten, stalled

if TYPE_CHECKING:
    from playwright.sync_api import Page

JSON = dict[str, Any]
NewPerson = Callable[..., Person]

URL = "/console/playground"
MODEL = "m"
MARKUP = '<img src=x onerror="document.title=\'broken\'"><script>document.title="broken"</script><b>bold</b>'


@pytest.fixture(scope="module")
def tool_server() -> Iterator[ToolServer]:
    with ToolServer() as server:
        yield server


@pytest.fixture(scope="module")
def console(
    tmp_path_factory: pytest.TempPathFactory, console_upstream: ScriptedUpstream, tool_server: ToolServer
) -> Iterator[Gateway]:
    """With tool servers, of which one asks for approvals, and a price."""
    servers = [
        {"label": "docs", "url": tool_server.url, "require_approval": "never"},
        {"label": "careful", "url": tool_server.url, "require_approval": "always"},
    ]
    table = {"tools": {"servers": servers}, "models": {MODEL: {"price": {"input": 2, "output": 10}}}}
    channels = [
        console_upstream.channel(name="scripted", cooldown={"after": 1000}),
        console_upstream.channel(name="chat", format="chat_completions", models=["chat"]),
    ]
    with Gateway(tmp_path_factory.mktemp("playground"), channels, table) as gateway:
        yield gateway


@pytest.fixture(autouse=True)
def upstream(console_upstream: ScriptedUpstream) -> Iterator[ScriptedUpstream]:
    console_upstream.reset()
    yield console_upstream
    console_upstream.reset()


@pytest.fixture(scope="module")
def player(new_person: NewPerson) -> Person:
    return new_person("player", role="owner", options=("--tools", "docs,careful")).sign_in()


@pytest.fixture(scope="module")
def worker(console: Gateway) -> Iterator[None]:
    """Runs background responses."""
    with console.worker():
        yield


@pytest.fixture
def page(open_page: OpenPage, player: Person) -> Page:
    """The playground with the scripted model."""
    return open_page(player, f"{URL}?model={MODEL}")


def say(page: Page, text: str) -> None:
    """Sends a message, and waits for the end of its answer."""
    page.fill("#input", text)
    page.press("#input", "Control+Enter")
    page.wait_for_selector("#send:enabled")


def answers(page: Page) -> list[str]:
    """The texts of the messages that can be seen."""
    return [text for text in page.locator("#turns .msg > .flow").all_inner_texts() if text]


def branch_of(page: Page, number: int) -> Any:
    return page.get_by_role("button", name="Branch here").nth(number)


def given(upstream: ScriptedUpstream) -> str:
    """The newest request to the upstream, as text."""
    return orjson.dumps(upstream.bodies[-1]).decode()


# --- text and events


def test_markup_stays_text(page: Page, upstream: ScriptedUpstream) -> None:
    say(page, MARKUP)

    assert MARKUP in answers(page)[0]
    assert page.locator("#turns .msg p").first.inner_text() == MARKUP
    assert page.locator("#turns img, #turns script, #turns p b").count() == 0

    upstream.enqueue(refusal(400, MARKUP, "invalid_value"))
    say(page, "And now?")
    # The gateway drops the tags of an upstream's error.
    assert 'document.title="broken"' in page.inner_text("#turns .note")
    assert page.locator("#turns img, #turns script").count() == 0
    assert page.title() == "Playground · antiphon"


def test_markup_in_calls_and_events_stays_text(page: Page, upstream: ScriptedUpstream) -> None:
    # Within the JSON of the arguments.
    argument = orjson.dumps(MARKUP).decode()[1:-1]

    def changed(value: Any) -> Any:
        if isinstance(value, str):
            return value.replace("Oslo", argument)
        if isinstance(value, dict):
            return {name: changed(each) for name, each in value.items()}
        return [changed(each) for each in value] if isinstance(value, list) else value

    page.fill("#tools", "look_up(town: string)")
    upstream.enqueue(rewritten(changed))
    say(page, "What is the weather?")
    for opener in page.locator("#events .ev-open").all():
        opener.click()
    assert argument in page.inner_text("#turns")
    assert argument in page.inner_text("#waiting")
    assert "onerror" in page.inner_text("#events")

    page.fill("#waiting textarea", MARKUP)
    say(page, "So")
    assert f"→ {MARKUP}" in page.inner_text("#turns")
    assert page.locator("#turns img, #turns script, #waiting img, #events img, #events script").count() == 0
    assert page.title() == "Playground · antiphon"


def test_the_events_have_their_times_and_open_on_demand(page: Page, tmp_path: Path) -> None:
    say(page, "Say one two three four five six seven eight")
    with page.expect_download() as downloading:
        page.click("#download")
    lines = [orjson.loads(line) for line in Path(downloading.value.path()).read_bytes().splitlines()]
    types = [line["event"]["type"] for line in lines[:-1]]
    assert lines[-1]["event"] == "[DONE]"
    assert [line["at"] for line in lines] == sorted(line["at"] for line in lines)
    assert [line["event"]["sequence_number"] for line in lines[:-1]] == list(range(len(types)))

    shown = page.locator("#events .name").all_inner_texts()
    assert shown[:2] == ["response.created", "response.in_progress"]
    assert shown[-1] == "[DONE]"
    deltas = types.count("response.output_text.delta")
    assert deltas > 3
    assert len(shown) == len(lines) - deltas + 3
    assert f"×{deltas - 2}," in page.inner_text("#events tr.run .pay")
    assert page.locator("#events .at").first.inner_text().startswith("+")
    assert f"text, {deltas} deltas" in page.locator("#drawing").text_content()

    opener = page.get_by_role("button", name="response.completed")
    opener.click()
    assert orjson.loads(page.inner_text("#events pre"))["response"]["status"] == "completed"
    opener.click()
    assert page.locator("#events pre").count() == 0


def test_the_end_has_the_usage_and_the_cost(page: Page, player: Person) -> None:
    say(page, "How much is it?")
    page.wait_for_selector("text=scripted")
    facts = page.inner_text("#turns .msg:last-child .by")
    assert "tokens" in facts
    assert "$" in facts
    assert "so far" in page.inner_text("#facts")
    assert page.inner_text("#status").startswith("completed. You said: How much is it?")
    assert page.get_attribute("#turns .msg:last-child", "aria-busy") == "false"


def test_an_answer_that_is_not_streamed(page: Page) -> None:
    page.uncheck("#f-stream")
    say(page, "All at once")
    assert answers(page) == ["You said: All at once. I have seen 1 items."]
    assert page.locator("#events .name").all_inner_texts() == ["answer"]


def test_stop_closes_the_upstream(page: Page, player: Person, upstream: ScriptedUpstream) -> None:
    upstream.enqueue(stalled(SOME_TEXT))
    page.fill("#input", "Never end")
    page.click("#send")
    page.wait_for_selector("text=You said")
    assert page.get_attribute("#turns .msg:last-child", "aria-busy") == "true"
    page.click("#stop")

    upstream.wait_hangup()
    page.wait_for_selector("#turns .badge:has-text('stopped')")
    assert page.input_value("#input") == "Never end"
    link = page.get_by_role("link", name="In the tree").get_attribute("href")
    assert link is not None
    stopped = link.rpartition("/")[2]
    eventually(lambda: player.get(f"{URL}/{stopped}").json()["status"] == "cancelled", "the row's end")


# --- the conversation


def test_a_branch_goes_on_from_an_earlier_turn(page: Page, upstream: ScriptedUpstream) -> None:
    say(page, "First thing")
    say(page, "Second thing")
    branch_of(page, 0).click()
    page.wait_for_selector("text=1 turn of another branch")
    say(page, "Third thing")

    assert "First thing" in given(upstream)
    assert "Second thing" not in given(upstream)
    assert len(upstream.bodies) == 3
    assert "Third thing" in page.inner_text("#turns > :last-child")


def test_a_conversation_of_the_sdk_goes_on(open_page: OpenPage, player: Person, upstream: ScriptedUpstream) -> None:
    with player.gateway.client(player.token) as client:
        made = client.responses.create(model=MODEL, input="The SDK began", instructions="Be brief", temperature=0)
    page = open_page(player, f"{URL}?from={made.id}")
    page.wait_for_selector("text=The SDK began")
    page.wait_for_selector("#turns .by >> text=scripted")
    assert page.input_value("#f-model") == MODEL
    say(page, "The console goes on")

    assert "The SDK began" in given(upstream)
    assert upstream.bodies[-1]["instructions"] == "Be brief"
    assert made.id[-6:] in page.inner_text("#facts")


def test_the_address_leads_back_to_the_conversation(page: Page, player: Person, upstream: ScriptedUpstream) -> None:
    say(page, "Before the reload")
    tree = page.get_by_role("link", name="In the tree").get_attribute("href")
    assert player.get(f"{tree}").status_code == 200
    page.reload()
    page.wait_for_selector("text=You said: Before the reload")
    say(page, "After the reload")
    assert "Before the reload" in given(upstream)


def test_a_response_of_another_is_not_offered(open_page: OpenPage, operator: Person, player: Person) -> None:
    made = player.create(model=MODEL)
    page = open_page(operator, f"{URL}?from={made['id']}")
    assert "no response with this id among yours" in page.inner_text("main")
    assert "writes nothing into it" in page.inner_text("main")
    assert page.locator("textarea, #send").count() == 0


def test_a_compaction_stands_for_what_came_before(page: Page, upstream: ScriptedUpstream) -> None:
    page.click("#compact")
    assert "nothing to compact" in page.inner_text("#error")
    say(page, "Remember the number 41")
    page.click("#compact")
    page.wait_for_selector("text=sealed")
    page.wait_for_selector("#send:enabled")
    say(page, "And on")
    assert answers(page)[-1].startswith("You said: And on")
    assert len(page.locator("#turns .msg .by b").all_inner_texts()) == 5


def test_what_is_not_stored_is_sent_again(page: Page, upstream: ScriptedUpstream) -> None:
    page.uncheck("#f-store")
    say(page, "Forget the first")
    say(page, "And the second")
    assert "Forget the first" in given(upstream)
    assert answers(page)[-1] == "You said: And the second. I have seen 3 items."
    assert page.get_by_role("link", name="In the tree").count() == 0


def test_an_image_goes_with_the_message(page: Page, upstream: ScriptedUpstream) -> None:
    page.set_input_files("#img", {"name": "bad.png", "mimeType": "image/png", "buffer": b"<svg onload='x'>"})
    page.wait_for_selector("#error >> text=bad.png is no image that a model takes")
    page.set_input_files("#img", {"name": "dot.png", "mimeType": "image/png", "buffer": PIXEL})
    page.wait_for_selector("#images img")
    say(page, "What is this?")

    (message,) = upstream.bodies[-1]["input"]
    assert [part["type"] for part in message["content"]] == ["input_text", "input_image"]
    url = message["content"][1]["image_url"]
    assert url == f"data:image/png;base64,{base64.b64encode(PIXEL).decode()}"
    assert page.locator("#images img").count() == 0
    assert page.locator("#turns .msg img").count() == 1


def test_a_message_is_needed(page: Page, upstream: ScriptedUpstream) -> None:
    page.click("#send")
    assert "Write a message" in page.inner_text("#error")
    page.fill("#tools", "nowhere")
    page.fill("#input", "Hello")
    page.click("#send")
    assert "'nowhere' is neither a tool server that your token may use (careful, docs)" in page.inner_text("#error")
    assert page.get_attribute("#tools", "aria-invalid") == "true"
    assert not upstream.requests


# --- tools


def test_a_function_is_answered_by_hand(page: Page, upstream: ScriptedUpstream) -> None:
    page.fill("#tools", "look_up(order: integer)")
    say(page, "What is the weather?")
    assert 'look_up({"order":7})' in page.inner_text("#waiting")
    page.click("#send")
    assert "waits for the output" in page.inner_text("#error")
    page.fill("#waiting textarea", "sunny")
    page.click("#send")
    page.wait_for_selector("text=The tools said: sunny")

    assert any(item["type"] == "function_call_output" for item in upstream.bodies[-1]["input"])
    assert upstream.bodies[-1]["tools"][0]["name"] == "look_up"
    assert page.locator("#waiting > *").count() == 0


def test_a_tool_server_is_called(page: Page, tool_server: ToolServer) -> None:
    page.fill("#tools", "docs")
    before = len(tool_server.calls)
    say(page, "What is the weather?")
    assert 'docs.add({"a":7,"b":7}) → 14' in answers(page)[0]
    assert len(tool_server.calls) == before + 1


@pytest.mark.parametrize(("choice", "calls"), [("Approve", 1), ("Deny", 0)])
def test_a_call_is_approved_or_denied(page: Page, tool_server: ToolServer, choice: str, calls: int) -> None:
    page.fill("#tools", "careful")
    before = len(tool_server.calls)
    say(page, "What is the weather?")
    assert "May the gateway call careful.add(" in page.inner_text("#waiting")
    page.click("#send")
    assert "Approve this call, or deny it." in page.inner_text("#error")
    page.get_by_label(choice).check()
    page.click("#send")
    page.wait_for_selector("text=I have seen")
    assert len(tool_server.calls) == before + calls


def test_what_the_model_did_not_get_is_named(page: Page) -> None:
    page.select_option("#f-model", "chat")
    page.fill("#tools", '{"type": "web_search"}')
    say(page, "Look it up")
    assert "tools left out: web_search" in page.inner_text("#turns .msg:last-child .by")


# --- errors


def test_a_limit_is_shown_with_what_to_do(open_page: OpenPage, new_person: NewPerson) -> None:
    person = new_person("limited-player", role="owner", options=("--rpm", "1")).sign_in()
    page = open_page(person, f"{URL}?model={MODEL}")
    while not page.locator("#turns .note").count():
        # A new minute may begin in between.
        say(page, "Once more")
    note = page.inner_text("#turns .note")
    assert note.startswith("429 rate_limit_exceeded")
    assert "Send it again in " in note
    assert page.input_value("#input") == "Once more"


def test_a_failed_stream_says_why_and_keeps_the_draft(page: Page, upstream: ScriptedUpstream) -> None:
    failure = {"type": "error", "code": "server_error", "message": "The GPU is on fire."}
    upstream.enqueue(rewritten(lambda event: {**event, **failure} if event["sequence_number"] > SOME_TEXT else event))
    say(page, "Burn")
    note = page.inner_text("#turns .note.bad")
    assert note.startswith("server_error The GPU is on fire.")
    assert "The page Requests shows what each channel answered." in note
    assert answers(page)[0].startswith("You said")
    assert "failed" in page.inner_text("#turns .msg:last-child .by")

    page.click("#send")
    page.wait_for_selector("text=You said: Burn. I have seen 1 items.")


def test_a_session_that_ends_in_the_middle_loses_no_draft(
    open_page: OpenPage, new_person: NewPerson, upstream: ScriptedUpstream
) -> None:
    person = new_person("expiring", role="owner").sign_in()
    page = open_page(person, f"{URL}?model={MODEL}")
    say(page, "Before the end")
    assert person.post("/console/sign-out").status_code == 303
    say(page, "My long draft")

    note = page.inner_text("#turns .note")
    assert "401 session_ended" in note
    assert "what you have written stays here" in note
    assert page.input_value("#input") == "My long draft"
    assert "My long draft" not in given(upstream)

    # Another session of the same browser, whose forms have another CSRF token.
    with page.context.expect_page() as opening:
        page.get_by_role("link", name="Sign in").click()
    other = opening.value
    other.fill("#token", person.token)
    other.get_by_role("button", name="Sign in").click()
    other.wait_for_selector("#input:visible")
    page.click("#send")
    page.wait_for_selector("text=You said: My long draft")
    assert "Before the end" in given(upstream)


def test_without_script_the_page_says_what_it_needs(open_page: OpenPage, player: Person) -> None:
    page = open_page(player, URL, java_script_enabled=False)
    assert page.is_visible("#needs-script")
    assert "needs JavaScript" in page.inner_text("#needs-script")
    assert not page.is_visible("#input")


# --- a connection that breaks


class Line:
    """A connection between browser and gateway that can be cut."""

    def __init__(self, port: int) -> None:
        self._target = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._sockets: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def cut(self) -> None:
        """Ends every connection of now."""
        for sock in list(self._sockets):
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._threads[0].join()
        self._listener.close()
        self.cut()
        for thread in self._threads:
            thread.join()
        for sock in self._sockets:
            sock.close()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            far = socket.create_connection(("127.0.0.1", self._target))
            self._sockets += (near, far)
            for source, sink in ((near, far), (far, near)):
                self._threads.append(threading.Thread(target=self._move, args=(source, sink), daemon=True))
                self._threads[-1].start()

    def _move(self, source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                sink.sendall(data)
        for sock in (source, sink):
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)


@pytest.fixture
def line(console: Gateway) -> Iterator[Line]:
    line = Line(console.port)
    yield line
    line.close()


@pytest.fixture
def page_on_line(open_page: OpenPage, player: Person, line: Line) -> Page:
    page = open_page(None, f"{line.url}/console/sign-in?next={URL}")
    page.fill("#token", player.token)
    page.get_by_role("button", name="Sign in").click()
    page.wait_for_selector("#input:visible")
    page.select_option("#f-model", MODEL)
    return page


def test_a_broken_stream_is_an_error(page_on_line: Page, line: Line, upstream: ScriptedUpstream) -> None:
    upstream.enqueue(stalled(SOME_TEXT))
    page_on_line.fill("#input", "Cut me")
    page_on_line.click("#send")
    page_on_line.wait_for_selector("text=You said")
    line.cut()
    page_on_line.wait_for_selector("text=The connection broke before the end")
    upstream.wait_hangup()


def in_the_background(page: Page, text: str) -> None:
    """Sends a message in the background, and waits for the begin of its answer."""
    page.click("summary")
    page.check("#f-background")
    page.fill("#input", text)
    page.click("#send")
    page.wait_for_selector("text=You said")


@pytest.mark.usefixtures("worker")
def test_a_background_response_goes_on_after_a_break(
    page_on_line: Page, line: Line, upstream: ScriptedUpstream
) -> None:
    upstream.enqueue(stalled(SOME_TEXT))
    in_the_background(page_on_line, "Do not lose me")
    line.cut()
    upstream.release()
    page_on_line.wait_for_selector("#send:enabled")

    assert answers(page_on_line) == ["You said: Do not lose me. I have seen 1 items."]
    with page_on_line.expect_download() as downloading:
        page_on_line.click("#download")
    events = [orjson.loads(line)["event"] for line in Path(downloading.value.path()).read_bytes().splitlines()]
    numbers = [event["sequence_number"] for event in events if isinstance(event, dict)]
    assert numbers == list(range(len(numbers)))


@pytest.mark.usefixtures("worker")
def test_a_background_response_goes_on_after_a_reload(page: Page, upstream: ScriptedUpstream) -> None:
    upstream.enqueue(stalled(SOME_TEXT))
    in_the_background(page, "Reload me")
    page.on("dialog", lambda dialog: dialog.accept())
    page.reload()
    page.wait_for_selector("text=You said")
    upstream.release()
    page.wait_for_selector("#send:enabled")
    assert answers(page) == ["You said: Reload me. I have seen 1 items."]


@pytest.mark.usefixtures("worker")
def test_stop_cancels_a_background_response(page: Page, upstream: ScriptedUpstream) -> None:
    upstream.enqueue(stalled(SOME_TEXT))
    in_the_background(page, "Stop in the background")
    page.click("#stop")
    upstream.wait_hangup()
    page.wait_for_selector("#send:enabled")
    assert page.input_value("#input") == "Stop in the background"
    assert page.url.endswith(f"{URL}?model={MODEL}")


# --- looks


def test_it_is_accessible_and_fits(page: Page, upstream: ScriptedUpstream) -> None:
    """With a conversation that waits for an output, an opened event and an error, in every width and scheme."""
    page.fill("#tools", "look_up(order: integer), docs")
    say(page, "What is the weather?")
    page.fill("#waiting textarea", "sunny " * 20)
    say(page, "Go on with it")
    say(page, "What is the weather there?")
    page.click("summary")
    page.fill("#waiting textarea", "rainy")
    upstream.enqueue(refusal(400, "No such thing.", "invalid_value"))
    say(page, "This is refused")
    page.get_by_role("button", name="Events").last.click()
    page.locator("#events .ev-open").first.click()
    take_pictures(page, "playground-conversation")
    assert not [*faults(page, WIDTHS)]


# --- the same as programs


@pytest.mark.parametrize("program", ["curl", "python"])
def test_the_programs_do_the_same(
    open_page: OpenPage, player: Person, upstream: ScriptedUpstream, program: str, tmp_path: Path
) -> None:
    page = open_page(player, f"{URL}?model={MODEL}", permissions=["clipboard-read", "clipboard-write"])
    page.fill("#tools", "look_up(order: integer)")
    say(page, 'It\'s "quoted", $HOME and `date`')
    page.click(f"#copy-{program}")
    page.wait_for_selector("text=Copied")
    text: str = page.evaluate("navigator.clipboard.readText()")
    assert player.token not in text
    command = ["bash", "-c", text] if program == "curl" else [sys.executable, "-c", text]
    environment = {**_without_proxies(), "ANTIPHON_TOKEN": player.token}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)

    assert done.returncode == 0, done.stderr
    assert "You said" in done.stdout
    first, second = upstream.bodies
    assert {**first, "prompt_cache_key": None} == {**second, "prompt_cache_key": None}


def _without_proxies() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.upper().endswith("_PROXY")}
