"""Runs `antiphon` in processes that are forked from one which has imported the package. The import takes a third of a
second, which each of a thousand commands and hundreds of gateways would pay.

A forked process has a directory, variables, arguments and an output of its own, like one that a shell starts.
`python forked_commands.py FD` is the process that forks, and FD its end of a socket for requests.
"""

from __future__ import annotations

import atexit
import faulthandler
import json
import os
import select
import signal
import socket
import subprocess
import sys
import weakref
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cache
from importlib import import_module
from pathlib import Path
from threading import Lock
from typing import Any, BinaryIO

#: The signal at which a forked process writes the stacks of its threads to its standard error, and words of each stack.
STACKS, STACK = signal.SIGRTMIN, "(most recent call first)"

_LARGEST_REQUEST = 64 * 1024
#: Of a number in a status pipe: the two may be read late, one after the other.
_DIGITS = 16


class ForkServer:
    """The process that forks, as the tests see it. It starts with `environment`."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._lock = Lock()
        self._requests, requests = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with requests:
            self._process = subprocess.Popen(
                [sys.executable, "-P", __file__, str(requests.fileno())],
                env=environment,
                pass_fds=[requests.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                start_new_session=True,
            )
        atexit.register(self.close)

    def close(self) -> None:
        """Ends the process. Those that it has forked go on."""
        atexit.unregister(self.close)
        self._requests.shutdown(socket.SHUT_RDWR)
        self._requests.close()
        self._process.wait()

    def run(
        self, arguments: Sequence[str], directory: Path, variables: Mapping[str, str], timeout: float
    ) -> subprocess.CompletedProcess[str]:
        """Runs `antiphon <arguments>` with `variables` beside the environment of this process. Raises TimeoutExpired
        after it has killed a command that takes longer than `timeout` seconds.
        """
        with _memory_file() as output, _memory_file() as errors:
            process = self.start(arguments, directory, variables, output, errors)
            try:
                code = process.wait(timeout)
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGKILL)
                raise
            return subprocess.CompletedProcess(arguments, code, _text(output), _text(errors))

    def start(
        self,
        arguments: Sequence[str],
        directory: Path,
        variables: Mapping[str, str],
        output: BinaryIO,
        errors: BinaryIO,
    ) -> ForkedProcess:
        """Starts `antiphon <arguments>` in a session of its own."""
        request = {"arguments": [*arguments], "directory": str(directory), "variables": dict(variables)}
        data = json.dumps(request).encode()
        assert len(data) <= _LARGEST_REQUEST
        status, theirs = os.pipe()
        try:
            with self._lock:
                socket.send_fds(self._requests, [data], [output.fileno(), errors.fileno(), theirs])
        finally:
            os.close(theirs)
        return ForkedProcess(arguments, status)


class ForkedProcess:
    """A process that has been forked; it has the names of subprocess.Popen. `status` is the pipe from which its process
    id can be read, and its exit code when it has ended.
    """

    def __init__(self, arguments: Sequence[str], status: int) -> None:
        weakref.finalize(self, os.close, status)
        self._arguments = arguments
        self._status = status
        self._lock = Lock()
        self.pid = int(os.read(status, _DIGITS))
        self.returncode: int | None = None

    def wait(self, timeout: float) -> int:
        """Returns the exit code, or the negative number of a signal. Raises TimeoutExpired."""
        if self.returncode is not None:
            return self.returncode
        end = select.poll()
        end.register(self._status, select.POLLIN)
        if not end.poll(timeout * 1000):
            raise subprocess.TimeoutExpired([*self._arguments], timeout)
        with self._lock:
            # Another thread may have read it meanwhile.
            if self.returncode is None:
                self.returncode = int(os.read(self._status, _DIGITS))
            return self.returncode

    def send_signal(self, number: int) -> None:
        """Does nothing when the process has ended: its id may be another's by then."""
        try:
            self.wait(0)
        except subprocess.TimeoutExpired:
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)


@cache
def fork_server(environment: tuple[tuple[str, str], ...]) -> ForkServer:
    """The tests of one process share one, which ends with them."""
    return ForkServer(dict(environment))


def _memory_file() -> BinaryIO:
    return open(os.memfd_create("output"), "w+b")


def _text(file: BinaryIO) -> str:
    file.seek(0)
    return file.read().decode()


# The process that forks


def _fork_on_request(requests: int) -> bool:
    """Returns True in each forked process, which is to run its command, and False when the socket is closed."""
    poll = select.poll()
    poll.register(requests, select.POLLIN)
    #: Process id and status pipe of a process, by the descriptor that becomes readable when it has ended.
    running: dict[int, tuple[int, int]] = {}
    while True:
        for descriptor, _ in poll.poll():
            if descriptor in running:
                poll.unregister(descriptor)
                _report_end(descriptor, *running.pop(descriptor))
                continue
            data, descriptors = _received(requests)
            if not data:
                return False
            pid = os.fork()
            if pid == 0:
                _become(json.loads(data), descriptors)
                return True
            output, errors, status = descriptors
            os.close(output)
            os.close(errors)
            ended = os.pidfd_open(pid)
            running[ended] = pid, status
            poll.register(ended, select.POLLIN)


def _received(requests: int) -> tuple[bytes, list[int]]:
    # A descriptor that a socket object owned would be closed twice in the forked processes.
    with socket.socket(fileno=os.dup(requests)) as own:
        data, descriptors, _, _ = socket.recv_fds(own, _LARGEST_REQUEST, 3)
    return data, descriptors


def _report_end(ended: int, pid: int, status: int) -> None:
    os.close(ended)
    _write(status, os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
    os.close(status)


def _write(status: int, number: int) -> None:
    with suppress(BrokenPipeError):  # the test does not wait any longer
        os.write(status, f"{number:{_DIGITS}}".encode())


def _become(request: dict[str, Any], descriptors: Sequence[int]) -> None:
    output, errors, status = descriptors
    os.setsid()
    _write(status, os.getpid())
    os.dup2(output, 1)
    os.dup2(errors, 2)
    os.closerange(3, os.sysconf("SC_OPEN_MAX"))
    os.chdir(request["directory"])
    os.environ.update(request["variables"])
    sys.argv[1:] = request["arguments"]


def _main() -> None:
    requests = int(sys.argv[1])
    faulthandler.register(STACKS)
    commands = import_module("app.cli")
    for name in commands.COMMANDS:
        import_module(f"app.cli.{name}")
    # What `python -m app.cli` has, and the usage lines show.
    sys.argv = [str(Path(commands.__file__).with_name("__main__.py"))]
    sys.modules["__main__"].__package__ = "app.cli"
    if _fork_on_request(requests):
        commands.main()


if __name__ == "__main__":
    _main()
