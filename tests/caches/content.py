"""Made-up content of sessions, always the same for the same state of a generator."""

from __future__ import annotations

import random
import re

_WORDS = re.findall(
    r"\w+",
    "the test reads each row of this table and returns when a lock is free or its queue holds no more work "
    "cache channel upstream worker thread request answer stream event commit retry failover budget window prefix",
)


def prose(rng: random.Random, words: int) -> str:
    return " ".join(rng.choices(_WORDS, k=words))


def source(rng: random.Random, lines: int) -> str:
    """Lines that look like code, as a tool prints them: some 16 tokens each."""
    return "\n".join(f"{number:4}  {_statement(rng)}" for number in range(lines))


def _statement(rng: random.Random) -> str:
    name, function = "_".join(rng.choices(_WORDS, k=2)), rng.choice(_WORDS)
    return f"{name} = {function}({rng.randrange(10**6)})  # {prose(rng, 5)}"
