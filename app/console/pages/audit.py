"""/console/audit: what operators did, and who looked at whose content; an owner reads what concerns them."""

from __future__ import annotations

from urllib.parse import urlencode

from flask import Blueprint, Response, request

from app.console.access import Visitor, signed_in
from app.console.answers import page
from app.console.audit_entries import ACTIONS, audit_entries

blueprint = Blueprint("audit", __name__)

_PATH = "/console/audit"
_FILTERS = ("actor", "action", "owner")
_SHOWN = 50
#: Digits of a key that a column can have.
_LONGEST_KEY = 18


@blueprint.get("/audit")
@signed_in
def audit(visitor: Visitor) -> Response:
    filters = {name: request.args.get(name, "").strip() for name in _FILTERS}
    before = _key(request.args.get("before", ""))
    found = audit_entries(visitor, before=before, filters=filters, limit=_SHOWN + 1)
    shown = found[:_SHOWN]
    wanted = {name: value for name, value in filters.items() if value}
    return page(
        "audit.html",
        visitor,
        active="People",
        rows=[entry for _, entry in shown],
        filters=filters,
        wanted=", ".join(f"{name} {value}" for name, value in wanted.items()),
        actions=ACTIONS,
        newest=_url(wanted) if before is not None else "",
        older=_url({**wanted, "before": str(shown[-1][0])}) if len(found) > _SHOWN else "",
    )


def _url(arguments: dict[str, str]) -> str:
    return f"{_PATH}?{urlencode(arguments)}" if arguments else _PATH


def _key(text: str) -> int | None:
    """A key of the pages' own links; another text means the newest rows."""
    return int(text) if text.isascii() and text.isdigit() and len(text) <= _LONGEST_KEY else None
