"""/console/connect: what to paste into each client, with the URL by which the visitor reaches the gateway."""

from __future__ import annotations

from time import time
from urllib.parse import urlencode

from flask import Blueprint, Response, request

from app.console.access import Visitor, signed_in
from app.console.answers import fragment, page
from app.contract.records import Token
from app.errors import NotFound
from app.reports.connect import TITLES, guide, target
from app.reports.models import model_names
from app.store.tokens import ListedToken

blueprint = Blueprint("connect", __name__)

_FIRST = "codex"


@blueprint.get("/connect")
@signed_in
def connect(visitor: Visitor) -> Response:
    table = visitor.gateway.channels.table
    usable = _usable(visitor)
    chosen = _chosen(usable) or next(one for one in usable if one.token.key == visitor.token.key)
    models = model_names(table, chosen.token)
    asked, client = request.args.get("model", ""), request.args.get("client", "")
    client = client if client in TITLES else _FIRST
    model = asked if asked in models else next(iter(models), None)
    aim = target(table, request.host_url, model)
    return page(
        "connect.html",
        visitor,
        active="Connect",
        guide=guide(client, aim),
        target=aim,
        one=chosen,
        tokens=[one.token for one in usable],
        models=models,
        tabs=[(title, _url(name, chosen.token, model), name == client) for name, title in TITLES.items()],
    )


@blueprint.get("/connect/seen")
@signed_in
def seen(visitor: Visitor) -> Response:
    """Whether a token was used: the part of the page that waits for its first request."""
    chosen = _chosen(_usable(visitor))
    if chosen is None:
        raise NotFound("There is no such token.")
    return fragment("_token_seen.html", visitor, one=chosen)


def _usable(visitor: Visitor) -> list[ListedToken]:
    """The tokens that work and that the visitor may see, the visitor's own first."""
    listed = visitor.gateway.store.tokens.listed(visitor.scope, revoked_since=int(time()))
    usable = (one for one in listed if one.token.is_valid or one.token.key == visitor.token.key)
    return sorted(usable, key=lambda one: one.token.owner != visitor.owner)


def _chosen(usable: list[ListedToken]) -> ListedToken | None:
    key = request.args.get("token", "")
    return next((one for one in usable if str(one.token.key) == key), None)


def _url(client: str, token: Token, model: str | None) -> str:
    """Of the same page for another client."""
    arguments = {"client": client, "token": str(token.key), **({"model": model} if model else {})}
    return f"/console/connect?{urlencode(arguments)}"
