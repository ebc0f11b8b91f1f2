"""A small team with all that pages show: conversations of three kinds of clients, failures, limits that are nearly used
up, a channel that is paused, a table that was rejected, a tool server that does not answer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from time import time
from typing import Any

import orjson

from app.store.models import UsageHour, UsageSlot
from app.store.token_counters import Counters, Windows
from tests.cli.codex import Codex
from tests.console.visitors import Person
from tests.gateway import Gateway
from tests.ports import closed_port
from tests.relay.conftest import eventually
from tests.store import rows
from tests.tool_servers import ToolServer
from tests.upstream import ScriptedUpstream, failing, raw, stalled

MODEL = "gpt-6-mini"
#: A table that no gateway takes.
REJECTED = "version: 1\nchannels:\n  - {name: demo, format: demo, modles: [demo]}\n"


@dataclass(frozen=True, slots=True)
class Team:
    """Ids of responses."""

    codex: str
    """The newest turn of a conversation that its client keeps, with a compaction and an edited question."""
    branches: str
    """The first turn of a conversation with two branches, a failure and a failover."""
    tools: str
    """A turn that called a tool of the gateway."""
    cancelled: str
    token: str
    """The key of a token of ada's whose budget is nearly used up."""


def table(tool_server: ToolServer) -> Mapping[str, Any]:
    servers = [
        {"label": "docs", "url": tool_server.url, "require_approval": "never"},
        {"label": "calendar", "url": f"http://127.0.0.1:{closed_port()}/mcp", "require_approval": "never"},
    ]
    prices = {"input": 2, "cached_input": 0.2, "output": 10}
    facts = [{"context_window": 128_000, "price": {**prices}} for _ in range(2)]
    return {"tools": {"servers": servers}, "models": dict(zip((MODEL, "demo"), facts, strict=True))}


def channels(upstream: ScriptedUpstream) -> list[dict[str, Any]]:
    def patient(name: str, **keys: Any) -> dict[str, Any]:
        return upstream.channel(name=name, models=[MODEL], cooldown={"after": 1000}, timeout="1h", **keys)

    return [
        {"name": "demo", "format": "demo", "models": ["demo", MODEL], "priority": 2},
        patient("openai", priority=3),
        patient("spare", priority=1),
    ]


def fill(gateway: Gateway, upstream: ScriptedUpstream, ada: Person, bob: Person) -> Team:
    team = Team(_codex(ada), _branches(ada, upstream), _tools(ada), _cancelled(ada), _used_up(gateway))
    bob.create(model=MODEL, input="Which of our services still uses the old queue?", metadata={"ticket": "OPS-41"})
    _calls_the_server_that_is_down(bob)
    gateway.command("channels", "pause", "spare", "--reason", "its provider is being moved")
    _grow(gateway.database_url)
    _remember_a_day(gateway.database_url)
    return team


def _codex(ada: Person) -> str:
    codex = Codex(ada.gateway, ada.token)
    for text in ("Find the flaky test in tests/relay", "Please use exec_command now"):
        codex.says(text)
    codex.runs("3 failed, 412 passed in 61.20s")
    codex.compacts()
    codex.says("Now write the fix")
    codex.says("And a changelog line")
    codex.edits(1, "Leave the changelog alone, run the tests again instead")
    return codex.says("Good. Commit it.")


def _branches(ada: Person, upstream: ScriptedUpstream) -> str:
    first: str = ada.create(model=MODEL, input="Draft a note about the outage of last Tuesday")["id"]
    upstream.enqueue(raw(500, b'{"error":{"message":"The model is overloaded."}}'))
    second = ada.create(model=MODEL, input="Shorter, please", previous_response_id=first)["id"]
    for text in ("In German", "As a list", "For the status page"):
        ada.create(model=MODEL, input=text, previous_response_id=second)
    upstream.enqueue(failing(3))
    failed = {"model": MODEL, "input": "And in French", "previous_response_id": second}
    assert ada.gateway.stream(failed, token=ada.token).content
    return first


def _tools(ada: Person) -> str:
    tool = {"type": "mcp", "server_label": "docs"}
    found: str = ada.create(model=MODEL, input="What is the weather in Riga?", tools=[tool])["id"]
    return found


def _calls_the_server_that_is_down(bob: Person) -> None:
    tool = {"type": "mcp", "server_label": "calendar"}
    answer = bob.gateway.post("/responses", {"model": "demo", "input": "hello", "tools": [tool]}, token=bob.token)
    assert answer.status_code == 424, answer.text


