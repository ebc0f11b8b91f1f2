"""The playground's requests: the API's own views, entered with the cookie of a session instead of a token. What they
check, count, write and answer is the API's, and their errors have OpenAI's shape.
"""

from __future__ import annotations

from flask import Blueprint, Response

from app.console.access import visitor
from app.console.answers import secured
from app.contract.records import Token
from app.endpoints import responses
from app.errors import response_not_found
from app.web.current_request import Credentials, CurrentRequest, View, accepting, this_request
from app.web.responses import json_response

blueprint = Blueprint("turns", __name__)


def _token_of_session(_: CurrentRequest) -> Token:
    """Raises SignInNeeded, HttpsNeeded and Forbidden."""
    return visitor().token


SESSION = Credentials(_token_of_session, client="console")


def facts(response_id: str) -> Response:
    """What the row of a response of one's own knows beside the API's object. It may come a little after the answer."""
    current = this_request()
    node = current.gateway.store.trees.node(current.token.owner, response_id)
    if node is None:
        raise response_not_found(response_id)
    return json_response(
        {
            "channel": node.channel,
            "firstMs": node.first_byte_ms,
            "totalMs": node.total_ms,
            "cost": node.usage.cost if node.usage else None,
            "estimated": node.usage.estimated if node.usage else False,
        }
    )


def _for_pages(view: View) -> View:
    """The view with the headers of the console, for a session."""

    def answered(**arguments: str) -> Response:
        return secured(view(**arguments))

    return accepting(SESSION, answered)


#: Below `/playground`: the method, the path and the view.
_ROUTES = (
    ("POST", "", responses.create),
    ("POST", "/compact", responses.compact),
    ("GET", "/<response_id>", responses.retrieve),
    ("POST", "/<response_id>/cancel", responses.cancel),
    ("GET", "/<response_id>/facts", facts),
)

for _method, _path, _view in _ROUTES:
    blueprint.add_url_rule(f"/playground{_path}", _view.__name__, _for_pages(_view), methods=[_method])
