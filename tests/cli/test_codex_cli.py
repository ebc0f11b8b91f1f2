"""The real Codex CLI with the configuration that `antiphon connect codex` prints. Runs where `codex` is installed."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.gateway import Gateway
from tests.relay.conftest import eventually
from tests.upstream import ScriptedUpstream
from tests.upstream.scripts import Script, rewritten

CODEX = shutil.which("codex")
pytestmark = pytest.mark.skipif(CODEX is None, reason="Codex CLI is not installed")

JSON = dict[str, Any]

WINDOW = 40_000
LIST = "/v1/models"
NO_FACTS = "Model metadata"


@pytest.fixture
def codex(tmp_path: Path, upstream: ScriptedUpstream) -> Callable[[Gateway, str], str]:
    """`codex(gateway, model)`: what one run prints."""

    def run(gateway: Gateway, model: str) -> str:
        home = tmp_path / "home"
        home.mkdir(exist_ok=True)
        recipe = gateway.command("connect", "codex", "--url", gateway.base_url, "--model", model, "--token", "unused")
        (home / "config.toml").write_text(recipe[recipe.index("model =") :])
        environment = {**os.environ, "CODEX_HOME": str(home), "ANTIPHON_TOKEN": gateway.token, "NO_PROXY": "127.0.0.1"}
        command = [str(CODEX), "exec", "--skip-git-repo-check", "--cd", str(tmp_path), "What is the weather?"]
        done = subprocess.run(
            command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=100, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr

    return run


def _counting(tokens: int) -> Script:
    """An answer whose usage says that the context had so many tokens."""

    def change(event: JSON) -> JSON:
        if event["type"] == "response.completed":
            event["response"]["usage"].update(input_tokens=tokens, total_tokens=tokens + 1)
        return event

    return rewritten(change)


def test_codex_finds_the_facts_of_a_model_it_does_not_know(
    tmp_path: Path, upstream: ScriptedUpstream, codex: Callable[[Gateway, str], str]
) -> None:
    upstream.cards[LIST] = {"data": [{"id": "m", "max_model_len": WINDOW}]}
    with Gateway(tmp_path, [upstream.channel(models=["m"])]) as gateway:
        eventually(lambda: "context_window" in gateway.get("/models/m").json(), "the window")
        assert NO_FACTS not in codex(gateway, "m")
    assert "apply_patch" in {tool.get("name") for tool in upstream.bodies[0]["tools"]}


@pytest.mark.parametrize(("share", "compactions"), [(0.8, 0), (0.95, 1)])
def test_codex_compacts_when_the_window_is_nearly_full(
    tmp_path: Path,
    upstream: ScriptedUpstream,
    codex: Callable[[Gateway, str], str],
    share: float,
    compactions: int,
) -> None:
    facts = {"models": {"m": {"context_window": WINDOW, "efforts": ["low"]}}}
    with Gateway(tmp_path, [upstream.channel(models=["m"], compact="trigger")], facts) as gateway:
        # A call of a tool, so that the turn goes on.
        upstream.enqueue(_counting(round(WINDOW * share)))
        assert NO_FACTS not in codex(gateway, "m")
    assert upstream.bodies[0]["reasoning"]["effort"] == "low"
    asked = [body["input"][-1]["type"] == "compaction_trigger" for body in upstream.bodies]
    assert sum(asked) == compactions
