"""Turns, rows, recordings of dialects, and a stream framed as by the relay, for the tests of `responses`.

A recording is the stream of one kind of server, written by hand after its source, and the expected result.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from app import sse
from app.contract.channel import Channel
from app.contract.items import Item
from app.contract.records import Chain, Link
from app.contract.response import Echo
from app.contract.turn import Answer, Turn
from app.contract.usage import Usage
from app.formats import responses

RECORDINGS = Path(__file__).parent / "recordings"
_ESTIMATED = Usage(1, 0, 0, 1, 0, True)


def row(**keys: Any) -> Channel:
    return Channel(**{"name": "c", "format": "responses", "family": "f", **keys})


def turn(*items: Item, chain: Chain | None = None, preface: tuple[Item, ...] = (), **request: Any) -> Turn:
    body = {"model": "m", "input": list(items), **request}
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
        leading_items=preface,
    )


def link(*output: Item, input: tuple[Item, ...] = (), status: str = "completed", family: str = "f") -> Link:
    return Link(
        id="resp_0",
        status=status,
        channel="c",
        family=family,
        opaque=any(item.get("type") in ("reasoning", "compaction") for item in (*input, *output)),
        input=orjson.dumps(input),
        output=orjson.dumps(output),
        input_tokens=1,
        output_tokens=1,
    )


def sent(request_turn: Turn, **keys: Any) -> list[Item]:
    """The input of the request to the upstream."""
    items: list[Item] = orjson.loads(responses.encode(request_turn, row(**keys), "up"))["input"]
    return items


@dataclass(frozen=True)
class Recording:
    """A request, the upstream's answer, and the expected result."""

    name: str
    body: bytes
    turn: Turn
    expected: bytes

    @property
    def streamed(self) -> bool:
        return not self.body.startswith(b"{\n")


def recordings() -> list[Recording]:
    return [recording(path.name.removesuffix(".request.json")) for path in sorted(RECORDINGS.glob("*.request.json"))]


def recording(name: str) -> Recording:
    request = orjson.loads((RECORDINGS / f"{name}.request.json").read_bytes())
    whole = RECORDINGS / f"{name}.json"
    body = whole if whole.exists() else RECORDINGS / f"{name}.sse"
    user = {"type": "message", "role": "user", "content": "?"}
    return Recording(
        name,
        body.read_bytes(),
        turn(user, stream=body is not whole, **request),
        (RECORDINGS / f"{name}.expected.jsonl").read_bytes(),
    )


def read(pieces: list[bytes], request_turn: Turn, sequence: int = 2) -> tuple[bytes, responses.ResponsesDecoder]:
    decoder = responses.decoder(request_turn, sequence)
    out = b"".join(decoder.feed(piece) for piece in pieces)
    return out + decoder.finish(), decoder


def events(out: bytes) -> list[dict[str, Any]]:
    return [orjson.loads(sse.parse(raw)[1] or b"") for raw in out.split(b"\n\n") if raw]


def stream_of(*stream_events: dict[str, Any]) -> bytes:
    """These events as bytes of an upstream."""
    return b"".join(sse.encode(event) for event in stream_events)


def summed(answer: Answer) -> dict[str, Any]:
    """An answer as an expectation holds it."""
    return {
        "status": answer.status,
        "path": answer.path,
        "incomplete_details": answer.incomplete_details,
        "error": answer.error,
        "usage": answer.usage.wire() if answer.usage else None,
        "upstream": [answer.upstream_id, answer.upstream_model],
        "output": answer.output,
    }


def framed(out: bytes, decoder: responses.ResponsesDecoder, request_turn: Turn) -> bytes:
    """The whole stream as a client reads it, with the head and end of the relay."""
    answer = decoder.answer
    assert answer is not None

    def response(status: str, **more: Any) -> dict[str, Any]:
        echo = request_turn.echo.with_upstream_defaults(answer.defaults)
        return echo.response(
            id=request_turn.id, created_at=1, model="m", status=status, previous_response_id=None, **more
        )

    begun = [
        {"type": kind, "sequence_number": number, "response": response("in_progress")}
        for number, kind in enumerate(("response.created", "response.in_progress"))
    ]
    ended: list[dict[str, Any]] = []
    if answer.status == "failed":
        error = {"type": "server_error", "param": None, **(answer.error or {})}
        ended.append({"type": "error", "error": error})
    final = response(
        answer.status,
        output=answer.output,
        usage=answer.usage or _ESTIMATED,
        completed_at=2,
        error=answer.error,
        incomplete_details=answer.incomplete_details,
    )
    ended.append({"type": f"response.{answer.status}", "response": final})
    tail = [{**event, "sequence_number": decoder.sequence + number} for number, event in enumerate(ended)]
    return b"".join((*map(sse.encode, begun), out, *map(sse.encode, tail), sse.DONE))
