"""Places for runs that wait with their thread: for a limit of their token, or for busy channels. They are few, so that
the runs of other tokens find a thread. A run without a place is postponed, and tried again when one of its token ends.
"""

from __future__ import annotations

import threading
from collections import Counter, defaultdict
from typing import Self

#: Postponed responses that a process remembers of one token. The store knows the others.
_REMEMBERED = 10_000


class WaitingPlaces:
    """One a process. Half of its threads may wait, and a quarter for one token."""

    def __init__(self, threads: int) -> None:
        self._most = threads // 2
        self._most_of_token = threads // 4
        self._taken: Counter[int] = Counter()
        self._postponed: defaultdict[int, dict[str, None]] = defaultdict(dict)
        """Their ids by token, the oldest first."""
        self._lock = threading.Lock()

    def postpone(self, token: int, response_id: str) -> None:
        """Remembers a response of this token that found no place."""
        with self._lock:
            postponed = self._postponed[token]
            if len(postponed) < _REMEMBERED:
                postponed[response_id] = None

    def next_postponed(self, token: int) -> str | None:
        """The response of this token that has been postponed for longest. It is forgotten here."""
        with self._lock:
            postponed = self._postponed.pop(token, {})
            response_id = next(iter(postponed), None)
            if response_id is not None:
                del postponed[response_id]
            if postponed:
                self._postponed[token] = postponed
            return response_id

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
