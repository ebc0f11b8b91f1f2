"""One item of a repaired stream, from its announcement to its end. Text that was sent stays: later events of the
upstream can only append to it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Protocol

from app.contract.events import ANNOTATION_ADDED, ARGUMENT_EVENTS, MISNAMED_PART, PART_FAMILIES, TEXT_EVENTS
from app.contract.items import TEXT_TYPES, Item, holder_of
from app.formats._events import Emitter
from app.formats.responses import _items

JSON = dict[str, Any]

_KINDS = {family: kind for kind, (family, _) in TEXT_EVENTS.items()}
_FAMILIES_OF_PARTS = PART_FAMILIES | {MISNAMED_PART}


class ItemStream(Protocol):
    """The content of an open item."""

    def take(self, emitter: Emitter, event: Mapping[str, Any]) -> Iterator[bytes]: ...

    def end(self, emitter: Emitter, item: Item) -> Iterator[bytes]:
        """Emits the content of the finished item that has not been sent."""
        ...

    def snapshot(self) -> JSON:
        """The members of the item, as far as they were sent."""
        ...


def body(item: Item) -> ItemStream:
    if item["type"] in TEXT_TYPES:
        return _TextItem(item)
    return _CallItem(item) if item["type"] in ARGUMENT_EVENTS else _HostedItem(item)


class _Part:
    """A growing part of a message or a reasoning item."""

    def __init__(self, index: int, part: JSON) -> None:
        self.index = index
        self.kind: str = part["type"]
        self.ended = False
        self.annotations: list[Any] = list(part.get("annotations") or ())
        self._part = part
        self._text: list[str] = []
        self._logprobs: list[Any] = []

    def append(self, text: str, logprobs: object) -> list[Any]:
        self._text.append(text)
        logged = logprobs if isinstance(logprobs, list) else []
        self._logprobs += logged
        return logged

    def rest(self, text: object) -> str:
        """The end of the whole text that has not been sent."""
        sent = "".join(self._text)
        return text[len(sent) :] if isinstance(text, str) and text.startswith(sent) else ""

    def log(self, logprobs: object) -> None:
        """Sets all logprobs of the part, if the upstream sends them."""
        if isinstance(logprobs, list) and logprobs:
            self._logprobs = logprobs

    def adopt(self, part: Mapping[str, Any]) -> None:
        """Takes the other members of the part from the upstream."""
        self.log(part.get("logprobs"))
        self.annotations = part.get("annotations") or self.annotations
        self._part = {**self._part, **part}

    def snapshot(self) -> JSON:
        if self.kind not in TEXT_EVENTS:
            return self._part
        lists: JSON = {}
        if self.kind == "output_text":
            lists = {"annotations": list(self.annotations), "logprobs": list(self._logprobs)}
        return {**self._part, "type": self.kind, TEXT_EVENTS[self.kind][1]: "".join(self._text), **lists}


class _TextItem:
    """A message or a reasoning item: parts, one after the other."""

    def __init__(self, item: Item) -> None:
        self._item = item
        self._sent: dict[str, list[JSON]] = {"content": [], "summary": []}
        self._part: _Part | None = None

    def take(self, emitter: Emitter, event: Mapping[str, Any]) -> Iterator[bytes]:
        family, _, step = event["type"].rpartition(".")
        if family in _FAMILIES_OF_PARTS:
            part = _items.complete_part(event.get("part") or {}, self._item["type"])
            yield from self._begin(emitter, part) if step == "added" else self._finish(emitter, part)
        elif family in _KINDS and step == "delta":
            yield from self._append(emitter, _KINDS[family], event)
        elif family in _KINDS and step == "done":
            yield from self._end_text(emitter, _KINDS[family], event)
        elif event["type"] == ANNOTATION_ADDED:
            yield from self._annotate(emitter, event)
        else:
            yield _passed(emitter, self._item, event)

    def end(self, emitter: Emitter, item: Item) -> Iterator[bytes]:
        for holder in ("content", "summary"):
            for part in self._unsent(holder, item.get(holder) or []):
                yield from self._finish(emitter, part)
        yield from self._close(emitter)

    def _unsent(self, holder: str, parts: list[JSON]) -> list[JSON]:
        """The open part and the parts after it. An upstream that leaves out the ends of parts has sent fewer."""
        unsent = parts[len(self._sent[holder]) :]
        whole = self.snapshot().get(holder) or []
        return [] if len(unsent) > 1 and _text(parts) == _text(whole) else unsent

    def snapshot(self) -> JSON:
        sent = dict(self._sent)
        if self._part:
            holder = holder_of(self._part.kind)
            sent[holder] = [*sent[holder], self._part.snapshot()]
        if self._item["type"] == "message":
            return {"content": sent["content"]}
        # Reasoning has content only if the upstream sends it.
        return {"summary": sent["summary"], **({"content": sent["content"]} if sent["content"] else {})}

    # --- parts

    def _begin(self, emitter: Emitter, part: JSON) -> Iterator[bytes]:
        yield from self._close(emitter)
        empty = {**part, **({TEXT_EVENTS[part["type"]][1]: ""} if part["type"] in TEXT_EVENTS else {})}
        self._part = _Part(len(self._sent[holder_of(part["type"])]), empty)
        yield emitter.open_part(self._item, self._part.index, part)

    def _in_part(self, emitter: Emitter, kind: str) -> Iterator[bytes]:
        """Makes sure that a part of this kind is open."""
        if self._part is None or self._part.kind != kind or self._part.ended:
            yield from self._begin(emitter, _items.complete_part({"type": kind}, self._item["type"]))

    def _append(self, emitter: Emitter, kind: str, event: Mapping[str, Any]) -> Iterator[bytes]:
        text = _items.text_of(event)
        if not text:
            return
        yield from self._in_part(emitter, kind)
        assert self._part is not None
        logged = self._part.append(text, event.get("logprobs"))
        yield emitter.delta(self._item, self._part.index, kind, text, logged, **_extra(event))

    def _end_text(self, emitter: Emitter, kind: str, event: Mapping[str, Any]) -> Iterator[bytes]:
        text = event.get(TEXT_EVENTS[kind][1])
        if self._part is None or self._part.kind != kind:
            if not text:
                return
            yield from self._in_part(emitter, kind)
        assert self._part is not None
        if not self._part.ended:
            yield from self._complete(emitter, event)
            self._part.log(event.get("logprobs"))
            yield emitter.end_text(self._item, self._part.index, self._part.snapshot())
            self._part.ended = True

    def _finish(self, emitter: Emitter, part: JSON) -> Iterator[bytes]:
        """Finishes the part by the upstream's final version."""
        if self._part is None or self._part.kind != part["type"]:
            if self._part is None and self._already(part):
                return
            yield from self._begin(emitter, part)
        assert self._part is not None
        yield from self._complete(emitter, part)
        self._part.adopt(part)
        yield from self._close(emitter)

    def _already(self, part: JSON) -> bool:
        """Whether this repeats the end of the last part."""
        sent = self._sent[holder_of(part["type"])]
        name = TEXT_EVENTS.get(part["type"], ("", ""))[1]
        return bool(sent) and sent[-1].get(name) == part.get(name)

    def _complete(self, emitter: Emitter, whole: Mapping[str, Any]) -> Iterator[bytes]:
        assert self._part is not None
        kind = self._part.kind
        rest = self._part.rest(whole.get(TEXT_EVENTS[kind][1])) if kind in TEXT_EVENTS and not self._part.ended else ""
        if rest:
            yield emitter.delta(self._item, self._part.index, kind, rest, self._part.append(rest, None))

    def _close(self, emitter: Emitter) -> Iterator[bytes]:
        if self._part is None:
            return
        part = self._part.snapshot()
        if part["type"] in TEXT_EVENTS and not self._part.ended:
            yield emitter.end_text(self._item, self._part.index, part)
        yield emitter.end_part(self._item, self._part.index, part)
        self._sent[holder_of(part["type"])].append(part)
        self._part = None

    def _annotate(self, emitter: Emitter, event: Mapping[str, Any]) -> Iterator[bytes]:
        if self._part is None or self._part.kind != "output_text":
            yield from self._in_part(emitter, "output_text")
        assert self._part is not None
        where = {"content_index": self._part.index, "annotation_index": len(self._part.annotations)}
        self._part.annotations.append(event.get("annotation"))
        yield _passed(emitter, self._item, {**event, **where})


