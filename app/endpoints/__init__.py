"""One file an endpoint family: the listing is the route map. Each has a `blueprint` and its `PREFIXES`."""

from __future__ import annotations

import pkgutil
from importlib import import_module

from flask import Flask

#: URL prefixes of the API. Some clients leave out /v1, so both work.
API = ("/v1", "")


#: Imported with the package, so that no request and no forked worker imports a module.
FAMILIES = {module.name: import_module(f"{__name__}.{module.name}") for module in pkgutil.iter_modules(__path__)}


def register(app: Flask) -> None:
    for name, family in FAMILIES.items():
        for prefix in family.PREFIXES:
            app.register_blueprint(family.blueprint, url_prefix=prefix, name=f"{name}{prefix.replace('/', ' ')}")
