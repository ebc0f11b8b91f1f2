"""What an upstream gave its items and calls, in the turns that follow: on the same upstream, on another family and in
another format, for clients that chain, that have a conversation and that send everything themselves.

Each upstream refuses what the servers that it stands for refuse: ids of another shape, reasoning that led to nothing,
half a call, calls without what has to come back with them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import orjson
import pytest

from tests.gateway import Gateway
from tests.response_contract import check_error, check_response, check_stream
from tests.upstream import Answer, Exchange, Script, ScriptedUpstream, raw, retold

JSON = dict[str, Any]
OPAQUE = "reasoning.encrypted_content"
TOOLS: list[JSON] = [
    {"type": "function", "name": "look", "parameters": {"type": "object", "properties": {"at": {"type": "string"}}}},
    {"type": "custom", "name": "patch"},
]
UUID = "25fdab0e-8ec3-413c-8703-7ce5668ec990"
#: Beginnings of ids by the type of the item, as OpenAI checks them.
BEGINNINGS = {"message": "msg", "function_call": "fc", "custom_tool_call": "ctc", "reasoning": "rs"}
#: The same for items that only some upstreams stream.
BEGINNINGS |= {"web_search_call": "ws", "shell_call": "sh", "mcp_call": "mcp", "code_interpreter_call": "ci"}


@dataclass(frozen=True, slots=True)
class ItemGateway:
    gateway: Gateway
    one: ScriptedUpstream
    two: ScriptedUpstream

    def ask(self, model: str, input: Any, *, streamed: bool = False, **keys: Any) -> JSON:
        body = {"model": model, "input": input, "tools": TOOLS, **keys}
        if streamed:
            answer = self.gateway.stream(body)
            assert answer.status_code == 200, answer.text
            return dict(check_stream(answer.content)[-1]["response"])
        answer = self.gateway.post("/responses", body)
        assert answer.status_code == 200, answer.text
        named = {"conversation": {"id": keys["conversation"]}} if "conversation" in keys else {}
        return check_response(answer.json(), **named)


@pytest.fixture(scope="module")
def _item_gateway(tmp_path_factory: pytest.TempPathFactory, module_database_url: str) -> Iterator[ItemGateway]:
    with ScriptedUpstream(family="one") as one, ScriptedUpstream(family="two") as two:
        rows = [
            row
            for name, upstream in (("one", one), ("two", two))
            for row in (
                upstream.channel(f"{name}-exact", models=[f"{name}/exact"], encrypted_reasoning=True),
                upstream.channel(f"{name}-chat", models=[f"{name}/chat"], format="chat_completions"),
                upstream.channel(f"{name}-messages", models=[f"{name}/messages"], format="messages"),
            )
        ]
        table = {"defaults": {"cooldown": {"after": 1000}}}
        directory = tmp_path_factory.mktemp("items")
        with Gateway(directory, rows, table, database_url=module_database_url) as gateway:
            yield ItemGateway(gateway, one, two)


@pytest.fixture
def item_gateway(_item_gateway: ItemGateway) -> ItemGateway:
    _item_gateway.one.reset()
    _item_gateway.two.reset()
    return _item_gateway


streamed = pytest.mark.parametrize("streamed", [False, True], ids=["json", "sse"])


class Chain:
    """The client sends `previous_response_id`."""

    keys: JSON = {}

    def __init__(self) -> None:
        self.begun: JSON = {}

    def first(self, item_gateway: ItemGateway, model: str, question: str = "hello", *, streamed: bool = False) -> JSON:
        self.begin(item_gateway, question)
        self.response = item_gateway.ask(model, question, streamed=streamed, **self.begun, **self.keys)
        return self.response

    def begin(self, item_gateway: ItemGateway, question: str) -> None:
        """Before the first turn."""

    def next(self, item_gateway: ItemGateway, model: str, items: Sequence[JSON]) -> JSON:
        self.response = item_gateway.ask(model, list(items), previous_response_id=self.response["id"], **self.keys)
        return self.response


class Conversation(Chain):
    """The client names a conversation."""

    def begin(self, item_gateway: ItemGateway, question: str) -> None:
        self.begun = {"conversation": item_gateway.gateway.post("/conversations", {}).json()["id"]}

    def next(self, item_gateway: ItemGateway, model: str, items: Sequence[JSON]) -> JSON:
        return item_gateway.ask(model, list(items), **self.begun)


class Stateless(Chain):
    """The client sends everything back, with what it cannot read."""

    keys = {"store": False, "include": [OPAQUE]}

    def begin(self, item_gateway: ItemGateway, question: str) -> None:
        self.history: list[JSON] = [user(question)]

    def next(self, item_gateway: ItemGateway, model: str, items: Sequence[JSON]) -> JSON:
        self.history += [*self.response["output"], *items]
        self.response = item_gateway.ask(model, self.history, **self.keys)
        return self.response


class Bare(Stateless):
    """The client sends everything back, but for what it cannot read."""

    keys = {}


HISTORIES = (Chain, Conversation, Stateless, Bare)
history = pytest.mark.parametrize("kind", HISTORIES, ids=[kind.__name__.lower() for kind in HISTORIES])


def user(text: str) -> JSON:
    return {"type": "message", "role": "user", "content": text}


def message(**members: Any) -> JSON:
    content = [{"type": "output_text", "text": "hi", "annotations": [], "logprobs": []}]
    return {"type": "message", "id": "msg_1", "status": "completed", "role": "assistant", "content": content, **members}


def call(**members: Any) -> JSON:
    known = {"id": "fc_1", "call_id": "call_1", "name": "look", "arguments": '{"at":"x"}', "status": "completed"}
    return {"type": "function_call", **known, **members}


def custom(**members: Any) -> JSON:
    return {"type": "custom_tool_call", "id": "ctc_1", "call_id": "call_1", "name": "patch", "input": "x", **members}


def thought(**members: Any) -> JSON:
    return {"type": "reasoning", "id": "rs_1", "summary": [], **members}


def answers(output: Sequence[JSON]) -> list[JSON]:
    """What the client sends after this output: a result for every call, else a message."""
    waiting = [item for item in output if item["type"] in ("function_call", "custom_tool_call", "shell_call")]
    results = [_result(item) for item in waiting if item.get("status") != "incomplete"]
    return results or [user("go on")]


def _result(item: JSON) -> JSON:
    output: Any = "seen"
    if item["type"] == "shell_call":
        output = [{"stdout": "seen", "stderr": "", "outcome": {"type": "exit", "exit_code": 0}}]
    return {"type": f"{item['type']}_output", "call_id": item["call_id"], "output": output}


def giving(*output: JSON, status: str = "completed") -> Script:
    """A Responses upstream whose answer is this output."""
    details = {"reason": "max_output_tokens"} if status == "incomplete" else None
    return retold(lambda body: {**body, "output": list(output), "status": status, "incomplete_details": details})


def unchecked() -> Script:
    """An upstream that takes any input."""
    return lambda exchange, answer: exchange.reply({**exchange.request.body, "input": "hello"})


def refusing(rule: Callable[[JSON], str | None]) -> Script:
    """A chat upstream that refuses requests which break this rule."""

    def script(exchange: Exchange, answer: Answer) -> Answer:
        sentence = rule(exchange.request.body)
        error = {"message": sentence, "type": "invalid_request_error", "code": None, "param": None}
        return raw(400, orjson.dumps({"error": error}))(exchange, answer) if sentence else answer

    return script


def chat(*, finish: str = "tool_calls", **message: Any) -> Script:
    """A chat upstream whose answer is this message, in one piece or as a stream of one chunk."""
    spoken = {"role": "assistant", "content": None, **message}

    def script(exchange: Exchange, answer: Answer) -> Answer:
        usage = {"prompt_tokens": 5, "completion_tokens": 7, "total_tokens": 12}
        body = {"id": "c1", "object": "chat.completion", "created": 1, "model": "m", "usage": usage}
        choice = {"index": 0, "message": spoken, "finish_reason": finish}
        if not answer.streams:
            return raw(200, orjson.dumps({**body, "choices": [choice]}))(exchange, answer)
        calls = [{"index": at, **one} for at, one in enumerate(spoken.get("tool_calls", ()))]
        delta = {**spoken, **({"tool_calls": calls} if calls else {})}
        chunks = [
            {**body, "object": "chat.completion.chunk", "choices": [{"index": 0, "delta": delta}]},
            {
                **body,
                "object": "chat.completion.chunk",
                "choices": [{"index": 0, "delta": {}, "finish_reason": finish}],
            },
        ]
        pieces = [b"data: %b\n\n" % orjson.dumps(chunk) for chunk in chunks]
        return raw(200, b"".join([*pieces, b"data: [DONE]\n\n"]), "text/event-stream")(exchange, answer)

    return script


def chat_call(call_id: str | None = "call_1", **members: Any) -> JSON:
    function = {"name": "look", "arguments": '{"at":"x"}'}
    return {**({"id": call_id} if call_id else {}), "type": "function", "function": function, **members}


# --- ids of items -----------------------------------------------------------------------------------------------

#: Ids that other upstreams refuse, for an item of any type.
FOREIGN = ("chatcmpl-abc", UUID, "item_9", "467325896", "call_1", "toolu_01", "{prefix}_1:2", "{prefix}_" + "x" * 412)


@history
@streamed
@pytest.mark.parametrize("made", [message, call, custom], ids=["message", "function_call", "custom_tool_call"])
def test_every_upstream_takes_the_ids_of_a_history(
    item_gateway: ItemGateway, kind: type[Chain], streamed: bool, made: Callable[..., JSON]
) -> None:
    for foreign in FOREIGN:
        client = kind()
        item = made()
        item["id"] = foreign.format(prefix=BEGINNINGS[item["type"]])
        item_gateway.one.enqueue(giving(item))
        first = client.first(item_gateway, "one/exact", streamed=streamed)
        (shown,) = first["output"]
        assert shown["id"].startswith(BEGINNINGS[item["type"]] + "_")
        assert len(shown["id"]) <= 64
        client.next(item_gateway, "two/exact", answers(first["output"]))
        (sent,) = [one for one in item_gateway.two.bodies[-1]["input"] if one["type"] == item["type"]][:1]
        if item["type"] != "message":
            assert sent["call_id"] == item["call_id"]


@pytest.mark.parametrize("foreign", FOREIGN)
@pytest.mark.parametrize(
    "item",
    [
        {"type": "web_search_call", "status": "completed", "action": {"type": "search", "query": "x"}},
        {"type": "shell_call", "call_id": "call_1", "status": "completed", "action": {"commands": ["ls"]}},
        {"type": "code_interpreter_call", "status": "completed", "code": "1", "container_id": "c", "outputs": []},
    ],
    ids=lambda item: item["type"],
)
def test_ids_of_other_items_are_replaced_alike_in_events_and_answers(
    item_gateway: ItemGateway, item: JSON, foreign: str
) -> None:
    beginning = BEGINNINGS[item["type"]]
    given = {**item, "id": foreign.format(prefix=beginning)}
    item_gateway.one.enqueue(giving(given))
    answer = item_gateway.gateway.stream({"model": "one/exact", "input": "hello"})
    ids = {event["item"]["id"] for event in check_stream(answer.content) if "item" in event}
    assert len(ids) == 1
    stored = item_gateway.gateway.get(f"/responses/{check_stream(answer.content)[-1]['response']['id']}").json()
    assert [one["id"] for one in stored["output"]] == list(ids)
    assert ids.pop().startswith(beginning)


@history
def test_ids_that_repeat_from_turn_to_turn_stay_apart(item_gateway: ItemGateway, kind: type[Chain]) -> None:
    item_gateway.one.always(giving(message(), call()))
    client = kind()
    first = client.first(item_gateway, "one/exact")
    second = client.next(item_gateway, "one/exact", answers(first["output"]))
    item_gateway.one.reset()
    client.response = second
    client.next(item_gateway, "one/exact", answers(second["output"]))
    assert not {item["id"] for item in first["output"]} & {item["id"] for item in second["output"]}


@streamed
def test_two_items_with_the_same_ids_are_two(item_gateway: ItemGateway, streamed: bool) -> None:
    item_gateway.one.enqueue(giving(call(), call(arguments='{"at":"y"}')))
    first = item_gateway.ask("one/exact", "hello", streamed=streamed)
    assert [item["arguments"] for item in first["output"]] == ['{"at":"x"}', '{"at":"y"}']
    for name in ("id", "call_id"):
        assert len({item[name] for item in first["output"]}) == 2
    item_gateway.ask("one/exact", answers(first["output"]), previous_response_id=first["id"])


@pytest.mark.parametrize("chained", [False, True])
def test_ids_that_a_client_brings_are_fitted(item_gateway: ItemGateway, chained: bool) -> None:
    brought = [
        user("hello"),
        message(id="item_9"),
        call(id=UUID, call_id="call_7"),
        {"type": "function_call_output", "call_id": "call_7", "output": "seen", "id": "x" * 300},
        message(id="item_9"),
        user("go on") | {"id": "chatcmpl-1"},
    ]
    first = item_gateway.ask("one/exact", brought)
    if chained:
        item_gateway.ask("two/exact", "and on", previous_response_id=first["id"])
    items = (item_gateway.two if chained else item_gateway.one).bodies[-1]["input"]
    ids = [item["id"] for item in items if "id" in item]
    assert len(set(ids)) == len(ids)
    assert all(len(item_id) <= 64 for item_id in ids)


@pytest.mark.parametrize("item_id", ["rs_" + "y" * 400, UUID])
@pytest.mark.parametrize("kind", [Chain, Conversation, Stateless])
@streamed
def test_an_encrypted_item_returns_to_its_family_with_its_own_id(
    item_gateway: ItemGateway, kind: type[Chain], streamed: bool, item_id: str
) -> None:
    item_gateway.one.enqueue(giving(thought(id=item_id, encrypted_content="gAAAA-secret"), call()))
    item_gateway.one.always(unchecked())
    client = kind()
    first = client.first(item_gateway, "one/exact", streamed=streamed)
    shown = first["output"][0]
    assert len(shown["id"]) <= 64
    assert "gAAAA-secret" not in str(shown)
    client.next(item_gateway, "one/exact", answers(first["output"]))
    (sent,) = (item for item in _raw_input(item_gateway.one) if item["type"] == "reasoning")
    assert (sent["id"], sent["encrypted_content"]) == (item_id, "gAAAA-secret")


def test_an_encrypted_item_stays_with_its_family(item_gateway: ItemGateway) -> None:
    item_gateway.one.enqueue(giving(thought(id=UUID, encrypted_content="gAAAA-secret"), call()))
    client = Stateless()
    first = client.first(item_gateway, "one/exact")
    client.next(item_gateway, "two/exact", answers(first["output"]))
    assert b"gAAAA-secret" not in item_gateway.two.requests[-1].raw
    assert b"antiphon.1." not in item_gateway.two.requests[-1].raw


def plain_reasoning(body: JSON) -> str | None:
    """OpenAI's rules for reasoning, of which it names one at a time."""
    for at, item in enumerate(body["input"]):
        if item["type"] == "reasoning":
            if "status" in item:
                return f"Unknown parameter: 'input[{at}].status'."
            if item.get("content"):
                return f"Invalid 'input[{at}].content': array too long. Expected an array with maximum length 0."
            if item.get("encrypted_content") != "gAAAA-two":
                return "The encrypted content could not be verified. Reason: it could not be decrypted or parsed."
    return None


