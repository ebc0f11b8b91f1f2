"""The benchmark itself still runs; what it finds depends on the machine and is not looked at."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import orjson
import pytest

from tests.bench.programs import compiler
from tests.bench.rows import ROWS, Measured, judge
from tests.gateway import ROOT


@pytest.mark.release
@pytest.mark.skipif(compiler() is None, reason="the benchmark's programs need a C compiler")
def test_a_short_run_fills_its_rows(tmp_path: Path) -> None:
    file = tmp_path / "figures.json"
    command = [sys.executable, "-m", "tests.bench", "--seconds", "0.2", "--rounds", "1", "--json", str(file)]
    done = subprocess.run(
        [*command, "--tests", "json1,paced50,tool1,validation"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    found = orjson.loads(file.read_bytes())
    assert [row["title"] for row in found["table"]] == [
        "JSON p50 added, 1 connection",
        "first token p50 added, 50 streams",
        "turn with one tool round, p50 added",
        "checking 200 items (64 KB)",
    ]
    assert all(row["title"] in done.stdout for row in found["table"])
    runs = {(run["load"], run["server"]): run["rounds"][0] for run in found["runs"]}
    for load, answers in (("json1", 1), ("paced50", 50)):
        for server in ("direct", "gateway"):
            assert runs[load, server]["answered"] >= answers
            assert runs[load, server]["failed"] == runs[load, server]["refused"] == runs[load, server]["late"] == 0
    with_tool = runs["tool1", "gateway-tools"]
    assert with_tool["answered"] >= 1
    assert with_tool["failed"] == with_tool["refused"] == 0
    assert runs["paced50", "gateway"]["lost"] == runs["paced50", "gateway"]["unended"] == 0
    assert done.stderr == ""


def test_each_row_tells_the_floor_from_the_goal() -> None:
    assert judge(Measured()) == []
    for row in ROWS:
        assert row.verdict(row.goal) == "goal"
        worse = -1 if row.better == "more" else 1
        assert row.verdict(row.floor + worse) == "MISSED"
        if row.floor != row.goal:
            assert row.verdict(row.floor) == "floor"
