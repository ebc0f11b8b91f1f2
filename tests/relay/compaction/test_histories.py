"""Histories as clients really send them back, and upstreams as they really refuse them."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from tests.relay.compaction.conftest import (
    FORMATS,
    CompactionGateway,
    conversation,
    facts,
    items_of,
    kinds,
    numbered,
    requests_summary,
    summarising,
    user,
)
from tests.response_contract import check_item_list, check_response, check_stream
from tests.upstream import Answer, Exchange, Script, failing, failing_at_once, refusal, too_long

JSON = dict[str, Any]
MODELS = [model for name, model in FORMATS.items() if name != "demo"]
TRIGGER = {"type": "compaction_trigger"}
CALL = {"type": "function_call", "call_id": "call_1", "name": "look", "arguments": '{"at":"x"}'}
OUTPUT = {"type": "function_call_output", "call_id": "call_1", "output": "seen"}
LOOK = {"type": "function", "name": "look", "parameters": {"type": "object", "properties": {}}, "strict": False}
FOREIGN = {"type": "compaction", "id": "cmp_f", "encrypted_content": "zzzzforeign"}
WORDS = "The encrypted content for item cmp_f could not be verified."
PICTURE = (
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAIAAACQd1PeAAAADElEQVR4nGP4z8AAAAMBAQDJ/pLvAAAAAElFTkSuQmCC"
)
PDF = "data:application/pdf;base64,JVBERi0xLjQK"


def given(gateway: CompactionGateway) -> str:
    return orjson.dumps(gateway.given).decode()


@pytest.mark.parametrize("stream", [False, True], ids=["json", "sse"])
@pytest.mark.parametrize("managed", [True, False], ids=["threshold", "answer"])
def test_a_chain_that_grew_on_a_large_server_moves_to_a_small_one(
    compaction_gateway: CompactionGateway, stream: bool, managed: bool
) -> None:
    def small(exchange: Exchange, answer: Answer) -> Answer:
        size = len(orjson.dumps(exchange.request.body["input"]))
        return (too_long() if size > 9000 else summarising)(exchange, answer)

    last = compaction_gateway.talk("gpt-moved", 7)
    compaction_gateway.first.always(refusal(503, "Busy."))
    compaction_gateway.second.always(small)
    keys: JSON = {"model": "gpt-moved", "input": "Now?", "previous_response_id": last, "stream": stream}
    path = "/responses" if managed else "/responses/compact"
    if managed:
        keys["context_management"] = [{"type": "compaction", "compact_threshold": 10**6}]
    answer = compaction_gateway.post(path, **keys)
    assert answer.status_code == 200, answer.text
    response = check_stream(answer.content)[-1]["response"] if stream else answer.json()
    assert kinds(check_response(response, status="completed")["output"]) == ["compaction", "message"]
    later = compaction_gateway.create("gpt-moved", "And now?", response["id"])
    assert later["status"] == "completed"
    assert facts(compaction_gateway.second.bodies[-1])[-1] == "fact-7"


@pytest.mark.parametrize("model", MODELS)
def test_what_stands_before_a_compaction_is_not_read_again(compaction_gateway: CompactionGateway, model: str) -> None:
    """A client sends everything back: its messages go on, once; answers, calls and outputs do not."""
    items = [*conversation(3), CALL, OUTPUT, {"role": "assistant", "content": "I saw it."}, user("Now?")]
    managed = {"context_management": [{"type": "compaction", "compact_threshold": 10, "keep_turns": 0}]}
    first = compaction_gateway.create(model, items, store=False, tools=[LOOK], **managed)
    assert kinds(first["output"]) == ["compaction", "message"]
    compaction_gateway.create(model, [*items, *first["output"], user("And then?")], store=False, tools=[LOOK])
    assert "Noted." not in given(compaction_gateway)
    assert "call_1" not in given(compaction_gateway)
    assert given(compaction_gateway).count('"Now?"') == 1
    assert facts(compaction_gateway.given) == numbered(1, 2, 3)


@pytest.mark.parametrize("model", [*MODELS, "gpt-native", "gpt-trigger"])
def test_a_trigger_is_no_item(compaction_gateway: CompactionGateway, model: str) -> None:
    last = compaction_gateway.talk(model, 2)
    compacted = compaction_gateway.create(model, [user("Note fact-9."), TRIGGER], last)
    assert kinds(compacted["output"]) == ["compaction"]
    child = compaction_gateway.create(model, "Go on.", compacted["id"])
    for response in (compacted, child):
        listed = check_item_list(compaction_gateway.get(f"/responses/{response['id']}/input_items?limit=100"))
        assert "compaction_trigger" not in kinds(listed)
    assert "compaction_trigger" not in given(compaction_gateway)


@pytest.mark.parametrize("model", MODELS)
def test_a_trigger_is_no_item_of_a_conversation(compaction_gateway: CompactionGateway, model: str) -> None:
    name = compaction_gateway.ok("/conversations", items=conversation(2))["id"]
    compaction_gateway.ok("/responses", model=model, conversation=name, input=[user("Note fact-9."), TRIGGER])
    compaction_gateway.ok("/responses", model=model, conversation=name, input="Go on.")
    listed = check_item_list(compaction_gateway.get(f"/conversations/{name}/items?limit=100"))
    assert "compaction_trigger" not in kinds(listed)
    assert "compaction_trigger" not in given(compaction_gateway)


@pytest.mark.parametrize(
    ("refused", "stream"),
    [
        (refusal(400, WORDS), False),
        (refusal(400, WORDS), True),
        (refusal(400, "No.", "invalid_encrypted_content"), False),
        (failing(1, "invalid_encrypted_content", WORDS), True),
        (failing(2, "server_error", WORDS), True),
        (failing_at_once("invalid_encrypted_content", WORDS), True),
    ],
    ids=["words", "words-stream", "code", "failed", "failed-words", "event"],
)
def test_a_foreign_compaction_that_is_refused_becomes_a_note(
    compaction_gateway: CompactionGateway, refused: Script, stream: bool
) -> None:
    def script(exchange: Exchange, answer: Answer) -> Answer:
        body = exchange.request.body
        readable = [item for item in body["input"] if item["type"] != "compaction"]
        if readable == body["input"]:
            return answer
        return refused(exchange, exchange.reply({**body, "input": readable}))

    compaction_gateway.first.always(script)
    keys = {"model": "gpt-plain", "input": [user("hi"), FOREIGN, user("go on")], "store": False, "stream": stream}
    answer = compaction_gateway.post("/responses", **keys)
    assert answer.status_code == 200, answer.text
    response = check_stream(answer.content)[-1]["response"] if stream else answer.json()
    check_response(response, status="completed")
    assert len(compaction_gateway.first.bodies) == 2
    assert "cannot be read here" in given(compaction_gateway)


@pytest.mark.parametrize("model", MODELS)
def test_a_conversation_that_is_sent_again_is_read_once(compaction_gateway: CompactionGateway, model: str) -> None:
    name = compaction_gateway.ok("/conversations", items=[user("Look at x."), CALL])["id"]
    items = check_item_list(compaction_gateway.get(f"/conversations/{name}/items?order=asc"))
    keys = {"model": model, "conversation": name, "tools": [LOOK]}
    compaction_gateway.ok("/responses", input=[items[-1], OUTPUT], **keys)
    assert given(compaction_gateway).count('"look"') == 1
    assert given(compaction_gateway).count('"seen"') == 1
    assert given(compaction_gateway).count("Look at x.") == 1


@pytest.mark.parametrize("answer", [False, True], ids=["turn", "answer"])
def test_a_window_of_a_window_keeps_pictures_and_files(compaction_gateway: CompactionGateway, answer: bool) -> None:
    parts = [
        {"type": "input_text", "text": "See these."},
        {"type": "input_image", "image_url": PICTURE, "detail": "low"},
        {"type": "input_file", "filename": "a.pdf", "file_data": PDF},
    ]
    last = compaction_gateway.create("gpt-plain", [{"type": "message", "role": "user", "content": parts}])["id"]
    for _ in range(2):
        window = compaction_gateway.compact("gpt-plain", previous_response_id=last)
        assert kinds(window["output"]) == ["message", "compaction"]
        assert window["output"][0]["content"][1]["detail"] == "low"
        last = window["id"]
    if answer:
        compaction_gateway.compact("gpt-plain", previous_response_id=last, input="go on")
        sent = next(body for body in compaction_gateway.first.bodies[::-1] if requests_summary(body))
    else:
        compaction_gateway.create("gpt-plain", "go on", last)
        sent = compaction_gateway.first.bodies[-1]
    assert orjson.dumps(items_of(sent)).decode().count(PICTURE) == 1
    assert "a.pdf" in str(sent)
