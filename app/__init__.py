"""Antiphon: a gateway that serves the OpenAI Responses API and keeps the conversation itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from flask import Flask

    from app.settings import Settings

__version__ = "0.2.0"


def create_app(settings: Settings | None = None) -> Flask:
    """The gateway as a WSGI application. Raises ConfigurationError when this process must not serve."""
    # The commands of an operator must not wait for what only a server needs.
    from app import console, endpoints, last_good
    from app.gateway import build
    from app.last_good import LastGood
    from app.web.application import Application

    if settings is not None:
        last = LastGood.of(settings)
    else:
        last = last_good.current() or last_good.load(last_good.check_first)
    app = Application(__name__, build(last))
    endpoints.register(app)
    console.register(app, __version__)
    return app