FOREIGN_REASONING = {
    "secret": thought(encrypted_content="gAAAA-one"),
    "secret and text": thought(encrypted_content="gAAAA-one", content=[{"type": "reasoning_text", "text": "Hm"}]),
    "everything": thought(
        encrypted_content="gAAAA-one", content=[{"type": "reasoning_text", "text": "Hm"}], status="completed"
    ),
}


@streamed
@pytest.mark.parametrize("reasoning", FOREIGN_REASONING)
def test_foreign_reasoning_ends_no_conversation_of_a_client_that_keeps_it(
    item_gateway: ItemGateway, reasoning: str, streamed: bool
) -> None:
    item_gateway.one.always(unchecked())
    item_gateway.one.enqueue(giving(FOREIGN_REASONING[reasoning], message()))
    client = Stateless()
    first = client.first(item_gateway, "one/exact", streamed=streamed)
    item_gateway.two.enqueue(unchecked(), refusing(plain_reasoning))
    given = giving(thought(encrypted_content="gAAAA-two"), message(id="msg_2"))
    item_gateway.two.enqueue(unchecked(), given, refusing(plain_reasoning))
    client.next(item_gateway, "two/exact", [user("go on")])
    # One retry, whatever the upstream names first.
    assert [b"gAAAA-one" in request.raw for request in item_gateway.two.requests] == [True, False]
    client.next(item_gateway, "one/exact", [user("and back")])
    # Nothing is lost where the conversation began.
    sent = item_gateway.one.bodies[-1]["input"]
    assert first["output"][0]["encrypted_content"] == "gAAAA-one"
    assert [item["encrypted_content"] for item in sent if item["type"] == "reasoning"] == ["gAAAA-one", "gAAAA-two"]


