"""One file an endpoint family: the listing is the route map. Each has a `blueprint` and its `PREFIXES`."""

from __future__ import annotations

import pkgutil
from importlib import import_module

from flask import Flask

#: Where the API lives. People drop the /v1, so both work.
API = ("/v1", "")


#: Imported with the package: no request and no forked worker ever loads code of its own.
FAMILIES = {module.name: import_module(f"{__name__}.{module.name}") for module in pkgutil.iter_modules(__path__)}


def register(app: Flask) -> None:
    for name, family in FAMILIES.items():
        for prefix in family.PREFIXES:
            app.register_blueprint(family.blueprint, url_prefix=prefix, name=f"{name}{prefix.replace('/', ' ')}")
