"""Clients, each in the requests that it really makes: what it keeps itself, what it refers to, what it repeats.

Their content is made up and always the same, and as long as in real sessions: 5,000 tokens of tools and instructions,
then some 1,500 tokens a turn.
"""

from __future__ import annotations

import random
import uuid
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import orjson

from tests.caches.content import prose, source
from tests.caches.prompts import JSON
from tests.gateway import Gateway

LINES = 90
"""Lines of a tool's output, some 1,400 tokens."""


def _tool(rng: random.Random, name: str) -> JSON:
    properties = {
        part: {"type": "string", "description": prose(rng, 40)} for part in ("path", "pattern", "reason", "cwd")
    }
    return {
        "type": "function",
        "name": name,
        "description": prose(rng, 120),
        "strict": False,
        "parameters": {"type": "object", "properties": properties, "required": ["path"]},
    }


_RNG = random.Random(1)
TOOLS = [_tool(_RNG, name) for name in ("exec_command", "read_file", "search", "apply_patch", "view_image", "plan")]
INSTRUCTIONS = f"You write code with the user. {prose(_RNG, 900)}"

#: Each request comes on a connection of its own, which any worker may accept.
ANY_WORKER = {"Connection": "close"}
REASONING = {"effort": "medium", "summary": "auto"}


@dataclass
class Client:
    """One session of a model. It reads every answer to its end, as a stream or whole."""

    gateway: Gateway
    model: str
    fail_over: Callable[[], None] = lambda: None
    """Lets the next request fail on the channel that answered last."""
    rng: random.Random = field(default_factory=lambda: random.Random(7))
    responses: list[JSON] = field(default_factory=list)

    def create(self, path: str = "/responses", **body: Any) -> JSON:
        """A JSON answer."""
        answer = self.gateway.post(path, {"model": self.model, **body}, headers=ANY_WORKER)
        assert answer.status_code == 200, answer.text
        return self._noted(answer.json())

    def stream(self, headers: JSON, **body: Any) -> JSON:
        """The response at the end of a stream."""
        answer = self.gateway.stream({"model": self.model, **body}, headers={**headers, **ANY_WORKER})
        assert answer.status_code == 200, answer.text
        data = answer.content.split(b"\ndata: ")[-2]
        event = orjson.loads(data.partition(b"\n")[0])
        assert event["type"] == "response.completed", event
        return self._noted(event["response"])

    def _noted(self, answer: JSON) -> JSON:
        if answer["object"] == "response":
            self.responses.append(answer)
        return answer

    def question(self, number: int) -> str:
        """What the user says; on every other turn the model calls a tool for it."""
        wish = "Look at the weather module" if number % 2 == 0 else "Explain the last change"
        return f"{wish}, part {number}. {prose(self.rng, 60)}"

    def outputs(self, output: Sequence[JSON]) -> list[JSON]:
        """The outputs of all calls in an answer."""
        calls = [item for item in output if item["type"] == "function_call"]
        return [
            {"type": "function_call_output", "call_id": call["call_id"], "output": source(self.rng, LINES)}
            for call in calls
        ]


Session = Callable[[Client], None]


def codex(client: Client, turns: int = 12, failing: int | None = None) -> None:
    """Codex CLI: nothing is stored, and every request holds the whole history, under a key. The channel fails once in
    the turn `failing`."""
    session = str(uuid.uuid4())
    history = [
        _message("developer", INSTRUCTIONS),
        _message("developer", f"<permissions instructions> {prose(client.rng, 200)}"),
        _message("user", f"<environment_context> <cwd>/workspace</cwd> {prose(client.rng, 60)}"),
    ]
    for number in range(turns):
        history.append(_message("user", client.question(number)))
        if number == failing:
            client.fail_over()
        while True:
            answer = client.stream(
                {"session-id": session, "thread-id": session, "originator": "codex_exec"},
                input=history,
                tools=[*TOOLS, {"type": "web_search", "external_web_access": False}],
                tool_choice="auto",
                parallel_tool_calls=True,
                reasoning={"summary": "auto"},
                store=False,
                include=["reasoning.encrypted_content"],
                prompt_cache_key=session,
                client_metadata={"session_id": session, "turn_id": str(uuid.uuid4())},
            )
            history += answer["output"]
            outputs = client.outputs(answer["output"])
            history += [{"id": f"fco_{uuid.uuid4()}", **output} for output in outputs]
            if not outputs:
                break


def agents_sdk(client: Client) -> None:
    """OpenAI's Agents SDK: what was answered goes back as it came, with everything before it; no key."""
    items: list[JSON] = []
    for number in range(12):
        question = client.question(number)
        # Two calls at once.
        items.append({"role": "user", "content": f"{question} both" if number % 4 == 0 else question})
        for _ in range(2):
            answer = client.create(
                input=items,
                instructions=INSTRUCTIONS,
                tools=TOOLS,
                include=[],
                parallel_tool_calls=True,
                reasoning=REASONING,
            )
            items = [*items, *answer["output"]]
            outputs = client.outputs(answer["output"])
            items += outputs
            if not outputs:
                break


def ai_sdk(client: Client) -> None:
    """Vercel's AI SDK: what the model said and called goes back as references to stored items."""
    items = [{"role": "system", "content": INSTRUCTIONS}]
    for number in range(12):
        items.append({"role": "user", "content": [{"type": "input_text", "text": client.question(number)}]})
        while True:
            answer = client.stream({}, input=items, tools=TOOLS, tool_choice="auto", reasoning=REASONING)
            items += [{"type": "item_reference", "id": item["id"]} for item in answer["output"]]
            outputs = client.outputs(answer["output"])
            items += outputs
            if not outputs:
                break


def chained(client: Client) -> None:
    """`previous_response_id` and what is new."""
    context: JSON = {}
    for number in range(12):
        context = _after(_answers(client, context, client.question(number))[-1])


def conversation(client: Client) -> None:
    """A conversation whose channel fails once."""
    name = client.create("/conversations")["id"]
    for number in range(24):
        if number == 4:
            client.fail_over()
        _answers(client, {"conversation": name}, client.question(number))


def compacted(client: Client) -> None:
    """A chain of sixty turns that is compacted when it gets long."""
    limit = {"context_management": [{"type": "compaction", "compact_threshold": 32_000}]}
    context: JSON = {}
    compactions = 0
    for number in range(60):
        answers = _answers(client, {**limit, **context}, client.question(number))
        context = _after(answers[-1])
        compactions += sum(item["type"] == "compaction" for answer in answers for item in answer["output"])
    assert compactions == 2, compactions


SESSIONS: dict[str, Session] = {
    "Codex, stateless": codex,
    "Codex with a failover": partial(codex, turns=24, failing=4),
    "Agents SDK, stateless": agents_sdk,
    "AI SDK, item references": ai_sdk,
    "chained": chained,
    "conversation with a failover": conversation,
    "60 turns, two compactions": compacted,
}


def _answers(client: Client, context: JSON, question: str) -> list[JSON]:
    """The answers to a question and to the outputs of the calls that it leads to."""
    answers: list[JSON] = []
    new: str | list[JSON] = question
    while new:
        answer = client.create(input=new, instructions=INSTRUCTIONS, tools=TOOLS, reasoning=REASONING, **context)
        answers.append(answer)
        context = context if "conversation" in context else {**context, **_after(answer)}
        new = client.outputs(answer["output"])
    return answers


def _after(answer: JSON) -> JSON:
    return {"previous_response_id": answer["id"]}


def _message(role: str, text: str) -> JSON:
    return {"type": "message", "role": role, "content": [{"type": "input_text", "text": text}]}