def test_a_refusal_about_reasoning_inside_a_stream_is_mended(item_gateway: ItemGateway) -> None:
    error = {"code": "server_error", "message": "The encrypted content gAAA... could not be verified."}
    failed = {"type": "error", "sequence_number": 0, **error, "param": None}
    item_gateway.two.enqueue(raw(200, b"event: error\ndata: %b\n\n" % orjson.dumps(failed), "text/event-stream"))
    item_gateway.two.always(unchecked())
    history = [user("hi"), thought(encrypted_content="gAAAA-one"), message(), user("go on")]
    item_gateway.ask("two/exact", history, streamed=True, **Stateless.keys)
    assert [b"gAAAA-one" in request.raw for request in item_gateway.two.requests] == [True, False]


# --- the response whose cache is compared -----------------------------------------------------------------------


COMPARED = {"mode": "explicit", "ttl": "30m"}


def compared(item_gateway: ItemGateway, response_id: str, model: str = "one/exact", **keys: Any) -> Any:
    """The options that the upstream gets."""
    options = {**COMPARED, "comparison_response_id": response_id}
    echoed = item_gateway.ask(model, "again", prompt_cache_options=options, **keys)["prompt_cache_options"]
    assert echoed == options
    return (item_gateway.one if model.startswith("one") else item_gateway.two).bodies[-1].get("prompt_cache_options")


