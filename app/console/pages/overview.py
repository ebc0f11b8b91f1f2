"""/console/overview: the figures of a period, what is in flight, and what needs attention."""

from __future__ import annotations

import time
from typing import Any

from flask import Blueprint, Response, request

from app.console.access import Visitor, signed_in
from app.console.answers import fragment, is_swap, page, see_other
from app.console.charts import charts
from app.relay.cancellation import cancel as cancel_response
from app.reports.attention import attention_report
from app.reports.in_flight import in_flight_report
from app.reports.overview import DAYS, GROUPINGS, HOURS, PERIODS, TODAY, overview_report
from app.store.figures import MOST_CONVERSATIONS

blueprint = Blueprint("overview", __name__)

DEFAULT = next(iter(HOURS))
#: Each period on its tab, and in a sentence.
_NAMES = {
    TODAY: ("today", "today"),
    **{key: (f"{hours} h", f"the last {hours} hours") for key, hours in HOURS.items()},
    **{key: (f"{days} d", f"the last {days} days") for key, days in DAYS.items()},
}
_GROUP_NAMES = {"owner": "person"}
#: Responses in flight, and groups of one kind, that are listed.
_LISTED = 50
_GROUPS = 10
#: The pages that problems lead to, by their places.
_PLACES = {
    "table": ("Table", "/console/channels"),
    "channels": ("Channel", "/console/channels#{}"),
    "tokens": ("Token", "/console/people#t{}"),
    "requests": ("Requests", "/console/requests?status=in+flight"),
}
#: Pages that a cancellation leads back to.
_BACK = ("/console/overview", "/console/requests")


@blueprint.get("/overview")
@signed_in
def overview(visitor: Visitor) -> Response:
    period = request.args.get("d", DEFAULT)
    if period not in PERIODS:
        period = DEFAULT
    now = int(time.time())
    report = overview_report(visitor.scope, visitor.gateway.store, period, now)
    tables = [
        (_GROUP_NAMES.get(by, by), by, report.groups[by])
        for by in GROUPINGS
        if report.groups[by] and (visitor.is_operator or by != "owner")
    ]
    return page(
        "overview.html",
        visitor,
        active="Overview",
        period=period,
        tabs=[(key, _NAMES[key][0]) for key in PERIODS],
        words=_NAMES[period][1],
        until=time.strftime("%a %-d %b, %H:%M", time.localtime(now)),
        report=report,
        charts=charts(report),
        month=time.strftime("%B", time.gmtime(now)),
        tables=tables,
        most=_GROUPS,
        most_conversations=MOST_CONVERSATIONS,
        **_now(visitor),
    )


@blueprint.get("/overview/now")
@signed_in
def now(visitor: Visitor) -> Response:
    """What is in flight and what needs attention, as a part of the page."""
    return fragment("_overview_now.html", visitor, **_now(visitor))


@blueprint.post("/requests/<response_id>/cancel")
@signed_in
def cancel(visitor: Visitor, response_id: str) -> Response:
    """Ends a response in progress, whichever worker runs it. One that has ended stays as it is."""
    gateway = visitor.gateway
    owner = cancel_response(visitor.scope, gateway.store, gateway.turns.running, response_id)
    if owner is not None and visitor.is_operator:
        gateway.store.audit.record(visitor.token, "cancel", response_id, owner=owner)
    if is_swap():
        return fragment("_overview_now.html", visitor, **_now(visitor))
    back = visitor.form.get("back")
    return see_other(back if back in _BACK else _BACK[0])


def _now(visitor: Visitor) -> dict[str, Any]:
    gateway, scope = visitor.gateway, visitor.scope
    flight = in_flight_report(scope, gateway.store)
    attention = attention_report(
        scope,
        gateway.store.standing.read(scope),
        gateway.state.table,
        flight.responses,
        flight.workers,
        [pause for channel in gateway.channels.table.channels if (pause := gateway.channels.pauses.of(channel.name))],
        gateway.state.database_file,
    )
    return {"flight": flight, "listed": _LISTED, "attention": attention, "places": _PLACES}
