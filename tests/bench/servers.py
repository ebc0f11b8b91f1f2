"""Who takes part: the gateway, those it is compared with, and the upstream behind them all."""

from __future__ import annotations

import os
import secrets
import shutil
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from tests.bench.processes import process
from tests.gateway import ROOT, ExecutedGateway, Gateway
from tests.ports import closed_port
from tests.upstream import self_signed

MODEL, BRIDGED, OVER_TLS = "gpt-4o", "gpt-4o-bridged", "gpt-4o-tls"
"""LiteLLM pretends to stream from unknown models, so the upstream's has a known name."""

TOOLS = "bench"
"""The label of the MCP server that the upstream is as well."""

TAG = "bench"
"""Of the channel that serves the upstream's own model."""

PRICES = {"models": {MODEL: {"price": {"input": 2, "output": 10}}}}
"""The section of the channel table that a budget in money needs."""

#: Every limit that a token can have, none of which is ever reached.
_LIMITS = (
    *("--rpm", "1000000000", "--tpm", "1000000000", "--concurrency", "10000"),
    *("--budget", "1000000Mtok/day,1000000Mtok/month,1000000usd/day,1000000usd/month"),
    *("--models", "gpt-*", "--tools", TOOLS, "--tags", TAG, "--expires", "30d", "--retention", "30d"),
)

THREADS = 1024
"""Enough for every stream of the largest load in each worker: connections are not shared out evenly."""

LITELLM_MISSING = """LiteLLM is not installed. To compare with it, give it a virtual environment of its own:
  python3 -m venv ~/litellm && ~/litellm/bin/pip install 'litellm[proxy]'
  make bench-compare LITELLM=~/litellm/bin/litellm"""
NGINX_MISSING = "nginx is not installed"


class Missing(Exception):
    """A program that is not on this machine."""


@dataclass(frozen=True, slots=True)
class Server:
    """Something that is loaded. `pids` are the roots of its process trees; none where it was not started here."""

    name: str
    port: int
    pids: Sequence[int] = ()
    headers: Sequence[str] = field(default=())


@contextmanager
def mock(program: Path, port: int, folder: Path) -> Iterator[Server]:
    with process([program, str(port)], port, folder) as pid:
        yield Server("direct", port, (pid,))


# --- the gateway ------------------------------------------------------------------------------------------------


def new_gateway(
    folder: Path,
    workers: int,
    upstream: int,
    tls: tuple[int, Path] | None = None,
    table: Mapping[str, Any] | None = None,
) -> Gateway:
    """A gateway with a directory of its own, not started; `tls` is the port and certificate of the same upstream, and
    `table` what its channel table has besides the channels."""
    folder.mkdir()
    channels: list[dict[str, Any]] = [
        {"name": "plain", "format": "responses", "models": [MODEL], "base_url": url_of(upstream), "tags": [TAG]},
        {"name": "chat", "format": "chat_completions", "models": {BRIDGED: MODEL}, "base_url": url_of(upstream)},
    ]
    if tls is not None:
        port, certificate = tls
        url = url_of(port).replace("http:", "https:")
        channels.append(
            {
                "name": "tls",
                "format": "responses",
                "models": {OVER_TLS: MODEL},
                "base_url": url,
                "ca_file": str(certificate),
            }
        )
    return ExecutedGateway(folder, channels, table, workers=workers, threads=THREADS)


def tools_of(upstream: int) -> Mapping[str, Any]:
    """The section of the channel table with the MCP server that runs on the upstream's port."""
    url = f"http://127.0.0.1:{upstream}/mcp"
    return {"tools": {"servers": [{"label": TOOLS, "url": url, "require_approval": "never"}]}}


def url_of(port: int) -> str:
    return f"http://127.0.0.1:{port}/v1"


def as_server(name: str, gateway: Gateway) -> Server:
    """A gateway that runs, with a token that may use its tools."""
    return _with_token(name, gateway, "--tools", "*")


def with_limits(name: str, gateway: Gateway) -> Server:
    """The same, with a token that has every limit."""
    return _with_token(name, gateway, *_LIMITS)


def _with_token(name: str, gateway: Gateway, *options: str) -> Server:
    token = gateway.new_token(name, *options)
    return Server(name, gateway.port, (gateway.pid,), (f"Authorization: Bearer {token}",))


# --- nginx ------------------------------------------------------------------------------------------------------

