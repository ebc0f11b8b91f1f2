"""How long a report of usage takes over a million responses."""

from __future__ import annotations

import time
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path

from app.reports.usage import usage_report
from app.store.store import Store
from app.store.sums import COLUMNS
from tests.store import rows

RESPONSES = 1_000_000
DAYS, TOKENS, MODELS, CHANNELS = 30, 50, 6, 2
RUNS = 5
_KEYS = DAYS * TOKENS * MODELS * CHANNELS

_NUMBERS = "WITH RECURSIVE n (i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM n WHERE i < {last})"
_RESPONSES = (
    "INSERT INTO response (id, owner, status, token, model, channel, client, created_at, completed_at, first_byte_ms,"
    " total_ms, input_tokens, cached_tokens, cache_write_tokens, output_tokens, reasoning_tokens, cost)"
    f" {_NUMBERS.format(last=RESPONSES - 1)}"
    f" SELECT 'resp_' || i, 'ada', 'completed', i % {TOKENS} + 1, 'model-' || (i % {MODELS}),"
    f" 'channel-' || (i % {CHANNELS}), 'curl', ? + i, ? + i, i % 1000, i % 9000, 1000, 500, 0, 100, 0, 2000 FROM n"
)
_SUMS = (
    f"INSERT INTO usage_day (day, token, model, channel, {', '.join(COLUMNS)})"
    f" {_NUMBERS.format(last=_KEYS - 1)}"
    f" SELECT date(?, '-' || (i % {DAYS}) || ' days'), i / {DAYS} % {TOKENS} + 1,"
    f" 'model-' || (i / {DAYS * TOKENS} % {MODELS}),"
    f" 'channel-' || (i / {DAYS * TOKENS * MODELS}), {', '.join([str(RESPONSES // _KEYS)] * len(COLUMNS))} FROM n"
)


def measure(folder: Path) -> dict[str, float]:
    """Milliseconds: by token, from sums, and with a filter that no sums have, from single responses."""
    url = f"sqlite:///{folder / 'usage.db'}"
    store = Store(url, peppers=[b"p"])
    store.schema.upgrade()
    for number in range(TOKENS):
        store.tokens.create(f"token-{number}", "ada")
    now = datetime.now(UTC)
    begin = int(now.timestamp()) - RESPONSES
    rows.execute(url, _RESPONSES, (begin, begin))
    rows.execute(url, _SUMS, (now.date().isoformat(),))
    since = (now - timedelta(days=DAYS)).date().isoformat()
    found = {
        "token": _took(store, "token", since, {}),
        "filtered": _took(store, "token", since, {"client": "c*", "model": "model-1"}),
    }
    store.close()
    return found


def _took(store: Store, by: str, since: str, filters: Mapping[str, str]) -> float:
    took = []
    for _ in range(RUNS):
        started = time.perf_counter()
        assert usage_report(store, by, since, filters).groups
        took.append((time.perf_counter() - started) * 1000)
    return round(sorted(took)[RUNS // 2], 1)
