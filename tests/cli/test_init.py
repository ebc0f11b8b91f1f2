"""antiphon init, as a newcomer runs it: in a checkout, in a directory of its own, and what it prints is pasted."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
import requests

from tests.gateway import COMMAND, ROOT
from tests.ports import closed_port
from tests.relay.conftest import eventually

INLINE_KEY = "sk-canary-7f3a91"
#: Where no `antiphon` is, as in a shell right after `make run`.
PLAIN_PATH = "/usr/bin:/bin"


def environment(**variables: str) -> dict[str, str]:
    """A newcomer's: no variable of ours, none of the caller's Python."""
    environment = {name: os.environ[name] for name in ("HOME", "LANG") if name in os.environ}
    return {"PATH": PLAIN_PATH, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1", **environment, **variables}


def run(directory: Path, *words: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*COMMAND, *words], cwd=directory, env=environment(**variables), capture_output=True, text=True, timeout=60
    )


@contextmanager
def left_running(command: list[str], directory: Path, variables: Mapping[str, str]) -> Iterator[Path]:
    """The file with what it prints."""
    printed = directory / "printed"
    with printed.open("wb") as file:
        process = subprocess.Popen(
            command, cwd=directory, env=dict(variables), stdout=file, stderr=file, start_new_session=True
        )
    try:
        yield printed
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(20)


def ready(port: int) -> bool:
    try:
        return requests.get(f"http://127.0.0.1:{port}/readyz", timeout=5).status_code == 200
    except requests.ConnectionError:
        return False


def test_the_shipped_table_is_the_one_at_the_top() -> None:
    assert (ROOT / "app/cli/channels.yaml").read_bytes() == (ROOT / "channels.yaml").read_bytes()


def test_init_never_copies_the_table_that_a_checkout_has_in_use(tmp_path: Path) -> None:
    checkout, here = tmp_path / "checkout", tmp_path / "here"
    shutil.copytree(ROOT / "app", checkout / "app", ignore=shutil.ignore_patterns("__pycache__"))
    (checkout / "channels.yaml").write_text((ROOT / "channels.yaml").read_text() + f"# api_key: {INLINE_KEY}\n")
    here.mkdir()
    done = run(here, "init", PYTHONPATH=str(checkout))
    assert done.returncode == 0, done.stderr
    assert (here / "channels.yaml").read_text() == (checkout / "app/cli/channels.yaml").read_text()


def test_the_schema_that_the_table_names_lies_beside_it_and_is_renewed(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    table = tmp_path / "elsewhere" / "table.yaml"
    variables = {"ANTIPHON_CHANNELS": "elsewhere/table.yaml"}
    assert "wrote channels.schema.json" in run(tmp_path, "init", **variables).stdout
    named = re.match(r"# yaml-language-server: \$schema=(.*)\n", table.read_text())
    assert named is not None
    schema = table.with_name(named[1])
    assert schema.read_text() == run(tmp_path, "schema").stdout

    assert "channels.schema.json" not in run(tmp_path, "init", **variables).stdout
    schema.write_text("{}")
    assert run(tmp_path, "init", **variables).returncode == 0
    assert schema.read_text() == run(tmp_path, "schema").stdout


def test_files_of_init_are_readable_by_their_owner_alone(tmp_path: Path) -> None:
    assert run(tmp_path, "init").returncode == 0
    modes = {path.name: path.stat().st_mode & 0o777 for path in tmp_path.iterdir()}
    del modes["channels.schema.json"]
    assert modes == {".env": 0o600, "channels.yaml": 0o600, "antiphon.db": 0o600}


def test_an_existing_table_stays(tmp_path: Path) -> None:
    (tmp_path / "channels.yaml").write_text("mine")
    assert "kept  channels.yaml" in run(tmp_path, "init").stdout
    assert (tmp_path / "channels.yaml").read_text() == "mine"


def test_a_table_that_cannot_be_written_is_a_line_with_its_fix(tmp_path: Path) -> None:
    done = run(tmp_path, "init", ANTIPHON_CHANNELS="no/such/table.yaml")
    assert done.returncode == 78
    assert "no/such/table.yaml: No such file or directory" in done.stderr
    assert "ANTIPHON_CHANNELS" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_run_leaves_the_checkout_clean(tmp_path: Path) -> None:
    git = ["git", "-c", "user.name=t", "-c", "user.email=t@example.com"]
    for name in (".gitignore", "channels.yaml", "Makefile"):
        shutil.copyfile(ROOT / name, tmp_path / name)
    for words in (["init", "-q"], ["add", "-A"], ["commit", "-qm", "all"]):
        subprocess.run([*git, *words], cwd=tmp_path, check=True, capture_output=True)
    for words in ("init", "reload"):
        assert run(tmp_path, words).returncode == 0
    assert (tmp_path / "channels.yaml.reload").exists()
    status = subprocess.run([*git, "status", "--porcelain"], cwd=tmp_path, check=True, capture_output=True, text=True)
    assert status.stdout == ""


def test_make_run_prints_a_request_that_can_be_pasted_and_no_step_that_it_has_taken(tmp_path: Path) -> None:
    port = closed_port()
    variables = environment(ANTIPHON_BIND=f"127.0.0.1:{port}", ANTIPHON_WORKERS="1", ANTIPHON_WORKER_PROCESSES="0")
    recipe = re.search(r"^run:.*\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text(), re.M)
    assert recipe is not None
    words = recipe[1].split("antiphon ", 1)[1].split()
    with left_running([*COMMAND, *words], tmp_path, variables) as printed:
        eventually(lambda: ready(port), "the gateway to be ready")
        output = printed.read_text()
        curl = re.search(r"^  Try: +(curl .*\n.*\n.*\n.*)$", output, re.M)
        assert curl is not None, output
        answer = subprocess.run(
            ["sh", "-c", curl[1]], cwd=tmp_path, env=variables, capture_output=True, text=True, timeout=60
        )
    assert "event: response.completed" in answer.stdout, answer.stderr
    assert "Next:" not in output
    assert re.search(r"^  \S+ --help, in another terminal", output, re.M)


def test_the_next_step_can_be_pasted(tmp_path: Path) -> None:
    output = run(tmp_path, "init").stdout
    step = re.search(r"^  Next: +(.*)$", output, re.M)
    assert step is not None
    pasted = f"{step[1]} --help"
    done = subprocess.run(["sh", "-c", pasted], cwd=tmp_path, env=environment(), capture_output=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert (Path(sys.executable).with_name("antiphon")).is_file(), "installed as make run does it"


def test_the_command_is_plain_where_it_is_on_the_path(tmp_path: Path) -> None:
    beside = Path(sys.executable).parent
    done = run(tmp_path, "init", PATH=f"{beside}:{PLAIN_PATH}")
    assert re.search(r"^  Next: +antiphon serve$", done.stdout, re.M)


@pytest.mark.parametrize("words", [["doctor"], ["tokens", "list"], ["check"]])
def test_the_fix_of_an_error_can_be_pasted(tmp_path: Path, words: list[str]) -> None:
    done = run(tmp_path, *words, ANTIPHON_CHANNELS="none.yaml")
    assert done.returncode == 78
    output = done.stdout + done.stderr
    assert "antiphon " in output
    assert re.findall(r"(?<![\w./-])antiphon (?=[a-z])", output) == []


def test_the_request_of_a_unix_socket_goes_to_the_socket(tmp_path: Path) -> None:
    output = run(tmp_path, "init", ANTIPHON_BIND=f"unix:{tmp_path}/a.sock").stdout
    assert f"curl -N --unix-socket {tmp_path}/a.sock http://localhost/v1/responses" in output
