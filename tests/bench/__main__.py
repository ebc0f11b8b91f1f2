"""`python -m tests.bench`: starts what takes part, puts the loads on it in turn, prints tables and writes JSON."""

from __future__ import annotations

import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
import orjson

from tests.bench import console, inside, metrics, rows, servers, usage
from tests.bench.loads import LOADS, Generator, Load
from tests.bench.processes import NotStarted
from tests.bench.programs import NoCompiler, programs
from tests.bench.rows import Measured
from tests.bench.servers import Missing, Server
from tests.ports import closed_port

RESULTS = Path(__file__).resolve().parent / "results"
DESCRIPTORS = 8192
PEERS = ("litellm", "nginx", "flask")
INSIDE = ("start", "memory", "validation", "storage", "usage", "metrics", "console")
QUICK = "json1,json32,slow32,fire8,paced50,tool1,paced500,start,validation"


class Progress:
    """One line on a terminal, nothing anywhere else."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._shown = sys.stderr.isatty()

    def show(self, what: str) -> None:
        if self._shown:
            print(f"\r\033[K{time.monotonic() - self._began:4.0f} s  {what}", end="", file=sys.stderr, flush=True)

    def close(self) -> None:
        if self._shown:
            print("\r\033[K", end="", file=sys.stderr, flush=True)


@dataclass(slots=True)
class Plan:
    """The options of the command line."""

    tests: Sequence[str]
    seconds: float
    rounds: int
    peers: Sequence[str]
    strangers: Sequence[Server]
    upstream_port: int
    missing: list[str] = field(default_factory=list)

    @property
    def loads(self) -> list[Load]:
        return [load for load in LOADS if load.name in self.tests]

    @property
    def loaded(self) -> set[str]:
        return {name for load in self.loads for name in load.servers}


@dataclass(slots=True)
class Bench:
    plan: Plan
    folder: Path
    progress: Progress
    stack: ExitStack
    measured: Measured = field(default_factory=Measured)
    running: dict[str, Server] = field(default_factory=dict)

    def run(self) -> None:
        compiled = programs()
        generator = Generator(compiled.load, self.folder)
        self.progress.show("starting")
        upstream = self._join(servers.mock(compiled.mock, self.plan.upstream_port, self.folder))
        # Before others hold processors and memory.
        self._look_inside(upstream, generator)
        self._start_gateways(upstream)
        self._start_peers(upstream)
        for load in self.plan.loads:
            self._put(load, generator)

    def _join(self, server: Any) -> Server:
        joined: Server = self.stack.enter_context(server)
        self.running[joined.name] = joined
        return joined

    def _look_inside(self, upstream: Server, generator: Generator) -> None:
        measures: dict[str, Callable[[], Any]] = {
            "start": lambda: inside.starting(self._new_folder("start"), upstream),
            "memory": lambda: self._memory(upstream, generator),
            "validation": inside.validation,
            "storage": lambda: inside.stored(self._new_folder("storage", make=True), lambda steps: None),
            "usage": lambda: usage.measure(self._new_folder("usage", make=True)),
            "metrics": lambda: metrics.measure(self._new_folder("metrics", make=True), upstream),
            "console": lambda: console.measure(self._new_folder("console", make=True)),
        }
        for name, measure in measures.items():
            if name in self.plan.tests:
                self.progress.show(name)
                self.measured.inside[name] = measure()

    def _memory(self, upstream: Server, generator: Generator) -> dict[str, float]:
        folder = self._new_folder("memory", make=True)
        with ExitStack() as stack:
            try:
                tls = stack.enter_context(servers.tls_upstream(upstream, folder / "upstream"))
            except Missing as missing:
                self._miss(missing)
                tls = None
            return inside.memory(folder, upstream, tls, generator)

    def _start_gateways(self, upstream: Server) -> None:
        tools = servers.tools_of(upstream.port)
        for name, workers, table in (("gateway", 1, None), ("gateway-2", 2, None), ("gateway-tools", 1, tools)):
            if name in self.plan.loaded:
                gateway = servers.new_gateway(self._new_folder(name), workers, upstream.port, table=table)
                self.stack.enter_context(gateway)
                self.running[name] = servers.as_server(name, gateway)
        if "no-console" in self.plan.loaded:
            gateway = servers.new_gateway(self._new_folder("no-console"), 1, upstream.port)
            gateway.set(console="off")
            self.stack.enter_context(gateway)
            self.running["no-console"] = servers.as_server("no-console", gateway)
        self._start_limited(upstream)
        if "gateway" in self.running:
            try:
                self._join(servers.nginx("behind-nginx", self.running["gateway"], self._new_folder("behind-nginx")))
            except Missing as missing:
                self._miss(missing)

    def _start_limited(self, upstream: Server) -> None:
        """One gateway as two servers: a token decides whether there are limits."""
        if "limited" in self.plan.loaded:
            gateway = servers.new_gateway(self._new_folder("limited"), 1, upstream.port, table=servers.PRICES)
            self.stack.enter_context(gateway)
            self.running["unlimited"] = servers.as_server("unlimited", gateway)
            self.running["limited"] = servers.with_limits("limited", gateway)

    def _start_peers(self, upstream: Server) -> None:
        for name in self.plan.peers:
            if name in self.plan.loaded:
                self.progress.show(f"starting {name}")
                try:
                    self.running[name] = servers.start(name, self.stack, upstream, self.folder)
                except Missing as missing:
                    self._miss(missing)
        self.running |= {stranger.name: stranger for stranger in self.plan.strangers}

    def _put(self, load: Load, generator: Generator) -> None:
        """The load on each in turn, there and back again, after a moment's warm-up."""
        strangers = {stranger.name for stranger in self.plan.strangers}
        present = [server for name, server in self.running.items() if name in load.servers or name in strangers]
        for number in range(self.plan.rounds):
            for server in present if number % 2 == 0 else reversed(present):
                self.progress.show(f"{load.name}  round {number + 1} of {self.plan.rounds}  {server.name}")
                figures = generator.run(server, load, self.plan.seconds)
                self.measured.runs.setdefault((load.name, server.name), []).append(figures)

    def _new_folder(self, name: str, *, make: bool = False) -> Path:
        folder = self.folder / name
        if make:
            folder.mkdir()
        return folder

    def _miss(self, missing: Missing) -> None:
        if str(missing) not in self.plan.missing:
            self.plan.missing.append(str(missing))


