"""/console/people: the tokens of a team, what each may use and has used, and their changes. An owner sees their own."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from time import gmtime, strftime, time

from flask import Blueprint, Response, request

from app.console import token_form
from app.console.access import Visitor, operators_only, signed_in
from app.console.answers import page, see_other
from app.console.audit_entries import audit_entries
from app.console.token_form import TokenForm
from app.contract.records import Token
from app.errors import ConfigurationError, Forbidden, NotFound
from app.reports import token_fields
from app.reports.connect import Guide, guide, target
from app.reports.models import model_names
from app.reports.people import people_report

blueprint = Blueprint("people", __name__)

_PATH = "/console/people"
#: Rows of the audit at the foot of the page.
_NEWEST = 8
#: The model that answers at once and costs nothing, if the table has it.
_DEMO = "demo"
#: The clients whose steps are shown with a secret.
_FIRST_CLIENTS = ("curl", "codex", "python", "open-webui")
_EMPTY = token_form.read({}).texts
_NEW = TokenForm({**_EMPTY, "expires_at": "90d"})
_OVERLAP = TokenForm({"overlap": "24h"})


@dataclass(frozen=True, slots=True)
class Made:
    """A secret at the moment of its only showing."""

    token: Token
    secret: str
    words: str
    guides: Sequence[Guide]
    rotated: bool = False
    until: int | None = None
    """When the secret of before ends; None for at once."""


@blueprint.get("/people")
@signed_in
def people(visitor: Visitor) -> Response:
    return _list(visitor)


@blueprint.post("/people")
@operators_only
def create(visitor: Visitor) -> Response:
    """Makes a token. Its secret is in this answer alone: it is not redirected, and the form works once."""
    form = token_form.read(_entered(visitor))
    if not form.errors and _is_taken(visitor, form.token.name):
        form = form.with_error("name", f"There is already a token named '{form.token.name}'.")
    if form.errors:
        return _list(visitor, form, status=422)
    if not _spend(visitor):
        return _list(visitor, sent_twice=True, status=409)
    store, wanted = visitor.gateway.store, form.token
    store.audit.record(visitor.token, "create token", wanted.name, owner=wanted.owner)
    try:
        token, secret = store.tokens.create(
            wanted.name,
            wanted.owner,
            models=wanted.models or None,
            tools=wanted.tools or None,
            expires_at=wanted.expires_at,
            stores=wanted.stores,
            limits=wanted.limits,
            retention=wanted.retention,
            metrics=wanted.metrics,
            console=wanted.console,
        )
    except ConfigurationError as error:
        return _list(visitor, form.with_error("name", error.message), status=422)
    return _list(visitor, made=Made(token, secret, "is made", _guides(visitor, token, secret)))


@blueprint.get("/people/<int:key>")
@operators_only
def change_form(visitor: Visitor, key: int) -> Response:
    token = _changeable(visitor, key)
    return _change_page(visitor, token, TokenForm(token_form.texts_of(token)))


@blueprint.post("/people/<int:key>")
@operators_only
def change(visitor: Visitor, key: int) -> Response:
    token = _changeable(visitor, key)
    form = token_form.read(_entered(visitor), token)
    if form.errors:
        return _change_page(visitor, token, form, status=422)
    changes = token_form.changes(token, form.token)
    if changes:
        store = visitor.gateway.store
        store.audit.record(visitor.token, "change token", token.name, owner=token.owner, reason=changes)
        store.tokens.update(form.token)
    return see_other(f"{_PATH}#t{key}")


@blueprint.get("/people/<int:key>/rotate")
@signed_in
def rotate_form(visitor: Visitor, key: int) -> Response:
    return _rotate_page(visitor, _changeable(visitor, key), _OVERLAP)


@blueprint.post("/people/<int:key>/rotate")
@signed_in
def rotate(visitor: Visitor, key: int) -> Response:
    """Gives the token another secret, which is in this answer alone."""
    token, entered = _changeable(visitor, key), visitor.form.get("overlap")
    try:
        overlap = token_fields.overlap(entered)
    except ValueError as error:
        form = TokenForm({"overlap": entered}, {"overlap": f"{error}."})
        return _rotate_page(visitor, token, form, status=422)
    if not _spend(visitor):
        return _list(visitor, sent_twice=True, status=409)
    store = visitor.gateway.store
    store.audit.record(
        visitor.token, "rotate token", token.name, owner=token.owner, reason=f"the old secret works for {entered}"
    )
    rotated = store.tokens.rotate(token.name, overlap, by=visitor.session)
    if rotated is None:
        raise _unknown()
    token, secret, until = rotated
    made = Made(token, secret, "has another secret", _guides(visitor, token, secret), rotated=True, until=until)
    return _list(visitor, made=made)


@blueprint.get("/people/<int:key>/revoke")
@signed_in
def revoke_form(visitor: Visitor, key: int) -> Response:
    return page("token_revoke.html", visitor, active="People", token=_changeable(visitor, key))


@blueprint.post("/people/<int:key>/revoke")
@signed_in
def revoke(visitor: Visitor, key: int) -> Response:
    token, store = _changeable(visitor, key), visitor.gateway.store
    store.audit.record(visitor.token, "revoke token", token.name, owner=token.owner)
    store.tokens.revoke(token.name)
    return see_other(f"{_PATH}#t{key}")


# --- who may change what


def may_change(visitor: Visitor, token: Token) -> bool:
    """Whether the visitor may rotate and revoke the token. An owner may not do it where the secret gives more than
    what is the owner's: to the console as an operator, to the metrics of all."""
    if token.revoked_at is not None:
        return False
    own = token.owner == visitor.owner and token.console != "operator" and not token.metrics
    return visitor.is_operator or own


