"""Names, types and units after Prometheus' rules, and what the dashboard and the alert rules ask for."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from itertools import pairwise

import pytest
import yaml

from tests.gateway import ROOT
from tests.metrics.conftest import Measured
from tests.metrics.scrapes import Scrape, await_value, scrape
from tests.relay.tools.conftest import ASK, mcp
from tests.upstream import refusal

DASHBOARD = ROOT / "deploy" / "grafana" / "antiphon.json"
RULES = ROOT / "deploy" / "prometheus" / "alerts.yml"

#: The part of a name that promtool objects to, because a base unit says the same.
_UNITS = ("ms", "millis", "milliseconds", "micros", "minutes", "hours", "kilobytes", "megabytes", "mib", "percent")
#: A selector in a query, with its matchers.
_SELECTOR = re.compile(r"(?<![\w$:{])(antiphon_\w+|up)(?:\{([^}]*)\})?")
_MATCHER = re.compile(r'(\w+)\s*(=~|!~|!=|=)\s*"([^"]*)"')
_GROUPING = re.compile(r"\b(?:by|on|without)\s*\(([^)]*)\)")


@pytest.fixture(scope="module")
def everything(measured: Measured) -> Scrape:
    """A scrape after requests that touch every metric."""
    gateway = measured.gateway
    measured.first.enqueue(refusal(500, "out of order"))
    assert gateway.post("/responses", {"model": "pair", "input": "hello"}).status_code == 200
    assert gateway.stream({"model": "single", "input": "hello"}).content
    body = {"model": "single", "input": ASK, "tools": [mcp("echo")]}
    assert gateway.post("/responses", body).status_code == 200
    await_value(gateway, measured.address, 3, "antiphon_token_responses_total", token="measured")
    return scrape(measured.address)


def queries() -> Iterator[tuple[str, str]]:
    for panel in json.loads(DASHBOARD.read_text())["panels"]:
        for target in panel.get("targets", ()):
            yield panel["title"], target["expr"]
    for group in yaml.safe_load(RULES.read_text())["groups"]:
        for rule in group["rules"]:
            yield rule["alert"], rule["expr"]


def test_names_types_and_units_follow_the_rules(everything: Scrape) -> None:
    assert len(everything.families) > 25
    for name, family in everything.families.items():
        assert re.fullmatch(r"antiphon_[a-z][a-z0-9_]*", name), name
        assert family.documentation.strip(), f"{name} has no help"
        assert not set(name.split("_")) & set(_UNITS), f"{name} has no base unit"
        assert not set(name.split("_")) & {"counter", "gauge", "histogram"}, f"{name} repeats its type"
        assert family.type in ("counter", "gauge", "histogram"), (name, family.type)
        for sample in family.samples:
            assert sample.name.endswith("_total") == (family.type == "counter"), sample.name
            assert all(re.fullmatch(r"[a-z][a-z_]*", label) for label in sample.labels), sample
        if family.type != "histogram":
            assert not name.endswith(("_bucket", "_count", "_sum")), name


def test_histograms_are_whole(everything: Scrape) -> None:
    histograms = [family for family in everything.families.values() if family.type == "histogram"]
    assert len(histograms) == 5
    for family in histograms:
        series: dict[tuple[tuple[str, str], ...], list[tuple[float, float]]] = {}
        for sample in family.samples:
            if sample.name.endswith("_bucket"):
                others = tuple(sorted((name, value) for name, value in sample.labels.items() if name != "le"))
                series.setdefault(others, []).append((float(sample.labels["le"]), sample.value))
        assert series, family.name
        for labels, buckets in series.items():
            assert buckets[-1][0] == float("inf")
            assert all(low <= high for (_, low), (_, high) in pairwise(buckets)), "buckets hold the ones below"
            assert everything.value(f"{family.name}_count", **dict(labels)) == buckets[-1][1]


@pytest.mark.parametrize(("title", "query"), list(queries()))
def test_a_query_names_metrics_and_labels_that_a_scrape_has(everything: Scrape, title: str, query: str) -> None:
    known = {**everything.label_sets(), "up": {"job", "instance"}}
    selectors = [(match[1], match[2] or "") for match in _SELECTOR.finditer(query)]
    assert selectors, query
    labels: set[str] = set()
    for name, matchers in selectors:
        assert name in known, f"{title}: nothing is named {name}"
        labels |= known[name]
        for label, operator, value in _MATCHER.findall(matchers):
            assert label in known[name], f"{title}: {name} has no label {label}"
            if operator == "=" and label in ("kind", "type", "operation"):
                assert value in everything.values_of(label), f"{title}: {label} is never {value}"
    for grouping in _GROUPING.findall(query):
        names = {name.strip() for name in grouping.split(",") if name.strip()}
        assert names <= labels, f"{title}: no metric has {names - labels}"
    assert query.count("(") == query.count(")")


def test_the_text_of_an_alert_names_labels_that_its_query_has(everything: Scrape) -> None:
    labels = everything.label_sets()
    for group in yaml.safe_load(RULES.read_text())["groups"]:
        for rule in group["rules"]:
            found = set().union(*(labels.get(match[1], {"instance"}) for match in _SELECTOR.finditer(rule["expr"])))
            for label in re.findall(r"\$labels\.(\w+)", rule["annotations"]["summary"]):
                assert label in found, rule["alert"]
            assert rule["labels"]["severity"] in ("page", "ticket")
