"""/console/sign-in and /console/sign-out. A token, or the code of a link, is posted once; a session takes its place."""

from __future__ import annotations

import re

from flask import Blueprint, Response, request

from app.console import access, answers
from app.console.access import Visitor, signed_in
from app.contract.records import Token
from app.web.current_request import public, this_request

blueprint = Blueprint("sign_in", __name__)

HOME = "/console/overview"
#: A path of the console, and no other site's.
_OWN = re.compile(r"/console/[A-Za-z0-9_./~%-]*(\?[^\\\s#]*)?\Z", re.ASCII)

_NO_RIGHT = "That token has no right to the console."
_UNKNOWN = "That token is unknown, revoked or expired."
_SPENT = "That link was used already, or is older than a minute. `antiphon console` prints another."


@blueprint.get("")
@blueprint.get("/")
@public
def home() -> Response:
    return answers.see_other(HOME)


@blueprint.get("/sign-in")
@public
def form() -> Response:
    access.check_connection()
    return _form(_next(request.args.get("next", "")))


@blueprint.post("/sign-in")
@public
def sign_in() -> Response:
    """With a token, which is checked as the API checks it."""
    fields = _posted()
    secret, place = fields.get("token"), _next(fields.get("next"))
    token = this_request().gateway.store.tokens.check(secret, "console")
    if token is None or token.console is None:
        return _form(place, _UNKNOWN if token is None else _NO_RIGHT)
    return _signed_in(token, place)


@blueprint.post("/sign-in/code")
@public
def sign_in_by_code() -> Response:
    """With the code of a link, which is spent by this."""
    fields = _posted()
    store = this_request().gateway.store
    key = store.console_sessions.spend_code(fields.get("code"))
    token = store.tokens.of_key(key) if key is not None else None
    if token is None or token.console is None or not token.is_valid:
        return _form(HOME, _SPENT)
    return _signed_in(token, HOME)


@blueprint.post("/sign-out")
@signed_in
def sign_out(visitor: Visitor) -> Response:
    visitor.gateway.store.console_sessions.end(request.cookies[access.cookie_name()])
    return access.drop_cookie(answers.see_other("/console/sign-in"))


def _posted() -> access.Form:
    """The fields of a form that needs no session. Raises HttpsNeeded and Forbidden."""
    access.check_connection()
    access.check_origin()
    return access.read_form()


def _signed_in(token: Token, place: str) -> Response:
    """Opens a session, which takes the place of the browser's former one."""
    sessions = this_request().gateway.store.console_sessions
    if former := request.cookies.get(access.cookie_name()):
        sessions.end(former)
    return access.set_cookie(answers.see_other(place), sessions.open(token))


def _form(place: str, error: str = "") -> Response:
    return answers.page("sign_in.html", None, status=401 if error else 200, next=place, error=error)


def _next(place: str) -> str:
    return place if _OWN.match(place) and "//" not in place.partition("?")[0] else HOME
