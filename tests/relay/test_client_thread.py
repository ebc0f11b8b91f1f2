"""The thread that a request belongs to, by the names that clients give."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from app.relay.client_thread import ClientThread, ThreadNames

ROOT, CHILD, GRANDCHILD = "root-thread", "child-thread", "grandchild-thread"


def _thread(cache_key: Any = None, metadata: Any = None, **headers: str) -> ClientThread | None:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    request = {"prompt_cache_key": cache_key, "client_metadata": metadata}
    names = ThreadNames.of(request, named)
    found = names.thread() if names else None
    assert ThreadNames.key_of(request, named) == (found.key if found else None)
    return found


def _metadata(**facts: str) -> str:
    return orjson.dumps(facts).decode()


def test_the_first_thread_of_a_session_is_the_session() -> None:
    for found in (
        _thread(ROOT),
        _thread(session_id=ROOT),
        _thread(session_id=ROOT, thread_id=ROOT),
        _thread(ROOT, {"session_id": ROOT, "thread_id": ROOT}),
        _thread(ROOT, {"x-codex-turn-metadata": _metadata(session_id=ROOT, thread_id=ROOT)}),
        _thread(thread_id=ROOT),
        _thread(x_openwebui_chat_id=ROOT),
    ):
        assert found is not None
        assert (found.key, found.parents) == (ROOT, ())


SUB_AGENT = {"session_id": ROOT, "thread_id": CHILD, "x-codex-parent-thread-id": ROOT}
HEADERS = {"session_id": ROOT, "thread_id": CHILD, "x_codex_parent_thread_id": ROOT}
TURN_METADATA = _metadata(session_id=ROOT, thread_id=CHILD, parent_thread_id=ROOT)


@pytest.mark.parametrize(
    "found",
    [
        _thread(**HEADERS),
        _thread(ROOT, **HEADERS),
        _thread(ROOT, SUB_AGENT),
        _thread(x_codex_turn_metadata=TURN_METADATA),
        _thread(ROOT, {"x-codex-turn-metadata": TURN_METADATA}),
        # It names no parent.
        _thread(session_id=ROOT, thread_id=CHILD),
        # A WebSocket is opened by one thread and carries another.
        _thread(ROOT, SUB_AGENT, session_id=ROOT, thread_id=ROOT),
    ],
)
def test_a_sub_agent_has_a_key_of_its_own_and_knows_its_parents(found: ClientThread | None) -> None:
    assert found is not None
    assert found.key not in (ROOT, CHILD)
    assert found.parents == (ROOT,)


def test_a_sub_agent_of_a_sub_agent_finds_it() -> None:
    child = _thread(**HEADERS)
    grandchild = _thread(session_id=ROOT, thread_id=GRANDCHILD, x_codex_parent_thread_id=CHILD)
    assert child is not None
    assert grandchild is not None
    assert child.key in grandchild.parents
    assert ROOT not in grandchild.parents


def test_a_fork_finds_a_thread_of_another_session() -> None:
    fork = _thread("fork", {"x-codex-turn-metadata": _metadata(thread_id="fork", forked_from_thread_id=ROOT)})
    assert fork is not None
    assert fork.key == "fork"
    assert ROOT in fork.parents


def test_the_kind_of_a_sub_agent_is_stored_as_short_text() -> None:
    def kind(text: str) -> str | None:
        found = _thread(session_id=ROOT, thread_id=CHILD, x_openai_subagent=text)
        assert found is not None
        return found.subagent

    assert kind("review") == "review"
    assert kind("x" * 100) == "x" * 64
    assert kind("a\x1b[31m") is None


@pytest.mark.parametrize("value", ["", "x" * 257, 7, None, ["a"], {"a": 1}])
def test_what_is_no_id_names_nothing(value: Any) -> None:
    assert _thread(value, {"session_id": value, "thread_id": value}) is None
    assert _thread(ROOT, {"thread_id": value, "x-codex-turn-metadata": value}) == ClientThread(ROOT, has_id=False)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "7", '{"thread_id": 7}', "{}" * 9])
def test_broken_turn_metadata_is_left_alone(text: str) -> None:
    assert _thread(ROOT, {"x-codex-turn-metadata": text}, x_codex_turn_metadata=text) == ClientThread(
        ROOT, has_id=False
    )


@pytest.mark.parametrize("metadata", [None, "text", 7, [], {"turn_id": "t"}])
def test_a_request_that_names_no_conversation_has_no_thread(metadata: Any) -> None:
    assert _thread(None, metadata) is None
