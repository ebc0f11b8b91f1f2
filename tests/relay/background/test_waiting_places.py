"""How many runs of a process may wait with their thread."""

from __future__ import annotations

import pytest

from app.relay.background.waiting_places import WaitingPlaces


@pytest.mark.parametrize(("threads", "of_one", "of_all"), [(32, 8, 16), (4, 1, 2), (3, 0, 0), (1, 0, 0)])
def test_a_quarter_of_the_threads_waits_for_one_token_and_half_for_all(threads: int, of_one: int, of_all: int) -> None:
    places = WaitingPlaces(threads)
    assert [places.take(1) for _ in range(threads)].count(True) == of_one
    assert sum(places.take(token) for token in range(2, 40) for _ in range(threads)) == of_all - of_one


def test_a_place_is_taken_once_and_left_at_the_end() -> None:
    places = WaitingPlaces(4)
    with places.place(1) as one, places.place(1) as other:
        assert [one.take(), one.take(), other.take()] == [True, True, False]
    with places.place(1) as next_one:
        assert next_one.take()
    assert places.take(1)
