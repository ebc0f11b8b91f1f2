"""The report names the cause of each miss, and blames nothing where the cache has served the prompt."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from itertools import count
from typing import Any

import pytest

from app.reports.cache import CacheReport, Reason, explain
from app.store.store import Store
from tests.caches.content import prose
from tests.caches.prompts import JSON
from tests.caches.sessions import INSTRUCTIONS, TOOLS
from tests.caches.share_table import SERVERS, House, spare_models
from tests.caches.simulator import silent_usage
from tests.relay.conftest import eventually
from tests.upstream import too_long

HOUR = 3600
#: The turns of a session, and the one that the cause comes with.
TURNS, PLACE = 6, 3
#: A server for each rule set and each format.
TRIED = ("prefixes", "breakpoints", "marks", "slots, chat")
#: Who keeps the conversation.
KEEPERS = ("chain", "client", "conversation")
COMPACTION = [{"type": "compaction", "compact_threshold": 10}]
SESSIONS = count()


@dataclass
class Talk:
    """A session on a server whose caches are empty. `settings` go with every turn."""

    house: House
    store: Store
    server: str
    keeper: str
    settings: JSON = field(default_factory=lambda: {"instructions": INSTRUCTIONS, "tools": TOOLS})
    has_key: bool = True
    """A client that keeps the conversation gives it a key."""
    turns: list[JSON] = field(default_factory=list)
    """The responses."""
    begun: list[int] = field(default_factory=list)
    """Where each turn begins among the items."""

    def __post_init__(self) -> None:
        self.model, self.other_model = spare_models(self.server)
        self.account, _ = (self.house.simulator.open(model, SERVERS[self.server].rules) for model in self.models)
        self._items: list[JSON] = []
        self._session = f"a session of misses {next(SESSIONS)}"
        self._key = {"prompt_cache_key": self._session} if self.has_key else {}
        self._rng = random.Random(self._session)
        if self.keeper == "conversation":
            self._conversation = self.house.gateway.post("/conversations", {}).json()["id"]

    def delete(self, item: JSON) -> None:
        """Deletes the conversation's item with this content."""
        path = f"/conversations/{self._conversation}/items"
        listed = self.house.gateway.get(f"{path}?order=asc&limit=100").json()["data"]
        (found,) = [one for one in listed if one.get("role") == "user" and item["content"] in str(one["content"])]
        assert self.house.gateway.delete(f"{path}/{found['id']}").status_code == 200

    @property
    def models(self) -> tuple[str, str]:
        return self.model, self.other_model

    def says(self, **keys: Any) -> None:
        """One turn."""
        self.begun.append(len(self._items))
        self._items.append({"role": "user", "content": prose(self._rng, 100)})
        answer = self.house.gateway.post(
            "/responses", {"model": self.model, **self.settings, **self._history(), **keys}
        )
        assert answer.status_code == 200, answer.text
        self.turns.append(answer.json())
        self._items += self.turns[-1]["output"]

    def reports(self) -> list[CacheReport]:
        """The reports on all turns, once each is compared with the one before it."""
        return [self._report(turn, is_first=turn is self.turns[0]) for turn in self.turns]

    def age(self, seconds: int) -> None:
        """Lets time pass, for the caches and in the rows. Some are written behind the answers."""
        self.reports()
        self.house.simulator.now += seconds
        self.store.database.transaction(
            lambda session: session.run(
                "UPDATE response SET created_at = created_at - ?, completed_at = completed_at - ?", (seconds, seconds)
            )
        )

    def _history(self) -> JSON:
        if self.keeper == "client":
            return {"input": self._items, "store": False, **self._key}
        new = {"input": self._items[-1:]}
        if self.keeper == "conversation":
            return {**new, "conversation": self._conversation}
        return {**new, "previous_response_id": self.turns[-1]["id"]} if self.turns else new

    def _report(self, turn: JSON, *, is_first: bool) -> CacheReport:
        def compared() -> CacheReport | None:
            found = self.store.trees.find(turn["id"])
            report = explain(self.store, *found[0]) if found else None
            return report if report and (is_first or report.before or not self.has_key) else None

        report: CacheReport = eventually(compared, "the comparison with the turn before")
        return report


#: Called before the turn with the cause; returns the keys of that turn.
Inject = Callable[[Talk], JSON]


@dataclass(frozen=True, slots=True)
class Cause:
    """`lasts`: the turns after it go on with its settings."""

    inject: Inject
    reason: Reason
    region: str | None = None
    lasts: bool = False
    spares: tuple[str, ...] = ()
    """Servers whose cache it does not harm."""
    spoils: tuple[str, ...] = ()
    """Servers that it costs the turn after as well."""


def changed(**settings: Any) -> Inject:
    return lambda talk: settings


def failed(talk: Talk) -> JSON:
    talk.house.fail_over(talk.account)
    return {}


def evicted(talk: Talk) -> JSON:
    for cache in talk.account.caches.values():
        cache.evict()
    return {}


def refused(talk: Talk) -> JSON:
    talk.house.upstreams[talk.account.reads[-1].upstream].enqueue(too_long())
    return {"truncation": "auto"}


def aged(talk: Talk) -> JSON:
    talk.age(HOUR)
    return {}


