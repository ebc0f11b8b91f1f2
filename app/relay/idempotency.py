"""Idempotency keys: a repeated request with the same Idempotency-Key gets the response of the first."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from types import TracebackType
from typing import Any

import orjson

from app.contract.records import Claim, Claimed, StoredResponse, Token
from app.contract.redaction import redacted_request
from app.contract.turn import Turn
from app.errors import AntiphonError, GatewayError, InvalidRequest
from app.store.store import Store

HEADER = "Idempotency-Key"
MAX_KEY_LENGTH = 255


def claim_of(key: str, request: Mapping[str, Any]) -> Claim:
    """The claim on a key. Raises InvalidRequest for a malformed key."""
    if len(key) > MAX_KEY_LENGTH or not key.isascii() or not key.isprintable():
        raise InvalidRequest(
            f"Invalid '{HEADER}': up to {MAX_KEY_LENGTH} printable characters are expected.",
            code="invalid_value",
            param=HEADER,
        )
    body = orjson.dumps(redacted_request(request), option=orjson.OPT_SORT_KEYS)
    return Claim(key, hashlib.sha256(body).hexdigest())


class IdempotentTurn:
    """The claim of one turn on its key."""

    def __init__(self, store: Store, token: Token, turn: Turn, key: str) -> None:
        """Raises InvalidRequest for a malformed key."""
        self._store = store
        self._owner = token.owner
        self._token = token.key
        self._turn = turn
        self._claim = claim_of(key, turn.request)

    def __enter__(self) -> StoredResponse | None:
        """The response of an earlier, equal request. Raises InvalidRequest if that is still running, or if the earlier
        request was different."""
        claimed = self._store.idempotency.claim(self._token, self._claim, self._turn.id)
        return self._replay(claimed) if claimed else None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Releases the key after a failure, so that a retry counts as a first request."""
        if isinstance(error, AntiphonError):
            self._store.idempotency.release(self._token, self._claim, self._turn.id)

    def _replay(self, claimed: Claimed) -> StoredResponse:
        if claimed.fingerprint != self._claim.fingerprint:
            raise InvalidRequest(
                f"This {HEADER} was used for another request. Use a new one for each request.",
                code="idempotency_key_reused",
                param=HEADER,
            )
        if claimed.running and not claimed.background:
            raise _conflict(
                f"A request with this {HEADER} is still running. Please try again.",
                "idempotency_key_in_use",
                retry_after=1.0,
            )
        stored = self._store.responses.read(self._owner, claimed.response)
        if stored is None:
            raise _conflict(
                f"The request with this {HEADER} was answered, but its response was not stored.",
                "idempotency_key_used",
            )
        return stored


def _conflict(message: str, code: str, retry_after: float | None = None) -> GatewayError:
    error = InvalidRequest(message, code=code, param=HEADER, status=409, retry_after=retry_after)
    error.should_retry = retry_after is not None
    return error
