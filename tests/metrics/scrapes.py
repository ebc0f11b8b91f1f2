"""Scrapes of `/metrics`, read by the parser of prometheus_client."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import requests
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families

from tests.gateway import Gateway
from tests.relay.conftest import eventually


@dataclass(frozen=True, slots=True)
class Scrape:
    families: Mapping[str, Metric]
    """By the name of their TYPE line."""
    text: str = ""

    @classmethod
    def of(cls, text: str) -> Scrape:
        return cls({family.name: family for family in text_string_to_metric_families(text)}, text)

    def value(self, name: str, **labels: str) -> float:
        """The sum of the samples that have these labels; 0 without any."""
        return sum(
            sample.value
            for family in self.families.values()
            for sample in family.samples
            if sample.name == name and labels.items() <= sample.labels.items()
        )

    def label_sets(self) -> Mapping[str, set[str]]:
        """The labels of each sample's name, over all its samples."""
        found: dict[str, set[str]] = {}
        for family in self.families.values():
            for sample in family.samples:
                found.setdefault(sample.name, set()).update(sample.labels)
        return found

    def values_of(self, label: str) -> set[str]:
        return {
            sample.labels[label]
            for family in self.families.values()
            for sample in family.samples
            if label in sample.labels
        }


def scrape(address: str) -> Scrape:
    """Of the listener at `host:port`."""
    answer = requests.get(f"http://{address}/metrics", timeout=20)
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    return Scrape.of(answer.text)


def listens(address: str) -> bool:
    try:
        return requests.get(f"http://{address}/metrics", timeout=20).status_code == 200
    except requests.ConnectionError:
        return False


def await_value(gateway: Gateway, address: str, expected: float, name: str, **labels: str) -> Scrape:
    """The first scrape in which the metric has this value: workers write once a second."""
    last: list[float] = []

    def reached() -> Scrape | None:
        found = scrape(address)
        last[:] = [found.value(name, **labels)]
        return found if last[0] == expected else None

    try:
        found: Scrape = eventually(reached, f"{name}{labels} = {expected}")
    except AssertionError as error:
        raise AssertionError(f"{error}; it is {last}\n{gateway.log[-2000:]}") from None
    return found
