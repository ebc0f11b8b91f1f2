"""How long a scrape of `/metrics` takes when many tokens and channels have been counted."""

from __future__ import annotations

import http.client
import statistics
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import orjson

from app.settings import read_settings
from app.store.store import Store
from tests import ports
from tests.bench.servers import MODEL, Server, url_of
from tests.gateway import ExecutedGateway, Gateway
from tests.metrics.scrapes import Scrape, listens, scrape

TOKENS, CHANNELS = 50, 20
MODELS = (1, 3)
"""Of each channel: histograms are by model and channel, so most of the lines are theirs."""
WORKERS = 2
REQUESTS = 900
"""Each token and each model is used by both workers."""
SCRAPES = 15
WITHIN = 20.0
GLANCE = 0.05


def measure(folder: Path, upstream: Server) -> dict[str, float]:
    """Milliseconds by the number of models that each channel has."""
    found = {}
    for models in MODELS:
        (own := folder / str(models)).mkdir()
        found[str(models)] = _measure(own, upstream, models)
    return found


def _measure(folder: Path, upstream: Server, models: int) -> float:
    """The median."""
    names = [[f"model-{channel}-{model}" for model in range(models)] for channel in range(CHANNELS)]
    with closing(ports.reserve()) as reserved:
        address = f"127.0.0.1:{ports.number(reserved)}"
        rows = _channels(names, upstream)
        with ExecutedGateway(folder, rows, workers=WORKERS, worker_processes=1, metrics_bind=address) as gateway:
            _use(gateway, _tokens(gateway), [name for channel in names for name in channel])
            _await_counts(address)
            return statistics.median(_took(address) for _ in range(SCRAPES))


def _channels(names: Sequence[Sequence[str]], upstream: Server) -> list[dict[str, Any]]:
    url = url_of(upstream.port)
    return [
        {
            "name": f"channel-{number}",
            "format": "responses",
            "models": dict.fromkeys(models, MODEL),
            "base_url": url,
        }
        for number, models in enumerate(names)
    ]


def _tokens(gateway: Gateway) -> list[str]:
    settings = read_settings(gateway.environment, gateway.directory)
    store = Store(settings.database_url, peppers=settings.keys_for("tokens"))
    try:
        return [store.tokens.create(f"token-{number}", "ada")[1] for number in range(TOKENS)]
    finally:
        store.close()


def _use(gateway: Gateway, tokens: Sequence[str], models: Sequence[str]) -> None:
    """Streams, each on a connection of its own, so that all workers count."""
    for number in range(REQUESTS):
        model = models[number % len(models)]
        body = orjson.dumps({"model": model, "input": "[bench deltas=1 size=24] Hello", "stream": True})
        headers = {"Authorization": f"Bearer {tokens[number % TOKENS]}", "Content-Type": "application/json"}
        with closing(http.client.HTTPConnection("127.0.0.1", gateway.port, timeout=WITHIN)) as connection:
            connection.request("POST", "/v1/responses", body, headers)
            answer = connection.getresponse()
            answer.read()
        if answer.status != 200:
            raise AssertionError(f"{model} was answered with {answer.status}\n{gateway.log[-2000:]}")


def _await_counts(address: str) -> None:
    """Every process writes its counts from time to time."""
    late = time.monotonic() + WITHIN
    while not listens(address) or _is_short(scrape(address)):
        if time.monotonic() > late:
            raise AssertionError("/metrics does not show all tokens and channels")
        time.sleep(GLANCE)


def _is_short(found: Scrape) -> bool:
    names, channels = found.values_of("token"), found.values_of("channel")
    counted = found.value("antiphon_token_responses_total")
    return counted < REQUESTS or len(names) < TOKENS or len(channels) < CHANNELS


def _took(address: str) -> float:
    """From the connection to the last byte."""
    began = time.perf_counter()
    with closing(http.client.HTTPConnection(address, timeout=WITHIN)) as connection:
        connection.request("GET", "/metrics")
        connection.getresponse().read()
    return (time.perf_counter() - began) * 1000