def _changeable(visitor: Visitor, key: int) -> Token:
    """Raises NotFound for a token that is revoked, or that the visitor does not see; Forbidden for one that an operator
    has to change."""
    token = visitor.gateway.store.tokens.of_key(key) if key < 2**63 else None
    if token is None or token.revoked_at is not None or visitor.scope not in (None, token.owner):
        raise _unknown()
    if not may_change(visitor, token):
        raise Forbidden("This token may do more than its owner's things, so only an operator may change it.")
    return token


def _unknown() -> NotFound:
    return NotFound("There is no such token. It may have been revoked.")


# --- forms


def _entered(visitor: Visitor) -> dict[str, str]:
    return {name: visitor.form.get(name) for name in token_form.FIELDS}


def _is_taken(visitor: Visitor, name: str) -> bool:
    return visitor.gateway.store.tokens.named(name) is not None


def _spend(visitor: Visitor) -> bool:
    """Whether the form is sent for the first time."""
    once = visitor.form.get("once")
    return bool(once) and visitor.gateway.store.idempotency.spend(visitor.token.key, once)


def _once() -> str:
    return secrets.token_urlsafe(16)


# --- pages


def _list(
    visitor: Visitor,
    form: TokenForm = _NEW,
    *,
    made: Made | None = None,
    sent_twice: bool = False,
    status: int = 200,
) -> Response:
    gateway, now = visitor.gateway, int(time())
    return page(
        "people.html",
        visitor,
        status=status,
        active="People",
        report=people_report(visitor.scope, gateway.store, gateway.channels.table.limits, now),
        month=strftime("%B", gmtime(now)),
        audit=[entry for _, entry in audit_entries(visitor, limit=_NEWEST)],
        may_change=may_change,
        form=form,
        once=_once(),
        made=made,
        sent_twice=sent_twice,
    )


def _change_page(visitor: Visitor, token: Token, form: TokenForm, status: int = 200) -> Response:
    return page("token_change.html", visitor, status=status, active="People", token=token, form=form)


def _rotate_page(visitor: Visitor, token: Token, form: TokenForm, status: int = 200) -> Response:
    return page("token_rotate.html", visitor, status=status, active="People", token=token, form=form, once=_once())


def _guides(visitor: Visitor, token: Token, secret: str) -> list[Guide]:
    """The first steps with the secret filled in."""
    table = visitor.gateway.channels.table
    models = model_names(table, token)
    model = _DEMO if _DEMO in models else next(iter(models), None)
    return [guide(client, target(table, request.host_url, model, secret)) for client in _FIRST_CLIENTS]
