"""/console/connect: what to paste into each client, with the URL by which the visitor reaches the gateway."""

from __future__ import annotations

from time import time
from urllib.parse import urlencode

from flask import Blueprint, Response, request

from app.console.access import Visitor, signed_in
from app.console.answers import page
from app.contract.records import Token
from app.reports.connect import TITLES, guide, target
from app.reports.models import model_names
from app.store.tokens import ListedToken

blueprint = Blueprint("connect", __name__)

_FIRST = "codex"


@blueprint.get("/connect")
@signed_in
def connect(visitor: Visitor) -> Response:
    table = visitor.gateway.channels.table
    tokens = [one.token for one in _usable(visitor)]
    token = _chosen(tokens, request.args.get("token", "")) or visitor.token
    models = model_names(table, token)
    asked = request.args.get("model", "")
    client = request.args.get("client", "")
    client = client if client in TITLES else _FIRST
    model = asked if asked in models else _first(models)
    return page(
        "connect.html",
        visitor,
        active="Connect",
        guide=guide(client, target(table, request.host_url, model)),
        target=target(table, request.host_url, model),
        token=token,
        tokens=tokens,
        models=models,
        tabs=[(title, _url(name, token, model), name == client) for name, title in TITLES.items()],
    )


def _usable(visitor: Visitor) -> list[ListedToken]:
    """The tokens that work and that the visitor may see, the visitor's own first."""
    listed = visitor.gateway.store.tokens.listed(visitor.scope, revoked_since=int(time()))
    return sorted((one for one in listed if one.token.is_valid), key=lambda one: one.token.owner != visitor.owner)


def _chosen(tokens: list[Token], key: str) -> Token | None:
    return next((token for token in tokens if str(token.key) == key), None)


def _first(models: list[str]) -> str | None:
    return models[0] if models else None


def _url(client: str, token: Token, model: str | None) -> str:
    """Of the same page for another client."""
    arguments = {"client": client, "token": str(token.key), **({"model": model} if model else {})}
    return f"/console/connect?{urlencode(arguments)}"
