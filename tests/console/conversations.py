"""Conversations of every kind that a page has to draw, written into a store as turns leave them."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import orjson

from app import ids
from app.contract.items import Item
from app.contract.outline import outline
from app.contract.records import Attempt, Draft, Outcome
from app.contract.usage import Usage
from app.store.store import Store
from tests.relay.conftest import eventually

BEGAN = 1_790_000_000


def message(text: str, role: str = "user") -> Item:
    return {"type": "message", "role": role, "content": text}


def calls(*names: str) -> list[Item]:
    return [
        {"type": "function_call", "call_id": f"call_{at}", "name": name, "arguments": "{}"}
        for at, name in enumerate(names)
    ]


def results(count: int) -> list[Item]:
    return [{"type": "function_call_output", "call_id": f"call_{at}", "output": "done"} for at in range(count)]


@dataclass
class Writer:
    """Writes turns of one owner into a store, a minute apart."""

    store: Store
    owner: str
    token: int | None = None
    minute: int = 0
    written: dict[str, str] = field(default_factory=dict)
    """The ids, by the names that the test gives."""

    def turn(
        self,
        parent: str | None = None,
        *,
        says: list[Item] | None = None,
        answers: list[Item] | None = None,
        tokens: int = 1000,
        cached: int = 0,
        out: int = 100,
        status: str = "completed",
        inferred: bool = False,
        stored: bool = True,
        client: str = "codex",
        **facts: Any,
    ) -> str:
        """The id of a turn that ended. `parent`: the id of the turn before it."""
        self.minute += 1
        asked = says if says is not None else [message("hello")]
        answered = answers if answers is not None else [message("welcome", "assistant")]
        began = BEGAN + 60 * self.minute
        draft = Draft(
            id=ids.new("resp"),
            owner=self.owner,
            token=self.token,
            model="gpt-6-sol",
            created_at=began,
            parent=None if inferred else parent,
            stored=stored,
            client=client,
            request_id=f"req_{self.minute}",
            input=orjson.dumps(asked),
        )
        values: dict[str, Any] = {
            "status": status,
            "completed_at": began + 5,
            "output": orjson.dumps(answered),
            "usage": Usage(tokens, cached, 0, out, out // 2, cost=tokens * 2),
            "channel": "azure-eu",
            "first_byte_ms": 700,
            "total_ms": 3100,
            "outline": outline(asked, answered),
        }
        if stored:
            assert self.store.responses.finish(draft, Outcome(**{**values, **facts}))
        else:
            self.store.responses.note(draft, Outcome(**{**values, **facts}))
            self._settled(draft.id)
        if inferred and parent is not None:
            self.store.database.transaction(
                lambda session: session.run(
                    "UPDATE response SET inferred = (SELECT pk FROM (SELECT pk FROM response WHERE id = ?) above)"
                    " WHERE id = ?",
                    (parent, draft.id),
                )
            )
        return draft.id

    def begin(self, parent: str, **facts: Any) -> str:
        """The id of a turn in flight. It stays so, because no worker holds it whose lease could run out."""
        self.minute += 1
        draft = Draft(
            id=ids.new("resp"),
            owner=self.owner,
            token=self.token,
            model="gpt-6-sol",
            created_at=BEGAN + 60 * self.minute,
            parent=parent,
            input=orjson.dumps([message("and now?")]),
        )
        self.store.responses.begin(replace(draft, **facts))
        self.store.database.transaction(
            lambda session: session.run("UPDATE response SET worker = NULL WHERE id = ?", (draft.id,))
        )
        return draft.id

    def _settled(self, response_id: str) -> None:
        """Unstored rows are written behind the answer: a write of one's own comes after them."""
        eventually(lambda: self.store.trees.load(self.owner, response_id), "the row of an unstored turn")


FAILED_OVER = (
    Attempt("azure-eu", 200, 429, "rate_limit_exceeded"),
    Attempt("openai-a", 1900, 200, path="bytes"),
)


def drawn(writer: Writer) -> dict[str, str]:
    """A conversation with everything in it: folds, a branch, a failover, unstored turns with inferred parents, a
    compaction, a turn that was cut short, one that failed, and one in flight. The ids by name."""
    named: dict[str, str] = {}
    last: str | None = None
    tokens = 6100

    def add(name: str, parent: str | None, **facts: Any) -> str:
        nonlocal tokens
        tokens += 2300
        facts = {"tokens": tokens, "cached": int(tokens * 0.9), **facts}
        named[name] = writer.turn(parent, **facts)
        return named[name]

    for depth in range(1, 15):
        asks = depth in (1, 8)
        facts = {"says": [message("Look.")] if asks else results(1 + depth % 2)}
        done = (
            [message("Done.", "assistant")]
            if depth in (7, 14)
            else calls("exec_command", *["apply_patch"][: depth % 3])
        )
        last = add(str(depth), last, **facts, answers=done)
    fork = last
    side = add("15b", fork, cached=0, channel="vllm-1", client="console")
    for depth in (16, 17, 18):
        side = add(f"{depth}b", side, channel="vllm-1", client="console")
    last = add(
        "15",
        fork,
        answers=calls("exec_command", "exec_command"),
        attempts=FAILED_OVER,
        channel="openai-a",
        cached=0,
        tokens=64_012,
        first_byte_ms=1900,
        total_ms=2100,
    )
    on_a: dict[str, Any] = {"channel": "openai-a"}
    for depth in range(16, 21):
        last = add(str(depth), last, says=results(1), answers=calls("exec_command"), **on_a)
    hidden: dict[str, Any] = {"inferred": True, "stored": False, **on_a}
    last = add("21", last, answers=calls("exec_command", "exec_command"), **hidden)
    for depth in range(22, 26):
        last = add(str(depth), last, says=results(1), answers=calls("exec_command"), **hidden)
    other = add("26c", last, answers=calls("exec_command"), **hidden)
    other = add("27c", other, says=results(1), answers=calls("apply_patch"), **hidden)
    add("failed", other, says=results(1), answers=[], status="cancelled", total_ms=6200, **{**hidden, "stored": False})
    last = add("26", last, answers=calls("exec_command"), **hidden)
    note = {"strategy": "native", "before": 182_000, "after": 9400, "channel": "openai-a"}
    cut = {"answers": [{"type": "compaction", "id": "cmp_1", "encrypted_content": "x"}], "compacted": True}
    last = add("27", last, says=[], tokens=182_000, cached=176_000, compaction=note, **cut, inferred=True, **on_a)
    tokens = 9400
    for depth in range(28, 31):
        last = add(str(depth), last, says=results(1), answers=calls("exec_command"), **on_a)
    reason = {"status": "incomplete", "incomplete_details": {"reason": "max_output_tokens"}}
    last = add("31", last, says=results(1), **reason, **on_a)
    last = add("32", last, **on_a)
    named["live"] = writer.begin(last)
    return named


def wide(writer: Writer, turns: int, branches: int) -> list[str]:
    """So many turns, with branches of equal length; the ids."""
    length = turns // (branches + 1)
    trunk: list[str] = []
    for at in range(turns - branches * length):
        says = [message("Next.")] if at % 10 == 0 else results(1)
        trunk.append(writer.turn(trunk[-1] if trunk else None, says=says, answers=calls("exec_command")))
    written = list(trunk)
    for branch in range(branches):
        last = trunk[branch % max(1, len(trunk) - 1)]
        for _ in range(length):
            last = writer.turn(last, says=results(1), answers=calls("exec_command"))
            written.append(last)
    return written
