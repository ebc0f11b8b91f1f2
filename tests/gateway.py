"""Runs the gateway as an operator does: by its command, in processes of its own, with a database of its own, on a
loopback port. Tests send it HTTP requests and read its log. Nothing here imports the gateway's code.
"""

from __future__ import annotations

import contextlib
import os
import queue
import secrets
import signal
import socket
import struct
import subprocess
import sys
import time
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import orjson
import requests
import yaml

from tests import ports
from tests.forked_commands import STACK, STACKS, ForkedProcess, ForkServer, fork_server

if TYPE_CHECKING:
    import openai

ROOT = Path(__file__).resolve().parent.parent
COMMAND = (sys.executable, "-P", "-m", "app.cli")
START_WITHIN = 90.0
STOP_WITHIN = 60.0
GLANCE = 0.05

JSON = dict[str, Any]


def sqlite_file(directory: Path) -> str:
    return f"sqlite:///{directory / 'antiphon.db'}"


#: Returns the URL of an empty database for the gateway of a directory. `pytest --database mariadb` replaces it.
new_database: Callable[[Path], str] = sqlite_file


class Gateway:
    """One gateway in `directory`. `settings` become `ANTIPHON_*` variables: `workers=2`, `drain=1`."""

    program: Sequence[str] = COMMAND
    """The `antiphon` command."""

    def __init__(
        self,
        directory: Path,
        channels: Sequence[Mapping[str, Any]],
        table: Mapping[str, Any] | None = None,
        **settings: Any,
    ) -> None:
        self.directory = directory
        self.channels_file = directory / "channels.yaml"
        self.database_url: str = settings.pop("database_url", None) or new_database(directory)
        reserved = ports.reserve()
        weakref.finalize(self, reserved.close)
        self.port = ports.number(reserved)
        self.url = f"http://127.0.0.1:{self.port}"
        self.base_url = f"{self.url}/v1"
        self.token = ""
        # A worker for background responses is another process to start, for the tests that need it.
        self._settings = {"workers": 1, "threads": 32, "worker_processes": 0, **settings}
        self._secret = secrets.token_urlsafe(32)
        self._log_file = directory / "gateway.log"
        self._process: ForkedProcess | subprocess.Popen[bytes] | None = None
        self._session = requests.Session()
        self._session.trust_env = False
        self._clients: weakref.WeakSet[openai.OpenAI] = weakref.WeakSet()
        self.write_channels(channels, table)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # Running it

    def write_channels(self, channels: Sequence[Mapping[str, Any]], table: Mapping[str, Any] | None = None) -> None:
        """Writes the channel table; `table` adds keys beside `channels`."""
        rows = [dict(channel) for channel in channels]
        self.channels_file.write_text(
            yaml.safe_dump({"version": 1, **(table or {}), "channels": rows}, sort_keys=False)
        )

    def start(self) -> Self:
        """Returns when `/readyz` answers 200. The first start creates the database and a token."""
        if not self.token:
            self.token = self._prepare()
        self._process = self._start("serve")
        try:
            self._until(self._is_ready, START_WITHIN, "being ready")
        except BaseException:
            self._abandon()
            raise
        return self

    def stop(self) -> int:
        """Sends SIGTERM and returns the exit code. A gateway that outlives STOP_WITHIN fails the test and is killed."""
        process, self._process = self._running(), None
        self._close_idle_connections()
        process.terminate()
        try:
            return process.wait(STOP_WITHIN)
        except subprocess.TimeoutExpired as late:
            _kill(process)
            raise AssertionError(f"not stopped within {STOP_WITHIN} s of SIGTERM:\n{self.log}") from late

    def kill(self) -> None:
        """Sends SIGKILL to all processes of the gateway at once, as a power failure would."""
        self._running()
        self._abandon()

    def restart(self) -> Self:
        self.stop()
        return self.start()

    def close(self) -> None:
        """Closes the connections and stops the gateway when it runs."""
        for client in self._clients:
            client.close()
        if self._process is not None:
            self.stop()
        self._session.close()

    def _close_idle_connections(self) -> None:
        """A worker that stops waits two seconds for a connection which its client keeps open."""
        for adapter in self._session.adapters.values():
            pools = adapter.poolmanager.pools
            hosts = pools.keys()  # a copy: the pools themselves cannot be iterated
            for host in hosts:
                idle = pools[host].pool
                with contextlib.suppress(queue.Empty):
                    while True:
                        connection = idle.get(block=False)
                        if connection is not None:
                            connection.close()

    @contextlib.contextmanager
    def worker(self) -> Iterator[subprocess.Popen[bytes]]:
        """Runs `antiphon worker` in a process group of its own, as on another machine, and kills it at the end."""
        with self._log_file.open("ab") as log:
            process = subprocess.Popen(
                [*self.program, "worker"],
                cwd=self.directory,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        try:
            yield process
        finally:
            _kill(process)

    @property
    def pid(self) -> int:
        """The process id of gunicorn's master."""
        return self._running().pid

    @property
    def workers(self) -> list[int]:
        """Process ids of the workers that answer requests."""
        return [pid for pid in _children(self.pid) if _name(pid) not in ("antiphon-worker", "antiphon-scrape")]

    @property
    def background_workers(self) -> list[int]:
        """Process ids of the workers for background responses."""
        return [pid for pid in _children(self.pid) if _name(pid) == "antiphon-worker"]

    @property
    def metrics_processes(self) -> list[int]:
        """Process ids of the process that serves `/metrics` on an address of its own: none or one."""
        return [pid for pid in _children(self.pid) if _name(pid) == "antiphon-scrape"]

    @property
    def log(self) -> str:
        return self._log_file.read_text(errors="replace") if self._log_file.exists() else ""

    def wait_for_log(self, text: str, timeout: float = STOP_WITHIN) -> None:
        self._until(lambda: text in self.log, timeout, f"writing {text!r} to its log")

    def _prepare(self) -> str:
        """Creates the database and a token, and returns its secret."""
        self.command("init")
        return self.new_token("tests")

    # The command line

    @property
    def environment(self) -> dict[str, str]:
        """The environment of the gateway, without the proxies and settings of the shell that runs the tests."""
        inherited = {
            name: value
            for name, value in os.environ.items()
            if not name.upper().endswith("_PROXY") and not name.startswith(("ANTIPHON_", "OPENAI_", "PYTEST_"))
        }
        settings = {f"ANTIPHON_{name.upper()}": str(value) for name, value in self._settings.items()}
        return {
            **inherited,
            "PYTHONPATH": str(ROOT),
            "PYTHONUNBUFFERED": "1",
            "ANTIPHON_CHANNELS": str(self.channels_file),
            "ANTIPHON_DATABASE_URL": self.database_url,
            "ANTIPHON_SECRET_KEY": self._secret,
            "ANTIPHON_BIND": f"127.0.0.1:{self.port}",
            **settings,
        }

    def set(self, **settings: Any) -> None:
        """Changes `ANTIPHON_*` variables for the next start and the next command."""
        self._settings.update(settings)

    def attempt(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Runs `antiphon <arguments>`, with any exit code."""
        server, variables = self._fork_server()
        return server.run(arguments, self.directory, variables, START_WITHIN)

    def _start(self, *arguments: str) -> ForkedProcess | subprocess.Popen[bytes]:
        """Starts `antiphon <arguments>`, which writes to the log of the gateway, in a process group of its own."""
        server, variables = self._fork_server()
        with self._log_file.open("ab") as log:
            return server.start(arguments, self.directory, variables, log, log)

    def _fork_server(self) -> tuple[ForkServer, dict[str, str]]:
        """What forks the processes of this gateway, and the variables that they have besides."""
        environment = self.environment
        variables = {name: value for name, value in environment.items() if name.startswith("ANTIPHON_")}
        return fork_server(tuple(item for item in environment.items() if item[0] not in variables)), variables

    def command(self, *arguments: str, exit_code: int = 0) -> str:
        """Runs `antiphon <arguments>`, checks its exit code and returns its output."""
        done = self.attempt(*arguments)
        assert done.returncode == exit_code, (
            f"antiphon {' '.join(arguments)} → {done.returncode}\n{done.stdout}{done.stderr}"
        )
        return done.stdout

    def new_token(self, name: str, *options: str) -> str:
        """Creates a token and returns its secret. `options` are those of the command line: `"--owner", "ada"`."""
        token: str = orjson.loads(self.command("tokens", "create", name, *options, "--json"))["token"]
        return token

    # Requests

    def client(self, token: str | None = None, **options: Any) -> openai.OpenAI:
        """A client of the official SDK, without retries and without the proxies of the environment."""
        import openai  # half a second, which every test run would pay at the top

        transport = openai.DefaultHttpxClient(trust_env=False)
        key = token or self.token
        client = openai.OpenAI(base_url=self.base_url, api_key=key, max_retries=0, http_client=transport, **options)
        self._clients.add(client)
        return client

    def request(self, method: str, path: str, token: str | None = None, **keys: Any) -> requests.Response:
        """Sends a request to `path` under /v1, with the keywords of requests."""
        headers = {"Authorization": f"Bearer {token or self.token}", **keys.pop("headers", {})}
        return self._session.request(method, self.base_url + path, headers=headers, **{"timeout": 60, **keys})

    def get(self, path: str, **keys: Any) -> requests.Response:
        return self.request("GET", path, **keys)

    def post(self, path: str, body: JSON, **keys: Any) -> requests.Response:
        return self.request("POST", path, json=body, **keys)

    def delete(self, path: str, **keys: Any) -> requests.Response:
        return self.request("DELETE", path, **keys)

    def stream(self, body: JSON, path: str = "/responses", **keys: Any) -> requests.Response:
        """Starts a streamed response. `.content` reads all of it, `follow(portions(answer))` reads event by event."""
        return self.request("POST", path, json={"stream": True, **body}, stream=True, **keys)

    def dial(
        self,
        body: JSON,
        path: str = "/responses",
        receive_buffer: int | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> socket.socket:
        """Sends a request on a socket and leaves the answer unread, for clients that hang up, reset or never read."""
        sock = socket.socket()
        if receive_buffer is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        sock.settimeout(STOP_WITHIN)
        sock.connect(("127.0.0.1", self.port))
        data = orjson.dumps(body)
        head = f"POST /v1{path} HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {self.token}\r\n"
        head += "".join(f"{name}: {value}\r\n" for name, value in (headers or {}).items())
        head += f"Content-Type: application/json\r\nContent-Length: {len(data)}\r\n\r\n"
        sock.sendall(head.encode() + data)
        return sock

    # Waiting

    def _running(self) -> ForkedProcess | subprocess.Popen[bytes]:
        assert self._process is not None, "the gateway is not running"
        return self._process

    def _abandon(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            _kill(process)

    def _is_ready(self) -> bool:
        try:
            return self._session.get(f"{self.url}/readyz", timeout=5).status_code == 200
        except (requests.ConnectionError, requests.Timeout):
            return False

    def _until(self, reached: Callable[[], bool], timeout: float, what: str) -> None:
        """Polls until `reached` is true. The wait fails at once when the gateway has ended."""
        deadline = time.monotonic() + timeout
        process = self._running()
        while not reached():
            with contextlib.suppress(subprocess.TimeoutExpired):
                code = process.wait(GLANCE)
                self._process = None
                raise AssertionError(f"the gateway ended with {code} instead of {what}:\n{self.log}")
            if time.monotonic() > deadline:
                self._write_stacks(process)
                raise AssertionError(f"waited {timeout} s for {what}:\n{self.log}")

    def _write_stacks(self, process: ForkedProcess | subprocess.Popen[bytes]) -> None:
        """Lets the threads of all its processes write to the log where they are."""
        if not isinstance(process, ForkedProcess):
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, STACKS)
        for _ in range(20):
            if STACK in self.log:
                break
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(GLANCE)


class ExecutedGateway(Gateway):
    """One whose processes each start from their program: another one than this checkout's, or for measurements."""

    def attempt(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [*self.program, *arguments],
            cwd=self.directory,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=START_WITHIN,
            check=False,
        )

    def _start(self, *arguments: str) -> subprocess.Popen[bytes]:
        with self._log_file.open("ab") as log:
            return subprocess.Popen(
                [*self.program, *arguments],
                cwd=self.directory,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )


def _children(pid: int) -> list[int]:
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except (FileNotFoundError, ProcessLookupError):
        return []


def _name(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except (FileNotFoundError, ProcessLookupError):
        return ""


def portions(answer: requests.Response) -> Iterator[bytes]:
    """The bytes of a streamed answer, in the pieces in which they arrive."""
    yield from answer.iter_content(chunk_size=None)


def reset(sock: socket.socket) -> None:
    """Closes a connection with a RST."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


def _kill(process: ForkedProcess | subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait(STOP_WITHIN)
