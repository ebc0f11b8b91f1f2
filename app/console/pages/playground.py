"""/console/playground: a conversation of one's own, with the events of each answer. Its requests are in `turns`."""

from __future__ import annotations

from typing import Any

import orjson
from flask import Blueprint, Response, request

from app.channels.surfaces import RESPONSES
from app.console.access import Visitor, signed_in
from app.console.answers import page
from app.contract.tools import HOSTED_TYPES

blueprint = Blueprint("playground", __name__)

URL = "/console/playground"
#: Where a response is shown in its tree; the script puts the response's id in.
_TREE = "/console/c/ID"
#: What reasoning models take as effort; the first one leaves it to the model.
_EFFORTS = ("", "none", "minimal", "low", "medium", "high", "xhigh")


@blueprint.get("/playground")
@signed_in
def playground(visitor: Visitor) -> Response:
    """The query names `from`, the id of the visitor's own response to continue, and `model`, the model to select."""
    start, model = request.args.get("from", ""), request.args.get("model", "")
    if start and not _is_stored(visitor, start):
        # Another owner's response and one that never existed give the same answer.
        return page("playground_refused.html", visitor, status=404, active="Playground")
    return page(
        "playground.html",
        visitor,
        active="Playground",
        models=_models(visitor, model),
        model=model,
        efforts=_EFFORTS,
        servers=_servers(visitor),
        hosted=_hosted(visitor),
        tags=visitor.gateway.limiter.limits_of(visitor.token).tags or (),
        stores=visitor.token.stores,
        facts=orjson.dumps(_facts(visitor, start, model)).decode(),
    )


def _is_stored(visitor: Visitor, response_id: str) -> bool:
    """Whether it can be read as a response of one's own."""
    node = visitor.gateway.store.trees.node(visitor.owner, response_id)
    return node is not None and node.stored and not node.deleted


def _facts(visitor: Visitor, start: str, model: str) -> dict[str, Any]:
    """What the script has to know."""
    return {
        "url": URL,
        "base": f"{request.host_url.rstrip('/')}/v1",
        "tree": _TREE,
        "signIn": f"/console/sign-in?next={URL}",
        "from": start,
        "model": model,
        "servers": _servers(visitor),
        "hosted": _hosted(visitor),
    }


def _models(visitor: Visitor, wanted: str) -> list[str]:
    """The models that the token may use with the Responses API, and the wanted one of a channel's glob."""
    token = visitor.token
    listed = visitor.gateway.model_list.models(token.limits.tags)
    names = [
        each["id"] for each in listed if RESPONSES.path in each["supported_endpoints"] and token.may_use(each["id"])
    ]
    if wanted and wanted not in names and token.may_use(wanted):
        names.append(wanted)
    return names


def _servers(visitor: Visitor) -> list[str]:
    """Labels of the tool servers that the token may use."""
    table = visitor.gateway.channels.table.tools
    return sorted(label for label in table.servers if visitor.token.may_use_tools(label))


def _hosted(visitor: Visitor) -> list[str]:
    """Hosted tools of the API that a tool server fulfils for the token."""
    table = visitor.gateway.channels.table.tools
    return [type for type in sorted(set(HOSTED_TYPES.values())) if table.hosted_by(type, visitor.token.tools)]
