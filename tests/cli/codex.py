"""A client that keeps its conversation itself and sends all of it each turn, in the words of Codex CLI 0.169."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from typing import Any

import orjson

from tests.gateway import Gateway

Item = dict[str, Any]

EXEC = {
    "type": "function",
    "name": "exec_command",
    "description": "Runs a command.",
    "strict": False,
    "parameters": {"type": "object", "properties": {"cmd": {"type": "string"}}, "required": ["cmd"]},
}
TRIGGER = {"type": "compaction_trigger"}


class Codex:
    def __init__(
        self, gateway: Gateway, token: str | None = None, session: str | None = None, parent: Codex | None = None
    ) -> None:
        """`parent`: the thread whose sub-agent this one is."""
        self.session = session or str(uuid.uuid4())
        self.thread = str(uuid.uuid4()) if parent else self.session
        self._spawned = (
            {"x-codex-parent-thread-id": parent.thread, "x-openai-subagent": "collab_spawn"} if parent else {}
        )
        self._gateway = gateway
        self._token = token
        self.history: list[Item] = [
            _message("developer", "You are Codex, based on the rules that follow."),
            _message("developer", "Permissions: everything is allowed."),
            _message("user", "<environment_context> cwd: /workspace </environment_context>"),
        ]

    def says(self, text: str) -> str:
        """One request; its response's id."""
        passthrough = {"turn_id": str(uuid.uuid4()), "create_time": 1795356764.04}
        self.history.append({**_message("user", text), "internal_chat_message_metadata_passthrough": passthrough})
        return self._ask()

    def runs(self, output: str) -> str:
        """Sends the output of the last call."""
        call_id = self.history[-1]["call_id"]
        made = {"type": "function_call_output", "id": f"fco_{uuid.uuid4()}", "call_id": call_id, "output": output}
        self.history.append(made)
        return self._ask()

    def compacts(self) -> str:
        response_id, output = self._send([*self.history, TRIGGER])
        (item,) = [item for item in output if item["type"] == "compaction"]
        first, *rest = self.history
        messages = [item for item in rest if item.get("role") == "user"]
        # It writes all instructions but the first again.
        self.history = [first, _message("developer", "Permissions: everything is allowed."), *messages, item]
        return response_id

    def edits(self, turns: int, text: str) -> str:
        """Takes back so many of the user's messages, with what came of them, and says something else."""
        places = [place for place, item in enumerate(self.history) if item.get("role") == "user"]
        self.history = self.history[: places[-turns]]
        return self.says(text)

    def spawns(self) -> Codex:
        """A sub-agent, which knows nothing of this conversation."""
        return Codex(self._gateway, self._token, self.session, self)

    def retries(self) -> str:
        """Sends the last request again, as if its answer had not come."""
        while self.history[-1].get("role") == "assistant" or self.history[-1]["type"] == "reasoning":
            self.history.pop()
        return self._ask()

    def _ask(self) -> str:
        response_id, output = self._send(self.history)
        self.history += [_as_recorded(item) for item in output]
        return response_id

    def _send(self, items: Sequence[Item]) -> tuple[str, list[Item]]:
        body = {
            "model": "demo",
            "instructions": "Be brief.",
            "input": list(items),
            "tools": [EXEC, {"type": "web_search", "external_web_access": False}],
            "tool_choice": "auto",
            "parallel_tool_calls": True,
            "reasoning": {"summary": "auto"},
            "store": False,
            "include": ["reasoning.encrypted_content"],
            "prompt_cache_key": self.session,
            "client_metadata": {**self._names("_"), **self._spawned, "turn_id": str(uuid.uuid4())},
        }
        headers = {**self._names("-"), **self._spawned, "originator": "codex_exec"}
        answer = self._gateway.stream(body, token=self._token, headers=headers)
        assert answer.status_code == 200, answer.text
        events = [orjson.loads(line[6:]) for line in answer.content.split(b"\n") if line.startswith(b"data: {")]
        output = [event["item"] for event in events if event["type"] == "response.output_item.done"]
        assert events[-1]["type"] == "response.completed", events[-1]
        return events[-1]["response"]["id"], output

    def _names(self, joint: str) -> dict[str, str]:
        return {f"session{joint}id": self.session, f"thread{joint}id": self.thread}


def _message(role: str, text: str) -> Item:
    return {
        "type": "message",
        "id": f"msg_{uuid.uuid4()}",
        "role": role,
        "content": [{"type": "input_text", "text": text}],
    }


def _as_recorded(item: Item) -> Item:
    """An output item as Codex writes it into its history."""
    if item["type"] != "message":
        return item
    content = [{"type": part["type"], "text": part["text"]} for part in item["content"]]
    return {"type": "message", "id": item["id"], "role": item["role"], "content": content, "phase": "final_answer"}
