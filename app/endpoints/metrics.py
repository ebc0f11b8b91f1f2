"""GET /metrics: the metrics of all processes, for a token that was made with `--metrics`."""

from __future__ import annotations

from flask import Blueprint, Response

from app.errors import Forbidden, NotFound, Unavailable
from app.web.current_request import this_request

PREFIXES = ("",)
blueprint = Blueprint("metrics", __name__)


@blueprint.get("/metrics")
def metrics() -> Response:
    """The token decides who may read them, never the address: a proxy has that of this machine."""
    request = this_request()
    if not request.token.metrics:
        raise Forbidden("This token may not read metrics. `antiphon tokens create NAME --metrics` makes one that may.")
    if not request.gateway.settings.metrics:
        raise NotFound("Metrics are off. ANTIPHON_METRICS=on counts them.")
    # Imported here: without metrics the library is not loaded.
    from app.metrics.exposition import CONTENT_TYPE, exposition

    try:
        return Response(exposition(), content_type=CONTENT_TYPE)
    except (OSError, ValueError):
        raise Unavailable("The metrics cannot be read.") from None