@streamed
@pytest.mark.parametrize("chained", [False, True], ids=["alone", "chained"])
def test_a_compared_response_has_the_upstreams_own_id(item_gateway: ItemGateway, streamed: bool, chained: bool) -> None:
    item_gateway.one.enqueue(retold(lambda body: {**body, "id": "resp_up"}))
    first = item_gateway.ask("one/exact", "hello", streamed=streamed)
    keys = {"previous_response_id": first["id"]} if chained else {}
    expected = {**COMPARED, "comparison_response_id": "resp_up"}
    assert compared(item_gateway, first["id"], streamed=streamed, **keys) == expected


def test_other_responses_are_not_compared(item_gateway: ItemGateway) -> None:
    gateway = item_gateway.gateway
    first = item_gateway.ask("one/exact", "hello")
    assert compared(item_gateway, first["id"], "two/exact") == COMPARED
    assert compared(item_gateway, "resp_" + "0" * 48) == COMPARED
    assert compared(item_gateway, "resp 'x'") == COMPARED
    assert compared(item_gateway, first["id"], "two/chat") == COMPARED
    eve = gateway.new_token(f"eve of caches, {gateway.port}", "--owner", "eve")
    body = {"model": "one/exact", "input": "x", "prompt_cache_options": {"comparison_response_id": first["id"]}}
    assert gateway.post("/responses", body, token=eve).status_code == 200
    assert "prompt_cache_options" not in item_gateway.one.bodies[-1]
    assert gateway.delete(f"/responses/{first['id']}").status_code == 200
    assert compared(item_gateway, first["id"]) == COMPARED


