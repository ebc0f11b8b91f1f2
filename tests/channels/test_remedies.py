"""The remedies that a process knows: by channel, model and row, without a query."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from app.channels.remedies import LearntRemedies
from app.contract.channel import Channel, Params
from app.contract.remedies import LearntRemedy, Remedy, digest_of

DROP, SHORT = Remedy("drop", "temperature"), Remedy("row", "message_order", "strict")
ROW = Channel("c", "responses", base_url="http://h/v1", line=3)


class Storage:
    """A table of remedies without a database."""

    def __init__(self, rows: Iterable[LearntRemedy] = ()) -> None:
        self.rows = list(rows)
        self.reads = 0

    def add(self, learnt: LearntRemedy) -> None:
        self.rows.append(learnt)

    def load(self) -> Sequence[LearntRemedy]:
        self.reads += 1
        return list(self.rows)


def test_a_row_gets_what_was_learnt_for_its_model() -> None:
    storage = Storage()
    remedies = LearntRemedies(storage)
    assert remedies.row(ROW, "m") is ROW
    remedies.learn(ROW, "m", (DROP, SHORT))
    mended = remedies.row(ROW, "m")
    assert (mended.params, mended.message_order) == (Params(drop=("temperature",)), "strict")
    assert remedies.row(ROW, "m") is mended
    assert remedies.row(ROW, "other") is ROW
    assert remedies.row(replace(ROW, name="d"), "m") == replace(ROW, name="d")
    assert [one.remedy for one in storage.rows] == [DROP, SHORT]
    # Requests read nothing.
    assert storage.reads == 0


def test_a_remedy_is_learnt_once() -> None:
    storage = Storage()
    remedies = LearntRemedies(storage)
    for _ in range(3):
        remedies.learn(ROW, "m", (DROP,))
    assert len(storage.rows) == 1


def test_another_row_of_that_name_begins_with_nothing() -> None:
    remedies = LearntRemedies(Storage())
    remedies.learn(ROW, "m", (DROP,))
    moved, other = replace(ROW, line=9, api_key="new"), replace(ROW, base_url="http://other/v1")
    assert remedies.row(moved, "m").params.drop == ("temperature",)
    assert remedies.row(other, "m") is other
    assert remedies.row(ROW, "m").params.drop == ("temperature",)


def test_what_other_workers_learnt_or_forgot_arrives_at_the_next_read() -> None:
    storage = Storage([LearntRemedy("c", "m", digest_of(ROW), DROP, 1)])
    remedies = LearntRemedies(storage)
    remedies.refresh()
    assert remedies.row(ROW, "m").params.drop == ("temperature",)
    remedies.refresh()
    assert storage.reads == 1
    fresh = LearntRemedies(storage)
    storage.rows.clear()
    fresh.refresh()
    assert fresh.row(ROW, "m") is ROW
