"""Who is at the console: sessions, their cookie, and what a request must prove before it may change something.

A view that `signed_in` guards gets its `Visitor` first. Bearer tokens do not count here, as cookies do not elsewhere.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import wraps
from ipaddress import ip_address
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from flask import Response, request

from app.contract.records import Token
from app.errors import Forbidden, InvalidRequest, NotFound, PayloadTooLarge, Unauthenticated
from app.gateway import Gateway
from app.memory import Share
from app.store.console_sessions import LIFETIME
from app.web.current_request import public, this_request

#: Methods that change nothing.
_SAFE = frozenset({"GET", "HEAD", "OPTIONS"})
_FORM = "application/x-www-form-urlencoded"
_LARGEST_FORM = 256 * 1024
_MOST_FIELDS = 500
#: The form field and the header that carry the CSRF token.
CSRF_FIELD, CSRF_HEADER = "csrf", "X-CSRF-Token"
#: The header of requests that follow an event, and what a browser accepts when it opens a stream of events.
UNATTENDED, _EVENTS = "X-Unattended", "text/event-stream"


class SignInNeeded(Unauthenticated):
    """There is no session, or it has ended."""

    def __init__(self) -> None:
        super().__init__("Your session has ended. Please sign in again.", code="session_ended")


class HttpsNeeded(Forbidden):
    """The page was asked for over a connection that others can read."""

    code = "https_required"

    def __init__(self) -> None:
        super().__init__("The console is served over https. Over http it answers this machine alone.")


class Form:
    """The fields of a form as text; a field may occur several times."""

    def __init__(self, fields: list[tuple[str, str]]) -> None:
        self._fields = fields

    def get(self, name: str, default: str = "") -> str:
        """The value without spaces at its ends."""
        return next((value.strip() for key, value in self._fields if key == name), default)

    def all(self, name: str) -> list[str]:
        return [value.strip() for key, value in self._fields if key == name]

    def __contains__(self, name: str) -> bool:
        return any(key == name for key, _ in self._fields)


@dataclass(frozen=True, slots=True)
class Visitor:
    """The person at the console."""

    token: Token
    """Of the session, with its rights of this moment."""
    role: str
    """`operator` or `owner`."""
    session: str
    """The hash of the session."""
    csrf: str
    """What a form of this session must carry."""
    gateway: Gateway = field(repr=False)
    form: Form = field(default_factory=lambda: Form([]), repr=False)
    """The fields of the body, if it is a form."""

    @property
    def is_operator(self) -> bool:
        return self.role == "operator"

    @property
    def owner(self) -> str:
        return self.token.owner

    @property
    def scope(self) -> str | None:
        """The owner whose data may be seen; None for everyone's."""
        return None if self.is_operator else self.token.owner


View = Callable[..., Response]


def signed_in(view: View) -> View:
    """The view gets the visitor as its first argument. Raises SignInNeeded, HttpsNeeded and Forbidden."""

    @wraps(view)
    def checked(**arguments: Any) -> Response:
        return view(visitor(), **arguments)

    public(checked)
    return checked


def operators_only(view: View) -> View:
    """As `signed_in`; for an owner the page does not exist."""

    @wraps(view)
    def checked(**arguments: Any) -> Response:
        here = visitor()
        if not here.is_operator:
            raise NotFound("There is no such page.")
        return view(here, **arguments)

    public(checked)
    return checked


def visitor() -> Visitor:
    current = this_request()
    check_connection()
    session = current.gateway.store.console_sessions.find(request.cookies.get(cookie_name(), ""))
    if session is None:
        raise SignInNeeded
    if not _is_unattended():
        current.gateway.store.console_sessions.note_use(session)
    current.known_token = session.token.under(current.gateway.channels.table.limits)
    csrf = _csrf(current.gateway, session.hash)
    form = Form([])
    if request.method not in _SAFE:
        check_origin()
        if request.mimetype == _FORM:
            form = read_form()
        proof = request.headers.get(CSRF_HEADER) or form.get(CSRF_FIELD)
        if not hmac.compare_digest(csrf.encode(), proof.encode("utf-8", "replace")):
            raise Forbidden("The form has expired. Please reload the page, and send it again.", code="csrf_failed")
    return Visitor(current.token, session.token.console or "owner", session.hash, csrf, current.gateway, form)