def _raw_input(upstream: ScriptedUpstream) -> list[JSON]:
    return list(upstream.bodies[-1]["input"])


def test_an_item_is_found_by_the_id_that_the_client_knows(item_gateway: ItemGateway) -> None:
    item_gateway.one.enqueue(giving(message(id="chatcmpl-1")))
    first = item_gateway.ask("one/exact", "hello")
    reference = {"type": "item_reference", "id": first["output"][0]["id"]}
    item_gateway.ask("one/exact", [user("hello"), reference, user("go on")])
    assert item_gateway.one.bodies[-1]["input"][1]["content"][0]["text"] == "hi"


# --- ids of calls -----------------------------------------------------------------------------------------------


def nine_letters(body: JSON) -> str | None:
    for message in body["messages"]:
        ids = [call["id"] for call in message.get("tool_calls") or ()]
        for one in (*ids, *([message["tool_call_id"]] if message["role"] == "tool" else ())):
            if not re.fullmatch("[a-zA-Z0-9]{9}", one):
                return f"Tool call id was {one} but must be a-z, A-Z, 0-9, with a length of 9."
    return None


@history
@pytest.mark.parametrize("begun_at", ["one/exact", "one/chat", "one/messages"])
def test_a_chat_gets_call_ids_of_the_shape_that_it_takes(
    item_gateway: ItemGateway, kind: type[Chain], begun_at: str
) -> None:
    """The call and its output get the same id, as the upstream itself checks."""
    client = kind()
    first = client.first(item_gateway, begun_at, question="Please look: where is it?")
    item_gateway.two.always(refusing(nine_letters))
    client.next(item_gateway, "two/chat", answers(first["output"]))


