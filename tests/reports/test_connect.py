"""What a client is told: texts that stay whole whatever the model and the token are called."""

from __future__ import annotations

import ast
import json
import shlex
import subprocess
import tomllib

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from app.reports.connect import CLIENTS, PLACEHOLDER, Guide, Target, base_url, guide

URL = "https://antiphon.example.com/v1"
#: Whatever a table or a person can name, without what no file can have.
NAMES = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=40)


def _of(client: str, model: str, token: str = PLACEHOLDER) -> Guide:
    return guide(client, Target(URL, model, token, window=64_000))


@pytest.mark.parametrize("client", CLIENTS)
def test_every_client_has_steps_a_test_at_the_end_and_three_errors_with_causes(client: str) -> None:
    found = _of(client, "sol-large", "ap_secret")
    text = "".join(step.text for step in found.steps)
    assert found.steps[-1].title.startswith("Test it")
    assert len(found.troubles) == 3
    assert all(trouble.error and trouble.cause for trouble in found.troubles)
    assert all(value in text for value in (URL, "sol-large", "ap_secret"))
    assert "$URL" not in text
    assert "$MODEL" not in text
    assert found.text in [step.text for step in found.steps]


@pytest.mark.parametrize("client", CLIENTS)
def test_without_a_token_there_is_a_placeholder(client: str) -> None:
    assert PLACEHOLDER in "".join(step.text for step in _of(client, "m").steps)


@settings(max_examples=30)
@given(model=NAMES, token=NAMES)
def test_no_name_breaks_a_file(model: str, token: str) -> None:
    assert tomllib.loads(_of("codex", model).text)["model"] == model
    (entry,) = yaml.safe_load(_of("continue", model, token).text)["models"]
    assert (entry["model"], entry["apiKey"]) == (model, token)
    zed = json.loads(_of("zed", model).text)["language_models"]["openai_compatible"]["Antiphon"]
    assert (zed["available_models"][0]["name"], zed["available_models"][0]["max_tokens"]) == (model, 64_000)
    for client in ("python", "agents", "langchain"):
        constants = [
            node.value for node in ast.walk(ast.parse(_of(client, model).text)) if isinstance(node, ast.Constant)
        ]
        assert model in constants


@settings(max_examples=30)
@given(model=NAMES, token=NAMES)
def test_no_name_breaks_a_shell(model: str, token: str) -> None:
    for client in CLIENTS:
        found = _of(client, model, token)
        for step in found.steps:
            if step.title.startswith(("In the shell", "Test it")):
                shlex.split(step.text)
        for name, value in found.environment.items():
            shell = next(step for step in found.steps if step.title == "In the shell")
            assert f"{name}={value}" in shlex.split(shell.text)
    words = shlex.split(_of("curl", model).text)
    assert json.loads(words[words.index("-d") + 1])["model"] == model


def test_a_value_that_looks_like_a_place_is_not_filled_in() -> None:
    assert tomllib.loads(_of("codex", "$TOKEN$URL", "secret").text)["model"] == "$TOKEN$URL"


def test_a_real_shell_takes_every_text() -> None:
    texts = [step.text for client in CLIENTS for step in _of(client, "it's $(id) `id`").steps if not step.file]
    forms = ("URL ", "API Provider", "API Key")
    shell = "\n".join(text for text in texts if not text.startswith(forms))
    done = subprocess.run(["sh", "-n"], input=shell, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("given_url", "used"),
    [
        ("https://antiphon.example.com", URL),
        ("https://antiphon.example.com/", URL),
        (URL, URL),
        (f"{URL}/", URL),
        ("http://127.0.0.1:8080/llm", "http://127.0.0.1:8080/llm"),
    ],
)
def test_a_url_without_a_path_gets_v1(given_url: str, used: str) -> None:
    assert base_url(given_url) == used
