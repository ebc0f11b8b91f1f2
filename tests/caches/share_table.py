"""Runs the sessions through the rule sets, on every format that fits, and writes the cached shares as a table."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from tests.caches.prompts import JSON
from tests.caches.sessions import SESSIONS, Client
from tests.caches.simulator import BREAKPOINTS, MARKS, PREFIXES, SLOTS, Account, RuleSet, Simulator
from tests.gateway import Gateway
from tests.upstream import ScriptedUpstream, refusal

#: Tokens of every model: a conversation is compacted long before.
WINDOW = 200_000
#: What a cache has to know, of what the oracle knows.
LEAST = 0.95


@dataclass(frozen=True, slots=True)
class Server:
    """A column of the table: a rule set, and the row that the gateway has for such a server."""

    rules: RuleSet
    row: Mapping[str, object]


SERVERS = {
    "prefixes": Server(PREFIXES, {"format": "responses", "encrypted_reasoning": True}),
    "prefixes, chat": Server(PREFIXES, {"format": "chat_completions", "cache_key": "on"}),
    "breakpoints": Server(BREAKPOINTS, {"format": "responses", "encrypted_reasoning": True}),
    "marks": Server(MARKS, {"format": "messages"}),
    "slots, chat": Server(SLOTS, {"format": "chat_completions"}),
    "slots": Server(SLOTS, {"format": "responses"}),
}
#: Servers that stand in no column of the table.
BESIDE = {"marks, budget": Server(MARKS, {"format": "messages", "thinking": "budget"})}
ALL = {**SERVERS, **BESIDE}


@dataclass(frozen=True, slots=True)
class Share:
    """The cached share of all tokens of a session, and the share that the oracle knew."""

    cached: float
    known: float

    @property
    def ratio(self) -> float:
        return self.cached / self.known

    def __str__(self) -> str:
        """In percent: what was cached of what the oracle knew, and both as shares of all tokens."""
        return f"{100 * self.ratio:.1f} ({100 * self.cached:.1f} / {100 * self.known:.1f})"


@dataclass(frozen=True, slots=True)
class Run:
    """A session that has ended: its account and its responses."""

    account: Account
    responses: Sequence[JSON]

    @property
    def share(self) -> Share:
        account = self.account
        return Share(account.cached / account.tokens, account.known / account.tokens)

    @property
    def moves(self) -> int:
        """How often it went on with another upstream."""
        return sum(one.upstream != two.upstream for one, two in pairwise(self.account.reads))


#: Shares by session and server.
Shares = Mapping[tuple[str, str], Share]


@dataclass(frozen=True, slots=True)
class House:
    """A gateway with two equal channels for each model, each on an upstream with caches of its own."""

    gateway: Gateway
    simulator: Simulator
    upstreams: Mapping[str, ScriptedUpstream]

    def run(self, session: str, server: str) -> Run:
        """Runs a session on a server that has never seen it."""
        model = model_of(server, session)
        account = self.simulator.open(model, ALL[server].rules)
        client = Client(self.gateway, model, lambda: self.fail_over(account))
        SESSIONS[session](client)
        return Run(account, client.responses)

    def fail_over(self, account: Account) -> None:
        """Lets the next request fail on the channel that answered last."""
        self.upstreams[account.reads[-1].upstream].enqueue(refusal(503, "Overloaded."))


def measured(running: House, session: str, server: str) -> Share:
    return running.run(session, server).share


@contextmanager
def house(directory: Path) -> Iterator[House]:
    with ExitStack() as stack:
        upstreams = {name: stack.enter_context(ScriptedUpstream()) for name in ("one", "two")}
        simulator = Simulator()
        for name, upstream in upstreams.items():
            simulator.serve(name, upstream)
        rows = [
            upstream.channel(f"{name}-{_named(server)}", models=models(server), **ALL[server].row)
            for name, upstream in upstreams.items()
            for server in ALL
        ]
        facts: JSON = {model: {"context_window": WINDOW} for server in ALL for model in models(server)}
        gateway = stack.enter_context(Gateway(directory, rows, {"models": facts}, workers=2))
        yield House(gateway, simulator, upstreams)


def models(server: str) -> list[str]:
    return [*(model_of(server, session) for session in SESSIONS), *spare_models(server)]


def spare_models(server: str) -> tuple[str, str]:
    """Two models of a server for other sessions."""
    return model_of(server, "first"), model_of(server, "second")


def model_of(server: str, session: str) -> str:
    """A model of its own for each run, so that a channel in cooldown concerns one session only."""
    return f"{_named(server)}-{_named(session)}"


def _named(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower())


# --- the table --------------------------------------------------------------------------------------------------


def written(shares: Shares) -> str:
    """The table in Markdown."""
    lines = [["session", *SERVERS], ["---"] * (len(SERVERS) + 1)]
    lines += ([session, *(str(shares[session, server]) for server in SERVERS)] for session in SESSIONS)
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def read(text: str) -> dict[tuple[str, str], float]:
    """The ratios in a table in Markdown, by session and server."""
    rows = [[cell.strip() for cell in line.strip("| ").split("|")] for line in text.splitlines() if "|" in line]
    head = next(row for row in rows if row[0] == "session")
    return {
        (row[0], server): float(cell.partition(" ")[0]) / 100
        for row in rows
        if row[0] in SESSIONS
        for server, cell in zip(head[1:], row[1:], strict=True)
    }