CAUSES = {
    "instructions": Cause(changed(instructions=f"It is noon. {INSTRUCTIONS}"), Reason.PREFIX, "instructions", True),
    "a tool": Cause(changed(tools=[*TOOLS[:2], *TOOLS[3:]]), Reason.PREFIX, "tools", True),
    "another channel": Cause(failed, Reason.CHANNEL),
    "another model": Cause(lambda talk: {"model": talk.other_model}, Reason.MODEL, None, True),
    "time": Cause(aged, Reason.EXPIRED, spares=("slots, chat",)),
    # The shorter prompt takes the slot of the longer one.
    "truncation": Cause(refused, Reason.SHORTENED, spoils=("slots, chat",)),
    "an upstream that forgets": Cause(evicted, Reason.UNKNOWN),
}


@pytest.mark.parametrize("keeper", KEEPERS)
@pytest.mark.parametrize("server", TRIED)
@pytest.mark.parametrize("cause", CAUSES)
def test_the_cause_of_a_miss_is_named_and_hits_are_hits(
    running: House, store: Store, cause: str, server: str, keeper: str
) -> None:
    injected = CAUSES[cause]
    talk = Talk(running, store, server, keeper)
    for number in range(TURNS):
        keys = injected.inject(talk) if number == PLACE else {}
        if injected.lasts:
            talk.settings |= keys
        talk.says(**keys)
    reasons = [(report.reason, report.region) for report in talk.reports()]
    missed = (Reason.HIT, None) if server in injected.spares else (injected.reason, injected.region)
    hit = (Reason.HIT, None)
    after = missed if server in injected.spoils else hit
    assert reasons == [(Reason.FIRST, None), hit, hit, missed, after, hit], [report.detail for report in talk.reports()]


@pytest.mark.parametrize("keeper", ["chain", "conversation"])
@pytest.mark.parametrize("server", TRIED)
def test_another_cache_key_is_named_where_it_matters(running: House, store: Store, server: str, keeper: str) -> None:
    talk = Talk(running, store, server, keeper)
    for number in range(4):
        talk.says(**({"prompt_cache_key": "another"} if number >= 2 else {}))
    missed = Reason.KEY if server == "prefixes" else Reason.HIT
    assert [report.reason for report in talk.reports()] == [Reason.FIRST, Reason.HIT, missed, Reason.HIT]


@pytest.mark.parametrize("server", TRIED)
def test_items_deleted_from_a_conversation_are_named(running: House, store: Store, server: str) -> None:
    talk = Talk(running, store, server, "conversation")
    for number in range(TURNS):
        if number == PLACE:
            # Two questions go: the second one, then the first one behind it.
            for item in (talk._items[talk.begun[1]], talk._items[talk.begun[2]]):
                talk.delete(item)
        talk.says()
    reports = talk.reports()
    hit = (Reason.HIT, None, None)
    found = [(report.reason, report.region, report.index) for report in reports]
    missed = (Reason.PREFIX, "items", talk.begun[1])
    assert found == [(Reason.FIRST, None, None), hit, hit, missed, hit, hit], [report.detail for report in reports]


@pytest.mark.parametrize("server", TRIED)
def test_a_client_without_a_session_is_not_compared(running: House, store: Store, server: str) -> None:
    """Its second turn is the first one with a key."""
    talk = Talk(running, store, server, "client", has_key=False)
    for _ in range(4):
        talk.says()
    second = Reason.FIRST if server == "prefixes" else Reason.HIT
    assert [report.reason for report in talk.reports()] == [Reason.FIRST, second, Reason.HIT, Reason.HIT]


@pytest.mark.parametrize("keeper", KEEPERS)
@pytest.mark.parametrize("server", TRIED)
def test_after_a_compaction_nothing_else_is_blamed(running: House, store: Store, server: str, keeper: str) -> None:
    """The pass itself repeats the last request, so that the whole may be a hit."""
    talk = Talk(running, store, server, keeper)
    for number in range(TURNS):
        talk.says(**({"context_management": COMPACTION} if number == PLACE else {}))
    first, *others = [report.reason for report in talk.reports()]
    assert first == Reason.FIRST
    assert others[: PLACE - 1] == [Reason.HIT] * (PLACE - 1)
    # A client sends its old messages before the item, so that the next prompt is another one again.
    changes = 2 if keeper == "client" else 1
    assert set(others[PLACE - 1 :][:changes]) <= {Reason.HIT, Reason.COMPACTED}
    assert others[PLACE - 1 + changes :] == [Reason.HIT] * (TURNS - PLACE - changes)


@pytest.mark.parametrize("keeper", KEEPERS)
@pytest.mark.parametrize("server", TRIED)
def test_a_short_prompt_is_below_the_minimum(running: House, store: Store, server: str, keeper: str) -> None:
    talk = Talk(running, store, server, keeper, {"instructions": "Be brief."})
    for _ in range(3):
        talk.says()
    reason = Reason.HIT if server == "slots, chat" else Reason.BELOW_MINIMUM
    assert [report.reason for report in talk.reports()] == [Reason.FIRST, reason, reason]


@pytest.mark.parametrize("keeper", KEEPERS)
@pytest.mark.parametrize("server", TRIED)
def test_an_upstream_that_reports_nothing_is_not_blamed(running: House, store: Store, server: str, keeper: str) -> None:
    talk = Talk(running, store, server, keeper)
    talk.account.rules = replace(talk.account.rules, report=silent_usage)
    for _ in range(3):
        talk.says()
    assert {report.reason for report in talk.reports()} == {Reason.NOT_REPORTED}
    assert sum(read.reading.cached for read in talk.account.reads) > 0
