"""The directory of the files in which the processes of one gateway count. Each process writes its own files, and any
process can read them all.

It is in memory, made by the master with an unguessable name, and removed with it.
"""

from __future__ import annotations

import errno
import fcntl
import glob
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

log = logging.getLogger(__name__)

#: Where prometheus_client looks for the directory.
VARIABLE = "PROMETHEUS_MULTIPROC_DIR"
#: The files of processes that have ended are added up under this number, which no process has.
_ENDED = 0
_PREFIX = "antiphon-metrics"
_directory: str | None = None
"""The directory of this process and those that it forks."""
_MEMORY = Path("/dev/shm")  # noqa: S108 - a directory of our own is made in it


def prepare() -> None:
    """Makes an empty directory for this process and its children, unless they have one. Raises OSError."""
    global _directory
    # The variable alone may be that of another program, or of the master that has started this one.
    if _directory is None:
        _remove_left_over()
        _directory = os.environ[VARIABLE] = tempfile.mkdtemp(prefix=f"{_PREFIX}-{os.getpid()}-", dir=_place())


def remove() -> None:
    """Removes the directory. Called by the process that made it, when it ends."""
    if _directory is not None and _maker(Path(_directory)) == os.getpid():
        shutil.rmtree(_directory, ignore_errors=True)


def forget(pid: int) -> None:
    """Adds what an ended process has counted to the sums of all ended ones. Without this, each restart would leave
    files that every scrape reads.
    """
    directory = _directory
    if directory is None:
        return
    from prometheus_client.multiprocess import mark_process_dead

    try:
        with _locked(directory, fcntl.LOCK_EX):
            mark_process_dead(pid, directory)
            for kind in ("counter", "histogram"):
                _add_up(directory, kind, pid)
    except (OSError, RuntimeError, ValueError) as error:
        log.warning("the metrics of process %d are not added up: %s", pid, error)


@contextmanager
def readable() -> Iterator[str]:
    """The directory, while no files are being added up. Raises OSError when it is gone."""
    directory = _directory
    if directory is None:
        raise FileNotFoundError(errno.ENOENT, "there is no directory of metrics")
    with _locked(directory, fcntl.LOCK_SH):
        yield directory


def _add_up(directory: str, kind: str, pid: int) -> None:
    from prometheus_client.mmap_dict import MmapedDict

    path = os.path.join(directory, f"{kind}_{pid}.db")
    if not os.path.exists(path):
        return
    sums = MmapedDict(os.path.join(directory, f"{kind}_{_ENDED}.db"))
    try:
        for key, value, _, _ in MmapedDict.read_all_values_from_file(path):
            sums.write_value(key, sums.read_value(key)[0] + value, 0.0)
    finally:
        sums.close()
    os.unlink(path)


@contextmanager
def _locked(directory: str, how: int) -> Iterator[None]:
    lock = os.open(os.path.join(directory, "lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, how)
        yield
    finally:
        os.close(lock)


def _place() -> Path:
    return _MEMORY if os.access(_MEMORY, os.W_OK) else Path(tempfile.gettempdir())


def _remove_left_over() -> None:
    """Removes our directories whose makers were killed."""
    for name in glob.glob(str(_place() / f"{_PREFIX}-*")):
        path = Path(name)
        maker = _maker(path)
        with suppress(OSError):
            if maker is not None and path.lstat().st_uid == os.getuid() and not _is_alive(maker):
                shutil.rmtree(path, ignore_errors=True)


def _maker(path: Path) -> int | None:
    """The process that made this directory."""
    number = path.name.removeprefix(f"{_PREFIX}-").partition("-")[0]
    return int(number) if number.isdecimal() else None


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True
