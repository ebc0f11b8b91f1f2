from __future__ import annotations

from pathlib import Path

from app.store.store import Store
from tests.bench.storage import measure_bytes


def test_a_late_turn_takes_no_more_room_than_an_early_one_and_little_more_than_it_says(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/a.db"
    store = Store(url, peppers=[b"p"])
    store.schema.upgrade()
    measured = measure_bytes(store, url, [[], [], [], []], lambda turns: None)
    store.close()
    assert measured["growth"] <= 1.05
    assert measured["overhead"] <= 1.6
