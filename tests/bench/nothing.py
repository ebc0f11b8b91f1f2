"""A Flask route that takes a request and answers it: what the stack costs before anything is done with it."""

from __future__ import annotations

from flask import Flask, Response, request

application = Flask(__name__, static_folder=None)


@application.post("/v1/responses")
def nothing() -> Response:
    request.get_data(cache=False)
    return Response(b'{"object":"response"}', mimetype="application/json")
