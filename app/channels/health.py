"""The health of a channel: requests in flight, failures, cooldown, the half-open state after it, and the retry budget.

The state belongs to one process and one channel name; it survives changes of the channel's row. Every method may be
called from any thread.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import Enum

from app.contract.channel import Cooldown
from app.contract.records import ChannelStatus
from app.errors import UpstreamDenied, UpstreamError, UpstreamLimited

MAX_COOLDOWN = 300.0
_EXHAUSTED_COOLDOWN = 60.0

#: Seconds between two requests to a channel in cooldown while no other channel is left, or to one that loads its model.
_TRIAL_INTERVAL = 1.0
#: Seconds for which one owner's success proves that a channel works, although another owner's requests fail.
_PROOF_LIFETIME = 60.0

#: Retries may add a fifth to the load. The reserve allows a few more while the load is low.
_RETRY_SHARE = 0.2
_RETRY_RESERVE = 10.0

#: Stands for all owners in `Health.blamed`.
_EVERY_OWNER = ""


class Need(Enum):
    """The state that a channel must have for a request to enter it."""

    AVAILABLE = "available"
    TRIAL = "trial"
    """In cooldown, and due for a request that tests whether the channel works again."""
    LOADED = "loaded"
    """Loading its model and due for another request, or available."""


class Place(Enum):
    """What the outcome of a request means for the channel."""

    ORDINARY = "ordinary"
    TRIAL = "trial"
    """Its outcome decides whether the cooldown is over."""


class Health:
    """The state of one channel."""

    __slots__ = (
        "_blamed",
        "_clock",
        "_cooldown_until",
        "_cooldowns",
        "_failures",
        "_firm_until",
        "_half_open",
        "_in_flight",
        "_lock",
        "_path",
        "_proofs",
        "_tried_at",
        "_trying",
        "last_error",
        "loading",
    )

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._in_flight = 0
        self._failures = 0
        self._blamed: set[str] = set()
        """Owners whose requests have failed since the last success."""
        self._cooldowns = 0
        self._cooldown_until = 0.0
        self._firm_until = 0.0
        """No trial before this time: the upstream named it, or refuses our key."""
        self._half_open = False
        self._trying = False
        """The trial is in flight."""
        self._tried_at = -_TRIAL_INTERVAL
        self._path = ""
        self._proofs: tuple[tuple[str, float], ...] = ()
        """The last success of each of the last two owners: owner and time."""
        self.loading = False
        """Whether its last answer said that it is loading its model."""
        self.last_error: str | None = None

    # --- what the state allows

    def available(self, limit: int | None) -> bool:
        """Whether a request may enter now. `limit`: most requests that the channel takes at once."""
        now = self._clock()
        if self.loading and not self._is_due(now):
            return False
        # After a cooldown the channel is half-open: one request at a time, until one has succeeded.
        return self._has_room(limit) and self._cooldown_until <= now and not self._trying

    @property
    def cooldown_left(self) -> float:
        """Seconds until the cooldown ends, 0 outside of one."""
        return max(0.0, self._cooldown_until - self._clock())

    @property
    def is_firm(self) -> bool:
        """Whether the present cooldown allows no trial."""
        now = self._clock()
        return self._firm_until > now and self._cooldown_until > now

    @property
    def needs_trial(self) -> bool:
        """In cooldown, without a trial in flight or within the last second."""
        now = self._clock()
        return self._cooldown_until > now and not self._trying and self._is_due(now)

    @property
    def trial_order(self) -> tuple[float, float]:
        """Sort key of channels in cooldown: the longest without a trial first, then the earliest end."""
        return self._tried_at, self._cooldown_until

    def status(self, name: str, paused: str = "") -> ChannelStatus:
        return ChannelStatus(
            name=name,
            in_flight=self._in_flight,
            failures=self._failures,
            cooldowns=self._cooldowns,
            cooldown_left=self.cooldown_left,
            half_open=self._half_open,
            last_error=self.last_error,
            path=self._path,
            paused=paused,
        )

    # --- the steps of a request

    def claim(self, need: Need, limit: int | None) -> Place | None:
        """Enters if the state allows it. The lock gives the last place to one request of a burst."""
        with self._lock:
            if not _ALLOWS[need](self, limit):
                return None
            now = self._clock()
            is_trial = self._half_open or self._cooldown_until > now
            if is_trial or self.loading:
                self._tried_at = now
            self._in_flight += 1
            self._trying = self._trying or is_trial
            return Place.TRIAL if is_trial else Place.ORDINARY

    def enter(self, place: Place) -> None:
        """Enters in any state: for a second request of the same attempt, or for a test of the channel."""
        with self._lock:
            self._in_flight += 1
            if place is Place.TRIAL and (self._half_open or self._cooldown_until > self._clock()):
                self._trying = True

    def leave(self, place: Place) -> None:
        with self._lock:
            self._in_flight -= 1
            if place is Place.TRIAL:
                self._trying = False

    def accepted(self, place: Place) -> None:
        """The first valid event has come: a trial has succeeded, the model is loaded. The answer may still fail."""
        if self._half_open or self._trying or self._cooldown_until or self.loading:
            with self._lock:
                self.loading = False
                # An answer that began before the cooldown does not prove that the next one would succeed.
                if place is Place.TRIAL or self._cooldown_until <= self._clock():
                    self._end_cooldown()

    def succeeded(self, owner: str, place: Place) -> None:
        self.accepted(place)
        now = self._clock()
        self._proofs = ((owner, now), *[proof for proof in self._proofs if proof[0] != owner][:1])
        if self._failures or self._cooldowns or self.last_error:
            with self._lock:
                self._failures = self._cooldowns = 0
                self._blamed.clear()
                self.last_error = None

    def failed(self, error: UpstreamError, cooldown: Cooldown, owner: str, place: Place) -> None:
        if not error.counts:
            return
        with self._lock:
            now = self._clock()
            self.loading = False
            self.last_error = error.name
            firm = _is_firm(error)
            if place is Place.TRIAL and self._cooldown_until > now and not firm:
                # A trial that fails lengthens no cooldown.
                return
            self._failures += 1
            self._blamed.add(owner if error.perhaps_input else _EVERY_OWNER)
            if self._works_for_others(now) and not firm:
                self._failures = min(self._failures, cooldown.after - 1)
            if seconds := self._cooldown_seconds(error, cooldown):
                self._begin_cooldown(now, seconds, seconds if firm else error.retry_after or 0.0)

    def end_cooldown(self) -> None:
        """The next request tests whether the channel works, however long the cooldown was to last."""
        with self._lock:
            self._cooldown_until = self._firm_until = 0.0

    def note_loading(self) -> bool:
        """Notes that the channel is loading its model. True when the state is new."""
        with self._lock:
            is_new, self.loading = not self.loading, True
            self._tried_at = self._clock()
            self._end_cooldown()
            return is_new

    def note_path(self, path: str) -> None:
        """Notes how its last stream was read; an empty `path` changes nothing."""
        if path:
            self._path = path

    # --- rules

    def _may_be_tried(self, limit: int | None) -> bool:
        now = self._clock()
        return self._has_room(limit) and self._is_due(now) and not self._trying and self._firm_until <= now

    def _may_be_loaded(self, limit: int | None) -> bool:
        if not self.loading:
            return self.available(limit)
        return self._has_room(limit) and self._is_due(self._clock())

    def _has_room(self, limit: int | None) -> bool:
        return limit is None or self._in_flight < limit

    def _is_due(self, now: float) -> bool:
        return now - self._tried_at >= _TRIAL_INTERVAL

    def _works_for_others(self, now: float) -> bool:
        """Whether one owner caused all failures while another owner had a success within the last minute."""
        return (
            len(self._blamed) == 1
            and _EVERY_OWNER not in self._blamed
            and any(owner not in self._blamed and now - since <= _PROOF_LIFETIME for owner, since in self._proofs)
        )

    def _cooldown_seconds(self, error: UpstreamError, cooldown: Cooldown) -> float:
        """The length of the cooldown that this failure begins, 0 for none."""
        if isinstance(error, UpstreamLimited):
            if error.exhausted:
                return _EXHAUSTED_COOLDOWN
            if error.retry_after:
                return error.retry_after
        if isinstance(error, UpstreamDenied) or self._failures >= cooldown.after:
            return min(cooldown.seconds * (self._cooldowns + 1), MAX_COOLDOWN)
        return 0.0

    def _begin_cooldown(self, now: float, seconds: float, firm_seconds: float) -> None:
        self._cooldown_until = now + seconds
        self._firm_until = now + firm_seconds
        self._tried_at = now - _TRIAL_INTERVAL
        self._cooldowns += 1
        self._failures = 0
        self._blamed.clear()
        self._half_open = True

    def _end_cooldown(self) -> None:
        self._cooldown_until = self._firm_until = 0.0
        self._half_open = self._trying = False


_ALLOWS: dict[Need, Callable[[Health, int | None], bool]] = {
    Need.AVAILABLE: Health.available,
    Need.TRIAL: Health._may_be_tried,
    Need.LOADED: Health._may_be_loaded,
}


def _is_firm(error: UpstreamError) -> bool:
    """Whether no trial may end the cooldown early: the upstream refuses the key or the rate, or the quota is spent."""
    return isinstance(error, UpstreamDenied | UpstreamLimited)


@dataclass(slots=True)
class RetryBudget:
    """Limits retries. Each request deposits a share of an attempt; each attempt after its first withdraws one."""

    _balance: float = _RETRY_RESERVE
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def deposit(self) -> None:
        with self._lock:
            self._balance = min(_RETRY_RESERVE, self._balance + _RETRY_SHARE)

    def withdraw(self) -> bool:
        with self._lock:
            if self._balance < 1:
                return False
            self._balance -= 1
            return True