@streamed
@pytest.mark.parametrize("call_id", [None, "functions.look:0", "call_" + "x" * 200], ids=["none", "kimi", "long"])
def test_call_ids_of_a_chat_return_to_it(item_gateway: ItemGateway, call_id: str | None, streamed: bool) -> None:
    item_gateway.one.enqueue(chat(tool_calls=[chat_call(call_id)]))
    first = item_gateway.ask("one/chat", "hello", streamed=streamed)
    item_gateway.ask("one/chat", answers(first["output"]), previous_response_id=first["id"])
    *_, spoken, result = item_gateway.one.bodies[-1]["messages"]
    assert spoken["tool_calls"][0]["id"] == result["tool_call_id"]
    assert len(result["tool_call_id"]) <= 40
    if call_id == "functions.look:0":
        assert result["tool_call_id"] == call_id


# --- what must come back ----------------------------------------------------------------------------------------

SIGNATURE = {"google": {"thought_signature": "CiQBsigAAA=="}}
DETAILS = [
    {"type": "reasoning.text", "text": "hm", "index": 0, "signature": "sig"},
    {"type": "reasoning.encrypted", "data": "gAAA", "id": "call_1", "format": "google-gemini-v1", "index": 1},
]


def signed(body: JSON) -> str | None:
    for message in body["messages"]:
        if calls := message.get("tool_calls"):
            google = (calls[0].get("extra_content") or {}).get("google") or {}
            if not google.get("thought_signature"):
                return f"Function call is missing a thought_signature in functionCall parts: {calls[0]['id']}."
    return None


def detailed(body: JSON) -> str | None:
    for message in body["messages"]:
        if message.get("tool_calls") and not message.get("reasoning_details"):
            return "Gemini models require OpenRouter reasoning details to be preserved in each request."
    return None


def thoughtful(body: JSON) -> str | None:
    for message in body["messages"]:
        if message.get("tool_calls") and not isinstance(message.get("reasoning_content"), str):
            return "The `reasoning_content` in the thinking mode must be passed back to the API."
    return None


@dataclass(frozen=True, slots=True)
class Return:
    """Members of an answer that its upstream wants back."""

    name: str
    answer: JSON
    rule: Callable[[JSON], str | None]
    read: Callable[[JSON], Any]
    """Reads them from the assistant's message of a later request."""
    expected: Any


RETURNS = (
    Return(
        "signature",
        {"tool_calls": [chat_call(extra_content=SIGNATURE), chat_call("call_2")]},
        signed,
        lambda spoken: [one.get("extra_content") for one in spoken["tool_calls"]],
        [SIGNATURE, None],
    ),
    Return(
        "second-signature",
        {"content": "Let me look.", "tool_calls": [chat_call(), chat_call("call_2", extra_content=SIGNATURE)]},
        lambda body: None,
        lambda spoken: [one.get("extra_content") for one in spoken["tool_calls"]],
        [None, SIGNATURE],
    ),
    Return(
        "details",
        {"reasoning": "hm", "reasoning_details": DETAILS, "tool_calls": [chat_call()]},
        detailed,
        lambda spoken: spoken["reasoning_details"],
        DETAILS,
    ),
    Return(
        "content",
        {"reasoning_content": "hm", "tool_calls": [chat_call()]},
        thoughtful,
        lambda spoken: spoken["reasoning_content"],
        "hm",
    ),
)
returns = pytest.mark.parametrize("case", RETURNS, ids=lambda case: case.name)


