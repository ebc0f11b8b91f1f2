"""The description of the API and the page that shows it, as a browser gets them."""

from __future__ import annotations

import re

import openapi_spec_validator
import requests
from flask import Blueprint, Flask
from werkzeug.routing import Rule

from app.endpoints import FAMILIES
from app.schemas.openapi import OPERATIONS
from tests.gateway import Gateway


def test_every_route_is_described_and_every_described_operation_is_a_route() -> None:
    routes = {
        (method.lower(), _described_path(rule.rule, family.PREFIXES[0]))
        for name, family in FAMILIES.items()
        if name not in ("description", "metrics")
        for rule in _rules_of(family.blueprint)
        for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}
    }
    assert routes == {(operation.method, operation.path) for operation in OPERATIONS}


def _rules_of(blueprint: Blueprint) -> list[Rule]:
    app = Flask("routes", static_folder=None)
    app.register_blueprint(blueprint)
    return list(app.url_map.iter_rules())


def _described_path(rule: str, prefix: str) -> str:
    return prefix + re.sub(r"<(?:\w+:)?(\w+)>", r"{\1}", rule)


def test_the_description_is_served_without_a_token(api: Gateway) -> None:
    answer = requests.get(f"{api.url}/openapi.json", timeout=60)
    assert answer.status_code == 200
    openapi_spec_validator.validate(answer.json())


def test_an_unchanged_description_is_not_sent_again(api: Gateway) -> None:
    first = requests.get(f"{api.url}/openapi.json", timeout=60)
    again = requests.get(f"{api.url}/openapi.json", headers={"If-None-Match": first.headers["ETag"]}, timeout=60)
    assert (again.status_code, again.content) == (304, b"")


def test_the_page_loads_its_own_files_only(api: Gateway) -> None:
    page = requests.get(f"{api.url}/docs", timeout=60)
    assert page.headers["Content-Type"].startswith("text/html")
    policy = page.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "script-src 'self';" in policy
    addresses = re.findall(r'(?:src|href)="([^"]+)"', page.text)
    assert not [address for address in addresses if re.match(r"(?:https?:)?//", address)]
    for address in addresses:
        if not address.startswith("data:"):
            assert requests.get(f"{api.url}/{address}", timeout=60).status_code == 200
