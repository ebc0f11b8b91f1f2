from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from app.contract.usage import Usage
from app.store.store import Store
from tests.store.turns import draft, outcome


def test_usage_is_summed_by_day_token_model_and_channel(store: Store) -> None:
    token, _ = store.tokens.create("laptop", "ada")
    for status, channel, when in (("completed", "a", 0), ("failed", "a", 0), ("completed", "b", 86_400)):
        ended = outcome(status, channel=channel, completed_at=when, usage=Usage(10, 4, 1, 20, 5, estimated=True))
        store.responses.finish(draft(token=token.key), ended)
    store.responses.finish(draft(), outcome(completed_at=86_400, usage=None, channel=None))
    sums = store.usage.since("1970-01-01")
    assert [(row["day"], row["token_name"], row["channel"], row["requests"]) for row in sums] == [
        ("1970-01-01", "laptop", "a", 2),
        ("1970-01-02", None, "", 1),
        ("1970-01-02", "laptop", "b", 1),
    ]
    first = sums[0]
    assert (first["failed"], first["estimated"], first["input_tokens"], first["cached_tokens"]) == (1, 2, 20, 8)
    assert (first["cache_write_tokens"], first["output_tokens"], first["reasoning_tokens"]) == (2, 40, 10)
    assert len(store.usage.since("1970-01-02")) == 2


def test_counters_are_exact_under_threads_and_stores(store: Store, database_url: str) -> None:
    other = Store(database_url, peppers=[b"p"])

    def work(number: int) -> None:
        mine = (store, other)[number % 2]
        for turn in range(25):
            ended = outcome(usage=Usage(input_tokens=1, output_tokens=2), channel=f"c{turn % 3}")
            if turn % 5 == 0:
                begun = draft(streamed=True)
                mine.responses.begin(begun)
                mine.responses.finish(begun, ended)
            else:
                mine.responses.finish(draft(), ended)
            mine.responses.note(draft(stored=False), ended)

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(work, range(8)))
    other.close()
    store.close()
    reader = Store(database_url, peppers=[b"p"])
    sums = reader.usage.since("2000-01-01")
    assert sum(row["requests"] for row in sums) == 8 * 25 * 2
    assert sum(row["input_tokens"] for row in sums) == 8 * 25 * 2
    assert sum(row["output_tokens"] for row in sums) == 8 * 25 * 4
    assert reader.maintenance.stats()["rows"]["response"] == 8 * 25 * 2
    reader.close()
