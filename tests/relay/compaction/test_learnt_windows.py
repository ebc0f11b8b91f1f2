"""The window that a refusal shows is remembered: the next history is read in parts that fit, without a refusal."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import orjson
import pytest

from tests.gateway import Gateway
from tests.relay.compaction.conftest import requests_summary, summarising
from tests.relay.conftest import eventually
from tests.upstream import Answer, Exchange, Script, ScriptedUpstream, refusal

JSON = dict[str, Any]
FORMATS = ("responses", "chat_completions", "messages")
#: Tokens, of some five characters.
WINDOW = 8000
#: Seconds, after which a condition does not come any more.
PATIENTLY = 30.0
MANAGED = [{"type": "compaction", "compact_threshold": 10**6}]


@pytest.fixture(scope="module")
def upstream() -> Iterator[ScriptedUpstream]:
    with ScriptedUpstream() as upstream:
        yield upstream


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory, upstream: ScriptedUpstream) -> Iterator[Gateway]:
    """One worker, which knows at once what it has learnt."""
    rows = [
        upstream.channel(
            name, format=name, models=[f"{kind}-{name}" for kind in ("named", "unnamed", "stated", "turn")]
        )
        for name in FORMATS
    ]
    table = {"defaults": {"cooldown": {"after": 1000}}, "models": {"stated-*": {"context_window": 30_000}}}
    with Gateway(tmp_path_factory.mktemp("windows"), rows, table, workers=1) as gateway:
        yield gateway


def narrow(refused: Script) -> Script:
    def script(exchange: Exchange, answer: Answer) -> Answer:
        return (refused if size_of(exchange.request.body) > 5 * WINDOW else summarising)(exchange, answer)

    return script


def named() -> Script:
    return refusal(400, f"This model's maximum context length is {WINDOW} tokens.", "context_length_exceeded")


def unnamed() -> Script:
    words = "Your input exceeds the context window of this model. Please adjust your input and try again."
    return refusal(400, words, "context_length_exceeded")


def history() -> list[JSON]:
    """Some 24,000 tokens."""
    return [{"role": role, "content": "word " * 800} for _ in range(15) for role in ("user", "assistant")]


def compact(api: Gateway, upstream: ScriptedUpstream, model: str) -> tuple[int, int]:
    """Compacts a history. The passes that were sent, and those that were refused."""
    upstream.requests.clear()
    answer = api.post("/responses/compact", {"model": model, "input": history(), "store": False})
    assert answer.status_code == 200, answer.text
    sizes = [size_of(request.body) for request in upstream.requests]
    return len(sizes), sum(size > 5 * WINDOW for size in sizes)


def size_of(body: JSON) -> int:
    return len(orjson.dumps(body.get("input") or body.get("messages")))


def window_of(api: Gateway, model: str) -> int | None:
    listed = {entry["id"]: entry for entry in api.get("/models").json()["data"]}
    window: int | None = listed[model].get("context_window")
    return window


def learnt(api: Gateway, channel: str) -> dict[str, str]:
    """What the channel has learnt, by model."""
    rows = orjson.loads(api.command("channels", "list", "--json"))["channels"]
    entries = next(row["learnt"] for row in rows if row["name"] == channel)
    return {entry["model"]: entry["remedy"] for entry in entries}


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize(("kind", "refused"), [("named", named()), ("unnamed", unnamed())])
def test_the_second_history_meets_no_refusal(
    api: Gateway, upstream: ScriptedUpstream, name: str, kind: str, refused: Script
) -> None:
    model = f"{kind}-{name}"
    upstream.always(narrow(refused))
    _, refusals = compact(api, upstream, model)
    assert refusals >= 1
    passes, refusals = compact(api, upstream, model)
    assert passes > 1
    assert refusals == 0
    # A guess serves the passes. No client sees it, because the model's window may be twice as large.
    assert window_of(api, model) == (WINDOW if kind == "named" else None)
    remedy = eventually(lambda: learnt(api, name).get(model), "what was learnt to be stored", within=PATIENTLY)
    assert remedy.startswith(f"learnt_window: {WINDOW}" if kind == "named" else "guessed_window: ")
    forgotten = orjson.loads(api.command("channels", "forget", name, "--model", model, "--json"))
    assert forgotten["forgotten"] == 1
    eventually(lambda: window_of(api, model) is None, "the window to be forgotten", within=PATIENTLY)
    eventually(lambda: compact(api, upstream, model)[1] >= 1, "a pass that is refused again", within=PATIENTLY)


@pytest.mark.parametrize("name", FORMATS)
def test_a_window_that_the_table_states_is_not_learnt(api: Gateway, upstream: ScriptedUpstream, name: str) -> None:
    model = f"stated-{name}"
    upstream.always(narrow(named()))
    assert [compact(api, upstream, model)[1] > 0 for _ in range(2)] == [True, True]
    assert window_of(api, model) == 30_000


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("stream", [False, True], ids=["json", "sse"])
def test_the_refusal_of_a_turn_shows_it_too(api: Gateway, upstream: ScriptedUpstream, name: str, stream: bool) -> None:
    upstream.always(narrow(named()))
    body = {"model": f"turn-{name}", "input": [*history(), {"role": "user", "content": "x"}], "store": False}
    answer = api.post("/responses", {**body, "stream": stream})
    assert answer.status_code == 400
    assert window_of(api, f"turn-{name}") == WINDOW
    # No pass is sent that would not fit.
    upstream.requests.clear()
    answer = api.post("/responses", {**body, "context_management": MANAGED})
    assert answer.status_code == 200, answer.text
    summaries = [request.body for request in upstream.requests if requests_summary(request.body)]
    assert summaries
    assert all(size_of(body) <= 5 * WINDOW for body in summaries)
