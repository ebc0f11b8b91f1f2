"""Turns the nodes of the channel file into the plain values that the schema takes: it fills in the variables and
records the place of each value. It knows which keys may hold a secret, and unmasks only the other parts of a line.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import yaml

from app.channels.yaml_document import MASK, Document, is_null
from app.schemas.channels import KEYS
from app.schemas.rows import UNKNOWN_KEY, shown_key
from app.schemas.table_values import Scalar

Place = tuple[str | int, ...]

#: `url`: that of a tool server, whose path often holds a key.
_HIDDEN = frozenset({"api_key", "api_key_file", "headers", "secret", "url"})
#: Keys with mappings whose keys the operator chooses.
_FREE = frozenset({"models", "headers", "rename", "set"})
#: The key with values that the operator chooses, at any depth.
_ANY_VALUE = ("params", "set")
#: Keys with nothing but rows below them. A scalar there has lost its key, so it may be a secret.
_ROWS = frozenset({"channels", "defaults", "servers", "hosted", "web_search", "file_search"})
# A default cannot contain a brace: the search for the end of an unclosed one would take quadratic time.
REFERENCE = re.compile(r"(?P<escaped>\$\$\{)|\$\{(?P<name>[A-Za-z_]\w*)(?::-(?P<default>[^{}]*))?\}|\$\{", re.ASCII)


def is_hidden(place: Place) -> bool:
    """Whether the value at this place may be a secret."""
    return not _HIDDEN.isdisjoint(place)


def is_free(place: Place) -> bool:
    """Whether the value at this place is of the operator's own kind: it is sent to an upstream as it is."""
    return place[2:4] == _ANY_VALUE


class Interpolation:
    """Turns nodes into plain values with the variables filled in, and records the node of each."""

    def __init__(self, document: Document, environment: Mapping[str, str]) -> None:
        self.document = document
        self.nodes: dict[Place, yaml.Node] = {}
        self.unset: dict[Place, str] = {}
        """The messages for values whose variable is not set. The key decides whether it is an error."""
        self._keys: dict[Place, yaml.Node] = {}
        self._broken: set[Place] = set()
        self._environment = environment

    def value(self, node: yaml.Node, place: Place = ()) -> Any:
        self.nodes[place] = node
        if isinstance(node, yaml.MappingNode):
            return self._mapping(node, place)
        if isinstance(node, yaml.SequenceNode):
            return [self.value(child, (*place, index)) for index, child in enumerate(node.value)]
        assert isinstance(node, yaml.ScalarNode)
        key = next(part for part in reversed(place) if isinstance(part, str))
        words_only = key in _ROWS or place == ("tools",) or (key == "base_url" and re.search("[@?#]", node.value))
        if not words_only and _HIDDEN.isdisjoint(place):
            self.document.unmask(node)
        return None if is_null(node) else self._scalar(node, place)

    def _mapping(self, node: yaml.MappingNode, place: Place) -> dict[str, Any]:
        read: dict[str, Any] = {}
        free = bool(place) and (place[-1] in _FREE or place[2:4] == _ANY_VALUE or _is_tiers(place))
        for key, child in node.value:
            if wrong := _wrong_key(key, read):
                self.document.error(key, wrong)
                continue
            below = (*place, key.value)
            self._keys[below] = key
            if _HIDDEN.isdisjoint(place) and (free or shown_key(key.value) == key.value):
                self.document.unmask(key)
            # The value of an unknown key may be a secret: it is neither read nor shown.
            read[key.value] = self.value(child, below) if free or key.value in KEYS else None
        return read

    def key_nodes(self) -> Mapping[Place, yaml.Node]:
        return self._keys

    def _scalar(self, node: yaml.ScalarNode, place: Place) -> Scalar:
        plain = not node.style
        if "${" not in node.value:
            return Scalar(node.value, plain)
        references = [match for match in REFERENCE.finditer(node.value) if not match["escaped"]]
        if any(match["name"] is None for match in references):
            self.report(place, "'${' begins a reference: ${NAME} or ${NAME:-default}; '$${' is a plain '${'")
            return self._masked(place)
        unset = [match["name"] for match in references if match["default"] is None and not self._of(match)]
        if unset:
            self.unset[place] = f"the variable {', '.join(unset)} is not set, in the environment or in .env"
            self._broken.add(place)
            return Scalar(MASK, unset=True)
        filled = REFERENCE.sub(lambda match: "${" if match["escaped"] else self._of(match), node.value)
        return Scalar(filled, plain, literal=False)

    def _of(self, match: re.Match[str]) -> str:
        return self._environment.get(match["name"]) or match["default"] or ""

    def _masked(self, place: Place) -> Scalar:
        """A placeholder for a value with an error of its own; further messages about the placeholder are dropped."""
        self._broken.add(place)
        return Scalar(MASK)

    def report(self, place: Place, message: str) -> None:
        """An unknown key is shown at the key, a bad value at the value, a missing key at its row."""
        unknown = message.startswith(UNKNOWN_KEY)
        if place in self._broken and not unknown:
            return
        at = self._keys.get(place) if unknown else self.nodes.get(place)
        while at is None:
            place = place[:-1]
            at = self.nodes.get(place)
        self.document.error(at, message)


def _wrong_key(key: yaml.Node, read: Mapping[str, Any]) -> str:
    if not isinstance(key, yaml.ScalarNode) or not key.value:
        return "a key must be a plain word"
    if key.value == "<<" and not key.style:
        return "merge keys are not supported; use defaults:"
    return f"the key '{shown_key(key.value)}' is given twice" if key.value in read else ""


def _is_tiers(place: Place) -> bool:
    """Whether the mapping is that of a price whose keys are numbers of tokens."""
    return place[2:3] == ("price",) and place[-1] == "above"
