"""Antiphon as it is deployed: behind the shipped nginx site, on a socket that outlives the service."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pytest

from tests.gateway import COMMAND, GLANCE, ROOT, START_WITHIN, Gateway
from tests.ports import closed_port
from tests.upstream import ScriptedUpstream, self_signed

DEPLOY = ROOT / "deploy"
SITE = DEPLOY / "nginx" / "antiphon.conf"
UNITS = DEPLOY / "systemd"
NGINX = shutil.which("nginx") or "/usr/sbin/nginx"
LAUNCH = Path(__file__).with_name("launch.py")
#: gunicorn's graceful_timeout here; streams are ended five seconds before it.
DRAIN = 8

JSON = dict[str, Any]


class Proxy:
    """An nginx of the tests with the shipped site. Only addresses and paths differ."""

    def __init__(self, directory: Path, socket_path: Path) -> None:
        directory.mkdir()
        self.directory = directory
        self.port, self.plain_port = closed_port(), closed_port()
        self.url = f"https://127.0.0.1:{self.port}"
        self.plain_url = f"http://127.0.0.1:{self.plain_port}"
        _, self.authority = self_signed(directory)
        (directory / "site.conf").write_text(self._moved(SITE.read_text(), socket_path))
        (directory / "nginx.conf").write_text(self._around())
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process is not None:
            self._process.send_signal(signal.SIGTERM)
            self._process.wait(START_WITHIN)

    def check(self) -> str:
        """What `nginx -t` says about the configuration."""
        done = subprocess.run([*self._command, "-t"], capture_output=True, text=True, timeout=START_WITHIN)
        assert done.returncode == 0, done.stderr
        return done.stderr

    def start(self) -> Self:
        self.check()
        self._process = subprocess.Popen([*self._command, "-g", "daemon off;"])
        while not self._listens():
            with contextlib.suppress(subprocess.TimeoutExpired):
                raise AssertionError(f"nginx ended with {self._process.wait(GLANCE)}")
        return self

    def _listens(self) -> bool:
        with contextlib.suppress(ConnectionRefusedError), socket.create_connection(("127.0.0.1", self.port)):
            return True
        return False

    @property
    def _command(self) -> list[str]:
        return [NGINX, "-p", str(self.directory), "-c", "nginx.conf", "-e", "error.log"]

    def _moved(self, site: str, socket_path: Path) -> str:
        moves = {
            r"unix:/run/antiphon/antiphon\.sock": f"unix:{socket_path}",
            r"/etc/ssl/antiphon/fullchain\.pem": str(self.directory / "upstream.pem"),
            r"/etc/ssl/antiphon/privkey\.pem": str(self.directory / "upstream.key"),
            r"/var/log/nginx/": f"{self.directory}/",
            r"antiphon\.example\.com": "127.0.0.1",
            r"listen \[::\].*\n": "",
            r"listen 80;": f"listen 127.0.0.1:{self.plain_port};",
            r"listen 443 ssl;": f"listen 127.0.0.1:{self.port} ssl;",
        }
        for old, new in moves.items():
            site, times = re.subn(old, new, site)
            assert times, f"{old} is not in the site"
        return site

    def _around(self) -> str:
        folders = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        places = "\n".join(f"    {name}_temp_path temp-{name};" for name in folders)
        user = "user root;\n" if os.geteuid() == 0 else ""
        return (
            f"{user}worker_processes 1;\npid nginx.pid;\nerror_log error.log;\n"
            "events { worker_connections 512; }\n"
            f"http {{\n{places}\n    access_log off;\n    include site.conf;\n}}\n"
        )


class Service(Gateway):
    """The gateway as its unit runs it: sandboxed, given its socket, reached through nginx."""

    def __init__(self, directory: Path, channels: Sequence[Mapping[str, Any]], **settings: Any) -> None:
        directory.mkdir()
        super().__init__(directory, channels, **settings)
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(str(directory / "antiphon.sock"))
        self.listener.listen(4096)
        self.proxy = Proxy(directory / "nginx", directory / "antiphon.sock")
        self.url = self.proxy.url
        self.base_url = f"{self.url}/v1"
        self._session.verify = str(self.proxy.authority)

    def __enter__(self) -> Self:
        self.proxy.start()
        try:
            return super().__enter__()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        super().close()
        self.proxy.__exit__(None, None, None)
        self.listener.close()

    def start(self) -> Self:
        if not self.token:
            self.command("init")
            self.token = self.new_token("tests")
        passed, unit = self.listener.fileno(), UNITS / "antiphon.service"
        with self._log_file.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, str(LAUNCH), str(passed), str(unit), *COMMAND, "serve"],
                cwd=self.directory,
                env={**self.environment, "GUNICORN_CMD_ARGS": f"--graceful-timeout={DRAIN}"},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=[passed],
                start_new_session=True,
            )
        try:
            self._until(self._is_ready, START_WITHIN, "being ready")
        except BaseException:
            self._abandon()
            raise
        return self

    def dial_proxy(self) -> socket.socket:
        """A connection of a client, open and silent."""
        context = ssl.create_default_context(cafile=self.proxy.authority)
        plain = socket.create_connection(("127.0.0.1", self.proxy.port), timeout=START_WITHIN)
        return context.wrap_socket(plain, server_hostname="127.0.0.1")


@pytest.fixture(scope="module")
def model() -> Iterator[ScriptedUpstream]:
    with ScriptedUpstream() as upstream:
        yield upstream


@pytest.fixture(scope="module")
def deployed(tmp_path_factory: pytest.TempPathFactory, model: ScriptedUpstream) -> Iterator[Service]:
    """One worker of eight threads: six requests at work, two threads to say no with."""
    directory = tmp_path_factory.mktemp("deployed") / "service"
    with Service(directory, [model.channel()], workers=1, threads=8) as service:
        yield service
