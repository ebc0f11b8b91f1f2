"""/console/requests: single requests, newest first, with what happened to the selected one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, fields
from typing import Any
from urllib.parse import urlencode

from flask import Blueprint, Response, request

from app.console.access import Visitor, signed_in
from app.console.answers import fragment, is_swap, page
from app.contract.records import Token
from app.errors import InvalidRequest, NotFound
from app.ids import known_id
from app.reports import requests as report
from app.reports.channel_states import all_channels
from app.store.requests import KINDS, MOST, STATUSES, RequestRow, Wanted
from app.web.client_names import CLIENTS

blueprint = Blueprint("requests", __name__)

URL = "/console/requests"
#: Requests on one page.
_COUNT = 50
_LONGEST = 300


@blueprint.get("/requests")
@signed_in
def requests(visitor: Visitor) -> Response:
    """`at`: id of the selected response; `before`: the key below which the page begins; `q` and the names of `Wanted`:
    what is shown."""
    wanted, selected = _asked(visitor)
    found = visitor.gateway.store.requests.page(visitor.scope, wanted, _COUNT, _before(), selected)
    if selected and found.selected is None:
        raise NotFound(f"Response with id '{selected[:64]}' not found.")
    filters = {name: value for name, value in _given(wanted).items() if value}
    values: dict[str, Any] = {
        "found": found,
        "filters": filters,
        "link": lambda **more: _link({**filters, "before": request.args.get("before", ""), **more}),
        "newest": _link(filters) if request.args.get("before") else "",
        "older": _link({**filters, "before": str(found.before)}) if found.before is not None else "",
        "is_first": not request.args.get("before"),
        "most": MOST,
        "report": report,
        "reload": _link({**filters}),
        **_detail(visitor, found.selected),
    }
    if is_swap():
        return fragment("_requests_list.html", visitor, **values)
    return page("requests.html", visitor, active="Requests", choices=_choices(visitor, wanted), wanted=wanted, **values)


@blueprint.post("/requests/<response_id>/curl")
@signed_in
def curl(visitor: Visitor, response_id: str) -> Response:
    """The request with its text. A look at another's is recorded, with its reason, before anything is shown."""
    store = visitor.gateway.store
    row = store.requests.find(visitor.scope, response_id)
    if row is None or not row.has_content:
        raise NotFound(f"Response with id '{response_id[:64]}' not found.")
    reason = visitor.form.get("reason")
    if row.owner != visitor.owner:
        if not reason:
            raise InvalidRequest("Please give a reason: it is recorded.", param="reason")
        store.audit.record(visitor.token, "show text", row.id, owner=row.owner, reason=reason)
    detail = store.trees.detail(row.owner, row.id)
    if detail is None:
        raise NotFound(f"Response with id '{response_id[:64]}' not found.")
    text = report.curl_with_text(_base(), row, detail.settings, detail.input)
    values: dict[str, Any] = {"row": row, "text": text}
    if is_swap():
        return fragment("_request_curl.html", visitor, **values)
    return page("request_curl.html", visitor, active="Requests", **values)


def _asked(visitor: Visitor) -> tuple[Wanted, str]:
    """What is shown, and the id of the selected response; empty without one. The id of a response may stand in the
    search as well."""
    asked = {field.name: request.args.get(field.name, "").strip()[:_LONGEST] for field in fields(Wanted)}
    for name, known in (("status", STATUSES), ("kind", KINDS)):
        if asked[name] and asked[name] not in known:
            raise InvalidRequest(f"'{name}' must be one of: {', '.join(known)}.", param=name)
    if not visitor.is_operator:
        asked["owner"] = ""
    searched = request.args.get("q", "").strip()[:_LONGEST]
    selected = request.args.get("at", "").strip()[:_LONGEST]
    if known_id(searched) and searched.startswith("resp_"):
        return Wanted(), searched
    return Wanted(**{**asked, "request": searched or asked["request"]}), selected


def _given(wanted: Wanted) -> dict[str, str]:
    given: dict[str, str] = asdict(wanted)
    return {"q": given.pop("request"), **given}


def _before() -> int | None:
    text = request.args.get("before", "")
    if text and not (text.isascii() and text.isdigit() and len(text) < 19):
        raise InvalidRequest("'before' must be the key of a row.", param="before")
    return int(text) if text else None


def _link(values: Mapping[str, str]) -> str:
    given = {name: value for name, value in values.items() if value}
    return f"{URL}?{urlencode(given)}" if given else URL


def _base() -> str:
    return f"{request.host_url.rstrip('/')}/v1"


def _detail(visitor: Visitor, row: RequestRow | None) -> dict[str, Any]:
    if row is None:
        return {"detail": None}
    gateway = visitor.gateway
    table = gateway.state.table.current
    pauses = {channel.name: pause for channel in table.channels if (pause := gateway.channels.pauses.of(channel.name))}
    return {
        "detail": {
            "advice": report.advice_on(row),
            "tries": report.tries_of(row),
            "why": report.why_these(table, row, pauses) if visitor.is_operator else [],
            "curl": report.curl_without_text(_base(), row),
            "is_own": row.owner == visitor.owner,
        }
    }


def _choices(visitor: Visitor, wanted: Wanted) -> dict[str, list[str]]:
    """What can be chosen in each filter, with what is chosen now."""
    table = visitor.gateway.state.table.current
    tokens = [token for token in visitor.gateway.store.tokens.all() if _is_seen(visitor, token)]
    models = {name for channel in all_channels(table) for name in channel.models if visitor.token.may_use(name)}
    choices = {
        "status": [*STATUSES],
        "token": sorted({token.name for token in tokens}),
        "model": sorted(models),
        "channel": [channel.name for channel in all_channels(table)] if visitor.is_operator else [],
        "client": sorted(CLIENTS),
        "kind": [*KINDS],
    }
    if visitor.is_operator:
        choices["owner"] = sorted({token.owner for token in tokens})
    for name, names in choices.items():
        chosen = getattr(wanted, name)
        if chosen and chosen not in names:
            names.insert(0, chosen)
    return choices


def _is_seen(visitor: Visitor, token: Token) -> bool:
    return visitor.scope is None or token.owner == visitor.scope
