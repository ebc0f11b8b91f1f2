"""Turns, rows, recordings, and a stream framed as by the relay, for the tests of formats."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from app import formats, sse
from app.contract.channel import Channel
from app.contract.items import Item
from app.contract.records import Chain, Link
from app.contract.response import Echo
from app.contract.turn import Answer, Turn
from app.contract.usage import Usage
from app.formats import Decoder

HERE = Path(__file__).parent
#: Formats that translate, each with recordings of its upstreams.
TRANSLATING = ("chat_completions", "messages")
ESTIMATED = Usage(1, 0, 0, 1, 0, True)


def row(**keys: Any) -> Channel:
    return Channel(**{"name": "c", "format": "demo", "family": "f", **keys})


def turn(*items: Item, chain: Chain | None = None, **request: Any) -> Turn:
    body = {"model": "m", "input": list(items), **request}
    sealed = "reasoning.encrypted_content" in request.get("include", ())
    return Turn(
        id="resp_1",
        owner="o",
        created_at=1,
        model="m",
        request=body,
        input=body["input"],
        echo=Echo.of(body, store=True),
        chain=chain or Chain(),
        stream=bool(request.get("stream")),
        seal=(lambda text: f"sealed:{text[::-1]}") if sealed else None,
    )


def link(*output: Item, input: tuple[Item, ...] = (), status: str = "completed", opaque: bool = False) -> Link:
    return Link(
        id="resp_0",
        status=status,
        channel="c",
        family="other",
        opaque=opaque,
        input=orjson.dumps(input),
        output=orjson.dumps(output),
        input_tokens=1,
        output_tokens=1,
    )


def message_item(role: str, content: Any) -> Item:
    return {"type": "message", "role": role, "content": content}


def called(call_id: str, name: str = "get_weather", arguments: str = "{}", **more: Any) -> Item:
    return {"type": "function_call", "call_id": call_id, "name": name, "arguments": arguments, **more}


def answered(call_id: str, output: Any = "sunny") -> Item:
    return {"type": "function_call_output", "call_id": call_id, "output": output}


# --- recordings -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Recording:
    """A request, the upstream's answer, and the expected result."""

    format: str
    name: str
    body: bytes
    turn: Turn
    expected: bytes

    @property
    def streamed(self) -> bool:
        return not self.body.startswith(b"{\n")

    def __str__(self) -> str:
        return f"{self.format}-{self.name}"


def recordings(format_: str) -> list[Recording]:
    names = (HERE / format_ / "recordings").glob("*.request.json")
    return [recording(format_, path.name.removesuffix(".request.json")) for path in sorted(names)]


def recording(format_: str, name: str) -> Recording:
    folder = HERE / format_ / "recordings"
    request = orjson.loads((folder / f"{name}.request.json").read_bytes())
    whole = folder / f"{name}.json"
    body = whole if whole.exists() else folder / f"{name}.sse"
    return Recording(
        format_,
        name,
        body.read_bytes(),
        turn(message_item("user", "?"), stream=body is not whole, **request),
        (folder / f"{name}.expected.jsonl").read_bytes(),
    )


def read(format_: str, pieces: list[bytes], request_turn: Turn, sequence: int = 2) -> tuple[bytes, Decoder]:
    decoder = formats.load(format_).decoder(request_turn, sequence)
    out = b"".join(decoder.feed(piece) for piece in pieces)
    return out + decoder.finish(), decoder


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


def framed(out: bytes, decoder: Decoder, request_turn: Turn) -> bytes:
    """The stream as the relay sends it: its head before the events, the terminal event behind them."""
    answer = decoder.answer
    assert answer is not None
    begun = _response(request_turn, status="in_progress")
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
        request_turn,
        status=answer.status,
        output=answer.output,
        usage=answer.usage or ESTIMATED,
        completed_at=2,
        error=answer.error,
        incomplete_details=answer.incomplete_details,
    )
    tail.append(sse.encode({"type": f"response.{answer.status}", "sequence_number": number, "response": response}))
    return b"".join((*head, out, *tail, sse.DONE))


def _response(request_turn: Turn, **fields: Any) -> dict[str, Any]:
    return request_turn.echo.response(id=request_turn.id, created_at=1, model="m", previous_response_id=None, **fields)


def without_ids(items: Any) -> list[Item]:
    return [{name: value for name, value in item.items() if name not in ("id", "call_id")} for item in items]
