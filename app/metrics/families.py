"""The metrics: names, labels and units after Prometheus' rules (base units, `_total` for counters).

`prometheus_client` takes the directory of its files from the environment when it is imported, so this module is
imported after `app.metrics.files` has prepared one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

#: Seconds. A cache answers in less than the first, a long chain of tools in more than the last.
SECONDS = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
DATABASE_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.1, 0.5, 2.5)
GROUP_JOBS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0)

BY_CHANNEL = ("model", "channel")

#: The files are read by other processes; the metrics of this process alone are shown nowhere.
_registry = CollectorRegistry(auto_describe=False)


class BatchHistogram(Histogram):
    """A histogram that takes many observations at once. One by one, each costs two writes into the shared file."""

    bounds: Sequence[float]
    """Upper bounds of the buckets, without the last, endless one."""

    def add(self, counts: Sequence[int], sum: float) -> None:
        """`counts`: new observations in each bucket, the last one above all bounds."""
        parts: Any = self
        parts._sum.inc(sum)
        for bucket, count in zip(parts._buckets, counts, strict=True):
            if count:
                bucket.inc(count)


def _counter(name: str, words: str, labels: Sequence[str] = ()) -> Counter:
    return Counter(f"antiphon_{name}", words, labels, registry=_registry)


def _gauge(name: str, words: str, mode: Any, labels: Sequence[str] = ()) -> Gauge:
    """`mode`: how the values of the live processes become one."""
    return Gauge(f"antiphon_{name}", words, labels, registry=_registry, multiprocess_mode=mode)


def _histogram(name: str, words: str, buckets: Sequence[float], labels: Sequence[str] = ()) -> BatchHistogram:
    histogram = BatchHistogram(f"antiphon_{name}", words, labels, registry=_registry, buckets=buckets)
    histogram.bounds = buckets
    return histogram


# --- requests and responses

HTTP_REQUESTS = _counter("http_requests_total", "HTTP requests by view and status code.", ("route", "code"))
RESPONSES = _counter("responses_total", "Responses that have ended.", (*BY_CHANNEL, "status"))
TOKENS = _counter(
    "tokens_total",
    "Tokens by type. Cached ones and cache writes are part of the input, reasoning is part of the output.",
    (*BY_CHANNEL, "type"),
)
COST = _counter("cost_total", "Cost of the responses in the currency of the prices.", BY_CHANNEL)
TOKEN_RESPONSES = _counter("token_responses_total", "Responses by the name of the client's token.", ("token",))
TOKEN_TOKENS = _counter("token_tokens_total", "Input and output tokens by the client's token.", ("token", "type"))
TOKEN_COST = _counter("token_cost_total", "Cost by the name of the client's token.", ("token",))
FIRST_TOKEN = _histogram("time_to_first_token_seconds", "Time to the first output of streams.", SECONDS, BY_CHANNEL)
RESPONSE_SECONDS = _histogram("response_seconds", "Time from a request to its whole answer.", SECONDS, BY_CHANNEL)
IN_FLIGHT = _gauge("requests_in_flight", "Requests at work.", "livesum")
WEBSOCKETS = _gauge("websockets_open", "Open WebSockets.", "livesum")
WAITING = _gauge("requests_waiting", "Requests that wait for a free slot of a channel.", "livesum")

# --- channels

ATTEMPTS = _counter("attempts_total", "Attempts on channels; result is ok or the failure.", ("channel", "result"))
FAILOVERS = _counter(
    "failovers_total", "Failures of a channel after which another channel was tried.", ("channel", "reason")
)
CHANNEL_UP = _gauge("channel_up", "0 while a worker leaves the channel out, else 1.", "livemin", ["channel"])
CHANNEL_IN_FLIGHT = _gauge("channel_requests_in_flight", "Requests at work on the channel.", "livesum", ["channel"])
CHANNEL_COOLDOWN = _gauge(
    "channel_cooldown_seconds", "Seconds until the channel is tried again.", "livemax", ["channel"]
)
CHANNEL_PAUSED = _gauge(
    "channel_paused", "1 while an operator has paused or drained the channel, else 0.", "livemax", ["channel"]
)
TABLE_REJECTED = _gauge("channel_table_rejected", "1 while the present channel table is invalid.", "livemax")

# --- tools

TOOL_CALLS = _counter("tool_calls_total", "Calls of tools; result is ok or the failure.", ("server", "tool", "result"))
TOOL_SECONDS = _histogram("tool_call_seconds", "Time of a tool's call.", SECONDS, ("server",))

# --- the process

DATABASE_CALLS = _histogram(
    "database_seconds", "Time of a database call, with its retries.", DATABASE_SECONDS, ("operation",)
)
GROUPS = _histogram("database_group_jobs", "Jobs that one transaction of the writer commits.", GROUP_JOBS)
DATABASE_WAITING = _gauge("database_waiting_jobs", "Jobs that wait for the writer.", "livesum")
DATABASE_DROPPED = _counter("database_dropped_rows_total", "Rows of metadata that were lost: the writer was behind.")
PUMP_LAG = _gauge("pump_lag_seconds", "Time until the pump begins with what it is given.", "livemax")
QUEUED = _gauge("queue_jobs", "Background responses that wait for a worker.", "livemostrecent")
REAPED = _counter("responses_reaped_total", "Responses that were ended because the lease of their worker ran out.")
WORKERS = _gauge("workers", "Live processes by kind.", "livesum", ("kind",))
DISK_FREE = _gauge("disk_free_bytes", "Free bytes of a file system.", "livemin", ["place"])
