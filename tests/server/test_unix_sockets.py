"""The gateway on a socket that has a file: one server a socket, and none takes it from another."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.gateway import COMMAND, ROOT, START_WITHIN, Gateway
from tests.relay.conftest import eventually

DEMO = {"name": "demo", "format": "demo", "models": ["demo"]}
CONFIGURATION = 78
AT_ONCE = 6


@pytest.fixture
def prepared(tmp_path: Path) -> Gateway:
    directory = Gateway(tmp_path, [DEMO])
    directory.command("init")
    return directory


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "s"


@contextmanager
def serving(gateway: Gateway, path: Path) -> Iterator[subprocess.Popen[bytes]]:
    log = gateway.directory / "log"
    with log.open("ab") as output:
        server = subprocess.Popen(
            [*COMMAND, "serve", "--bind", f"unix:{path}"],
            cwd=gateway.directory,
            env=gateway.environment,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    try:
        eventually(lambda: answers(path), "the server to answer", START_WITHIN)
        yield server
        server.terminate()
        assert server.wait(START_WITHIN) == 0
        assert "Traceback" not in log.read_text()
    finally:
        if server.poll() is None:
            os.killpg(server.pid, signal.SIGKILL)
            server.wait()


def answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(20)
        try:
            client.connect(str(path))
        except (FileNotFoundError, ConnectionRefusedError):
            return False
        client.sendall(b"GET /readyz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        return client.recv(64).startswith(b"HTTP/1.1 200")


def refused(gateway: Gateway, command: list[str], directory: Path) -> str:
    """What a start that exits 78 says."""
    done = subprocess.run(
        command,
        cwd=directory,
        env={**gateway.environment, "ANTIPHON_HOME": str(gateway.directory)},
        capture_output=True,
        text=True,
        timeout=START_WITHIN,
        check=False,
    )
    assert done.returncode == CONFIGURATION, done.stderr
    assert "Traceback" not in done.stderr
    return done.stderr


def test_a_second_server_on_the_same_socket_is_refused(prepared: Gateway, path: Path) -> None:
    serve = [*COMMAND, "serve", "--bind", f"unix:{path}"]
    itself = [
        sys.executable,
        "-P",
        "-m",
        "gunicorn",
        "--config",
        "python:app.server.gunicorn_conf",
        "--bind",
        f"unix:{path}",
    ]
    with serving(prepared, path):
        assert f"unix:{path} is in use" in refused(prepared, serve, prepared.directory)
        assert f"unix:{path} is in use" in refused(prepared, [*itself, "app:create_app()"], ROOT)
        assert answers(path)
    assert not path.exists()


@pytest.mark.parametrize("left", [False, True], ids=["no file", "the file of a dead server"])
def test_of_many_servers_that_start_at_once_one_gets_the_socket(prepared: Gateway, path: Path, left: bool) -> None:
    if left:
        leave_behind(path)
    barrier, start = os.pipe()
    with ExitStack() as stack:
        servers = [stack.enter_context(starting(prepared, path, barrier, number)) for number in range(AT_ONCE)]
        for number in range(AT_ONCE):
            eventually(lambda: "loaded" in log_of(prepared, number).read_text(), "a process", START_WITHIN)  # noqa: B023
        os.close(barrier)
        os.close(start)
        eventually(lambda: len(ended(servers)) == AT_ONCE - 1, "all but one to be refused", 2 * START_WITHIN)
        assert {server.returncode for server in ended(servers)} == {CONFIGURATION}
        eventually(lambda: answers(path), "the one to answer", START_WITHIN)
        (winner,) = set(servers) - set(ended(servers))
        winner.terminate()
        assert winner.wait(START_WITHIN) == 0
    assert not path.exists()


#: gunicorn, as far as it can be loaded before it looks at its socket, waits for the others. The machine is slow: time
#: passes between the look and the socket.
LOADED = """
import os, sys, time
import app.server.gunicorn_conf, app.gateway
from gunicorn import sock
from gunicorn.app.wsgiapp import run

def create_slowly(*arguments):
    time.sleep(0.3)
    return create(*arguments)

create, sock.create_sockets = sock.create_sockets, create_slowly
print("loaded", flush=True)
os.read(int(sys.argv.pop(1)), 1)
run()
"""


def log_of(gateway: Gateway, number: int) -> Path:
    return gateway.directory / f"log-{number}"


def ended(servers: list[subprocess.Popen[bytes]]) -> list[subprocess.Popen[bytes]]:
    return [server for server in servers if server.poll() is not None]


@contextmanager
def starting(gateway: Gateway, path: Path, barrier: int, number: int) -> Iterator[subprocess.Popen[bytes]]:
    """A server that starts when the other end of `barrier` is closed."""
    options = [
        "--config",
        "python:app.server.gunicorn_conf",
        "--threads",
        "4",
        "--workers",
        "1",
        "--bind",
        f"unix:{path}",
    ]
    with log_of(gateway, number).open("wb") as output:
        server = subprocess.Popen(
            [sys.executable, "-P", "-c", LOADED, str(barrier), *options, "app:create_app()"],
            cwd=ROOT,
            env={
                **gateway.environment,
                "ANTIPHON_HOME": str(gateway.directory),
                "ANTIPHON_WORKER_PROCESSES": "0",
            },
            stdout=output,
            stderr=output,
            start_new_session=True,
            pass_fds=[barrier],
        )
    try:
        yield server
    finally:
        if server.poll() is None:
            os.killpg(server.pid, signal.SIGKILL)
            server.wait()


def leave_behind(path: Path) -> None:
    """The file of a server that is dead."""
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
        dead.listen()


def test_the_socket_of_a_dead_server_is_replaced(prepared: Gateway, path: Path) -> None:
    leave_behind(path)
    assert path.exists()
    with serving(prepared, path):
        assert answers(path)


def test_a_file_that_is_no_socket_is_left_alone(prepared: Gateway, path: Path) -> None:
    path.write_text("precious")
    output = refused(prepared, [*COMMAND, "serve", "--bind", f"unix:{path}"], prepared.directory)
    assert f"{path} exists and is not a socket" in output
    assert path.read_text() == "precious"


def test_a_server_whose_socket_was_taken_leaves_it_to_the_other(prepared: Gateway, path: Path) -> None:
    with serving(prepared, path) as first:
        path.unlink()
        with socket.socket(socket.AF_UNIX) as another:
            another.bind(str(path))
            first.terminate()
            assert first.wait(START_WITHIN) == 0
            assert path.exists()


def test_a_server_whose_socket_is_gone_ends_without_a_fault(prepared: Gateway, path: Path) -> None:
    with serving(prepared, path):
        path.unlink()
