"""The metrics of all processes as Prometheus reads them: the sums over all processes, and over those that have ended.

`prometheus_client` can merge its files too, and parses each key of each file for every scrape. Here each key becomes
the beginning of its line once; a scrape only adds up numbers.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from prometheus_client.mmap_dict import MmapedDict
from prometheus_client.utils import floatToGoString as number

from app.metrics import files

CONTENT_TYPE = CONTENT_TYPE_PLAIN_0_0_4

#: Lines whose beginnings are remembered. The labels are the operator's names, so a gateway has a few thousand.
_MOST_LINES = 50_000


class _Sample(NamedTuple):
    value: float
    at: float
    """Unix time, of gauges that show their newest value."""


def _newest(one: _Sample, other: _Sample) -> _Sample:
    return max(one, other, key=lambda sample: sample.at)


#: How the values that live processes have for one gauge become one, by the mode of the gauge.
_MERGED: Mapping[str, Callable[[_Sample, _Sample], _Sample]] = {
    "livesum": lambda one, other: _Sample(one.value + other.value, 0),
    "livemin": min,
    "livemax": max,
    "livemostrecent": _newest,
}


class _Line(NamedTuple):
    """A line without its number, made from the key of a sample."""

    family: str
    """The lines of HELP and TYPE."""
    text: str
    series: str = ""
    """Of a bucket: the line of the count of its histogram."""
    bound: float = 0.0
    """Of a bucket."""


def exposition() -> bytes:
    """Raises OSError when the files are gone, and ValueError when one is damaged."""
    with files.readable() as directory:
        return merged(sorted(Path(directory).glob("*.db")))


def merged(paths: Iterable[Path]) -> bytes:
    """The lines of these files, whose names have the type of a metric, the mode of a gauge, and the process."""
    families: dict[str, list[str]] = {}
    for kind, of_kind in _by_kind(paths).items():
        type, _, mode = kind.partition("_")
        values = _gauges(of_kind, _MERGED[mode]) if type == "gauge" else _sums(of_kind)
        lines = _histograms(values) if type == "histogram" else _plain(type, values)
        for family, line in lines:
            families.setdefault(family, [family]).append(line)
    return "".join("".join(lines) for lines in families.values()).encode()


# --- reading ----------------------------------------------------------------------------------------------------


def _by_kind(paths: Iterable[Path]) -> Mapping[str, list[Path]]:
    found: dict[str, list[Path]] = {}
    for path in paths:
        found.setdefault(path.stem.rpartition("_")[0], []).append(path)
    return found


def _sums(paths: Iterable[Path]) -> Mapping[str, float]:
    """The sum of each key over the files."""
    sums: dict[str, float] = defaultdict(float)
    for path in paths:
        for key, value, _, _ in _samples(path):
            sums[key] += value
    return sums


def _gauges(paths: Iterable[Path], merge: Callable[[_Sample, _Sample], _Sample]) -> Mapping[str, float]:
    found: dict[str, _Sample] = {}
    for path in paths:
        for key, value, at, _ in _samples(path):
            sample = _Sample(value, at)
            found[key] = merge(found[key], sample) if key in found else sample
    # One that shows its newest value shows nothing until a process has set it.
    return {key: sample.value for key, sample in found.items() if merge is not _newest or sample.at > 0}


def _samples(path: Path) -> Iterator[tuple[str, float, float, int]]:
    try:
        yield from MmapedDict.read_all_values_from_file(str(path))
    except RuntimeError as error:
        raise ValueError(f"{path.name}: {error}") from None


# --- writing ----------------------------------------------------------------------------------------------------


def _plain(type: str, values: Mapping[str, float]) -> Iterator[tuple[str, str]]:
    for key, value in values.items():
        line = _line(type, key)
        yield line.family, f"{line.text}{number(value)}\n"


def _histograms(values: Mapping[str, float]) -> Iterator[tuple[str, str]]:
    """The files have the observations of each bucket alone; a line has those of all smaller buckets as well."""
    histograms: dict[str, list[tuple[float, float, _Line]]] = {}
    for key, value in values.items():
        line = _line("histogram", key)
        if line.series:
            histograms.setdefault(line.series, []).append((line.bound, value, line))
        else:
            yield line.family, f"{line.text}{number(value)}\n"
    for count, buckets in histograms.items():
        total = 0.0
        for _, value, line in sorted(buckets):
            total += value
            yield line.family, f"{line.text}{number(total)}\n"
        yield line.family, f"{count}{number(total)}\n"


_lines: dict[str, _Line] = {}


def _line(type: str, key: str) -> _Line:
    line = _lines.get(key)
    if line is None:
        if len(_lines) >= _MOST_LINES:
            _lines.clear()
        line = _lines[key] = _made(type, *json.loads(key))
    return line


def _made(type: str, metric: str, name: str, labels: Mapping[str, str], help: str) -> _Line:
    shown = f"{metric}_total" if type == "counter" else metric
    words = help.replace("\\", r"\\").replace("\n", r"\n")
    family = f"# HELP {shown} {words}\n# TYPE {shown} {type}\n"
    if "le" not in labels:
        return _Line(family, _text(name, labels))
    bound = float(labels["le"])
    others = {label: value for label, value in labels.items() if label != "le"}
    text = _text(name, {**others, "le": number(bound)})
    return _Line(family, text, _text(f"{metric}_count", others), bound)


def _text(name: str, labels: Mapping[str, str]) -> str:
    pairs = ",".join(f'{label}="{_escaped(value)}"' for label, value in sorted(labels.items()))
    return f"{name}{{{pairs}}} " if pairs else f"{name} "


def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")