@history
@streamed
@returns
def test_what_a_chat_wants_back_comes_back(
    item_gateway: ItemGateway, kind: type[Chain], streamed: bool, case: Return
) -> None:
    item_gateway.one.enqueue(chat(**case.answer))
    item_gateway.one.always(refusing(case.rule))
    client = kind()
    first = client.first(item_gateway, "one/chat", streamed=streamed)
    assert first["output"][-1]["type"] == "function_call"
    assert "CiQBsigAAA==" not in str(first)
    client.next(item_gateway, "one/chat", answers(first["output"]))
    (spoken,) = (message for message in item_gateway.one.bodies[-1]["messages"] if message["role"] == "assistant")
    assert case.read(spoken) == case.expected


@pytest.mark.parametrize("kind", [Chain, Stateless])
@pytest.mark.parametrize("other", ["two/chat", "two/exact", "two/messages"])
def test_what_belongs_to_a_family_goes_to_it_alone(item_gateway: ItemGateway, kind: type[Chain], other: str) -> None:
    case = RETURNS[0]
    item_gateway.one.enqueue(chat(**case.answer))
    client = kind()
    first = client.first(item_gateway, "one/chat")
    second = client.next(item_gateway, other, answers(first["output"]))
    assert b"CiQBsigAAA==" not in item_gateway.two.requests[-1].raw
    assert b"antiphon.1." not in item_gateway.two.requests[-1].raw
    client.response = second
    client.next(item_gateway, "one/chat", [user("and back")])
    assert b"CiQBsigAAA==" in item_gateway.one.requests[-1].raw


@pytest.mark.parametrize("rule", [signed, detailed, thoughtful], ids=["google", "openrouter", "deepseek"])
@pytest.mark.parametrize("begun_at", ["one/exact", "one/chat", "one/messages"])
def test_calls_of_other_models_get_what_the_refusal_asks_for(
    item_gateway: ItemGateway, begun_at: str, rule: Callable[[JSON], str | None]
) -> None:
    first = item_gateway.ask(begun_at, "Please look: where is it?")
    item_gateway.two.always(refusing(rule))
    second = item_gateway.ask("two/chat", answers(first["output"]), previous_response_id=first["id"])
    sent = len(item_gateway.two.requests)
    item_gateway.ask("two/chat", "and on", previous_response_id=second["id"])
    assert len(item_gateway.two.requests) == sent + 1


def test_another_owner_cannot_open_what_was_sealed(item_gateway: ItemGateway) -> None:
    item_gateway.one.enqueue(chat(**RETURNS[0].answer))
    client = Stateless()
    first = client.first(item_gateway, "one/chat")
    body = {"model": "one/chat", "input": [*first["output"], *answers(first["output"])]}
    other = item_gateway.gateway.new_token(f"eve-{item_gateway.gateway.port}", "--owner", "eve")
    refused = item_gateway.gateway.post("/responses", body, token=other)
    check_error(refused, 400, code="invalid_encrypted_content")


# --- what was cut off -------------------------------------------------------------------------------------------

CUT: dict[str, tuple[JSON, ...]] = {
    "half-call": (call(arguments='{"at":"x'),),
    "half-call-completed": (call(arguments='{"at":"x', status="completed"),),
    "half-call-in-progress": (call(arguments="", status="in_progress"),),
    "reasoning": (thought(),),
    "reasoning-and-call": (thought(), call(arguments='{"at":"x')),
    "text-reasoning-and-call": (message(), thought(), call(arguments='{"at":"x')),
    "custom": (thought(), custom()),
    "whole-call": (call(),),
    "whole-and-half": (call(), call(id="fc_2", call_id="call_2", arguments='{"at":"x')),
}


#: What a client that stores nothing cannot show to have been cut off: such calls need their outputs.
UNSHOWN = ("custom", "whole-call", "whole-and-half")
CUT_HISTORIES = [(kind, name) for kind in HISTORIES for name in CUT if not (kind is Stateless and name in UNSHOWN)]


@pytest.mark.parametrize(("kind", "name"), CUT_HISTORIES)
@pytest.mark.parametrize(
    ("model", "streamed"),
    [("one/exact", False), ("one/exact", True), ("two/exact", False), ("two/chat", False), ("two/messages", False)],
)
def test_a_conversation_goes_on_after_an_answer_that_was_cut_off(
    item_gateway: ItemGateway, kind: type[Chain], streamed: bool, name: str, model: str
) -> None:
    client = kind()
    item_gateway.one.enqueue(giving(*CUT[name], status="incomplete"))
    first = client.first(item_gateway, "one/exact", streamed=streamed)
    assert first["status"] == "incomplete"
    halves = [item for item in first["output"] if item.get("arguments") in ('{"at":"x', "")]
    assert all(item["status"] == "incomplete" for item in halves)
    client.next(item_gateway, model, [user("go on")])
    client.next(item_gateway, model, [user("and on")])
    for request in (item_gateway.one if model.startswith("one") else item_gateway.two).requests[-2:]:
        assert b'"call_1"' not in request.raw
        assert b'"rs_1"' not in request.raw


