"""antiphon connect: what it prints works as it stands."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import orjson
import pytest

from tests.conftest import MakeGateway
from tests.gateway import Gateway

CONFIGURATION = 78
URL = "https://antiphon.example.com/v1"
DEMO = {"name": "demo", "format": "demo", "models": ["demo"]}
PREFERRED = {"name": "preferred", "format": "demo", "models": ["it's", "b"], "priority": 1}


@pytest.fixture
def running(gateway: MakeGateway) -> Gateway:
    return gateway([DEMO])


def _recipe(gateway: Gateway, client: str, *options: str) -> dict[str, Any]:
    recipe: dict[str, Any] = orjson.loads(gateway.command("connect", client, "--json", *options))
    return recipe


def _run(gateway: Gateway, client: str, command: list[str]) -> str:
    """What the printed text says when it is run with the printed variables."""
    recipe = _recipe(gateway, client, "--token", gateway.token)
    environment = {**gateway.environment, **recipe["environment"]}
    done = subprocess.run(
        [*command, recipe["text"]], env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_python_recipe_runs(running: Gateway) -> None:
    assert "Your name is Ada." in _run(running, "python", [sys.executable, "-c"])


def test_the_agents_recipe_runs(running: Gateway) -> None:
    assert _run(running, "agents", [sys.executable, "-c"]).strip()


def test_the_curl_recipe_runs(running: Gateway) -> None:
    assert "event: response.completed" in _run(running, "curl", ["sh", "-c"])


def test_codex_is_given_its_table(tmp_path: Path) -> None:
    directory = Gateway(tmp_path, [DEMO, PREFERRED])
    recipe = _recipe(directory, "codex", "--url", "https://antiphon.example.com/")
    config = tomllib.loads(recipe["text"])
    assert (config["model"], config["model_provider"], recipe["file"]) == ("it's", "antiphon", "~/.codex/config.toml")
    assert config["model_providers"]["antiphon"] == {
        "name": "OpenAI",
        "base_url": URL,
        "wire_api": "responses",
        "auth": {"command": "printenv", "args": ["ANTIPHON_TOKEN"]},
    }


@pytest.mark.parametrize("client", ["node", "langchain", "vercel"])
def test_other_clients_get_the_url_and_the_model(tmp_path: Path, client: str) -> None:
    directory = Gateway(tmp_path, [DEMO], url=URL)
    recipe = _recipe(directory, client)
    assert recipe["environment"]["OPENAI_BASE_URL"] == URL
    assert '"demo"' in recipe["text"]
    assert f"export OPENAI_BASE_URL={URL}" in directory.command("connect", client)


def test_the_command_prints_every_step_and_the_likely_errors(tmp_path: Path) -> None:
    directory = Gateway(tmp_path, [DEMO], url=URL)
    printed = directory.command("connect", "open-webui")
    recipe = _recipe(directory, "open-webui")
    assert all(step["text"] in printed for step in recipe["steps"])
    assert all(trouble["cause"] in printed for trouble in recipe["errors"])


def test_a_file_has_the_window_that_the_table_states(tmp_path: Path) -> None:
    directory = Gateway(tmp_path, [DEMO], {"models": {"demo": {"context_window": 40_000}}}, url=URL)
    provider = orjson.loads(_recipe(directory, "zed")["text"])["language_models"]["openai_compatible"]["Antiphon"]
    assert provider["available_models"][0]["max_tokens"] == 40_000


def test_no_quote_of_a_model_ends_a_shell_word(tmp_path: Path) -> None:
    directory = Gateway(tmp_path, [PREFERRED])
    text = _recipe(directory, "curl")["text"]
    done = subprocess.run(["sh", "-n"], input=text, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    body = text.partition("-d '")[2].partition("'")[0]
    assert orjson.loads(body)["model"] == "it's"


def test_a_socket_is_no_url(tmp_path: Path) -> None:
    directory = Gateway(tmp_path, [DEMO], bind="unix:/run/antiphon/antiphon.sock")
    directory.command("connect", "curl", exit_code=CONFIGURATION)
    directory.command("connect", "curl", "--url", "antiphon.example.com", exit_code=CONFIGURATION)
    directory.command("connect", "curl", "--url", URL)
