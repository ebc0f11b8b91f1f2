"""/openapi.json describes the API. /docs shows the description and sends requests with the reader's token."""

from __future__ import annotations

from functools import cache
from importlib.resources import files

from flask import Blueprint, Response, request

from app.web.current_request import public

PREFIXES = ("",)
blueprint = Blueprint("description", __name__)

_STATIC = files("app.web") / "static"

#: The page loads its own files and nothing else. The library that draws it writes styles into its elements.
_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
#: The files of the page, with their types.
_FILES = {
    "index.html": "text/html; charset=utf-8",
    "start.js": "text/javascript; charset=utf-8",
    "swagger-ui-bundle.js": "text/javascript; charset=utf-8",
    "swagger-ui.css": "text/css; charset=utf-8",
}


@blueprint.get("/openapi.json")
@public
def openapi() -> Response:
    return _answer("openapi.json", "application/json")


@blueprint.get("/docs")
@public
def docs() -> Response:
    return _page_file("index.html")


def _page_file(name: str) -> Response:
    response = _answer(f"docs/{name}", _FILES[name])
    response.headers["Content-Security-Policy"] = _POLICY
    return response


def _serving(name: str) -> None:
    """Adds the route of one file of the page."""

    @public
    def view() -> Response:
        return _page_file(name)

    blueprint.add_url_rule(f"/docs/{name}", endpoint=name.replace(".", "_"), view_func=view)


for _name in _FILES:
    _serving(_name)


def _answer(path: str, content_type: str) -> Response:
    response = Response(_content(path), content_type=content_type)
    response.add_etag()
    response.make_conditional(request)
    return response


@cache
def _content(path: str) -> bytes:
    return _STATIC.joinpath(path).read_bytes()
