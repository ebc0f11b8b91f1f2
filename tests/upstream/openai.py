"""What OpenAI's two formats have in common: keys, models, errors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tests.upstream.exchange import JSON, Refused


def admit(headers: Mapping[str, str], api_key: str | None) -> None:
    given = headers.get("authorization", "").removeprefix("Bearer ")
    if api_key is None or given == api_key:
        return
    if not given:
        raise Refused(401, "Missing bearer or basic authentication in header")
    raise Refused(401, f"Incorrect API key provided: {given[:6]}***.", "invalid_api_key")


def check_model(name: Any, models: tuple[str, ...] | None, status: int) -> None:
    if not name:
        raise Refused(400, "Missing required parameter: 'model'.", "missing_required_parameter", "model")
    if models is not None and name not in models:
        param = "model" if status == 400 else None
        raise Refused(status, f"The requested model '{name}' does not exist.", "model_not_found", param)


def envelope(refused: Refused) -> JSON:
    kind = {429: "requests"}.get(refused.status, "invalid_request_error" if refused.status < 500 else "server_error")
    error = {"message": refused.message, "type": kind, "param": refused.param, "code": refused.code}
    return {"error": error}