def _is_unattended() -> bool:
    """The page has sent the request by itself, so the session may end as an idle one meanwhile."""
    return UNATTENDED in request.headers or request.headers.get("Accept") == _EVENTS


def _csrf(gateway: Gateway, session: str) -> str:
    return hmac.digest(gateway.settings.key_for("console"), session.encode(), "sha256").hex()


def read_form() -> Form:
    """Raises InvalidRequest, PayloadTooLarge, and what reading a body raises."""
    current = this_request()
    if request.content_length is None and not current.body_read:
        # It could be of any length, and a client that signs in is not known yet.
        raise InvalidRequest("A form states its length.")
    if (request.content_length or 0) > _LARGEST_FORM:
        raise PayloadTooLarge(f"The form is larger than {_LARGEST_FORM} bytes.")
    current.share = Share(current.gateway.budget)
    raw = current.gateway.bodies.read(current.environ, current.share)
    current.body_read = True
    if len(raw) > _LARGEST_FORM:
        raise PayloadTooLarge(f"The form is larger than {_LARGEST_FORM} bytes.")
    try:
        fields = parse_qsl(raw.decode("utf-8", "replace"), keep_blank_values=True, max_num_fields=_MOST_FIELDS)
    except ValueError:
        raise PayloadTooLarge(f"The form has more than {_MOST_FIELDS} fields.") from None
    return Form(fields)


# --- the connection


def check_connection() -> None:
    """Raises HttpsNeeded, unless the connection is encrypted or stays on this machine."""
    if not (request.is_secure or _is_local(request.environ, request.host)):
        raise HttpsNeeded


def _is_local(environ: Mapping[str, Any], host: str) -> bool:
    """The browser runs on this machine and has asked for this machine. A proxy, which has the address of this machine,
    names its client; a page of another site that has our address names another host."""
    if "HTTP_X_FORWARDED_FOR" in environ or "HTTP_FORWARDED" in environ:
        return False
    return _is_loopback(str(environ.get("REMOTE_ADDR", ""))) and _is_loopback(_parts(host)[0])


def _parts(host: str) -> tuple[str, int]:
    """The name and the port of a Host header; an empty name for a header that makes no sense."""
    try:
        parts = urlsplit(f"//{host}")
        return parts.hostname or "", parts.port or 80
    except ValueError:
        return "", 80


def _is_loopback(name: str) -> bool:
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        return ip_address(name).is_loopback
    except ValueError:
        return False


def check_origin() -> None:
    """Raises Forbidden for a request that another site has sent. Every browser of today says `Sec-Fetch-Site` over a
    connection that `check_connection` accepts. For older ones the origin counts: a proxy may have changed the host.
    """
    site = request.headers.get("Sec-Fetch-Site")
    own = request.headers.get("Origin") == f"{request.scheme}://{request.host}"
    if site != "same-origin" if site is not None else not own:
        raise Forbidden("The request came from another site.", code="cross_site")


# --- the cookie


def cookie_name() -> str:
    """Browsers share the cookies of a host between its ports. So the name has the port over http, and over https, where
    a proxy may leave the port out of the host, a digest of the gateway's key."""
    if request.is_secure:
        key = this_request().gateway.settings.key_for("console")
        return f"__Host-antiphon-{hmac.digest(key, b'cookie', 'sha256').hex()[:8]}"
    return f"antiphon-{_parts(request.host)[1]}"


def set_cookie(response: Response, secret: str) -> Response:
    response.set_cookie(
        cookie_name(), secret, max_age=LIFETIME, path="/", secure=request.is_secure, httponly=True, samesite="Lax"
    )
    return response


def drop_cookie(response: Response) -> Response:
    response.delete_cookie(cookie_name(), path="/", secure=request.is_secure, httponly=True, samesite="Lax")
    return response
