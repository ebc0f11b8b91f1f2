"""Pages and fragments as answers: the templates, the security headers, and errors as pages."""

from __future__ import annotations

import secrets
import socket
from functools import cache
from typing import Any
from urllib.parse import urlencode

from flask import Response, redirect, request
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from werkzeug.exceptions import HTTPException, NotFound
from werkzeug.wrappers import Response as AnyResponse

from app.console import formatting
from app.console.access import CSRF_FIELD, HttpsNeeded, SignInNeeded, Visitor, drop_cookie
from app.console.assets import url_of
from app.errors import GatewayError
from app.web.current_request import this_request

HTML = "text/html; charset=utf-8"
#: The pages in the navigation, with their paths.
NAVIGATION = (
    ("Overview", "/console/overview"),
    ("Conversations", "/console/conversations"),
    ("Requests", "/console/requests"),
    ("Channels", "/console/channels"),
    ("Tools", "/console/tools"),
    ("People", "/console/people"),
    ("Playground", "/console/playground"),
    ("Connect", "/console/connect"),
)

#: Headers of every answer of the console. `Referrer-Policy` stays on this site: browsers name no origin without it.
_HEADERS = {
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=()",
    "Referrer-Policy": "same-origin",
    "X-Frame-Options": "DENY",
}
_POLICY = (
    "default-src 'none'; script-src 'nonce-{nonce}'; style-src 'self'; img-src 'self' data: blob:; connect-src 'self'; "
    "base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)


@cache
def templates() -> Environment:
    environment = Environment(
        loader=PackageLoader("app.console"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    environment.filters.update(formatting.FILTERS)
    environment.globals.update(asset=url_of, version="", host=socket.gethostname())
    return environment


def page(name: str, visitor: Visitor | None, *, status: int = 200, **values: Any) -> Response:
    """A whole page. `name`: of its template. `active`, if given, names the page in the navigation."""
    nonce = secrets.token_urlsafe(16)
    frame = {"nonce": nonce, "navigation": NAVIGATION, "active": "", "zone": formatting.zone()}
    html = templates().get_template(name).render({**_common(visitor), **frame, **values})
    return _secured(Response(html, status, content_type=HTML), _POLICY.format(nonce=nonce))


def fragment(name: str, visitor: Visitor, **values: Any) -> Response:
    """A part of a page, which the script puts in its place."""
    html = templates().get_template(name).render({**_common(visitor), **values})
    return _secured(Response(html, content_type=HTML), "default-src 'none'")


def is_swap() -> bool:
    """The script has sent the request and takes a fragment."""
    return request.headers.get("HX-Request") == "true"


def see_other(path: str) -> Response:
    """The answer to a form that was carried out."""
    return secured(redirect(path, 303))


def attachment(body: bytes, name: str, content_type: str) -> Response:
    """A file to be stored. `name` is plain ASCII."""
    response = Response(body, content_type=content_type)
    response.headers["Content-Disposition"] = f'attachment; filename="{name}"'
    return secured(response)


def secured(response: AnyResponse) -> Response:
    return _secured(response, "default-src 'none'; frame-ancestors 'none'")


def _secured(response: AnyResponse, policy: str) -> Response:
    response.headers.update({**_HEADERS, "Content-Security-Policy": policy})
    assert isinstance(response, Response)
    return response


def _common(visitor: Visitor | None) -> dict[str, Any]:
    csrf = visitor.csrf if visitor else ""
    field = Markup('<input type="hidden" name="{}" value="{}">').format(CSRF_FIELD, csrf)
    return {"visitor": visitor, "csrf": csrf, "csrf_field": field, "path": request.path}


# --- errors


def gateway_error(error: GatewayError) -> Response:
    """The error as a page; a missing session leads to the sign-in, and back afterwards."""
    this_request().error = error.code or error.type
    if isinstance(error, SignInNeeded):
        return _to_sign_in(error)
    if isinstance(error, HttpsNeeded):
        return page("https.html", None, status=error.status, url=f"https://{request.host}{request.path}")
    response = page("error.html", None, status=error.status, title=_title(error.status), message=error.message)
    if error.retry_after is not None:
        response.headers["Retry-After"] = str(max(1, round(error.retry_after)))
    return response


def http_error(error: HTTPException) -> Response:
    status = error.code or 500
    message = "There is no such page." if isinstance(error, NotFound) else error.description or error.name
    response = page("error.html", None, status=status, title=_title(status), message=message)
    if "Allow" in (headers := dict(error.get_headers())):
        response.headers["Allow"] = headers["Allow"]
    return response


def _to_sign_in(error: SignInNeeded) -> Response:
    place = f"/console/sign-in?{urlencode({'next': request.full_path.rstrip('?')})}"
    if request.method == "GET" and not is_swap():
        return drop_cookie(see_other(place))
    response = page("error.html", None, status=401, title=_title(401), message=error.message)
    if is_swap():
        response.headers["HX-Redirect"] = "/console/sign-in"
    return response


def _title(status: int) -> str:
    return {401: "Sign in again", 403: "Not allowed", 404: "Not found", 429: "Too many requests"}.get(
        status, "Not possible now" if status >= 500 else "Not possible"
    )
