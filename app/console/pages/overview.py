"""/console/overview: the figures of the day, what is in flight, and what needs attention."""

from __future__ import annotations

from flask import Blueprint, Response

from app.console.access import Visitor, signed_in
from app.console.answers import page

blueprint = Blueprint("overview", __name__)


@blueprint.get("/overview")
@signed_in
def overview(visitor: Visitor) -> Response:
    return page("overview.html", visitor, active="Overview")
