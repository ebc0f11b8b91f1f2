"""The remedies that this process knows: learnt here, or read from the database that all workers share.

A request asks this memory and never the database. `refresh` replaces it at intervals.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable, Sequence
from time import time
from typing import Protocol

from app.contract.channel import Channel
from app.contract.remedies import LearntRemedy, Remedy, apply_all, digest_of

log = logging.getLogger(__name__)

#: Seconds between two reads of the database.
REFRESH_SECONDS = 2
#: Seconds for which a remedy may not have reached the database yet.
_ON_ITS_WAY = 3

Subject = tuple[str, str]


class RemedyStorage(Protocol):
    def add(self, learnt: LearntRemedy) -> None:
        """Stores a remedy some time after the call. A lost one is learnt again."""
        ...

    def load(self) -> Sequence[LearntRemedy]:
        """The remedies that have not expired, oldest first. Raises StoreUnavailable."""
        ...


class LearntRemedies:
    """By channel and upstream model. Every method may be called from any thread."""

    def __init__(self, storage: RemedyStorage | None = None) -> None:
        self._storage = storage
        self._lock = threading.Lock()
        self._learnt: dict[Subject, tuple[LearntRemedy, ...]] = {}
        self._rows: dict[Subject, tuple[Channel, Channel]] = {}
        """The last row of each subject, and the same with its remedies."""
        self._refreshed = 0.0

    def row(self, channel: Channel, model: str) -> Channel:
        """The channel's row with what was learnt for this model of its upstream."""
        subject = (channel.name, model)
        learnt = self._learnt.get(subject)
        if not learnt:
            return channel
        known = self._rows.get(subject)
        if known is not None and known[0] is channel:
            return known[1]
        digest = digest_of(channel)
        row = apply_all((one.remedy for one in learnt if one.digest == digest), channel)
        self._rows[subject] = (channel, row)
        return row

    def learn(self, channel: Channel, model: str, remedies: Iterable[Remedy]) -> None:
        """Remembers remedies that have helped."""
        digest, now, subject = digest_of(channel), int(time()), (channel.name, model)
        with self._lock:
            before = self._learnt.get(subject, ())
            known = {one.remedy for one in before if one.digest == digest}
            news = tuple(LearntRemedy(*subject, digest, remedy, now) for remedy in remedies if remedy not in known)
            self._replace({**self._learnt, subject: (*before, *news)})
        for learnt in news:
            log.warning("channel %s: learnt from a refusal for model %s: %s", channel.name, model, learnt.remedy)
            if self._storage is not None:
                self._storage.add(learnt)

    def refresh(self) -> None:
        """Reads what all workers have learnt, if the last read is old enough. Raises StoreUnavailable."""
        now = time()
        if self._storage is None or 0 <= now - self._refreshed < REFRESH_SECONDS:
            return
        self._refreshed = now
        stored = list(self._storage.load())
        keys = {learnt.key for learnt in stored}
        with self._lock:
            own = (learnt for group in self._learnt.values() for learnt in group)
            stored += [one for one in own if one.key not in keys and now - one.learnt_at < _ON_ITS_WAY]
            found: dict[Subject, tuple[LearntRemedy, ...]] = {}
            for learnt in stored:
                subject = (learnt.channel, learnt.model)
                found[subject] = (*found.get(subject, ()), learnt)
            if found != self._learnt:
                self._replace(found)

    def _replace(self, learnt: dict[Subject, tuple[LearntRemedy, ...]]) -> None:
        self._learnt = learnt
        self._rows = {}
