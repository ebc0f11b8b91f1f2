"""Citations of what hosted tools have found: where a text contains the URL of a source, word for word."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from app.contract.items import Item

JSON = dict[str, Any]

#: Sources that are looked for, and the longest URL.
_MOST, _LONGEST = 200, 2000
#: What shows that a URL goes on, and so is not that of the source. Punctuation counts only before such characters.
_GOES_ON = r"(?![\w/~%#&=+@$*-]|[.:?]{1,3}[\w/~%#&=+@$*-])"
#: Characters behind a URL that decide whether it goes on.
_AHEAD = 4
_TEXT = "output_text"


class Sources:
    """The sources that the hosted calls of a turn have found."""

    def __init__(self, titles: Mapping[str, str]) -> None:
        """`titles`: by the URL; empty for one without."""
        urls = [url for url in titles if url.startswith(("https://", "http://")) and len(url) <= _LONGEST][:_MOST]
        self.titles = titles
        self.longest = max(map(len, urls), default=0)
        either = "|".join(map(re.escape, sorted(urls, key=len, reverse=True)))
        self.pattern = re.compile(f"(?:{either}){_GOES_ON}") if urls else None

    def __bool__(self) -> bool:
        return self.pattern is not None

    def cited(self, items: Sequence[Item]) -> list[Item]:
        """Items of a model with the citations in their texts."""
        return [self._cited(item) if self and item.get("type") == "message" else item for item in items]

    def _cited(self, message: Item) -> Item:
        content = message.get("content")
        return {**message, "content": [*map(self._part, content)]} if isinstance(content, list) else message

    def _part(self, part: JSON) -> JSON:
        return TextCitations(self).whole(part) if part.get("type") == _TEXT else part


class TextCitations:
    """The annotations of one text that grows. Any division of the text gives the same ones."""

    def __init__(self, sources: Sources) -> None:
        self.annotations: list[JSON] = []
        """In the order of their events."""
        self._sources = sources
        self._tail = ""
        self._length = 0
        """Of the text so far."""
        self._cited = 0
        """Where the last citation ends."""

    def feed(self, text: str) -> list[JSON]:
        """The citations that the next piece of the text has decided."""
        self._length += len(text)
        self._tail += text
        undecided = self._sources.longest + _AHEAD
        found = [*self._found(self._length - undecided)]
        self._tail = self._tail[-undecided:]
        return found

    def finish(self, text: str) -> list[JSON]:
        """The last citations. `text`: the whole text, of which some pieces may not have come."""
        self._tail += text[self._length :]
        self._length = max(self._length, len(text))
        return [*self._found(self._length)]

    def note(self, annotation: JSON) -> int:
        """Takes an annotation of the upstream's own; its place."""
        self.annotations.append(annotation)
        return len(self.annotations) - 1

    def whole(self, part: JSON) -> JSON:
        """The finished part with all annotations."""
        own = [one for one in part.get("annotations") or () if one not in self.annotations]
        self.annotations += own
        self.finish(part["text"])
        return {**part, "annotations": [*self.annotations]}

    def _found(self, decided: int) -> Iterator[JSON]:
        """The new citations that begin up to this place."""
        assert self._sources.pattern is not None
        offset = self._length - len(self._tail)
        for match in self._sources.pattern.finditer(self._tail, max(0, self._cited - offset)):
            start, end = match.start() + offset, match.end() + offset
            if start > decided:
                return
            self._cited = end
            if any((one.get("start_index"), one.get("end_index")) == (start, end) for one in self.annotations):
                continue
            url = match.group()
            title = self._sources.titles.get(url) or url
            citation = {"type": "url_citation", "start_index": start, "end_index": end, "title": title, "url": url}
            self.annotations.append(citation)
            yield citation
