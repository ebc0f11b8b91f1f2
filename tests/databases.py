"""Databases for tests: a SQLite file, or a MariaDB server that the tests start on the loopback, in a folder that pytest
removes. Servers that already run are never used.
"""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pymysql
import pytest

from tests.ports import closed_port

STARTING = 60.0
DATABASES = ("sqlite", "mariadb")


@dataclass(frozen=True)
class Server:
    port: int
    process: subprocess.Popen[bytes]
    log: Path

    def run(self, statement: str) -> None:
        with pymysql.connect(host="127.0.0.1", port=self.port, user="root", autocommit=True) as connection:
            connection.cursor().execute(statement)

    def url(self, name: str) -> str:
        return f"mysql://root@127.0.0.1:{self.port}/{name}"

    def waits_for_a_lock(self) -> bool:
        """Whether a transaction waits for a lock of another one."""
        with pymysql.connect(host="127.0.0.1", port=self.port, user="root") as connection:
            cursor = connection.cursor()
            cursor.execute("SELECT COUNT(*) FROM information_schema.innodb_trx WHERE trx_state = 'LOCK WAIT'")
            return cursor.fetchone() != (0,)

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Stops the server for a while. Its connections stay open, and it answers none of them."""
        os.kill(self.process.pid, signal.SIGSTOP)
        try:
            # The kernel stops a process only when one of its threads has taken the signal. On a busy machine the
            # other threads answer queries until then.
            os.waitid(os.P_PID, self.process.pid, os.WSTOPPED)
            yield
        finally:
            os.kill(self.process.pid, signal.SIGCONT)

    def await_start(self) -> None:
        until = time.monotonic() + STARTING
        while True:
            try:
                return self.run("SELECT 1")
            except pymysql.err.OperationalError:
                if self.process.poll() is not None or time.monotonic() > until:
                    pytest.fail(f"mariadbd did not start:\n{self.log.read_text()[-2000:]}", pytrace=False)
            time.sleep(0.05)

    def new_database(self) -> str:
        """Creates an empty database and returns its URL."""
        name = f"antiphon_{secrets.token_hex(6)}"
        self.run(f"CREATE DATABASE {name}")
        return self.url(name)


@pytest.fixture(scope="session")
def mariadb(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with running_server(tmp_path_factory.mktemp("mariadb")) as server:
        yield server


@contextmanager
def running_server(folder: Path) -> Iterator[Server]:
    """Runs a server with its data in this folder."""
    server = _start(folder)
    try:
        server.await_start()
        yield server
    finally:
        server.process.terminate()
        try:
            server.process.wait(20)
        except subprocess.TimeoutExpired:
            server.process.kill()
            server.process.wait()


@pytest.fixture(params=DATABASES)
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The URL of an empty database."""
    with _empty(request, tmp_path) as url:
        yield url


@pytest.fixture(scope="session", params=DATABASES)
def shared_database_url(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a database that all tests of a run share."""
    with _empty(request, tmp_path_factory.mktemp("database")) as url:
        yield url


@pytest.fixture(scope="module", params=DATABASES)
def module_database_url(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a database that the tests of one file share."""
    with _empty(request, tmp_path_factory.mktemp("database")) as url:
        yield url


@contextmanager
def _empty(request: pytest.FixtureRequest, folder: Path) -> Iterator[str]:
    if request.param == "sqlite":
        yield f"sqlite:///{folder}/antiphon.db"
        return
    server: Server = request.getfixturevalue("mariadb")
    url = server.new_database()
    try:
        yield url
    finally:
        server.run(f"DROP DATABASE {url.rpartition('/')[2]}")


def _start(folder: Path) -> Server:
    data, log, port = folder / "data", folder / "log", closed_port()
    account = ["--user=root"] if os.geteuid() == 0 else []
    subprocess.run(
        [
            program("mariadb-install-db", "mariadb-server"),
            "--no-defaults",
            "--innodb-use-native-aio=0",  # the kernel has few of these for all servers of a machine
            f"--datadir={data}",
            f"--tmpdir={folder}",  # servers that begin sweep each other's tables away where they share one
            "--auth-root-authentication-method=normal",
            "--skip-test-db",
            *account,
        ],
        check=True,
        capture_output=True,
    )
    with log.open("wb") as output:
        process = subprocess.Popen(
            [
                program("mariadbd", "mariadb-server"),
                "--no-defaults",
                f"--datadir={data}",
                f"--tmpdir={folder}",
                f"--socket={folder / 's'}",
                f"--pid-file={folder / 'pid'}",
                "--bind-address=127.0.0.1",
                f"--port={port}",
                "--skip-name-resolve",
                "--innodb-use-native-aio=0",
                "--innodb-buffer-pool-size=64M",
                "--innodb-log-file-size=32M",
                "--max-connections=1000",
                # What a test has written need not outlive the machine.
                "--innodb-flush-log-at-trx-commit=0",
                "--innodb-flush-method=nosync",
                "--debug-no-sync",
                # Half the time of a new table goes into rows of statistics about it.
                "--innodb-stats-persistent=0",
                "--skip-log-bin",
                "--skip-innodb-file-per-table",
                "--skip-innodb-doublewrite",
                *account,
            ],
            stdout=output,
            stderr=output,
        )
    return Server(port=port, process=process, log=log)


def program(name: str, package: str) -> str:
    # Servers lie where only root's PATH looks.
    found = shutil.which(name, path=os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/usr/local/sbin"]))
    if found is None:
        pytest.fail(f"{name} is not installed: `make test` installs what the tests need ({package}).", pytrace=False)
    return found
