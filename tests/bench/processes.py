"""Processes that the benchmark starts, what they cost, and their end."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

GLANCE = 0.02
STOP_WITHIN = 60.0
_TICKS = os.sysconf("SC_CLK_TCK")


class NotStarted(Exception):
    """A server that ended, or did not listen in time; with the end of its log."""


@contextmanager
def process(
    command: Sequence[str | Path],
    port: int,
    folder: Path,
    *,
    within: float = 20.0,
    environment: Mapping[str, str] | None = None,
) -> Iterator[int]:
    """The pid of a server, from when it listens. What it says goes to a file in `folder`."""
    log = folder / f"{Path(command[0]).name}-{port}.log"
    with log.open("wb") as output:
        server = subprocess.Popen(
            command,
            cwd=folder,
            env={**without_proxies(), **(environment or {})},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    try:
        _await_port(server, port, within, log)
        yield server.pid
    finally:
        _end(server)


def _await_port(server: subprocess.Popen[bytes], port: int, within: float, log: Path) -> None:
    until = time.monotonic() + within
    while True:
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        if server.poll() is not None or time.monotonic() > until:
            raise NotStarted(f"{server.args!r} does not listen on port {port}:\n{log.read_text()[-2000:]}")
        time.sleep(GLANCE)


def _end(server: subprocess.Popen[bytes]) -> None:
    server.terminate()
    try:
        server.wait(STOP_WITHIN)
    except subprocess.TimeoutExpired:
        # It was started as the leader of a group of its own.
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()


def without_proxies() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.upper().endswith("_PROXY")}


def family(roots: Sequence[int]) -> list[int]:
    """These processes and all their descendants."""
    found = list(roots)
    for pid in found:
        with suppress(OSError):
            for task in os.listdir(f"/proc/{pid}/task"):
                found += map(int, Path(f"/proc/{pid}/task/{task}/children").read_text().split())
    return found


def cpu_seconds(roots: Sequence[int]) -> float:
    """What they and their descendants have used so far."""
    ticks = 0
    for pid in family(roots):
        with suppress(OSError):
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            ticks += int(fields[11]) + int(fields[12])
    return ticks / _TICKS


def pss_kib(roots: Sequence[int]) -> int:
    """Their memory, of which what several share counts for each its part."""
    return sum(_pss(pid) for pid in family(roots))


def _pss(pid: int) -> int:
    with suppress(OSError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1])
    return 0