_NGINX = """
daemon off; master_process off; pid nginx.pid; error_log stderr error; worker_rlimit_nofile 8192;
events { worker_connections 4096; }
http {
  access_log off; client_body_temp_path body; proxy_temp_path proxy; fastcgi_temp_path f; uwsgi_temp_path u;
  scgi_temp_path s; client_max_body_size 64m; keepalive_requests 100000000;
  upstream behind { server 127.0.0.1:%(behind)d; keepalive 1024; keepalive_requests 100000000; }
  server {
    listen 127.0.0.1:%(port)d%(tls)s;
    location / {
      proxy_pass http://behind; proxy_http_version 1.1; proxy_set_header Connection ""; proxy_buffering off;
      proxy_read_timeout 300s; proxy_set_header Host $host:%(port)d;
    }
  }
}
"""


@contextmanager
def nginx(name: str, behind: Server, folder: Path, *, certificate: Path | None = None) -> Iterator[Server]:
    """As a plain reverse proxy. Its cost includes that of what is behind it, where that is not the upstream."""
    program = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")
    if program is None:
        raise Missing(NGINX_MISSING)
    folder.mkdir()
    port = closed_port()
    tls = (
        f" ssl; ssl_certificate {certificate}; ssl_certificate_key {certificate.with_suffix('.key')}"
        if certificate
        else ""
    )
    (folder / "nginx.conf").write_text(_NGINX % {"port": port, "behind": behind.port, "tls": tls})
    with process([program, "-p", folder, "-c", "nginx.conf", "-e", "stderr"], port, folder) as pid:
        pids = (pid,) if behind.name == "direct" else (pid, *behind.pids)
        yield Server(name, port, pids, behind.headers)


@contextmanager
def tls_upstream(behind: Server, folder: Path) -> Iterator[tuple[int, Path]]:
    """The upstream once more, over TLS: its port and its certificate."""
    folder.mkdir()
    _, certificate = self_signed(folder)
    with nginx("tls", behind, folder / "nginx", certificate=certificate) as server:
        yield server.port, certificate


# --- the others -------------------------------------------------------------------------------------------------


@contextmanager
def flask(folder: Path) -> Iterator[Server]:
    """A Flask route that does nothing, under the same gunicorn and as many threads."""
    port = closed_port()
    command = [sys.executable, "-P", "-m", "gunicorn", "--bind", f"127.0.0.1:{port}", "--workers", "1"]
    command += ["--worker-class", "gthread", "--threads", str(THREADS), "--worker-connections", str(THREADS + 256)]
    command += ["--keep-alive", "75", "--worker-tmp-dir", "/dev/shm", "tests.bench.nothing:application"]
    with process(command, port, folder, environment={"PYTHONPATH": str(ROOT)}) as pid:
        yield Server("flask", port, (pid,))


@contextmanager
def litellm(upstream: Server, folder: Path) -> Iterator[Server]:
    """LiteLLM's proxy with one worker, without a database."""
    program = shutil.which(os.path.expanduser(os.environ.get("LITELLM") or "litellm"))
    if program is None:
        raise Missing(LITELLM_MISSING)
    folder.mkdir()
    port = closed_port()
    to = {"model": f"openai/{MODEL}", "api_base": url_of(upstream.port), "api_key": "none"}
    rows = [
        {"model_name": MODEL, "litellm_params": to},
        {"model_name": BRIDGED, "litellm_params": {**to, "use_chat_completions_api": True}},
    ]
    (folder / "config.yaml").write_text(yaml.safe_dump({"model_list": rows}))
    command = [program, "--config", "config.yaml", "--host", "127.0.0.1", "--port", str(port), "--num_workers", "1"]
    key = f"sk-{secrets.token_hex(16)}"
    quiet = {"LITELLM_LOG": "ERROR", "LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_MASTER_KEY": key}
    with process(command, port, folder, within=120, environment=quiet) as pid:
        yield Server("litellm", port, (pid,), (f"Authorization: Bearer {key}",))


def start(name: str, stack: ExitStack, upstream: Server, folder: Path) -> Server:
    """One of those that the gateway can be compared with. Raises Missing."""
    if name == "nginx":
        return stack.enter_context(nginx("nginx", upstream, folder / "nginx"))
    if name == "flask":
        return stack.enter_context(flask(folder))
    return stack.enter_context(litellm(upstream, folder / "litellm"))
