"""The first run: a terminal gets a link that signs in once, and nothing else ever gets it."""

from __future__ import annotations

import os
import pty
import re
import selectors
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.console.conftest import OpenPage
from tests.console.visitors import Person
from tests.gateway import START_WITHIN, STOP_WITHIN, Gateway

DEMO = {"name": "demo", "format": "demo", "models": ["demo"]}
_LINK = re.compile(r"Open: +(http://\S+/console/sign-in#code=[\w-]+)\r?\n")
_READY = "Ctrl-C to stop"


class Terminal:
    """`antiphon init --serve` on a terminal of its own."""

    def __init__(self, gateway: Gateway) -> None:
        self._ours, theirs = pty.openpty()
        self.said = ""
        self._process = subprocess.Popen(
            [*gateway.program, "init", "--serve"],
            cwd=gateway.directory,
            env={**gateway.environment, "TERM": "xterm"},
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
        )
        os.close(theirs)

    def until(self, words: str) -> str:
        """What it has said, from when these words are among it."""
        with selectors.DefaultSelector() as selector:
            selector.register(self._ours, selectors.EVENT_READ)
            deadline = time.monotonic() + START_WITHIN
            while words not in self.said and selector.select(deadline - time.monotonic()):
                self.said += os.read(self._ours, 65536).decode()
        assert words in self.said, self.said
        return self.said

    def close(self) -> None:
        self._process.terminate()
        self._process.wait(STOP_WITHIN)
        os.close(self._ours)


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Gateway:
    """A directory before its first run."""
    return Gateway(tmp_path_factory.mktemp("fresh"), [DEMO])


@pytest.fixture(scope="module")
def terminal(fresh: Gateway) -> Iterator[Terminal]:
    terminal = Terminal(fresh)
    yield terminal
    terminal.close()


def test_the_link_of_the_first_run_signs_an_operator_in_once(
    fresh: Gateway, terminal: Terminal, open_page: OpenPage
) -> None:
    said = terminal.until(_READY)
    found = _LINK.search(said)
    assert found, said
    assert f"http://127.0.0.1:{fresh.port}/console/" in found[1]
    assert "signs in once, within 60 seconds" in said
    assert said.index("Open:") < said.index("Try:")

    page = open_page(None, found[1])
    page.wait_for_url("**/console/overview")
    assert "admin operator" in page.inner_text(".who")

    again = open_page(None, found[1])
    again.wait_for_selector("#e1")
    assert "used already" in again.inner_text("#e1")
    code = found[1].partition("code=")[2]
    assert code not in terminal.said.partition(_READY)[2], "the log of the server has it"


def test_a_later_link_comes_from_the_command_and_needs_an_operator(fresh: Gateway, terminal: Terminal) -> None:
    terminal.until(_READY)
    assert re.fullmatch(rf"{fresh.url}/console/sign-in#code=[\w-]+\n", fresh.command("console"))
    with Person(fresh, "plain", owner="ada", role=None):
        refused = fresh.attempt("console", "--token", "plain")
    assert refused.returncode == 78
    assert "tokens update plain --console operator" in refused.stderr


def test_a_pipe_gets_no_link(tmp_path: Path) -> None:
    gateway = Gateway(tmp_path, [DEMO], bind=f"unix:{tmp_path}/no/such/directory.sock", url="http://127.0.0.1:1/v1")
    printed = gateway.attempt("init", "--serve")
    assert "ap_" in printed.stdout
    assert "#code=" not in printed.stdout + printed.stderr
    assert "Open:" not in printed.stdout
    assert "/console/sign-in" not in printed.stdout
