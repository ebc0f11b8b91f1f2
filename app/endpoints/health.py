"""/healthz: the process answers. /readyz: it can serve. Neither costs a token or asks a model."""

from __future__ import annotations

from flask import Blueprint, Response

from app import web
from app.errors import ConfigurationError, StoreUnavailable

#: Fingerprints of the settings, which show none of them.
SETTINGS = "X-Antiphon-Settings"

PREFIXES = ("",)
blueprint = Blueprint("health", __name__)


@blueprint.get("/healthz")
@web.public
def healthz() -> Response:
    return web.answer({"status": "ok"})


@blueprint.get("/readyz")
@web.public
def readyz() -> Response:
    """200 when the database, the schema and at least one channel are fit for use; else 503 with the reasons. What only
    background responses suffer from is a warning: another host would not answer the rest any better.
    """
    gateway = web.gateway()
    reasons: dict[str, str] = {}
    warnings: dict[str, str] = {}
    try:
        gateway.store.database.ping()
        gateway.store.schema.check_in_use()
        if waiting := gateway.store.jobs.unattended():
            warnings["background"] = f"{waiting} background responses wait and no worker for them lives"
    except StoreUnavailable:
        reasons["database"] = "the database does not answer"
    except ConfigurationError as error:
        reasons["schema"] = f"{error.message}; {error.fix}"
    if not gateway.channels.usable():
        reasons["channels"] = "no channel is usable: all rest, are full or lack a key"
    if gateway.drain.begun:
        reasons["worker"] = "shutting down"
    if not gateway.queue.answers():
        warnings["queue"] = "Redis does not answer: background responses begin late"
    ready = {"status": "unavailable" if reasons else "ok", "reasons": reasons, "warnings": warnings}
    answer = web.answer(ready, 503 if reasons else 200)
    # For `antiphon doctor`, which compares them with its own.
    answer.headers[SETTINGS] = ", ".join(f"{name}={print}" for name, print in gateway.settings.fingerprints().items())
    return answer