class _CallItem:
    """A call with growing arguments."""

    def __init__(self, item: Item) -> None:
        self._item = item
        self._key = ARGUMENT_EVENTS[item["type"]][1]
        # Some upstreams repeat the announced arguments in deltas, others do not: they are sent when they are whole.
        self._announced: str = item.get(self._key) or ""
        self._held: list[str] = []
        self._sent: list[str] = []
        self._ended = False

    def take(self, emitter: Emitter, event: Mapping[str, Any]) -> Iterator[bytes]:
        family, _, step = event["type"].rpartition(".")
        if family != ARGUMENT_EVENTS[self._item["type"]][0]:
            yield _passed(emitter, self._item, event)
        elif step == "done" and not self._ended and (event.get(self._key) or self._sent or self._held):
            yield from self._complete(emitter, event.get(self._key))
        elif step == "delta" and self._announced:
            self._held.append(_items.text_of(event))
        elif step == "delta" and not self._ended:
            yield from self._append(emitter, _items.text_of(event), event)

    def end(self, emitter: Emitter, item: Item) -> Iterator[bytes]:
        if not self._ended:
            yield from self._complete(emitter, item.get(self._key))

    def snapshot(self) -> JSON:
        return {self._key: "".join(self._sent)}

    def _append(self, emitter: Emitter, text: object, event: Mapping[str, Any]) -> Iterator[bytes]:
        if isinstance(text, str) and text:
            self._sent.append(text)
            yield emitter.argument(self._item, text, **_extra(event))

    def _complete(self, emitter: Emitter, whole: object) -> Iterator[bytes]:
        sent = "".join(self._sent)
        if not whole and self._announced:
            held = "".join(self._held)
            whole = held if held.startswith(self._announced) else self._announced + held
        if isinstance(whole, str) and whole.startswith(sent):
            yield from self._append(emitter, whole[len(sent) :], {})
        yield emitter.close_arguments({**self._item, **self.snapshot()})
        self._ended = True


class _HostedItem:
    """A call of a tool that the upstream runs: its events are relayed."""

    def __init__(self, item: Item) -> None:
        self._item = item

    def take(self, emitter: Emitter, event: Mapping[str, Any]) -> Iterator[bytes]:
        yield _passed(emitter, self._item, event)

    def end(self, emitter: Emitter, item: Item) -> Iterator[bytes]:
        return iter(())

    def snapshot(self) -> JSON:
        return {}


def _passed(emitter: Emitter, item: Item, event: Mapping[str, Any]) -> bytes:
    """Any other event, with the item's id and index."""
    fields = {name: value for name, value in event.items() if name not in ("type", "sequence_number")}
    return emitter.event(event["type"], **{**fields, "item_id": item["id"], "output_index": emitter.output_index})


def _extra(event: Mapping[str, Any]) -> JSON:
    return {"obfuscation": event["obfuscation"]} if "obfuscation" in event else {}


def _text(parts: list[JSON]) -> str:
    return "".join(part.get("text") or part.get("refusal") or "" for part in parts)
