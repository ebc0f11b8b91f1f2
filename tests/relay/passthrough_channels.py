"""Channel pairs for chat completions: a model with two channels that speak them, and its usage rows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import orjson

from app.store.store import Store
from tests.relay.conftest import ChannelPair, eventually
from tests.stored_data import select
from tests.upstream import Answer, Exchange, Script

JSON = dict[str, Any]
MESSAGES = [{"role": "user", "content": "Say something to me"}]
#: The chunk with the role, and two with words.
SOME_WORDS = 3
DONE = b"data: [DONE]\n\n"


class PassthroughPair(ChannelPair):
    """A pair that serves chat completions."""

    __slots__ = ()
    PATH = "/chat/completions"

    def body(self, **keys: Any) -> JSON:
        return {"model": self.model, "messages": MESSAGES, **keys}

    def rows(self, count: int) -> list[JSON]:
        """So many rows of this model, as soon as they are written, oldest first."""
        return list(eventually(lambda: len(found := self._rows()) >= count and found, f"{count} rows"))

    def row(self) -> JSON:
        return self.rows(1)[-1]

    def usage(self) -> list[JSON]:
        """What `antiphon usage` sums up for this model."""
        store = Store(self.gateway.database_url, peppers=[b"unused"])
        try:
            return [row for row in store.usage.since("2000-01-01") if row["model"] == self.model]
        finally:
            store.close()

    def _rows(self) -> list[JSON]:
        sql = "SELECT * FROM response WHERE model = ? ORDER BY pk"
        return select(self.gateway.database_url, sql, [self.model])


def event(chunk: object) -> bytes:
    return b"data: %b\n\n" % orjson.dumps(chunk)


def chat_error(after: int, error: object = None) -> Script:
    """An error in the place of a chunk, then the end."""
    failure = event({"error": error or {"message": "The model broke.", "type": "server_error", "code": None}})
    return with_pieces(lambda pieces: (*pieces[:after], failure))


def with_pieces(change: Callable[[tuple[Any, ...]], tuple[Any, ...]]) -> Script:
    def script(exchange: Exchange, answer: Answer) -> Answer:
        return replace(answer, pieces=change(tuple(answer.pieces)))

    return script


def chunks_of(raw: bytes) -> list[JSON]:
    """The parsed chunks of a stream, comments and the sentinel left out."""
    data = [block.partition(b"data: ")[2] for block in raw.split(b"\n\n") if block.startswith(b"data: ")]
    return [orjson.loads(line) for line in data if line != b"[DONE]"]


def words_of(raw: bytes) -> str:
    choices = [choice for chunk in chunks_of(raw) for choice in chunk.get("choices", ())]
    return "".join(choice["delta"].get("content") or "" for choice in choices)


def error_of(raw: bytes) -> JSON:
    """The error at the end of a stream that broke; no sentinel follows."""
    assert DONE not in raw
    last = chunks_of(raw)[-1]
    assert list(last) == ["error"]
    assert list(last["error"]) == ["message", "type", "param", "code"]
    return dict(last["error"])
