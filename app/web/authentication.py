"""Bearer tokens, and the views that need none."""

from __future__ import annotations

from typing import Any

from flask import request

from app.contract.records import Token
from app.errors import Unauthenticated
from app.web.current_request import gateway


def public(view: Any) -> Any:
    """Marks a view that needs no token. All other views need one."""
    view.is_public = True
    return view


def bearer_secret() -> str:
    """The secret of the Authorization header. Raises Unauthenticated without one."""
    scheme, _, credentials = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not credentials.strip():
        raise Unauthenticated("Missing bearer or basic authentication in header")
    return credentials.strip()


def token_of(secret: str) -> Token:
    """The token of a secret. Raises Unauthenticated when it is unknown, revoked or expired."""
    found = gateway().store.tokens.check(secret)
    if found is None:
        raise Unauthenticated(
            f"Incorrect API key provided: {_masked(secret)}. `antiphon tokens create NAME` makes a token.",
            code="invalid_api_key",
        )
    return found


def _masked(secret: str) -> str:
    shown = secret[:3] if secret.isascii() and secret[:3].isprintable() else ""
    return f"{shown}***"
