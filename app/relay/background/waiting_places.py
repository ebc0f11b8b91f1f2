"""Places for runs that wait with their thread: for a limit of their token, or for busy channels. They are few, so that
the runs of other tokens find a thread.
"""

from __future__ import annotations

import threading
from collections import Counter
from typing import Self


class WaitingPlaces:
    """One a process. Half of its threads may wait, and a quarter for one token."""

    def __init__(self, threads: int) -> None:
        self._most = threads // 2
        self._most_of_token = threads // 4
        self._taken: Counter[int] = Counter()
        self._lock = threading.Lock()

    def place(self, token: int) -> WaitingPlace:
        """A place for a run of this token, not taken yet."""
        return WaitingPlace(self, token)

    def take(self, token: int) -> bool:
        """False when too many runs wait already."""
        with self._lock:
            if self._taken.total() >= self._most or self._taken[token] >= self._most_of_token:
                return False
            self._taken[token] += 1
            return True

    def leave(self, token: int) -> None:
        with self._lock:
            self._taken[token] -= 1
            # Without the counts of tokens that are not at work.
            self._taken = +self._taken


class WaitingPlace:
    """The place of one run, left at the end of the context."""

    def __init__(self, places: WaitingPlaces, token: int) -> None:
        self._places = places
        self._token = token
        self._is_taken = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        if self._is_taken:
            self._places.leave(self._token)

    def take(self) -> bool:
        """False when too many runs wait already. A place that is taken stays so."""
        self._is_taken = self._is_taken or self._places.take(self._token)
        return self._is_taken
