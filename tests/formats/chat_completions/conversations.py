"""What the tests of the bridge share: turns, rows, recordings, and a stream framed as the relay frames it."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import orjson

from app import sse
from app.echo import Echo
from app.formats import chat_completions
from app.records import Chain, Link, Usage
from app.turn import Answer, Item, Turn

RECORDINGS = Path(__file__).parent / "recordings"
ESTIMATED = Usage(1, 0, 0, 1, 0, True)


def row(**keys: Any) -> Any:
    defaults = {
        "family": "f",
        "compact": "gateway",
        "encrypted_reasoning": False,
        "reasoning_text": False,
        "max_output_tokens": None,
        "hosted_tools": "drop",
        "system_messages": "merge",
    }
    return SimpleNamespace(**{**defaults, **keys})


def turn(*items: Item, chain: Chain | None = None, **request: Any) -> Turn:
    asked = {"model": "m", "input": list(items), **request}
    sealed = "reasoning.encrypted_content" in request.get("include", ())
    return Turn(
        id="resp_1",
        owner="o",
        created_at=1,
        model="m",
        request=asked,
        input=asked["input"],
        echo=Echo.of(asked, store=True),
        chain=chain or Chain(),
        stream=bool(request.get("stream")),
        seal=(lambda text: f"sealed:{text[::-1]}") if sealed else None,
    )


def link(*output: Item, input: tuple[Item, ...] = (), status: str = "completed") -> Link:
    return Link(
        id="resp_0",
        parent=None,
        depth=0,
        status=status,
        channel="c",
        family="other",
        opaque=False,
        input=orjson.dumps(input),
        output=orjson.dumps(output),
        input_tokens=1,
        output_tokens=1,
    )


def said(role: str, content: Any) -> Item:
    return {"type": "message", "role": role, "content": content}


def called(call_id: str, name: str = "get_weather", arguments: str = "{}", **more: Any) -> Item:
    return {"type": "function_call", "call_id": call_id, "name": name, "arguments": arguments, **more}


def answered(call_id: str, output: Any = "sunny") -> Item:
    return {"type": "function_call_output", "call_id": call_id, "output": output}


def encoded(asked: Turn, **keys: Any) -> dict[str, Any]:
    body: dict[str, Any] = orjson.loads(chat_completions.encode(asked, row(**keys), "up"))
    return body


# --- recordings -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Recording:
    """What an upstream sent, what it had been asked, and what has to come of it."""

    name: str
    body: bytes
    turn: Turn
    expected: bytes

    @property
    def streamed(self) -> bool:
        return not self.body.startswith(b"{\n")


def recordings() -> list[Recording]:
    return [_recording(path.name.removesuffix(".request.json")) for path in sorted(RECORDINGS.glob("*.request.json"))]


def recording(name: str) -> Recording:
    return _recording(name)


def _recording(name: str) -> Recording:
    request = orjson.loads((RECORDINGS / f"{name}.request.json").read_bytes())
    whole = RECORDINGS / f"{name}.json"
    body = whole if whole.exists() else RECORDINGS / f"{name}.sse"
    return Recording(
        name,
        body.read_bytes(),
        turn(said("user", "?"), stream=body is not whole, **request),
        (RECORDINGS / f"{name}.expected.jsonl").read_bytes(),
    )


def read(pieces: list[bytes], asked: Turn, sequence: int = 2) -> tuple[bytes, chat_completions.ChatDecoder]:
    decoder = chat_completions.decoder(asked, sequence)
    out = b"".join(decoder.feed(piece) for piece in pieces)
    decoder.finish()
    return out, decoder


def events(out: bytes) -> list[dict[str, Any]]:
    return [orjson.loads(sse.parse(raw)[1] or b"") for raw in out.split(b"\n\n") if raw]


def summed(answer: Answer) -> dict[str, Any]:
    """An answer as an expectation holds it."""
    return {
        "status": answer.status,
        "incomplete_details": answer.incomplete_details,
        "error": answer.error,
        "usage": answer.usage.wire() if answer.usage else None,
        "upstream": [answer.upstream_id, answer.upstream_model],
        "output": answer.output,
    }


def framed(out: bytes, decoder: chat_completions.ChatDecoder, asked: Turn) -> bytes:
    """The stream as the relay sends it: its head before the events, the terminal event behind them."""
    answer = decoder.answer
    assert answer is not None
    begun = _response(asked, status="in_progress")
    head = [
        sse.encode({"type": kind, "sequence_number": number, "response": begun})
        for number, kind in enumerate(("response.created", "response.in_progress"))
    ]
    tail, number = [], decoder.sequence
    if answer.status == "failed":
        error = {"type": "server_error", "param": None, **(answer.error or {})}
        tail.append(sse.encode({"type": "error", "sequence_number": number, "error": error}))
        number += 1
    response = _response(
        asked,
        status=answer.status,
        output=answer.output,
        usage=answer.usage or ESTIMATED,
        completed_at=2,
        error=answer.error,
        incomplete_details=answer.incomplete_details,
    )
    tail.append(sse.encode({"type": f"response.{answer.status}", "sequence_number": number, "response": response}))
    return b"".join((*head, out, *tail, sse.DONE))


def _response(asked: Turn, **fields: Any) -> dict[str, Any]:
    return asked.echo.response(id=asked.id, created_at=1, model="m", previous_response_id=None, **fields)


def without_ids(items: Any) -> list[Item]:
    return [{name: value for name, value in item.items() if name not in ("id", "call_id")} for item in items]


def results_after(messages: list[dict[str, Any]], position: int) -> list[str]:
    following = takewhile(lambda message: message["role"] == "tool", messages[position + 1 :])
    return [message["tool_call_id"] for message in following]
