"""The loads, and how one of them is put on one server."""

from __future__ import annotations

import math
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson

from tests.bench.processes import cpu_seconds
from tests.bench.servers import BRIDGED, MODEL, TOOLS, Server

Figures = dict[str, Any]
JSON = dict[str, Any]

INTERVAL_MS = 100
FIREHOSE_DELTAS = 2000
PLAIN = "deltas=16 size=24"
TOOL = {"type": "mcp", "server_label": TOOLS, "require_approval": "never"}
#: Requests that were begun may take so many seconds more before they count as late.
TAIL = 20


@dataclass(frozen=True, slots=True)
class Load:
    name: str
    title: str
    connections: int
    servers: tuple[str, ...]
    """The servers that it is put on."""
    wish: str = PLAIN
    """What the upstream's answer is to be like; see mock.c."""
    model: str = MODEL
    tools: Sequence[Mapping[str, Any]] = ()
    deltas: int = 0
    ramp: float = 0.0
    """Seconds over which the connections begin. Each sends one request, for a stream that beats for the whole run."""
    columns: tuple[str, ...] = field(default=("rate", "latency_p50", "latency_p99", "cpu"))

    @property
    def paced(self) -> bool:
        return self.ramp > 0

    def seconds(self, measured: float) -> tuple[float, float]:
        """How long the warm-up takes, and all of it. What beats ten times a second is watched for twice as long."""
        warm_up = self.ramp + 0.25
        return warm_up, warm_up + (2 * measured if self.paced else measured)

    def body(self, measured: float) -> tuple[bytes, int]:
        """The request, and how many deltas its answer has."""
        deltas, wish = self.deltas, self.wish
        if self.paced:
            deltas = math.ceil(self.seconds(measured)[1] * 1000 / INTERVAL_MS)
            wish = f"{'' if wish == PLAIN else wish} deltas={deltas} every={INTERVAL_MS} size=24"
        request: JSON = {"model": self.model, "input": f"[bench {wish}] Hello, who are you?"}
        if self.tools:
            request["tools"] = self.tools
        return orjson.dumps({**request, "stream": True} if deltas else request), deltas

    @property
    def offered(self) -> float:
        """Events a second, of a paced load."""
        return self.connections * 1000 / INTERVAL_MS


_STREAM = ("events", "first_p50", "delay_p50", "delay_p99", "cpu")
_FIREHOSE = f"deltas={FIREHOSE_DELTAS} size=24"
_PROXIES = ("direct", "nginx", "gateway", "behind-nginx", "litellm")

LOADS = (
    Load("json1", "JSON, 1 connection", 1, _PROXIES),
    Load("json32", "JSON, 32 connections", 32, (*_PROXIES, "flask")),
    Load("limits32", "JSON, 32 connections, without limits and with all of them", 32, ("unlimited", "limited")),
    Load("console32", "JSON, 32 connections, with the console and without", 32, ("gateway", "no-console")),
    Load(
        "slow32",
        "JSON, 32 connections, upstream answers after 100 ms",
        32,
        ("direct", "gateway-2", "litellm"),
        wish="deltas=16 size=24 first=100",
    ),
    Load(
        "fire8",
        f"8 streams of {FIREHOSE_DELTAS:,} deltas without a pause",
        8,
        _PROXIES,
        wish=_FIREHOSE,
        deltas=FIREHOSE_DELTAS,
        columns=_STREAM,
    ),
    Load(
        "bridge8",
        "the same from an upstream that speaks chat completions",
        8,
        ("gateway", "litellm"),
        wish=_FIREHOSE,
        deltas=FIREHOSE_DELTAS,
        model=BRIDGED,
        columns=_STREAM,
    ),
    Load(
        "paced50",
        "50 streams, 10 events a second each",
        50,
        ("direct", "gateway", "behind-nginx", "litellm"),
        ramp=2,
        columns=_STREAM,
    ),
    Load(
        "tool1",
        "JSON, 1 connection, a call of a tool between two exchanges",
        1,
        ("direct", "gateway-tools"),
        wish="call=1 deltas=16 size=24",
        tools=(TOOL,),
    ),
    Load(
        "tools100",
        "100 streams, a call of a tool before 10 events a second each",
        100,
        ("gateway-tools",),
        wish="call=1",
        tools=(TOOL,),
        ramp=2,
        columns=_STREAM,
    ),
    Load("paced500", "500 streams", 500, ("nginx", "gateway"), ramp=4, columns=_STREAM),
    Load("paced1000", "1,000 streams", 1000, ("gateway-2",), ramp=5, columns=_STREAM),
)


@dataclass(frozen=True, slots=True)
class Generator:
    """The load program, and where it finds the bodies that it is to send."""

    program: Path
    folder: Path

    def command(self, server: Server, load: Load, measured: float) -> list[str]:
        body, deltas = load.body(measured)
        file = self.folder / f"{load.name}.json"
        file.write_bytes(body)
        warm_up, seconds = load.seconds(measured)
        options = {"-p": server.port, "-b": file, "-c": load.connections, "-t": seconds, "-w": warm_up, "-x": TAIL}
        if deltas:
            options |= {"-n": deltas, "-r": load.ramp}
        command = [str(self.program), *(str(part) for option in options.items() for part in option)]
        if load.paced:
            command.append("-1")
        return [*command, *(part for header in server.headers for part in ("-H", header))]

    def run(self, server: Server, load: Load, measured: float) -> Figures:
        """What one run of the load on the server shows; `cpu` in microseconds a request or event."""
        used, began = cpu_seconds(server.pids), time.monotonic()
        done = subprocess.run(
            self.command(server, load, measured),
            capture_output=True,
            check=True,
            timeout=load.seconds(measured)[1] + 60,
        )
        figures: Figures = orjson.loads(done.stdout)
        used = cpu_seconds(server.pids) - used
        count = figures["events"] if "events" in figures else figures["answered"]
        if count and server.pids:
            figures["cpu"] = used / count * 1e6
        figures["cores"] = used / (time.monotonic() - began)
        return figures
