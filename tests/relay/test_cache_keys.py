"""The gateway's own cache key: one for a conversation, in all its turns, branches, workers and transports."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

import orjson
import pytest

from tests.gateway import Gateway
from tests.relay.conftest import eventually
from tests.upstream import ScriptedUpstream, failing, refusal, retold
from tests.upstream.exchange import Answer, Exchange
from tests.websocket_client import Socket

JSON = dict[str, Any]
KEY = "prompt_cache_key"
SHORT = re.compile(r"[0-9a-f]{32}")
LONG = "word " * 400
#: Tests that bring failures tire no channel.
TABLE = {"defaults": {"cooldown": {"after": 1000}}}
DONE = ("completed", "failed", "cancelled")


@pytest.fixture(scope="module")
def upstream() -> Iterator[ScriptedUpstream]:
    with ScriptedUpstream() as upstream:
        yield upstream


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory, upstream: ScriptedUpstream) -> Iterator[Gateway]:
    chat: JSON = {"format": "chat_completions"}
    channels = [
        upstream.channel("exact", models=["m"]),
        upstream.channel("silent", models=["silent"], cache_key="off"),
        upstream.channel("native", models=["native"], compact="native", encrypted_reasoning=True),
        upstream.channel("chat", models=["chat"], **chat),
        upstream.channel("keyed-chat", models=["keyed-chat"], cache_key="on", **chat),
        upstream.channel("messages", models=["claude"], format="messages"),
        *(upstream.channel(name, models=[name]) for name in ("strict", "strict-sse", "quoting", "breaking")),
    ]
    directory = tmp_path_factory.mktemp("cache-keys")
    with Gateway(directory, channels, TABLE, workers=2, worker_processes=1) as gateway:
        yield gateway


class Talk:
    """Requests of one test, and the keys that the upstream got with them."""

    def __init__(self, gateway: Gateway, upstream: ScriptedUpstream) -> None:
        self.gateway, self.upstream = gateway, upstream
        self._first = len(upstream.bodies)

    def ask(self, text: Any, model: str = "m", path: str = "/responses", **keys: Any) -> JSON:
        """One turn, on a connection of its own so that any worker may get it."""
        headers = {"Connection": "close", **keys.pop("headers", {})}
        body = {"model": model, "input": text, **keys}
        answer = self.gateway.request("POST", path, json=body, headers=headers)
        assert answer.status_code == 200, answer.text
        return dict(answer.json())

    def chain(self, previous: JSON | None = None, turns: int = 1, **keys: Any) -> JSON:
        """The last response of a chain that goes on for so many turns."""
        last = previous
        for number in range(turns):
            parent = {"previous_response_id": last["id"]} if last else {}
            last = self.ask(f"turn {number}. {LONG}", **parent, **keys)
        assert last is not None
        return last

    @property
    def keys(self) -> list[str | None]:
        return [body.get(KEY) for body in self.upstream.bodies[self._first :]]

    def key(self) -> str:
        """The one key of all requests."""
        keys = self.keys
        assert len(set(keys)) == 1, keys
        assert SHORT.fullmatch(keys[0] or ""), keys
        return str(keys[0])


@pytest.fixture
def talk(gateway: Gateway, upstream: ScriptedUpstream) -> Iterator[Talk]:
    yield Talk(gateway, upstream)
    upstream.reset()


@pytest.fixture
def other_talk(gateway: Gateway, upstream: ScriptedUpstream) -> Callable[[], Talk]:
    return lambda: Talk(gateway, upstream)


# --- one key for a conversation ---------------------------------------------------------------------------------


def test_a_chain_has_one_key_over_its_turns_and_branches(talk: Talk, other_talk: Callable[[], Talk]) -> None:
    first = talk.chain()
    tip = talk.chain(first, turns=3)
    talk.chain(first, turns=2)
    talk.chain(tip, store=False)
    key = talk.key()
    stranger = other_talk()
    stranger.chain(turns=2)
    assert stranger.key() != key


def test_a_key_is_the_owners_own(talk: Talk, gateway: Gateway, other_talk: Callable[[], Talk]) -> None:
    headers = {"session-id": "a session of two owners"}
    talk.ask("hello", headers=headers)
    eve = gateway.new_token(f"eve of keys, {gateway.port}", "--owner", "eve")
    theirs = other_talk()
    gateway.request("POST", "/responses", eve, json={"model": "m", "input": "hello"}, headers=headers)
    assert theirs.key() != talk.keys[0]


def test_a_conversation_has_one_key_from_its_first_turn_on(talk: Talk, gateway: Gateway) -> None:
    conversation = gateway.post("/conversations", {}).json()["id"]
    last: JSON = {}
    for number in range(3):
        last = talk.ask(f"turn {number}", conversation=conversation)
    # A chain that begins with a response of the conversation goes on with its history.
    talk.chain(last, turns=2)
    talk.key()


def test_a_compaction_changes_no_key(talk: Talk) -> None:
    settings = [{"type": "compaction", "compact_threshold": 1, "strategy": "summary"}]
    tip = talk.chain(turns=2)
    within = talk.ask("And now?", previous_response_id=tip["id"], context_management=settings)
    assert within["output"][0]["type"] == "compaction"
    behind = talk.chain(within, turns=2)
    again = talk.ask("Once more", path="/responses/compact", previous_response_id=behind["id"])
    assert again["output"][0]["type"] == "compaction"
    window = talk.ask([], path="/responses/compact", previous_response_id=talk.chain(again)["id"])
    talk.chain(window, turns=2)
    # As many requests as turns and summaries.
    assert len(talk.keys) == 2 + 2 + 2 + 2 + 1 + 1 + 2
    talk.key()


def test_a_native_compaction_changes_no_key(talk: Talk) -> None:
    tip = talk.chain(turns=2, model="native")
    compacted = talk.ask("And now?", "native", "/responses/compact", previous_response_id=tip["id"])
    assert compacted["output"][0]["type"] == "compaction"
    talk.chain(compacted, turns=2, model="native")
    talk.key()


def test_a_client_that_carries_a_compaction_keeps_the_key(talk: Talk) -> None:
    window = talk.ask([], path="/responses/compact", previous_response_id=talk.chain(turns=2)["id"])
    items = window["output"]
    for number in range(2):
        items = [*items, {"role": "user", "content": f"turn {number}"}]
        items += talk.ask(items, store=False)["output"]
    talk.key()


def test_a_session_of_a_client_that_keeps_the_conversation_has_one_key(talk: Talk) -> None:
    items: list[JSON] = []
    for number in range(3):
        items.append({"role": "user", "content": f"turn {number}"})
        items += talk.ask(items, store=number == 1, headers={"session-id": "a session of keys"})["output"]
    talk.key()


def test_a_background_response_belongs_to_its_chain(talk: Talk, gateway: Gateway) -> None:
    first = talk.chain(background=True)
    path = f"/responses/{first['id']}"
    eventually(lambda: gateway.get(path).json()["status"] in DONE, "the end of the background response")
    talk.chain(first, turns=2)
    talk.key()


@pytest.mark.parametrize("store", [True, False])
def test_the_turns_of_a_websocket_have_one_key(talk: Talk, gateway: Gateway, store: bool) -> None:
    with Socket(gateway) as socket:
        first = socket.answer(store=store)
        second = socket.answer(store=store, input="And then?", previous_response_id=first["id"])
        socket.answer(store=store, input="At last?", previous_response_id=second["id"])
    assert len(talk.keys) == 3
    talk.key()


def test_a_warm_up_is_the_root_of_its_chain(talk: Talk, gateway: Gateway) -> None:
    with Socket(gateway) as socket:
        warm = socket.answer(store=False, generate=False)
        socket.answer(store=False, input="And then?", previous_response_id=warm["id"])
        socket.answer(store=False, input="Or else?", previous_response_id=warm["id"])
    assert len(talk.keys) == 2
    talk.key()


def test_a_restart_changes_no_key(talk: Talk, gateway: Gateway) -> None:
    first = talk.chain()
    gateway.restart()
    talk.chain(first, turns=2)
    talk.key()


def test_a_client_without_a_session_that_keeps_the_conversation_has_a_key_by_its_beginning(
    talk: Talk, other_talk: Callable[[], Talk]
) -> None:
    """A request that nothing continues has none: others share its instructions."""

    def converse(talk: Talk, first: str, instructions: str) -> list[str | None]:
        items: list[JSON] = [{"role": "user", "content": first}]
        items += talk.ask(items, store=False, instructions=instructions)["output"]
        for store in (True, False):
            items.append({"role": "user", "content": "and again"})
            items += talk.ask(items, store=store, instructions=instructions)["output"]
        return talk.keys

    keys = [converse(other_talk(), *begun) for begun in (("hi", "Be brief."), ("hi", "Be kind."), ("yo", "Be brief."))]
    assert [key[0] for key in keys] == [None, None, None]
    assert all(SHORT.fullmatch(key[1] or "") and key[1] == key[2] for key in keys)
    assert len({key[1] for key in keys}) == 3
    references = other_talk()
    first = references.ask([{"role": "user", "content": "hi"}], instructions="Be brief.")
    referred = [{"type": "item_reference", "id": item["id"]} for item in first["output"]]
    items = [{"role": "user", "content": "hi"}, *referred, {"role": "user", "content": "and again"}]
    references.ask(items, instructions="Be brief.")
    assert references.keys[1] == keys[0][1]


def test_marks_that_move_from_turn_to_turn_change_no_key(talk: Talk) -> None:
    def marked(text: str) -> JSON:
        part = {"type": "input_text", "text": text, "cache_control": {"type": "ephemeral"}}
        return {"role": "user", "content": [part]}

    items: list[JSON] = [{"role": "user", "content": "the beginning of moving marks"}]
    items += talk.ask([marked("the beginning of moving marks")], store=False)["output"]
    for number in range(2):
        items += talk.ask([*items, marked(f"turn {number}")], store=False)["output"]
    talk.ask([marked("the beginning of moving marks"), *items[1:], marked("the end")], store=False)
    first, *later = talk.keys
    assert first is None
    assert len(set(later)) == 1
    assert later[0] is not None


# --- where there is none ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", ["m", "chat", "keyed-chat"])
def test_the_key_of_a_client_stays_its_own(talk: Talk, model: str) -> None:
    first = talk.chain(model=model, **{KEY: "thread-7"})
    talk.chain(first, model=model, **{KEY: "thread-7"})
    assert talk.keys == ["thread-7", "thread-7"]
    assert first[KEY] == "thread-7"


@pytest.mark.parametrize(("model", "sent"), [("silent", 0), ("chat", 0), ("keyed-chat", 2), ("claude", 0)])
def test_the_row_decides(talk: Talk, model: str, sent: int) -> None:
    talk.chain(turns=2, model=model)
    assert sum(key is not None for key in talk.keys) == sent
    assert len(talk.keys) == 2
    assert len(set(talk.keys)) == 1


def test_a_passthrough_request_is_sent_as_it_is(talk: Talk) -> None:
    messages = [{"role": "user", "content": "hello"}]
    body = {"model": "keyed-chat", "messages": messages}
    answer = talk.gateway.request("POST", "/chat/completions", json=body, headers={"session-id": "of a chat"})
    assert answer.status_code == 200, answer.text
    assert talk.keys == [None]


# --- a refusal --------------------------------------------------------------------------------------------------


def refusing_keys(exchange: Exchange, answer: Answer) -> Answer:
    if KEY not in exchange.request.body:
        return answer
    words = f"Unsupported parameter: '{KEY}'"
    return refusal(400, code="unsupported_parameter", param=KEY, message=words)(exchange, answer)


@pytest.mark.parametrize("model", ["strict", "strict-sse"])
def test_an_upstream_that_refuses_the_key_is_asked_without_it(talk: Talk, model: str) -> None:
    talk.upstream.always(refusing_keys)
    body = {"model": model, "input": "hello"}
    for _ in range(2):
        answer = talk.gateway.stream(body) if model == "strict-sse" else talk.gateway.post("/responses", body)
        assert answer.status_code == 200, answer.text
        # The client sent no such member, so that nothing of its request was changed.
        assert "X-Antiphon-Adapted" not in answer.headers
        assert answer.text
    assert [key is not None for key in talk.keys] == [True, False, False]
    assert f"drop {KEY}" in talk.gateway.command("channels", "list", "--json")


# --- no client sees it ------------------------------------------------------------------------------------------


def repeating(exchange: Exchange, answer: Answer) -> Answer:
    """An upstream that echoes its request, as OpenAI does."""
    return retold(lambda body: {**body, KEY: exchange.request.body.get(KEY)})(exchange, answer)


@pytest.mark.parametrize("streamed", [False, True])
def test_the_key_is_echoed_nowhere(talk: Talk, gateway: Gateway, streamed: bool) -> None:
    talk.upstream.always(repeating)
    answer = gateway.post("/responses", {"model": "m", "input": "hello", "stream": streamed})
    key = talk.key()
    response_id = re.findall(r"resp_[0-9a-f]{48}", answer.text)[0]
    shown = gateway.get(f"/responses/{response_id}").text
    assert orjson.loads(shown)[KEY] is None
    items = gateway.get(f"/responses/{response_id}/input_items").text
    commands = [gateway.command("show", response_id, *options) for options in ((), ("--json",))]
    tree = gateway.command("tree", response_id, "--json")
    for text in (answer.text, shown, items, *commands, tree, gateway.log, str(answer.headers)):
        assert key not in text


@pytest.mark.parametrize("streamed", [False, True])
def test_an_error_that_quotes_the_key_does_not_show_it(talk: Talk, gateway: Gateway, streamed: bool) -> None:
    def quoting(exchange: Exchange, answer: Answer) -> Answer:
        return refusal(400, message=f"No room for {exchange.request.body[KEY]} today.")(exchange, answer)

    talk.upstream.enqueue(quoting)
    answer = gateway.post("/responses", {"model": "quoting", "input": "hello", "stream": streamed})
    assert "No room for *** today." in answer.text
    assert talk.key() not in answer.text + gateway.log


def test_a_stream_that_breaks_with_the_key_in_its_words_does_not_show_it(talk: Talk, gateway: Gateway) -> None:
    def breaking(exchange: Exchange, answer: Answer) -> Answer:
        return failing(6, message=f"Lost {exchange.request.body[KEY]}.")(exchange, answer)

    talk.upstream.enqueue(breaking)
    answer = gateway.stream({"model": "breaking", "input": "hello"}).text
    assert "Lost ***." in answer
    response_id = re.findall(r"resp_[0-9a-f]{48}", answer)[0]
    assert talk.key() not in answer + gateway.get(f"/responses/{response_id}").text + gateway.log
    assert talk.key() not in gateway.command("show", response_id, "--json")


def test_a_pass_that_quotes_the_key_does_not_show_it(talk: Talk, gateway: Gateway) -> None:
    def quoting(exchange: Exchange, answer: Answer) -> Answer:
        return refusal(400, message=f"No room for {exchange.request.body[KEY]} today.")(exchange, answer)

    tip = talk.chain(turns=2, model="native")
    settings = [{"type": "compaction", "strategy": "native"}]
    talk.upstream.always(quoting)
    body = {"model": "native", "previous_response_id": tip["id"], "context_management": settings}
    answer = gateway.post("/responses/compact", body)
    assert "No room for *** today." in answer.text
    assert talk.key() not in answer.text + gateway.log
