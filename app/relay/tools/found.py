"""What a hosted tool has found, as the items of the API show it. Only what a result really holds, never its prose."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

import orjson

from app.contract.tools import ToolOutcome

JSON = dict[str, Any]

_LISTS = ("results", "items", "data")
_URLS = ("url", "link", "uri")
_TITLES = ("title", "name", "filename")
_TEXTS = ("text", "content", "snippet", "description")


def found_sources(outcome: ToolOutcome | None) -> list[JSON]:
    """The sources of a `web_search_call`: the URLs of what was found, each once."""
    if outcome is None:
        return []
    urls = [*(_url(entry) for entry in _entries(outcome)), *(link.uri for link in outcome.links)]
    return [{"type": "url", "url": url} for url in dict.fromkeys(urls) if url]


def found_titles(outcome: ToolOutcome | None) -> dict[str, str]:
    """The titles of the sources by their URLs; empty for one without."""
    if outcome is None:
        return {}
    links = {link.uri: link.title or "" for link in outcome.links}
    return {**links, **{url: _text(entry, _TITLES) for entry in _entries(outcome) if (url := _url(entry))}}


def found_files(outcome: ToolOutcome | None) -> list[JSON]:
    """The results of a `file_search_call`, every member present."""
    if outcome is None:
        return []
    listed = [_file(entry) for entry in _entries(outcome)]
    return listed or [_file({"uri": link.uri, "title": link.title}) for link in outcome.links]


def _file(entry: Mapping[str, Any]) -> JSON:
    url, title = _url(entry) or "", _text(entry, ("filename", "title", "name"))
    path = urlsplit(url).path.rstrip("/") if url else ""
    attributes, score = entry.get("attributes"), entry.get("score")
    return {
        "attributes": attributes if isinstance(attributes, Mapping) else {},
        "file_id": _text(entry, ("file_id", "id")) or url,
        "filename": title or path.rpartition("/")[2] or url,
        "score": score if isinstance(score, int | float) and not isinstance(score, bool) else 0,
        "text": _text(entry, _TEXTS),
    }


def _entries(outcome: ToolOutcome) -> Iterator[Mapping[str, Any]]:
    for value in (outcome.structured, _parsed(outcome.output)):
        if entries := _listed(value):
            yield from entries
            return


def _listed(value: Any) -> Sequence[Mapping[str, Any]]:
    if isinstance(value, Mapping):
        value = next((value[name] for name in _LISTS if isinstance(value.get(name), list)), None)
    if not isinstance(value, list):
        return ()
    return [entry for entry in value if isinstance(entry, Mapping) and (_url(entry) or _text(entry, _TEXTS))]


def _parsed(text: str | None) -> Any:
    if not text or text.lstrip()[:1] not in ("{", "["):
        return None
    try:
        return orjson.loads(text)
    except ValueError:
        return None


def _url(entry: Mapping[str, Any]) -> str:
    return _text(entry, _URLS)


def _text(entry: Mapping[str, Any], names: Sequence[str]) -> str:
    return next((value for name in names if isinstance(value := entry.get(name), str) and value), "")