def test_a_whole_call_of_a_cut_answer_may_be_answered(item_gateway: ItemGateway) -> None:
    item_gateway.one.enqueue(giving(call(), status="incomplete"))
    first = item_gateway.ask("one/exact", "hello")
    second = item_gateway.ask("one/exact", answers(first["output"]), previous_response_id=first["id"])
    item_gateway.ask("one/exact", "and on", previous_response_id=second["id"])
    types = [item["type"] for item in item_gateway.one.bodies[-1]["input"]]
    assert types[1:3] == ["function_call", "function_call_output"]


def test_an_unanswered_call_of_a_cut_response_stays_out_of_a_compaction(item_gateway: ItemGateway) -> None:
    item_gateway.one.enqueue(giving(call(), status="incomplete"))
    first = item_gateway.ask("one/exact", "hello")
    shorter = [{"type": "compaction", "compact_threshold": 1, "strategy": "summary"}]
    second = item_gateway.ask("one/exact", "go on", previous_response_id=first["id"], context_management=shorter)
    assert second["output"][0]["type"] == "compaction"
    item_gateway.ask("one/exact", "and on", previous_response_id=second["id"])
    assert b'"call_1"' not in item_gateway.one.requests[-1].raw


@pytest.mark.parametrize("model", ["one/exact", "one/chat", "one/messages"])
def test_a_client_that_answers_half_a_call_loses_nothing(item_gateway: ItemGateway, model: str) -> None:
    item_gateway.one.enqueue(giving(call(arguments='{"at":"x'), status="incomplete"))
    first = item_gateway.ask("one/exact", "hello")
    output = {"type": "function_call_output", "call_id": "call_1", "output": "not parsable"}
    second = item_gateway.ask(model, [output, user("go on")], previous_response_id=first["id"])
    item_gateway.ask(model, "and on", previous_response_id=second["id"])
    sent = item_gateway.one.requests[-1].raw
    assert b"not parsable" in sent
    assert b'"call_1"' not in sent


HALF = {"name": "look", "arguments": '{"at":"x'}
#: Anthropic gives the arguments that it could not finish as an empty object.
EMPTY = {"type": "tool_use", "id": "toolu_1", "name": "look", "input": {}}


@pytest.mark.parametrize(
    ("model", "streamed", "answer"),
    [
        ("one/chat", False, chat(finish="length", tool_calls=[chat_call(function=HALF)])),
        ("one/chat", True, chat(finish="length", tool_calls=[chat_call(function=HALF)])),
        ("one/messages", False, retold(lambda body: {**body, "content": [EMPTY], "stop_reason": "max_tokens"})),
    ],
    ids=["chat-json", "chat-sse", "messages-json"],
)
def test_half_a_call_of_a_translated_upstream_is_never_replayed(
    item_gateway: ItemGateway, model: str, streamed: bool, answer: Script
) -> None:
    item_gateway.one.enqueue(answer)
    first = item_gateway.ask(model, "hello", streamed=streamed)
    assert [item["status"] for item in first["output"]] == ["incomplete"]
    for other in ("one/exact", "two/chat", "two/messages"):
        item_gateway.ask(other, "go on", previous_response_id=first["id"])


@pytest.mark.parametrize("own", ["incomplete", "in_progress"])
@pytest.mark.parametrize("status", ["completed", "incomplete"])
@pytest.mark.parametrize("item", [message(), call(arguments='{"at":"x'), call()], ids=["message", "half", "whole"])
def test_the_response_decides_whether_an_item_has_ended(
    item_gateway: ItemGateway, item: JSON, own: str, status: str
) -> None:
    item_gateway.one.enqueue(giving({**item, "status": own}, status=status))
    (shown,) = item_gateway.ask("one/exact", "hello")["output"]
    assert shown["status"] == ("completed" if item.get("arguments") == '{"at":"x"}' else status)
