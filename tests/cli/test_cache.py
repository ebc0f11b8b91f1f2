"""antiphon cache: how much of a prompt a provider's cache served, and why not more."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import orjson
import pytest

from app.reports.cache import CacheReport, explain
from app.store.store import Store
from tests.gateway import Gateway
from tests.upstream import Exchange, Script, ScriptedUpstream, failing_at_once, retold
from tests.upstream.exchange import Answer

JSON = dict[str, Any]

NOT_FOUND = 4
#: Digests of histories that clients keep are written behind the answers.
PATIENCE = 60.0
GLANCE = 0.02
#: Retries are a share of the load.
RETRY_EARNERS = 15
FORMATS = ("responses", "chat_completions", "messages")
TOOLS = [
    {"type": "function", "name": name, "parameters": {"type": "object", "properties": {}}} for name in ("look", "go")
]


@pytest.fixture(scope="module")
def upstreams() -> Iterator[dict[str, ScriptedUpstream]]:
    one, two = ScriptedUpstream(), ScriptedUpstream()
    with one, two:
        yield {"one": one, "two": two}


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory, upstreams: dict[str, ScriptedUpstream]) -> Iterator[Gateway]:
    rows = [
        upstreams[name].channel(
            f"{format_}-{name}",
            format=format_,
            models=[f"{format_}-moving", *([format_, f"{format_}-2", "steady"] if name == "one" else [])],
            priority=10 if name == "one" else 0,
            cooldown={"after": 1000},
        )
        for format_ in FORMATS
        for name in upstreams
    ]
    with Gateway(tmp_path_factory.mktemp("cache"), rows) as gateway:
        yield gateway


@pytest.fixture(scope="module")
def store(gateway: Gateway) -> Iterator[Store]:
    store = Store(gateway.database_url, peppers=[b"p"])
    yield store
    store.close()


def counted(given: int, cached: int | None) -> Script:
    """The answer with this usage, in the words of its format. `cached`: None for an upstream that does not say."""

    def change(exchange: Exchange, answer: Answer) -> Answer:
        return retold(lambda whole: {**whole, "usage": _usage(whole["usage"], given, cached)})(exchange, answer)

    return change


def _usage(usage: JSON, given: int, cached: int | None) -> JSON:
    if "prompt_tokens" in usage:
        details = {} if cached is None else {"prompt_tokens_details": {"cached_tokens": cached}}
        return {"prompt_tokens": given, "completion_tokens": 5, "total_tokens": given + 5, **details}
    if "total_tokens" in usage:
        details = {} if cached is None else {"input_tokens_details": {"cached_tokens": cached}}
        return {"input_tokens": given, "output_tokens": 5, "total_tokens": given + 5, **details}
    read = {} if cached is None else {"cache_read_input_tokens": cached}
    return {"input_tokens": given - (cached or 0), "output_tokens": 5, **read}


class Client:
    """A client of one model. `keep` says who keeps its conversation."""

    def __init__(self, gateway: Gateway, store: Store, upstream: ScriptedUpstream, model: str, keep: str) -> None:
        self.gateway = gateway
        self.store = store
        self.model = model
        self.items: list[JSON] = []
        self.settings: JSON = {"instructions": "Be brief.", "tools": TOOLS}
        self._upstream = upstream
        self._keep = keep
        self._last: str | None = None
        self._session = f"{model}-{keep}-{time.monotonic_ns()}"
        if keep == "conversation":
            self._conversation = gateway.post("/conversations", {}).json()["id"]

    def says(self, words: str, given: int, cached: int | None, *scripts: Script, **keys: Any) -> JSON:
        """One turn whose upstream reports this usage."""
        for script in scripts:
            self._upstream.enqueue(script)
        if not scripts:
            self._upstream.enqueue(counted(given, cached))
        self.items.append({"type": "message", "role": "user", "content": words})
        body = {"model": self.model, **self.settings, **self._history(), **keys}
        response: JSON = self.gateway.post("/responses", body).json()
        assert response.get("status") == "completed", response
        self.items += response["output"]
        self._last = response["id"]
        return response

    def _history(self) -> JSON:
        if self._keep == "client":
            return {"input": self.items, "store": False, "prompt_cache_key": self._session}
        new = {"input": self.items[-1:]}
        if self._keep == "conversation":
            return {**new, "conversation": self._conversation}
        return new if self._last is None else {**new, "previous_response_id": self._last}


def explained(store: Store, response: JSON, *, follows: bool = True) -> CacheReport:
    """The report, once the row is written and compared with the one before it, if it `follows` one."""
    deadline = time.monotonic() + PATIENCE
    while True:
        report = next((explain(store, owner, found) for owner, found in store.trees.find(response["id"])), None)
        if report is not None and (report.before is not None or not follows):
            return report
        assert time.monotonic() < deadline, report
        time.sleep(GLANCE)


@pytest.fixture(params=FORMATS)
def model(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=["chain", "client", "conversation"])
def client(
    request: pytest.FixtureRequest,
    gateway: Gateway,
    store: Store,
    upstreams: dict[str, ScriptedUpstream],
    model: str,
) -> Client:
    for upstream in upstreams.values():
        upstream.reset()
    return Client(gateway, store, upstreams["one"], model, request.param)


def test_a_prompt_that_the_cache_served_is_a_hit(client: Client) -> None:
    client.says("Hello", 4000, 0)
    report = explained(client.store, client.says("And then?", 4200, 3968))
    assert (report.reason, report.share) == ("hit", 0.9448)


def test_a_first_request_misses_nothing(client: Client) -> None:
    first = client.says("Hello", 4000, 0)
    report = explained(client.store, first, follows=False)
    assert (report.reason, report.before) == ("first_request", None)


def test_an_upstream_that_forgot_is_blamed_where_nothing_has_changed(client: Client) -> None:
    client.says("Hello", 4000, 0)
    report = explained(client.store, client.says("And then?", 4200, 0))
    assert report.reason == "unknown"
    assert "forgot" in report.detail


def test_an_upstream_without_cached_tokens_is_not_blamed(client: Client) -> None:
    client.says("Hello", 4000, None)
    report = explained(client.store, client.says("And then?", 4200, None))
    assert (report.reason, report.share, report.cached_tokens) == ("not_reported", None, None)


def test_a_short_prompt_is_below_the_minimum(client: Client) -> None:
    client.says("Hello", 900, 0)
    report = explained(client.store, client.says("And then?", 1200, 0, tools=TOOLS[:1]))
    assert report.reason == "below_minimum"


@pytest.mark.parametrize(
    ("change", "region", "index"),
    [
        ({"tools": [TOOLS[0], {**TOOLS[1], "description": "Goes."}]}, "tools", 1),
        ({"tools": TOOLS[:1]}, "tools", 1),
        ({"instructions": "Be brief. It is 12:01."}, "instructions", 0),
        ({"text": {"format": {"type": "json_schema", "name": "a", "schema": {"type": "object"}}}}, "instructions", 1),
        ({"tools": TOOLS[::-1], "instructions": "Be long."}, "tools", 0),
    ],
)
def test_the_first_part_that_changed_is_named(client: Client, change: JSON, region: str, index: int) -> None:
    client.says("Hello", 4000, 0)
    report = explained(client.store, client.says("And then?", 4200, 0, **change))
    assert (report.reason, report.region, report.index) == ("prefix_changed", region, index)


def test_another_model_is_named(client: Client) -> None:
    client.says("Hello", 4000, 0)
    report = explained(client.store, client.says("And then?", 4200, 0, model=f"{client.model}-2"))
    assert report.reason == "model_changed"


def test_another_channel_is_named_with_the_failure_that_led_to_it(
    client: Client, upstreams: dict[str, ScriptedUpstream]
) -> None:
    for _ in range(RETRY_EARNERS):
        assert client.gateway.post("/responses", {"model": "steady", "input": "Hi"}).status_code == 200
    client.model = f"{client.model}-moving"
    client.says("Hello", 4000, 0)
    upstreams["two"].enqueue(counted(4200, 0))
    report = explained(client.store, client.says("And then?", 0, 0, failing_at_once()))
    assert report.reason == "channel_changed"
    assert "-one answered " in report.detail


def test_a_prompt_that_was_unused_for_long_is_too_old(client: Client) -> None:
    first = client.says("Hello", 4000, 0)
    second = client.says("And then?", 4200, 0)
    _age(client.store, first, 301)
    report = explained(client.store, second)
    assert report.reason == "expired"
    assert "300 s" in report.detail


def test_a_client_may_ask_for_a_longer_time(client: Client) -> None:
    keys = {"prompt_cache_retention": "24h"}
    first = client.says("Hello", 4000, 0, **keys)
    second = client.says("And then?", 4200, 0, **keys)
    _age(client.store, first, 3600)
    assert explained(client.store, second).reason == "unknown"
    _age(client.store, first, 90_000)
    assert explained(client.store, second).reason == "expired"


def _age(store: Store, response: JSON, seconds: int) -> None:
    """The response ended so long ago."""
    store.database.transaction(
        lambda session: session.run(
            "UPDATE response SET created_at = created_at - ?, completed_at = completed_at - ? WHERE id = ?",
            (seconds, seconds, response["id"]),
        )
    )


@pytest.fixture
def keeper(gateway: Gateway, store: Store, upstreams: dict[str, ScriptedUpstream], model: str) -> Client:
    """A client that keeps its conversation."""
    for upstream in upstreams.values():
        upstream.reset()
    return Client(gateway, store, upstreams["one"], model, "client")


@pytest.mark.parametrize("place", [0, 2, 4])
def test_an_item_that_a_client_rewrote_is_named(keeper: Client, place: int) -> None:
    for number in range(3):
        keeper.says(f"Question {number}", 4000 + 200 * number, 0)
    keeper.items[place] = {**keeper.items[place], "content": "It is 12:01."}
    report = explained(keeper.store, keeper.says("And then?", 4600, 0))
    assert (report.reason, report.region, report.index) == ("prefix_changed", "items", place)


def test_what_no_model_reads_of_an_item_is_no_difference(keeper: Client) -> None:
    keeper.says("Hello", 4000, 0)
    keeper.items[0] = {"role": "user", "content": [{"type": "input_text", "text": "Hello"}], "status": "completed"}
    keeper.items[1] = {**keeper.items[1], "id": "msg_other"}
    assert explained(keeper.store, keeper.says("And then?", 4200, 0)).reason == "unknown"


def test_digests_grow_with_what_is_new(keeper: Client) -> None:
    turns = [keeper.says(f"Question {number}", 4000, 0) for number in range(12)]
    explained(keeper.store, turns[-1])
    sizes = [_size(keeper.store, turn) for turn in turns]
    assert len(set(sizes[2:])) == 1
    assert sizes[-1] < 120


def _size(store: Store, response: JSON) -> int:
    row = store.database.read(
        lambda session: session.row("SELECT prompt FROM response WHERE id = ?", (response["id"],))
    )
    assert row is not None
    return len(row[0])


def test_a_title_for_the_conversation_is_no_turn_of_it(keeper: Client) -> None:
    keeper.says("Hello", 4000, 0)
    keeper.items, items = [], keeper.items
    title = keeper.says("Write a title.", 4000, 0, instructions="You write titles.", tools=[])
    keeper.items = items
    assert explained(keeper.store, keeper.says("And then?", 4200, 4096)).reason == "hit"
    report = explained(keeper.store, title, follows=False)
    assert report.reason == "first_request"


def test_a_compaction_is_named(client: Client) -> None:
    client.says("Hello", 4000, 0)
    settings = {"context_management": [{"type": "compaction", "compact_threshold": 10, "strategy": "trim"}]}
    report = explained(client.store, client.says("And then?", 4200, 0, **settings))
    assert report.reason == "compacted"


def test_the_commands_show_the_share_and_the_reason(
    gateway: Gateway, store: Store, upstreams: dict[str, ScriptedUpstream]
) -> None:
    client = Client(gateway, store, upstreams["one"], "responses", "client")
    client.says("Hello", 4000, 0)
    second = client.says("And then?", 4200, 1024, instructions="Be long.")
    explained(client.store, second)
    told = client.gateway.command("cache", second["id"])
    assert "24 %" in told
    assert "instructions[0]" in told
    assert "The instructions or the form of the answer have changed." in client.gateway.command("show", second["id"])
    line = next(line for line in client.gateway.command("tree", second["id"]).splitlines() if "◀" in line)
    assert "24 %" in line
    assert "cache miss: prefix changed instructions[0]" in line


def test_usage_by_channel_has_the_share_and_the_reasons_of_late(
    gateway: Gateway, store: Store, upstreams: dict[str, ScriptedUpstream]
) -> None:
    client = Client(gateway, store, upstreams["one"], "responses", "chain")
    client.says("Hello", 4000, 0)
    client.says("And then?", 4200, 0, instructions="Be long.")
    found: list[JSON] = orjson.loads(gateway.command("usage", "--by", "channel", "--json"))["usage"]
    assert all(row["cached_share"] is not None for row in found if row["input_tokens"])
    shown = gateway.command("usage", "--by", "channel")
    line = next(line for line in shown.splitlines() if line.startswith("responses-one"))
    assert "prefix changed" in line
    assert "share" in gateway.command("usage")


def test_an_unknown_response_ends_with_code_4(gateway: Gateway) -> None:
    gateway.command("cache", "resp_" + "0" * 48, exit_code=NOT_FOUND)
