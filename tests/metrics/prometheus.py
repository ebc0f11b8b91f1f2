"""A Prometheus of the tests' own that has one scrape in its database, and Debian's promtool."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import time
from typing import Any

import requests

from tests.metrics.scrapes import Scrape
from tests.ports import closed_port
from tests.relay.conftest import eventually

PROGRAMS = ("prometheus", "promtool")
#: What Prometheus adds to the labels of each sample.
TARGET = {"job": "antiphon", "instance": "127.0.0.1:9464"}
#: Seconds between the two scrapes in the database. Any shorter than the ranges of the queries.
_APART = 120
_STARTING = 60.0


def is_installed() -> bool:
    return all(map(shutil.which, PROGRAMS))


def promtool(*arguments: str, input: str | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["promtool", *arguments], input=input, capture_output=True, text=True, timeout=60)


@dataclass(frozen=True, slots=True)
class Prometheus:
    url: str
    at: int
    """Unix seconds of the newest scrape."""

    def ask(self, query: str) -> list[dict[str, Any]]:
        """The series of the answer, at the time of the newest scrape. A query that is none fails the test."""
        answer = requests.get(f"{self.url}/api/v1/query", {"query": query, "time": str(self.at)}, timeout=60).json()
        assert answer["status"] == "success", (query, answer)
        found = answer["data"]["result"]
        return found if answer["data"]["resultType"] == "vector" else [found]


@contextmanager
def running_prometheus(folder: Path, scraped: Scrape) -> Iterator[Prometheus]:
    """It has the scrape, and one from before in which nothing was counted."""
    at = int(time()) - 1
    (folder / "samples").write_text("\n".join([*_lines(scraped, at), "# EOF\n"]))
    made = promtool("tsdb", "create-blocks-from", "openmetrics", str(folder / "samples"), str(folder / "data"))
    assert made.returncode == 0, made.stderr
    (folder / "prometheus.yml").write_text("{}\n")
    address = f"127.0.0.1:{closed_port()}"
    command = ["prometheus", f"--config.file={folder / 'prometheus.yml'}", f"--storage.tsdb.path={folder / 'data'}"]
    with (folder / "log").open("wb") as output:
        process = subprocess.Popen([*command, f"--web.listen-address={address}"], stdout=output, stderr=output)
    try:
        eventually(lambda: _is_ready(process, address), "Prometheus to be ready", _STARTING)
        yield Prometheus(f"http://{address}", at)
    finally:
        process.terminate()
        process.wait(_STARTING)


def _is_ready(process: subprocess.Popen[bytes], address: str) -> bool:
    assert process.poll() is None, "Prometheus did not start"
    try:
        return requests.get(f"http://{address}/-/ready", timeout=20).status_code == 200
    except requests.ConnectionError:
        return False


def _lines(scraped: Scrape, at: int) -> Iterator[str]:
    """Both scrapes as OpenMetrics."""
    for family in scraped.families.values():
        yield f"# TYPE {family.name} {family.type}"
        counts = family.type in ("counter", "histogram")
        for sample in family.samples:
            for value, when in ((0.0 if counts else sample.value, at - _APART), (sample.value, at)):
                yield _line(sample.name, sample.labels, value, when)
    yield "# TYPE up gauge"
    yield _line("up", {}, 1.0, at)


def _line(name: str, labels: dict[str, str], value: float, at: int) -> str:
    pairs: Sequence[str] = [f'{label}="{text}"' for label, text in {**labels, **TARGET}.items()]
    return f"{name}{{{','.join(pairs)}}} {value} {at}"
