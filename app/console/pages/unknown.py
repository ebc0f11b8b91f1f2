"""Every other path under /console: a page that says so."""

from __future__ import annotations

from flask import Blueprint, Response
from werkzeug.exceptions import NotFound

from app.web.current_request import public

blueprint = Blueprint("unknown", __name__)


@blueprint.get("/<path:rest>")
@public
def unknown(rest: str) -> Response:
    raise NotFound
