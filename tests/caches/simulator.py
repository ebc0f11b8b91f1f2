"""Puts caches behind scripted upstreams: a cache reads each request, and the answer reports what the cache did."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field

from tests.caches.content import prose
from tests.caches.prompts import JSON, Prompt, prompt_of, reads
from tests.caches.rules import Breakpoints, Cache, LongestPrefix, LookBack, Oracle, Reading, Slots
from tests.upstream import Answer, Exchange, Recorded, ScriptedUpstream, retold

#: Seconds between two requests of a session.
PACE = 5.0
#: Words of an answer.
WORDS = 60
#: Words of the gateway's instruction for a summary.
_SUMMARISE = b"Summarise the conversation above"
#: Returns a usage object with the counts of a reading.
Report = Callable[[JSON, Reading], JSON]


@dataclass(frozen=True, slots=True)
class RuleSet:
    """A kind of server: its cache, and how it reports that cache."""

    new_cache: Callable[[], Cache]
    report: Report


@dataclass(frozen=True, slots=True)
class Read:
    """One request, as the cache and the oracle saw it."""

    upstream: str
    request: Recorded
    prompt: Prompt
    reading: Reading
    known: int
    """The tokens that the oracle knew."""


@dataclass
class Account:
    """A model whose caches follow one rule set: each upstream has its own, and the oracle sees every request."""

    rules: RuleSet
    caches: dict[str, Cache] = field(default_factory=dict)
    oracle: Oracle = field(default_factory=Oracle)
    reads: list[Read] = field(default_factory=list)

    @property
    def tokens(self) -> int:
        return sum(read.reading.tokens for read in self.reads)

    @property
    def cached(self) -> int:
        return sum(read.reading.cached for read in self.reads)

    @property
    def known(self) -> int:
        return sum(read.known for read in self.reads)


class Simulator:
    """The accounts of all models, and their clock. Requests come one at a time."""

    def __init__(self) -> None:
        self.now = 0.0
        self._accounts: dict[str, Account] = {}

    def open(self, model: str, rules: RuleSet) -> Account:
        """A new account for a model, whose caches are empty."""
        self._accounts[model] = Account(rules)
        return self._accounts[model]

    def serve(self, name: str, upstream: ScriptedUpstream) -> None:
        """Lets the upstream report what its caches do."""
        upstream.always(lambda exchange, answer: self._answer(name, exchange, answer))

    def _answer(self, name: str, exchange: Exchange, answer: Answer) -> Answer:
        request = exchange.request
        account = self._accounts.get(str(request.body.get("model")))
        if account is None or answer.status != 200 or not reads(request.path):
            return answer
        reading, report = self._read(account, name, request), account.rules.report
        change = _spoken(request)
        return retold(lambda body: {**change(body), "usage": report(body["usage"], reading)})(exchange, answer)

    def _read(self, account: Account, name: str, request: Recorded) -> Reading:
        self.now += PACE
        prompt = prompt_of(request.path, request.body)
        cache = account.caches.setdefault(name, account.rules.new_cache())
        reading = cache.read(prompt, request.body.get("prompt_cache_key"), self.now)
        account.reads.append(Read(name, request, prompt, reading, account.oracle.read(prompt)))
        return reading


# --- what the servers report ------------------------------------------------------------------------------------


def openai_usage(usage: JSON, reading: Reading) -> JSON:
    """The members of OpenAI's two APIs."""
    details = {"cached_tokens": reading.cached, "cache_write_tokens": reading.written}
    return _counted(usage, reading, details)


def llama_usage(usage: JSON, reading: Reading) -> JSON:
    """The same members, but a write costs nothing and is not counted."""
    return _counted(usage, reading, {"cached_tokens": reading.cached})


def anthropic_usage(usage: JSON, reading: Reading) -> JSON:
    """Anthropic counts what was read or written beside `input_tokens`."""
    return {
        **usage,
        "input_tokens": reading.tokens - reading.cached - reading.written,
        "cache_read_input_tokens": reading.cached,
        "cache_creation_input_tokens": reading.written,
        "cache_creation": {"ephemeral_5m_input_tokens": reading.written, "ephemeral_1h_input_tokens": 0},
    }


def silent_usage(usage: JSON, reading: Reading) -> JSON:
    """The counts of a server that does not speak of its cache."""
    counted = openai_usage(usage, reading)
    return {name: value for name, value in counted.items() if "cache" not in name and not name.endswith("_details")}


def _counted(usage: JSON, reading: Reading, details: JSON) -> JSON:
    kind, other = ("input", "output") if "input_tokens" in usage else ("prompt", "completion")
    total = reading.tokens + usage[f"{other}_tokens"]
    return {**usage, f"{kind}_tokens": reading.tokens, f"{kind}_tokens_details": details, "total_tokens": total}


PREFIXES = RuleSet(LongestPrefix, openai_usage)
BREAKPOINTS = RuleSet(Breakpoints, openai_usage)
MARKS = RuleSet(LookBack, anthropic_usage)
SLOTS = RuleSet(Slots, llama_usage)


# --- what the model says ----------------------------------------------------------------------------------------


def _spoken(request: Recorded) -> Callable[[JSON], JSON]:
    """Puts text of a usual length in the place of the scripted model's echo."""
    text = prose(random.Random(request.number), WORDS)

    def change(body: JSON) -> JSON:
        if "output" in body:
            return {**body, "output": [_with_text(item, text) for item in body["output"]]}
        if "choices" in body:
            choices = [{**choice, "message": _filled(choice["message"], "content", text)} for choice in body["choices"]]
            return {**body, "choices": choices}
        if _SUMMARISE in request.raw:
            # Only the instruction keeps the model from calling tools here, and the scripted model follows none.
            return {**body, "content": [{"type": "text", "text": text}], "stop_reason": "end_turn"}
        return {**body, "content": [_filled(block, "text", text) for block in body["content"]]}

    return change


def _with_text(item: JSON, text: str) -> JSON:
    if item["type"] != "message":
        return item
    return {**item, "content": [_filled(part, "text", text) for part in item["content"]]}


def _filled(holder: JSON, name: str, text: str) -> JSON:
    return {**holder, name: text} if holder.get(name) else holder