def report(measured: Measured, plan: Plan, before: tuple[float, float, float]) -> dict[str, Any]:
    return {
        "when": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "machine": {"processors": os.cpu_count(), "system": platform.platform(), "python": platform.python_version()},
        "load_average": {"before": before, "after": os.getloadavg()},
        "seconds": plan.seconds,
        "rounds": plan.rounds,
        "table": rows.judge(measured),
        "inside": measured.inside,
        "runs": [
            {"load": load, "server": server, "rounds": figures} for (load, server), figures in measured.runs.items()
        ],
    }


def _lift_descriptors() -> None:
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = DESCRIPTORS if most == resource.RLIM_INFINITY else min(most, DESCRIPTORS)
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, most))


def _chosen(tests: str) -> list[str]:
    known = [load.name for load in LOADS] + list(INSIDE)
    chosen = known if tests == "all" else [name.strip() for name in tests.split(",")]
    if unknown := set(chosen) - set(known):
        raise click.BadParameter(f"there is no {', '.join(sorted(unknown))}; there are {', '.join(known)}")
    return chosen


def _compared(compare: str) -> Iterator[str | Server]:
    for part in filter(None, compare.split(",")):
        name, _, url = part.partition("=")
        if url:
            port = url.rstrip("/").removesuffix("/v1").rpartition(":")[2]
            if not port.isdecimal() or "//127.0.0.1:" not in url:
                raise click.BadParameter(f"{url}: a server that runs already is named as http://127.0.0.1:PORT")
            key = os.environ.get("BENCH_KEY", "none")
            yield Server(name, int(port), (), (f"Authorization: Bearer {key}",))
        elif name in PEERS:
            yield name
        else:
            raise click.BadParameter(f"there is no {name}; there are {', '.join(PEERS)}, or name=URL")


@click.command()
@click.option("--tests", default=QUICK, show_default=True, help="What to measure, separated by commas; or all.")
@click.option("--seconds", default=2.0, show_default=True, help="How long one run is measured.")
@click.option("--rounds", default=2, show_default=True, help="How often each server is loaded.")
@click.option(
    "--compare", default="", help=f"Others to load: {', '.join(PEERS)}, or NAME=URL of one that runs already."
)
@click.option("--upstream-port", default=0, help="Where the upstream listens, for those that run already.")
@click.option("--json", "file", type=click.Path(path_type=Path), help="Where the figures are written.")
def main(tests: str, seconds: float, rounds: int, compare: str, upstream_port: int, file: Path | None) -> None:
    """Measures the gateway, and compares it with others."""
    compared = list(_compared(compare))
    plan = Plan(
        tests=_chosen(tests),
        seconds=seconds,
        rounds=rounds,
        peers=[one for one in compared if isinstance(one, str)],
        strangers=[one for one in compared if isinstance(one, Server)],
        upstream_port=upstream_port or closed_port(),
    )
    _lift_descriptors()
    before, progress = os.getloadavg(), Progress()
    with tempfile.TemporaryDirectory(prefix="antiphon-bench-") as folder, ExitStack() as stack:
        bench = Bench(plan, Path(folder), progress, stack)
        try:
            bench.run()
        except (NoCompiler, NotStarted, subprocess.CalledProcessError) as error:
            raise click.ClickException(str(error)) from None
        finally:
            progress.close()
    _show(bench, before)
    file = file or RESULTS / f"{time.strftime('%Y%m%d-%H%M%S')}.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(orjson.dumps(report(bench.measured, plan, before), option=orjson.OPT_INDENT_2))
    click.echo(f"\nwritten to {file}")


def _show(bench: Bench, before: tuple[float, float, float]) -> None:
    after = os.getloadavg()
    click.echo(
        f"{os.cpu_count()} processors, load average {before[0]:.1f} before and {after[0]:.1f} after; "
        "everything on the loopback, responses stored in SQLite"
    )
    pages = bench.measured.inside.get("console")
    for line in (
        *rows.load_tables(bench.measured, list(bench.running)),
        *(console.lines(pages) if pages else ()),
        *rows.ratio_table(rows.judge(bench.measured)),
    ):
        click.echo(line)
    for missing in bench.plan.missing:
        click.echo(f"\n{missing}")


if __name__ == "__main__":
    main()
