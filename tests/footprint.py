"""What a process holds, as the kernel counts it: threads, descriptors and memory."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

MIB = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Footprint:
    threads: int
    descriptors: int
    memory: int
    """Bytes. A page that several processes share counts for each by its share."""


def footprint(pid: int) -> Footprint:
    process = Path(f"/proc/{pid}")
    return Footprint(
        threads=_value(process / "status", "Threads:"),
        descriptors=len(list((process / "fd").iterdir())),
        memory=memory(pid),
    )


def memory(pid: int) -> int:
    return _value(Path(f"/proc/{pid}/smaps_rollup"), "Pss:") * 1024


def memory_of(pids: Iterable[int]) -> int:
    return sum(map(memory, pids))


def _value(file: Path, name: str) -> int:
    """The number behind a name in one of the kernel's tables."""
    return next(int(line.split()[1]) for line in file.read_text().splitlines() if line.startswith(name))
