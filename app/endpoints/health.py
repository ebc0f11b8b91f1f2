"""/healthz: the process answers. /readyz: it can serve. Neither sends a request to an upstream."""

from __future__ import annotations

from flask import Blueprint, Response

from app.errors import ConfigurationError, StoreUnavailable
from app.web.current_request import public, this_request
from app.web.responses import json_response

#: The header with fingerprints of the settings. The values cannot be read from them.
SETTINGS = "X-Antiphon-Settings"

PREFIXES = ("",)
blueprint = Blueprint("health", __name__)


@blueprint.get("/healthz")
@public
def healthz() -> Response:
    return json_response({"status": "ok"})


@blueprint.get("/readyz")
@public
def readyz() -> Response:
    """200 when the database, the schema and at least one channel are usable; else 503 with the reasons. Problems of
    background responses and of a new channel table are warnings: a load balancer gains nothing by using another host.
    """
    gateway = this_request().gateway
    reasons: dict[str, str] = {}
    warnings: dict[str, str] = {}
    try:
        gateway.store.database.ping()
        gateway.store.schema.check_in_use()
        if waiting := gateway.store.jobs.unattended():
            responses = "1 background response waits" if waiting == 1 else f"{waiting} background responses wait"
            warnings["background"] = f"{responses}, and no worker for them runs"
    except StoreUnavailable:
        reasons["database"] = "the database does not answer"
    except ConfigurationError as error:
        reasons["schema"] = f"{error.message}; {error.fix}"
    if not gateway.channels.usable():
        reasons["channels"] = "no channel is usable: all are in cooldown, full, paused or without a key"
    if gateway.state.table.rejected is not None:
        # Not the errors themselves: everyone may read this answer.
        warnings["table"] = "the channel table has errors, so the one before stays in use: antiphon check"
    if gateway.drain.begun:
        reasons["worker"] = "shutting down"
    if not gateway.queue.answers():
        warnings["queue"] = "Redis does not answer: background responses start late"
    ready = {"status": "unavailable" if reasons else "ok", "reasons": reasons, "warnings": warnings}
    answer = json_response(ready, 503 if reasons else 200)
    # `antiphon doctor` compares them with the fingerprints of its own settings.
    answer.headers[SETTINGS] = ", ".join(f"{name}={print}" for name, print in gateway.settings.fingerprints().items())
    return answer
