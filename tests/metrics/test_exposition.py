"""The text of a scrape equals what prometheus_client makes of the same files."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.mmap_dict import MmapedDict
from prometheus_client.multiprocess import MultiProcessCollector

from app.metrics.exposition import merged

BOUNDS = (0.0005, 0.1, 1.0, 10.0, 1e6, float("inf"))
MODES = ("livesum", "livemin", "livemax", "livemostrecent")

# Whole numbers: their sums do not depend on the order of the files.
values = st.integers(-(10**9), 10**9).map(float) | st.just(float("inf"))
counts = st.integers(0, 10**7).map(float)
labels = st.dictionaries(
    st.sampled_from(["channel", "model", "token"]), st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
)

Samples = dict[str, tuple[float, float]]


def key(family: str, sample: str, of: Mapping[str, str]) -> str:
    return json.dumps([family, sample, of, f'What "{family}" \\ counts.\nIn two lines.'], sort_keys=True)


@st.composite
def counters(draw: st.DrawFn) -> Samples:
    family = draw(st.sampled_from(["requests", "cost"]))
    return {key(family, f"{family}_total", of): (draw(counts), 0.0) for of in draw(st.lists(labels, max_size=3))}


@st.composite
def gauges(draw: st.DrawFn, mode: str) -> Samples:
    times = st.sampled_from([0.0, 1.5, 2.5]) if mode == "livemostrecent" else st.just(0.0)
    return {key(mode, mode, of): (draw(values), draw(times)) for of in draw(st.lists(labels, max_size=3))}


@st.composite
def histograms(draw: st.DrawFn) -> Samples:
    found: Samples = {}
    for of in draw(st.lists(labels, max_size=3)):
        found[key("seconds", "seconds_sum", of)] = draw(counts), 0.0
        for bound in draw(st.permutations(BOUNDS)):
            le = "+Inf" if bound == float("inf") else str(bound)
            found[key("seconds", "seconds_bucket", {**of, "le": le})] = draw(counts), 0.0
    return found


@st.composite
def processes(draw: st.DrawFn) -> dict[str, Samples]:
    """The samples of each file."""
    found: dict[str, Samples] = {}
    for pid in draw(st.lists(st.integers(0, 40_000), max_size=3, unique=True)):
        found[f"counter_{pid}.db"] = draw(counters())
        found[f"histogram_{pid}.db"] = draw(histograms())
        found.update({f"gauge_{mode}_{pid}.db": draw(gauges(mode)) for mode in draw(st.lists(st.sampled_from(MODES)))})
    return found


def write(directory: Path, written: Mapping[str, Samples]) -> list[Path]:
    for name, samples in written.items():
        file = MmapedDict(str(directory / name))
        for sample, (value, at) in samples.items():
            file.write_value(sample, value, at)
        file.close()
    return list(directory.glob("*.db"))


def expected(directory: Path) -> str:
    registry: Any = CollectorRegistry(auto_describe=False)
    MultiProcessCollector(registry, str(directory))
    return generate_latest(registry).decode()


def lines_of(text: str) -> tuple[set[str], list[str]]:
    """The lines of HELP and TYPE, and those of the samples."""
    lines = sorted(text.split("\n"))
    return {line for line in lines if line.startswith("#")}, [line for line in lines if not line.startswith("#")]


@settings(max_examples=50)
@given(processes())
def test_a_scrape_is_what_the_library_makes_of_the_files(written: dict[str, Samples]) -> None:
    with tempfile.TemporaryDirectory() as directory:
        paths = write(Path(directory), written)
        heads, samples = lines_of(merged(paths).decode())
        theirs, expected_samples = lines_of(expected(Path(directory)))
        assert samples == expected_samples
        # The library also writes the head of a gauge that no process has set yet.
        assert heads <= theirs


def test_a_family_is_written_as_one_group(tmp_path: Path) -> None:
    for pid in (1, 2):
        write(tmp_path, {f"counter_{pid}.db": {key("cost", "cost_total", {"model": str(pid)}): (1.0, 0.0)}})
    lines = merged(tmp_path.glob("*.db")).decode().splitlines()
    assert [line.partition(" ")[0] for line in lines[:2]] == ["#", "#"]
    assert sorted(lines[2:]) == ['cost_total{model="1"} 1.0', 'cost_total{model="2"} 1.0']


def test_a_damaged_file_is_an_error(tmp_path: Path) -> None:
    (path,) = write(tmp_path, {"counter_1.db": {key("cost", "cost_total", {}): (1.0, 0.0)}})
    with path.open("r+b") as file:
        file.seek(8)
        file.write((10**6).to_bytes(4, "little"))
    with pytest.raises(ValueError, match=r"counter_1\.db"):
        merged([path])
