"""A hosted tool of the API that a tool of a server fulfils: what the model is offered, and what the server is sent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from app.contract.tools import ListedTool

JSON = dict[str, Any]

#: The names that search tools give to what they search for, the most usual first.
_QUERIES = ("query", "q", "search_query", "search_term", "queries", "question", "text", "input", "keywords")
_DESCRIPTIONS = {
    "web_search": "Searches the web.",
    "file_search": "Searches the files that the user has provided.",
}
_QUERY = {"type": "string", "description": "What to search for."}


class HostedSearch:
    """One search tool behind a hosted tool. The model writes a query; the settings of the client's tool go along where
    the server's tool has parameters of their names."""

    def __init__(self, kind: str, tool: ListedTool, settings: Mapping[str, Any]) -> None:
        """`kind`: web_search or file_search. `settings`: the tool as the client's request has it."""
        self._tool = tool
        self._properties = _object(tool.input_schema.get("properties"))
        self._query = self._query_name()
        self._extras = {name: value for name, value in _flat(settings).items() if name in self._properties}
        self.description = tool.description or _DESCRIPTIONS[kind]
        self.dropped = tuple(sorted(_flat(settings).keys() - self._extras.keys()))
        """Settings that the server's tool has no parameters for."""

    @property
    def parameters(self) -> JSON:
        """The schema for the model: a query alone, unless the server's tool requires what the gateway cannot fill."""
        if self._is_simple:
            return {"type": "object", "properties": {"query": _QUERY}, "required": ["query"]}
        return dict(self._tool.input_schema)

    def arguments(self, written: str) -> str:
        """What the server is sent for the arguments that the model wrote, as JSON. Text that is no JSON object stays as
        it is."""
        given = _parsed(written)
        if given is None:
            return written
        if self._is_simple:
            query = given.pop("query", None)
            if query is not None:
                given[self._query] = [query] if self._takes_list else query
        return orjson.dumps({**self._extras, **given}).decode()

    def query(self, written: str) -> str:
        """The query in what the model wrote."""
        given = _parsed(written) or {}
        found = given.get("query", given.get(self._query))
        if isinstance(found, Sequence) and not isinstance(found, str):
            found = next(iter(found), None)
        return found if isinstance(found, str) else written

    @property
    def _is_simple(self) -> bool:
        required = self._tool.input_schema.get("required")
        return set(required if isinstance(required, list) else ()) <= {self._query, *self._extras}

    @property
    def _takes_list(self) -> bool:
        return _object(self._properties.get(self._query)).get("type") == "array"

    def _query_name(self) -> str:
        named = next((name for name in _QUERIES if name in self._properties), None)
        if named is not None:
            return named
        required = self._tool.input_schema.get("required")
        candidates = required if isinstance(required, list) and required else list(self._properties)
        texts = [name for name in candidates if _object(self._properties.get(name)).get("type") == "string"]
        return texts[0] if texts else _QUERIES[0]


def _flat(settings: Mapping[str, Any]) -> JSON:
    """The settings of a client's tool by their names; filters are settings like the others."""
    own = {name: value for name, value in settings.items() if name not in ("type", "filters") and value is not None}
    return {**own, **{name: value for name, value in _object(settings.get("filters")).items() if value is not None}}


def _object(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _parsed(text: str) -> JSON | None:
    try:
        value = orjson.loads(text)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None
