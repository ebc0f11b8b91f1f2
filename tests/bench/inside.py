"""What is measured without a load: how soon a gateway answers, what it holds, what a large request costs to check."""

from __future__ import annotations

import http.client
import shutil
import statistics
import subprocess
import threading
import time
import timeit
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson

from app.schemas.create import read_create
from tests.bench import storage
from tests.bench.loads import TOOL, Generator, Load
from tests.bench.processes import pss_kib
from tests.bench.servers import MODEL, OVER_TLS, Server, as_server, new_gateway, tools_of
from tests.databases import running_server
from tests.gateway import Gateway

STARTS = 3
STREAMS = 400
OPENING = 2.0
SETTLING = 1.5
ITEMS, BODY = 200, 64 * 1024

_WARM_UP = Load("warm-up", "", 8, ())
_OPEN = Load("open", "", STREAMS, (), wish="deltas=6 every=1000 size=24", deltas=6)


def starting(folder: Path, upstream: Server) -> float:
    """Seconds from the command to the first request that was answered, with two workers."""
    gateway = new_gateway(folder, 2, upstream.port)
    with gateway:
        pass
    return statistics.median(_started(gateway) for _ in range(STARTS))


def _started(gateway: Gateway) -> float:
    answered: list[float] = []
    over = threading.Event()
    asking = threading.Thread(target=_ask_until_answered, args=(gateway, answered, over))
    began = time.monotonic()
    asking.start()
    try:
        with gateway:
            asking.join(30)
    finally:
        over.set()
        asking.join()
    return answered[0] - began


def _ask_until_answered(gateway: Gateway, answered: list[float], over: threading.Event) -> None:
    body = orjson.dumps({"model": MODEL, "input": "Hello"})
    headers = {"Authorization": f"Bearer {gateway.token}", "Content-Type": "application/json"}
    while not answered and not over.wait(0.005):
        connection = http.client.HTTPConnection("127.0.0.1", gateway.port, timeout=5)
        with suppress(OSError, http.client.HTTPException):
            connection.request("POST", "/v1/responses", body, headers)
            if connection.getresponse().status == 200:
                answered.append(time.monotonic())
        connection.close()


def memory(folder: Path, upstream: Server, tls: tuple[int, Path] | None, load: Generator) -> dict[str, float]:
    """MiB of two idle workers, the same with a tool server, and KiB of each stream that is open; each on a gateway that
    has done nothing else."""
    idle, plain = _held(new_gateway(folder / "plain", 2, upstream.port), MODEL, load)
    found = {"idle": idle / 1024, "stream": plain}
    found["idle_tools"] = _idle_with_tools(folder / "tools", upstream, load)
    if tls is not None:
        _, found["tls_stream"] = _held(new_gateway(folder / "tls", 2, upstream.port, tls), OVER_TLS, load)
    return found


def _idle_with_tools(folder: Path, upstream: Server, load: Generator) -> float:
    with new_gateway(folder, 2, upstream.port, table=tools_of(upstream.port)) as gateway:
        server = as_server("gateway", gateway)
        load.run(server, replace(_WARM_UP, wish="call=1", tools=(TOOL,)), 0.2)
        return pss_kib(server.pids) / 1024


def _held(gateway: Gateway, model: str, load: Generator) -> tuple[float, float]:
    with gateway:
        server = as_server("gateway", gateway)
        load.run(server, replace(_WARM_UP, model=model), 0.2)
        idle = pss_kib(server.pids)
        command = [*load.command(server, replace(_OPEN, model=model), OPENING), "-1", "-r", str(OPENING)]
        streams = subprocess.Popen(command, stdout=subprocess.PIPE)
        try:
            time.sleep(OPENING + SETTLING)
            held = pss_kib(server.pids)
            output, _ = streams.communicate(timeout=60)
        finally:
            streams.kill()
            streams.wait()
        if orjson.loads(output)["answered"] != STREAMS:
            raise AssertionError(f"not every stream was open: {output.decode()}\n{gateway.log[-2000:]}")
    return idle, (held - idle) / STREAMS


def validation() -> float:
    """Microseconds that a conversation of two hundred items takes to check."""
    body = orjson.loads(orjson.dumps(_conversation()))
    return min(timeit.repeat(lambda: read_create(body), number=20, repeat=25)) / 20 * 1e6


def _conversation() -> dict[str, Any]:
    """Messages, calls and their outputs, as an agent sends them."""
    text = "Read the file, say why its test fails, and mend it with the smallest change. " * 12
    items: list[dict[str, Any]] = []
    for number in range(ITEMS // 4):
        call = f"call_{number:04d}"
        text_of_item = text[: (BODY - 20_000) // (ITEMS // 4) // 3]
        items += [
            {"type": "message", "role": "user", "content": [{"type": "input_text", "text": text_of_item}]},
            {"type": "function_call", "call_id": call, "name": "read", "arguments": '{"path":"src/module.py"}'},
            {"type": "function_call_output", "call_id": call, "output": text_of_item},
            {
                "type": "message",
                "role": "assistant",
                "status": "completed",
                "content": [{"type": "output_text", "text": text_of_item, "annotations": []}],
            },
        ]
    return {"model": MODEL, "input": items, "instructions": text}


def stored(folder: Path, progress: Callable[[int], None]) -> dict[str, dict[str, Any]]:
    """What tests.bench.storage finds; MariaDB only where it is installed."""
    found = {"sqlite": storage.measure(f"sqlite:///{folder / 'storage.db'}", progress)}
    if not (shutil.which("mariadbd") or shutil.which("mariadbd", path="/usr/sbin:/usr/local/sbin")):
        return found
    (folder / "mariadb").mkdir()
    with running_server(folder / "mariadb") as server:
        server.run("CREATE DATABASE antiphon")
        found["mariadb"] = storage.measure(server.url("antiphon"), progress)
    return found
