"""Four ways to keep a prompt cache, as servers document them, and an oracle that never forgets.

Time is the simulator's: a number of seconds that the tests move.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Protocol

from tests.caches.prompts import TOKEN, Prompt

MINUTE = 60.0


@dataclass(frozen=True, slots=True)
class Reading:
    """Tokens of one request: all, those that came from the cache, and those that were written to it."""

    tokens: int
    cached: int
    written: int = 0


class Cache(Protocol):
    def read(self, prompt: Prompt, key: str | None, now: float) -> Reading:
        """Answers a request and remembers its prompt. `key`: its `prompt_cache_key`."""

    def evict(self) -> None:
        """Forgets everything."""


class Entries:
    """Digests of prefixes. A use renews an entry; an unused one expires."""

    def __init__(self, lifetime: float) -> None:
        self._lifetime = lifetime
        self._used: dict[bytes, float] = {}

    def has(self, digest: bytes, now: float) -> bool:
        return now - self._used.get(digest, float("-inf")) <= self._lifetime

    def use(self, digests: Iterable[bytes], now: float) -> None:
        self._used.update(dict.fromkeys(digests, now))

    def clear(self) -> None:
        self._used.clear()


@dataclass
class LongestPrefix:
    """OpenAI's automatic cache: the longest known prefix, from 1,024 tokens on in steps of 128.

    The hash of a prompt's first 256 tokens and of `prompt_cache_key` selects a machine, and each machine has a cache of
    its own. Above 15 requests a minute for one such hash, further ones overflow to other machines. Requests without a
    key share the hash with `others`: requests a minute by people who use the same tools and instructions.
    """

    LEAST, STEP, ROUTED_BY = 1024, 128, 256
    MACHINES, MOST_A_MINUTE = 16, 15
    #: The machines of two hashes are never the same by chance, so that the figures of a session are always the same.
    APART = 5
    LIFETIME = 10 * MINUTE

    others: int = 60
    _machines: list[Entries] = field(init=False)
    _homes: dict[bytes, int] = field(default_factory=dict)
    _minute: tuple[float, Counter[bytes]] = field(default_factory=lambda: (0.0, Counter()))

    def __post_init__(self) -> None:
        self._machines = [Entries(self.LIFETIME) for _ in range(self.MACHINES)]

    def read(self, prompt: Prompt, key: str | None, now: float) -> Reading:
        machine = self._machines[self._place(prompt, key, now)]
        steps = prompt.digests(self.STEP)
        known = next((at for at, digest in enumerate(steps) if not machine.has(digest, now)), len(steps))
        machine.use(steps, now)
        cached = known * self.STEP
        return Reading(prompt.tokens, cached if cached >= self.LEAST else 0)

    def evict(self) -> None:
        for machine in self._machines:
            machine.clear()

    def _place(self, prompt: Prompt, key: str | None, now: float) -> int:
        beginning = prompt.text[: self.ROUTED_BY * TOKEN]
        bucket = blake2b(beginning + (key or "").encode(), digest_size=8).digest()
        minute = now // MINUTE
        if minute != self._minute[0]:
            self._minute = (minute, Counter())
        self._minute[1][bucket] += 1
        by_others = 0 if key else int(self.others * (now % MINUTE) / MINUTE)
        overflow = (self._minute[1][bucket] + by_others) // self.MOST_A_MINUTE
        home = self._homes.setdefault(bucket, self.APART * len(self._homes))
        return (home + overflow) % self.MACHINES


@dataclass
class Breakpoints:
    """OpenAI's breakpoints: an entry matches at exactly the place where it was written.

    A request writes four: one at its end and its newest three marks, or with `explicit` its newest four marks alone.
    The newest 80 places of a conversation are searched. A read costs a tenth of a token, a write a quarter more than
    one.
    """

    LEAST, WRITES, SEARCHED = 1024, 4, 80
    LIFETIME = 30 * MINUTE
    WRITE_PRICE, READ_PRICE = 1.25, 0.1

    explicit: bool = False
    _entries: Entries = field(init=False)

    def __post_init__(self) -> None:
        self._entries = Entries(self.LIFETIME)

    def read(self, prompt: Prompt, key: str | None, now: float) -> Reading:
        digests, places = prompt.digests_of_parts(), list(self._places(prompt))
        searched = [at for at in reversed(places[-self.SEARCHED :]) if self._entries.has(digests[at], now)]
        cached = prompt.ends[searched[0]] if searched else 0
        written = self._written(prompt)
        self._entries.use((digests[at] for at in [*searched[:1], *written]), now)
        end = max((prompt.ends[at] for at in written), default=0)
        return Reading(prompt.tokens, cached, max(0, end - cached))

    def evict(self) -> None:
        self._entries.clear()

    @classmethod
    def price(cls, reading: Reading) -> float:
        """What a request's input costs, in tokens at the full price."""
        plain = reading.tokens - reading.cached - reading.written
        return plain + cls.READ_PRICE * reading.cached + cls.WRITE_PRICE * reading.written

    def _places(self, prompt: Prompt) -> Iterator[int]:
        """The parts at whose end a breakpoint may be."""
        for at, part in enumerate(prompt.parts):
            if part.is_marked or (part.ends_input and not self.explicit):
                yield at

    def _written(self, prompt: Prompt) -> list[int]:
        marked = [at for at, part in enumerate(prompt.parts) if part.is_marked]
        own = [] if self.explicit else [len(prompt.parts) - 1]
        chosen = {*own, *marked[-(self.WRITES - len(own)) :]}
        return [at for at in sorted(chosen) if prompt.ends[at] >= self.LEAST]


