"""What systemd does to a service just before it runs it: `python launch.py FD UNIT COMMAND…`, a program of its own.

The listening socket FD becomes descriptor 3, and the system calls that UNIT refuses are refused.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

FIRST_PASSED = 3
ALLOW, REFUSE_WITH = 0x7FFF0000, 0x00050000
NO_SUCH_CALL = -1
PR_SET_NO_NEW_PRIVS, PR_SET_MDWE = 38, 65


def main() -> None:
    listener, unit, command = int(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:]
    os.dup2(listener, FIRST_PASSED)
    os.environ.update(LISTEN_FDS="1", LISTEN_PID=str(os.getpid()))
    settings = [line.partition("=")[::2] for line in unit.read_text().splitlines()]
    calls: set[str] = set()
    for value in (value for name, value in settings if name == "SystemCallFilter"):
        named = {call for name in value.lstrip("~").split() for call in _calls(name)}
        calls = calls - named if value.startswith("~") else calls | named
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0
    if ("MemoryDenyWriteExecute", "yes") in map(tuple, settings):
        libc.prctl(PR_SET_MDWE, 1, 0, 0, 0)  # kernels before 6.3 do not know it
    _allow_only(calls)
    os.execv(command[0], command)


def _calls(name: str) -> Iterator[str]:
    """The system calls of a set such as @system-service, sets within it included."""
    if not name.startswith("@"):
        yield name
        return
    listed = subprocess.run(["systemd-analyze", "syscall-filter", name], check=True, capture_output=True, text=True)
    for line in listed.stdout.splitlines():
        if line.startswith(" ") and not line.lstrip().startswith("#"):
            yield from _calls(line.strip())


def _allow_only(calls: set[str]) -> None:
    """EPERM for all others, in this process and in whatever it becomes."""
    seccomp = ctypes.CDLL("libseccomp.so.2")
    seccomp.seccomp_init.restype = ctypes.c_void_p
    context = ctypes.c_void_p(seccomp.seccomp_init(ctypes.c_uint32(REFUSE_WITH | 1)))
    for call in calls:
        number = seccomp.seccomp_syscall_resolve_name(call.encode())
        if number != NO_SUCH_CALL:
            seccomp.seccomp_rule_add(context, ctypes.c_uint32(ALLOW), number, 0)
    assert seccomp.seccomp_load(context) == 0


if __name__ == "__main__":
    main()
