"""antiphon version, and completion by the shell."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from app import __version__
from app.cli import antiphon


def test_programs_read_the_versions_as_json() -> None:
    found = json.loads(CliRunner().invoke(antiphon, ["version", "--json"]).output)
    assert (found["antiphon"], found["python"]) == (__version__, platform.python_version())
    assert {"flask", "gunicorn", "peewee"} <= found.keys()


def test_people_read_the_same() -> None:
    printed = CliRunner().invoke(antiphon, ["version"]).output.splitlines()
    assert printed[0].split() == ["antiphon", __version__]
    assert "gunicorn" in {line.split()[0] for line in printed}


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_shell_gets_its_completion(shell: str) -> None:
    done = _completing(f"{shell}_source", "")
    assert "_ANTIPHON_COMPLETE" in done


def test_commands_and_options_are_completed() -> None:
    assert _completing("bash_complete", "antiphon ver") == "plain,version\n"
    completed = _completing("bash_complete", "antiphon tokens create x --t").splitlines()
    assert {"plain,--tools", "plain,--tags", "plain,--tpm"} <= set(completed)


def _completing(instruction: str, words: str) -> str:
    """What the command prints for the completion of a shell."""
    command = Path(sys.executable).with_name("antiphon")
    variables = {"_ANTIPHON_COMPLETE": instruction, "COMP_WORDS": words, "COMP_CWORD": str(len(words.split()) - 1)}
    done = subprocess.run([command], env={**os.environ, **variables}, capture_output=True, text=True, timeout=60)
    return done.stdout
