"""Clients of JavaScript, as their packages come. They are installed once, and the programs here run with them.

    with Client("agents", installed(cache, run_folder)) as client:
        outcome = client.run(base_url=…, token=…, model=…, …)      # what agents.mjs returns for the job

Tests that need them are skipped, with the reason, where Node or npm is missing or the registry cannot be reached.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import select
import shutil
import subprocess
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import orjson

JSON = dict[str, Any]
_HERE = Path(__file__).resolve().parent
_MANIFEST = ("package.json", "package-lock.json")
_OLDEST_NODE = 20
#: Seconds for one job, and for the installation.
PATIENCE, INSTALL_WITHIN = 60.0, 60.0
#: A registry that does not answer is given up at once, since a test waits.
_NPM = ("--loglevel=error", "--ignore-scripts", "--no-audit", "--no-fund", "--fetch-retries=0", "--fetch-timeout=20000")


class NotInstalled(Exception):
    """The packages cannot be had on this machine. The text is the reason."""


def installed(cache: Path, run_folder: Path) -> Path:
    """A directory under `cache` with the packages of the lock file. The processes of a run of tests, which share
    `run_folder`, try it once.

    Raises NotInstalled.
    """
    _check_programs()
    digest = hashlib.sha256(b"".join((_HERE / name).read_bytes() for name in _MANIFEST)).hexdigest()[:16]
    place, failure = cache / digest, run_folder / f"javascript-{digest}.failed"
    with (cache / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if place.exists():
            return place
        if failure.exists():
            raise NotInstalled(failure.read_text())
        try:
            _install(place)
        except NotInstalled as missing:
            failure.write_text(str(missing))
            raise
    return place


def _check_programs() -> None:
    for program in ("node", "npm"):
        if shutil.which(program) is None:
            raise NotInstalled(f"{program} is not installed")
    version = subprocess.run(["node", "--version"], capture_output=True, text=True, check=True).stdout.strip()
    if int(version.removeprefix("v").partition(".")[0]) < _OLDEST_NODE:
        raise NotInstalled(f"node is {version}, and the clients need v{_OLDEST_NODE}")


def _install(place: Path) -> None:
    """Into a directory beside it first, so that what is there is whole."""
    with tempfile.TemporaryDirectory(dir=place.parent) as folder:
        for name in _MANIFEST:
            shutil.copy(_HERE / name, folder)
        try:
            done = subprocess.run(["npm", "ci", *_NPM], cwd=folder, capture_output=True, timeout=INSTALL_WITHIN)
        except subprocess.TimeoutExpired:
            raise NotInstalled(f"npm has not installed the clients in {INSTALL_WITHIN:.0f} s") from None
        if done.returncode:
            said = done.stderr.decode(errors="replace").strip().splitlines()
            raise NotInstalled(f"npm cannot install the clients: {said[0] if said else done.returncode}")
        place.mkdir()
        os.rename(Path(folder) / "node_modules", place / "node_modules")


class Client:
    """One of the programs here, in a process that runs one job after another."""

    def __init__(self, program: str, packages: Path) -> None:
        # Imports are looked up from where the program lies.
        self._folder = tempfile.TemporaryDirectory()
        place = Path(self._folder.name)
        for name in ("serve", program):
            shutil.copy(_HERE / f"{name}.mjs", place)
        (place / "node_modules").symlink_to(packages / "node_modules")
        self._process = subprocess.Popen(
            ["node", str(place / "serve.mjs"), f"./{program}.mjs"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
            env={name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")},
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            pipe.close()
        self._process.wait()
        self._folder.cleanup()

    def run(self, **job: Any) -> JSON:
        """What the client has got. An error of its own fails the test."""
        written, read = self._process.stdin, self._process.stdout
        assert written is not None
        assert read is not None
        written.write(orjson.dumps(job) + b"\n")
        assert select.select([read], [], [], PATIENCE)[0], f"the client has said nothing for {PATIENCE:.0f} s"
        outcome: JSON = orjson.loads(read.readline())
        assert "error" not in outcome, outcome["error"]
        return outcome
