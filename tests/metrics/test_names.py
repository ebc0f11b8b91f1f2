"""Names, types and units after Prometheus' rules, and what the dashboard and the alert rules ask for."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
import yaml

from tests.gateway import ROOT
from tests.metrics.conftest import Measured
from tests.metrics.prometheus import is_installed, promtool, running_prometheus
from tests.metrics.scrapes import Scrape, await_value, scrape
from tests.relay.conftest import eventually
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


#: Joins parts of an alert's query, each of which has an answer of its own.
_JOINTS = re.compile(r"\b(?:and|or|unless)\b(?: on \(\))?")
#: A comparison, which leaves out the series for which it is false. With `bool` it answers 0 or 1 for each.
_COMPARISON = re.compile(r"\s(==|!=|>=|<=|>|<)\s")


@pytest.fixture(scope="module")
def everything(measured: Measured) -> Scrape:
    """A scrape after requests that touch every metric."""
    gateway = measured.gateway
    measured.first.enqueue(refusal(500, "out of order"))
    assert gateway.post("/responses", {"model": "pair", "input": "hello"}).status_code == 200
    assert gateway.stream({"model": "single", "input": "hello"}).content
    for tool in ("echo", "fail"):
        body = {"model": "single", "input": ASK, "tools": [mcp(tool)]}
        assert gateway.post("/responses", body).status_code == 200
    measured.first.enqueue(refusal(401, "no such key"))
    assert gateway.post("/responses", {"model": "denied", "input": "hello"}).status_code == 502
    await_value(gateway, measured.address, 5, "antiphon_token_responses_total", token="measured")
    # Gauges are written apart from the counters.
    return eventually(lambda: _with_all_names(scrape(measured.address)), "all that the queries name")


def _with_all_names(found: Scrape) -> Scrape | None:
    named = {match[1] for _, query in queries() for match in _SELECTOR.finditer(query)}
    return found if named - {"up"} <= found.label_sets().keys() else None


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


def test_each_query_has_an_answer(everything: Scrape, tmp_path: Path) -> None:
    """All queries against one Prometheus, whose start takes longer than their answers."""
    if not is_installed():
        pytest.skip("Prometheus is not installed")
    with running_prometheus(tmp_path, everything) as prometheus:
        for title, query in queries():
            asked = query.replace("$__rate_interval", "5m")
            assert prometheus.ask(asked) is not None
            for part in _JOINTS.split(asked):
                answer = prometheus.ask(_COMPARISON.sub(r" \1 bool ", part))
                assert answer or part.startswith("absent("), f"{title}: no data for {part}"


def test_promtool_has_no_objection(everything: Scrape) -> None:
    if not is_installed():
        pytest.skip("promtool is not installed")
    checked = promtool("check", "metrics", input=everything.text)
    assert (checked.returncode, checked.stdout + checked.stderr) == (0, "")
    rules = promtool("check", "rules", "--lint-fatal", str(RULES))
    assert rules.returncode == 0, rules.stdout + rules.stderr


def test_the_text_of_an_alert_names_labels_that_its_query_has(everything: Scrape) -> None:
    labels = everything.label_sets()
    for group in yaml.safe_load(RULES.read_text())["groups"]:
        for rule in group["rules"]:
            found = set().union(*(labels.get(match[1], {"instance"}) for match in _SELECTOR.finditer(rule["expr"])))
            for label in re.findall(r"\$labels\.(\w+)", rule["annotations"]["summary"]):
                assert label in found, rule["alert"]
            assert rule["labels"]["severity"] in ("page", "ticket")