class TooManyMarks(Exception):
    """A request that Anthropic refuses."""


@dataclass
class LookBack:
    """Anthropic's marks: at most four, each of which finds an entry at most 20 blocks before itself.

    The order is tools, system, messages. An entry is written at each mark, and lives five minutes from its last use.
    """

    MARKS, BLOCKS = 4, 20
    LIFETIME = 5 * MINUTE

    least: int = 1024
    _entries: Entries = field(init=False)

    def __post_init__(self) -> None:
        self._entries = Entries(self.LIFETIME)

    def read(self, prompt: Prompt, key: str | None, now: float) -> Reading:
        marks = [at for at, part in enumerate(prompt.parts) if part.is_marked]
        if len(marks) > self.MARKS:
            raise TooManyMarks(f"A maximum of {self.MARKS} blocks with cache_control may be provided.")
        digests = prompt.digests_of_parts()
        marks = [at for at in marks if prompt.ends[at] >= self.least]
        searched = (at for mark in reversed(marks) for at in range(mark, max(-1, mark - self.BLOCKS), -1))
        found = next((at for at in searched if self._entries.has(digests[at], now)), None)
        cached = 0 if found is None else prompt.ends[found]
        self._entries.use((digests[at] for at in [*marks, *([] if found is None else [found])]), now)
        end = prompt.ends[marks[-1]] if marks else 0
        return Reading(prompt.tokens, cached, max(0, end - cached))

    def evict(self) -> None:
        self._entries.clear()


@dataclass
class Slots:
    """llama.cpp's slots: each holds the tokens of one request.

    The slot with the longest common prefix is taken if that prefix is a tenth of the prompt, else the one that was not
    used for the longest time. What stands behind the prefix is overwritten. The last token is always computed.
    """

    SIMILAR = 0.1

    count: int = 4
    _held: list[Prompt] = field(default_factory=list)
    """The prompts in the slots, the last used one at the end."""

    def read(self, prompt: Prompt, key: str | None, now: float) -> Reading:
        slot = max(self._held, key=prompt.shared, default=None)
        if slot is None or prompt.shared(slot) <= self.SIMILAR * prompt.tokens:
            slot = self._held[0] if len(self._held) == self.count else None
        if slot is not None:
            self._held.remove(slot)
        self._held.append(prompt)
        return Reading(prompt.tokens, 0 if slot is None else min(prompt.shared(slot), prompt.tokens - 1))

    def evict(self) -> None:
        self._held.clear()


class Oracle:
    """A cache that holds every prompt for ever, to the token, on every machine."""

    def __init__(self) -> None:
        self._seen: list[Prompt] = []

    def read(self, prompt: Prompt) -> int:
        """The tokens that the prompt shares with an earlier one."""
        longest = 0
        for seen in reversed(self._seen):
            # An earlier prompt helps only where it goes on to agree.
            if seen.text[: longest * TOKEN] == prompt.text[: longest * TOKEN]:
                longest = max(longest, prompt.shared(seen))
        self._seen.append(prompt)
        return longest
