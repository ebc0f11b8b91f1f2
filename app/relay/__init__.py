"""What the gateway does with a request: a turn is opened, a channel asked, the answer stored and given.

The relay is handed its store and its channels; it knows no Flask, no requests and no peewee.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from time import monotonic, time
from typing import Any

from app.echo import Echo
from app.errors import (
    ClientGone,
    GatewayError,
    InvalidRequest,
    UpstreamBroken,
    UpstreamError,
    response_not_found,
)
from app.formats import Format
from app.records import Chain, Stored, Token
from app.relay.listing import context_items, page
from app.relay.mover import Drain, Pace
from app.relay.opening import open_turn
from app.relay.ports import Channels, Choice, Exchange, Store
from app.relay.recorder import Recorder
from app.relay.stream import EventStream
from app.schemas.listing import Page
from app.turn import Answer, Turn

__all__ = ["Drain", "EventStream", "Pace", "Relay"]


class Relay:
    def __init__(self, store: Store, channels: Channels, pace: Pace) -> None:
        self._store = store
        self._channels = channels
        self._pace = pace

    def create(
        self, token: Token, request: Mapping[str, Any], *, request_id: str, client: int | None = None
    ) -> dict[str, Any]:
        """The whole response object, stored. Raises GatewayError, or ClientGone when nobody waits for it any more."""
        turn = open_turn(self._store, token, request, int(time()))
        recorder = Recorder(self._store, turn, token, request_id)
        try:
            return self._ask(turn, recorder, client)
        except GatewayError as error:
            recorder.refuse(error)
            raise
        except ClientGone:
            recorder.cancel()
            raise

    def stream(
        self, token: Token, request: Mapping[str, Any], *, request_id: str, client: int | None = None
    ) -> EventStream:
        """The response as events, opened: an upstream has accepted. Raises as `create` does."""
        turn = open_turn(self._store, token, request, int(time()))
        recorder = Recorder(self._store, turn, token, request_id)
        prefer = _prefer(turn)
        return EventStream(turn, self._channels, recorder, prefer=prefer, client=client, pace=self._pace).open()

    def retrieve(self, token: Token, response_id: str, include: Iterable[str] = ()) -> dict[str, Any]:
        stored = self._store.response(token.owner, response_id)
        if stored is None:
            raise response_not_found(response_id)
        return response_object(stored, include)

    def delete(self, token: Token, response_id: str) -> dict[str, Any]:
        if not self._store.delete(token.owner, response_id):
            raise response_not_found(response_id)
        return {"id": response_id, "object": "response", "deleted": True}

    def cancel(self, token: Token, response_id: str) -> dict[str, Any]:
        if self._store.response(token.owner, response_id) is None:
            raise response_not_found(response_id)
        raise InvalidRequest("Cannot cancel a synchronous response.")

    def input_items(self, token: Token, response_id: str, wanted: Page, include: Iterable[str] = ()) -> dict[str, Any]:
        """The context of a response, paged."""
        stored = self._store.response(token.owner, response_id)
        if stored is None:
            raise response_not_found(response_id)
        chain = self._store.chain(token.owner, stored.parent) if stored.parent else Chain()
        echo = Echo.stored(stored.settings, stored.echo).including(include)
        return page([dict(echo.shown(item)) for item in context_items(chain, stored)], wanted)

    def _ask(self, turn: Turn, recorder: Recorder, client: int | None) -> dict[str, Any]:
        """The answer of the first channel that has one."""
        last: UpstreamError | None = None
        for choice in self._channels.choices(turn.model, _prefer(turn)):
            began = monotonic()
            with choice:
                try:
                    answer = _whole_answer(turn, choice, client)
                except UpstreamError as error:
                    choice.failed(error)
                    recorder.tried(choice, began, error)
                    if not error.elsewhere:
                        raise
                    last = error
                    continue
                choice.succeeded()
                recorder.tried(choice, began)
                return recorder.finish(answer, choice)
        raise last or UpstreamBroken("No channel is left to ask.")


def response_object(stored: Stored, include: Iterable[str] = ()) -> dict[str, Any]:
    """What a GET answers: the same object that the POST gave."""
    echo = Echo.stored(stored.settings, stored.echo).including(include)
    return echo.response(
        id=stored.id,
        created_at=stored.created_at,
        model=stored.model,
        status=stored.status,
        previous_response_id=stored.parent,
        output=stored.output_items(),
        usage=stored.usage,
        completed_at=stored.completed_at,
        error=stored.error,
        incomplete_details=stored.incomplete_details,
    )


def _prefer(turn: Turn) -> str | None:
    """Where the conversation was last: its encrypted reasoning can be read there."""
    return turn.chain.tip.channel if turn.chain.tip else None


def _whole_answer(turn: Turn, choice: Choice, client: int | None) -> Answer:
    format_ = choice.format
    body = format_.encode(turn, choice.channel, choice.model)
    exchange = choice.post(format_.PATH, body, accept="application/json", client=client)
    try:
        content = exchange.read()
        if exchange.status != 200:
            raise format_.decode_error(exchange.status, exchange.headers, content)
        return _decoded(format_, exchange, content, turn)
    finally:
        exchange.close()


def _decoded(format_: Format, exchange: Exchange, content: bytes, turn: Turn) -> Answer:
    if "event-stream" not in exchange.headers.get("content-type", ""):
        return format_.decode(content, turn)
    # Some upstreams stream whether they were asked to or not.
    decoder = format_.decoder(turn, 0)
    decoder.feed(content)
    decoder.finish()
    if decoder.answer is None or decoder.answer.status == "failed":
        error = decoder.answer.error if decoder.answer else None
        raise UpstreamBroken((error or {}).get("message") or "The model's server failed.")
    return decoder.answer
