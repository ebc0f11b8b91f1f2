"""The two C programs of the benchmark, compiled when they are first needed."""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
BUILD = HERE / "build"
WITHIN = 60


class NoCompiler(Exception):
    """An error for the user of the benchmark."""

    def __init__(self) -> None:
        super().__init__("the benchmark needs a C compiler: install gcc or clang, or set CC")


@dataclass(frozen=True, slots=True)
class Programs:
    mock: Path
    load: Path


def compiler() -> str | None:
    candidates = (os.environ.get("CC"), "cc", "gcc", "clang")
    return next((found for name in candidates if name and (found := shutil.which(name))), None)


def programs() -> Programs:
    """Raises NoCompiler, or CalledProcessError with the compiler's stderr."""
    return Programs(_built("mock"), _built("load"))


def _built(name: str) -> Path:
    program, sources = BUILD / name, (HERE / f"{name}.c", HERE / "common.h")
    if program.exists() and program.stat().st_mtime > max(source.stat().st_mtime for source in sources):
        return program
    cc = compiler()
    if cc is None:
        raise NoCompiler
    BUILD.mkdir(exist_ok=True)
    # Under a name of its own first: another run may be building it, too.
    fresh = BUILD / f"{name}.{os.getpid()}"
    subprocess.run([cc, "-O2", "-Wall", "-Wextra", "-o", fresh, sources[0]], check=True, timeout=WITHIN)
    return fresh.rename(program)