def _cancelled(ada: Person) -> str:
    background = {"model": MODEL, "input": "Summarise all tickets of this year", "background": True}
    made = ada.gateway.post("/responses", background, token=ada.token).json()
    assert ada.gateway.post(f"/responses/{made['id']}/cancel", {}, token=ada.token).json()["status"] == "cancelled"
    return str(made["id"])


def _used_up(gateway: Gateway) -> str:
    """A token that has used nine tenths of its budget."""
    gateway.new_token("ada-notebook", "--owner", "ada", "--budget", "2Mtok/day", "--rpm", "60", "--models", MODEL)
    url = gateway.database_url
    ((key,),) = rows.execute(url, "SELECT pk FROM token WHERE name = 'ada-notebook'")
    rows.execute(url, "DELETE FROM token_use WHERE token = ?", (key,))
    used = (key, *Windows.at(int(time())), 0, 0, 1_800_000, 0, 1_800_000, 0, 0)
    columns = ", ".join(("token", *Windows._fields, *Counters._fields))
    rows.execute(url, f"INSERT INTO token_use ({columns}) VALUES ({', '.join('?' * len(used))})", used)
    return str(key)


#: Factors that make the numbers of a test those of work: of tokens, and of what they cost.
_IN, _OUT, _COST = 320, 14, 260


def _grow(url: str) -> None:
    sums = f"input_tokens = input_tokens * {_IN}, output_tokens = output_tokens * {_OUT}, cost = cost * {_COST}"
    for table in ("response", "tree", "usage_hour", "usage_day", "usage_client", "usage_slot"):
        rows.execute(url, f"UPDATE {table} SET {sums}")
    for table in ("tree", "usage_hour", "usage_day", "usage_client"):
        rows.execute(url, f"UPDATE {table} SET cached_tokens = input_tokens * 7 / 10")
    rows.execute(url, f"UPDATE tree SET context = context * {_IN}")
    rows.execute(
        url,
        "UPDATE response SET first_byte_ms = 400 + pk * 137 % 900, total_ms = 2000 + pk * 731 % 9000, cached_tokens ="
        " CASE WHEN COALESCE(parent, inferred) IS NULL THEN 0 ELSE input_tokens * (4 + pk % 5) / 9 END"
        " WHERE completed_at IS NOT NULL AND input_tokens > 0",
    )
    for key, compaction in rows.execute(url, "SELECT pk, compaction FROM response WHERE compaction IS NOT NULL"):
        grown = {name: value * _IN if type(value) is int else value for name, value in orjson.loads(compaction).items()}
        rows.execute(url, "UPDATE response SET compaction = ? WHERE pk = ?", (orjson.dumps(grown).decode(), key))


def _remember_a_day(url: str) -> None:
    """The sums of the hours and the slots before, as if the same had gone on all day, more or less."""
    for model, period, length in ((UsageHour, "hour", 23), (UsageSlot, "slot", 287)):
        table, keys = model._meta.table_name, model._meta.primary_key.field_names
        names = [field.column_name for field in model._meta.sorted_fields]
        first = f"SELECT {', '.join(names)} FROM {table} WHERE {period} = (SELECT MIN({period}) FROM {table})"
        earlier = [
            [_of_earlier(name, value, back, period, keys) for name, value in zip(names, row, strict=True)]
            for row in rows.execute(url, first)
            for back in range(1, length + 1)
        ]
        marks = ", ".join("?" * len(names))
        rows.execute_many(url, f"INSERT INTO {table} ({', '.join(names)}) VALUES ({marks})", earlier)


def _of_earlier(name: str, value: Any, back: int, period: str, keys: Sequence[str]) -> Any:
    if name == period:
        return value - back
    return value if name in keys else value * (5 + back * 7 % 11) // 5


@contextmanager
def at_work(person: Person, upstream: ScriptedUpstream) -> Iterator[None]:
    """A stream is in flight meanwhile."""
    upstream.enqueue(stalled(4))
    with person.gateway.stream(
        {"model": MODEL, "input": "Explain the plan of this query"}, token=person.token
    ) as answer:
        pieces = answer.iter_content(chunk_size=None)
        assert next(pieces)
        yield
        upstream.release()


def reject_table(gateway: Gateway) -> None:
    """Returns when the gateway has refused the table."""
    gateway.channels_file.write_text(REJECTED)
    eventually(lambda: "modles" in gateway.log, "the refusal of the table")
