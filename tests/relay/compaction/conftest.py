"""One gateway of two workers and two upstreams for everything about compaction; and conversations to compact."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import orjson
import pytest
import requests

from tests.gateway import Gateway
from tests.upstream import SEAL, Answer, Exchange, ScriptedUpstream, retold, rewritten

JSON = dict[str, Any]
#: Models that the gateway itself compacts, by the format of the channel behind them.
FORMATS = {"responses": "gpt-plain", "demo": "demo", "chat_completions": "gpt-chat"}
#: Models whose upstream compacts.
NATIVE = ("gpt-native", "gpt-trigger")
FILLER = " This came at length, with many a word that the summary will leave out again." * 8
#: Models whose conversations the gateway compacts by itself, at this many tokens.
SMALL = {"responses": "gpt-small", "demo": "demo-small", "chat_completions": "chat-small", "messages": "claude-small"}
DUE_AT = 4000
#: Tests that bring failures tire no channel.
TABLE = {
    "defaults": {"cooldown": {"after": 1000}},
    "models": {
        "*-small": {"context_window": 2 * DUE_AT, "compact_at": 0.5},
        # Stated, so that no test learns a window for the others.
        **{name: {"context_window": 32_768} for name in ("gpt-*", "o4-*", "claude-9")},
    },
}
FACT = re.compile(r"fact-\d+")


@dataclass(frozen=True, slots=True)
class CompactionGateway:
    gateway: Gateway
    first: ScriptedUpstream
    second: ScriptedUpstream

    def create(self, model: str, new_input: Any, previous: str | None = None, **keys: Any) -> JSON:
        return self.ok("/responses", model=model, input=new_input, previous_response_id=previous, **keys)

    def compact(self, model: str, **keys: Any) -> JSON:
        return self.ok("/responses/compact", model=model, **keys)

    def ok(self, path: str, **body: Any) -> JSON:
        answer = self.post(path, **body)
        assert answer.status_code == 200, answer.text
        return dict(answer.json())

    def post(self, path: str, **body: Any) -> requests.Response:
        return self.gateway.post(path, body)

    def get(self, path: str) -> JSON:
        answer = self.gateway.get(path)
        assert answer.status_code == 200, answer.text
        return dict(answer.json())

    def talk(self, model: str, turns: int, first: int = 1, previous: str | None = None) -> str:
        """A chain of turns, a fact in each; the id of its last response."""
        for number in range(first, first + turns):
            previous = self.create(model, f"Note fact-{number}.{FILLER}", previous)["id"]
        assert previous is not None
        return previous

    @property
    def given(self) -> list[JSON]:
        """The input of the newest request that reached the first upstream, as items or messages."""
        return given_to(self.first)


def rows(first: ScriptedUpstream, second: ScriptedUpstream) -> list[JSON]:
    one, two = {"family": "one"}, {"family": "two"}
    return [
        {"name": "demo", "format": "demo", "models": ["demo", "demo-small"]},
        first.channel("plain", models=["gpt-plain", "gpt-small", "o4-plain"], **one),
        first.channel("native", models=["gpt-native"], compact="native", encrypted_reasoning=True, **one),
        first.channel("trigger", models=["gpt-trigger"], compact="trigger", **one),
        first.channel("tired", models=["gpt-tired"], compact="native", family="one", cooldown={"after": 1, "for": 60}),
        first.channel("above", models=["gpt-pair"], compact="native", priority=10, **one),
        second.channel("below", models=["gpt-pair"], **two),
        first.channel("wide", models=["gpt-moved"], priority=10, cooldown={"after": 1, "for": 60}, **one),
        second.channel("tight", models=["gpt-moved"], **two),
        first.channel("beside-plain", models=["gpt-mixed"], priority=10, **one),
        second.channel("beside-native", models=["gpt-mixed"], compact="native", **two),
        first.channel("chat", models=["gpt-chat", "chat-small"], format="chat_completions"),
        first.channel("messages", models=["claude-9", "claude-small"], format="messages", api_key="a-key"),
        first.channel("no-bridge", models=["gpt-chat-only"], format="chat_completions", bridge=False),
    ]


@pytest.fixture(scope="session")
def _compaction_gateway(
    tmp_path_factory: pytest.TempPathFactory, shared_database_url: str
) -> Iterator[CompactionGateway]:
    with ScriptedUpstream(family="one") as first, ScriptedUpstream(family="two") as second:
        directory = tmp_path_factory.mktemp("compaction")
        with Gateway(directory, rows(first, second), TABLE, workers=2, database_url=shared_database_url) as gateway:
            yield CompactionGateway(gateway, first, second)


@pytest.fixture
def compaction_gateway(_compaction_gateway: CompactionGateway) -> CompactionGateway:
    for upstream in (_compaction_gateway.first, _compaction_gateway.second):
        upstream.reset()
        upstream.always(summarising)
    return _compaction_gateway


# --- the upstream's summaries -----------------------------------------------------------------------------------


def summarising(exchange: Exchange, answer: Answer) -> Answer:
    """A model that sums up as it should: every fact that it was given, and little else."""
    body = exchange.request.body
    if not requests_summary(body) or answer.status != 200:
        return answer
    return answering_with("Known: " + ", ".join(facts(body)))(exchange, answer)


def answering_with(text: str, **members: Any) -> Any:
    """An answer of these words, in any format, with these members beside them."""

    def change(body: JSON) -> JSON:
        if "choices" in body:
            body["choices"][0]["message"]["content"] = text
        elif "content" in body:
            body["content"] = [{"type": "text", "text": text}]
        else:
            body["output"][-1]["content"][0]["text"] = text
        return {**body, **members}

    return retold(change)


def forgetting(exchange: Exchange, answer: Answer) -> Answer:
    """A native compaction that is short, as they are."""
    sealed = SEAL + base64.urlsafe_b64encode(b'{"family":"one","said":["Little."]}').decode()

    def change(body: JSON) -> JSON:
        for item in body.get("output", ()):
            if item["type"] == "compaction":
                item["encrypted_content"] = sealed
        return body

    return answer if answer.streams else rewritten(change)(exchange, answer)


def requests_summary(body: JSON) -> bool:
    return "Summarise the conversation above" in words(items_of(body)[-1]) if items_of(body) else False


def items_of(body: JSON) -> list[JSON]:
    given = body.get("input", body.get("messages"))
    return [{"role": "user", "content": given}] if isinstance(given, str) else list(given or ())


def given_to(upstream: ScriptedUpstream) -> list[JSON]:
    return items_of(upstream.bodies[-1])


def facts(value: Any) -> list[str]:
    """The facts in any value, in their order, each once."""
    return list(dict.fromkeys(FACT.findall(orjson.dumps(value).decode())))


def numbered(*numbers: int) -> list[str]:
    return [f"fact-{number}" for number in numbers]


# --- looking at answers -----------------------------------------------------------------------------------------


def words(item: JSON) -> str:
    content = item.get("content") or ""
    return content if isinstance(content, str) else "".join(str(part.get("text", "")) for part in content)


def kinds(items: Sequence[JSON]) -> list[str]:
    """Types of the items, but for reasoning, which comes and goes."""
    return [str(item["type"]) for item in items if item["type"] != "reasoning"]


def users(items: Sequence[JSON]) -> list[str]:
    return [words(item) for item in items if item.get("role") == "user"]


def user(text: str) -> JSON:
    return {"type": "message", "role": "user", "content": [{"type": "input_text", "text": text}]}


def assistant(text: str) -> JSON:
    return {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": text}]}


def conversation(turns: int, first: int = 1) -> list[JSON]:
    """The same as `talk`, as a client keeps it that keeps everything itself."""
    pairs = ((user(f"Note fact-{n}.{FILLER}"), assistant("Noted.")) for n in range(first, first + turns))
    return [item for pair in pairs for item in pair]
