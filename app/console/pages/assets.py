"""/console/static: the style sheet, the scripts, the icon."""

from __future__ import annotations

from os.path import splitext

from flask import Blueprint, Response, request
from werkzeug.exceptions import NotFound

from app.console import assets
from app.console.answers import secured
from app.web.current_request import public, this_request

blueprint = Blueprint("assets", __name__)

_A_YEAR = "public, max-age=31536000, immutable"


@blueprint.get("/static/<name>")
@public
def asset(name: str) -> Response:
    if name not in assets.names():
        raise NotFound
    response = Response(assets.content(name), content_type=assets.TYPES[splitext(name)[1]])
    # A module that another one imports has no version in its URL.
    this_request().cache_control = _A_YEAR if request.args.get("v") else "no-cache"
    response.add_etag()
    return secured(response.make_conditional(request))
