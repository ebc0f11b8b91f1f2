"""Stored responses: retrieval, deletion, and the input items of each."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from app.contract.records import StoredResponse, Token
from app.contract.response import Echo
from app.errors import response_not_found
from app.relay.compaction.context import Contexts
from app.relay.item_lists import context_items, list_page
from app.schemas.listing import PageRequest
from app.store.store import Store


class StoredResponses:
    def __init__(self, store: Store, contexts: Contexts) -> None:
        self._store = store
        self._contexts = contexts

    def retrieve(self, token: Token, response_id: str, include: Iterable[str] = ()) -> dict[str, Any]:
        return shown(self.stored(token, response_id), include)

    def delete(self, token: Token, response_id: str) -> dict[str, Any]:
        if not self._store.responses.delete(token.owner, response_id):
            raise response_not_found(response_id)
        return {"id": response_id, "object": "response", "deleted": True}

    def input_items(
        self, token: Token, response_id: str, page: PageRequest, include: Iterable[str] = ()
    ) -> dict[str, Any]:
        """The context of a response, paged."""
        stored = self.stored(token, response_id)
        chain = self._contexts.shown_chain(token.owner, self._contexts.before(stored))
        stored = replace(stored, input=self._contexts.shown_array(token.owner, stored.input))
        echo = Echo.stored(stored.settings, stored.echo).including(include)
        return list_page([dict(echo.shown(item)) for item in context_items(chain, stored)], page)

    def stored(self, token: Token, response_id: str) -> StoredResponse:
        """The row of a response. Raises NotFound."""
        stored = self._store.responses.read(token.owner, response_id)
        if stored is None:
            raise response_not_found(response_id)
        return stored


def shown(stored: StoredResponse, include: Iterable[str] = ()) -> dict[str, Any]:
    """The response object of a GET, equal to that of the POST."""
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
