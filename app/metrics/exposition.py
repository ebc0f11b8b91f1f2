"""The metrics of all processes as Prometheus reads them."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from prometheus_client.multiprocess import MultiProcessCollector

from app.metrics import files

CONTENT_TYPE = CONTENT_TYPE_PLAIN_0_0_4


def exposition() -> bytes:
    """The sums over all processes, and over those that have ended. Raises OSError when the files are gone."""
    registry = CollectorRegistry(auto_describe=False)
    with files.readable() as directory:
        MultiProcessCollector(registry, directory)
        return generate_latest(registry)
