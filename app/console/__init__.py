"""The web pages under /console: server-rendered, for the people of a team. Values come from `app.reports`, as those of
the commands do."""

from __future__ import annotations

import pkgutil
from importlib import import_module

from flask import Flask
from werkzeug.exceptions import HTTPException

from app.console import answers, pages, turns
from app.console.live import LIVE, Live
from app.errors import GatewayError
from app.gateway import Gateway

PREFIX = "/console"

#: Imported with the package, so that no request and no forked worker imports a module.
PAGES = {
    module.name: import_module(f"{pages.__name__}.{module.name}") for module in pkgutil.iter_modules(pages.__path__)
}


def register(app: Flask, version: str) -> None:
    """Adds the pages, unless ANTIPHON_CONSOLE is off. `version` stands at their foot."""
    gateway: Gateway = app.extensions["antiphon"]
    if not gateway.settings.console:
        return
    answers.templates().globals["version"] = version
    app.extensions[LIVE] = Live(gateway.store.changes, gateway.settings.max_live_pages)
    for name, page in PAGES.items():
        blueprint = page.blueprint
        # One blueprint serves several applications of a test.
        if not blueprint._got_registered_once:
            blueprint.register_error_handler(GatewayError, answers.gateway_error)
            blueprint.register_error_handler(HTTPException, answers.http_error)
        app.register_blueprint(blueprint, url_prefix=PREFIX, name=f"console {name}")
    # Without error pages of its own: its errors are the API's.
    app.register_blueprint(turns.blueprint, url_prefix=PREFIX, name="console turns")
