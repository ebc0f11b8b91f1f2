"""A remedy as a value: one change of the requests to a channel's upstream, learnt from a refusal or written in its row.

A remedy changes the row that the format encodes for. So a learnt remedy and a key of the row are the same thing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import orjson

from app.contract.channel import Channel, Params

#: How long a learnt remedy lasts, in seconds.
LIFETIME = 24 * 3600

#: Kinds of remedies that concern a member of the request; each is a field of `Params`.
DROP, OMIT, RENAME, ALLOW, HASH, AT_MOST = "drop", "omit", "rename", "allow", "hash", "at_most"
#: The kind that gives a key of the row another value.
ROW = "row"

#: Fields of a row that say nothing about what its upstream accepts, or that are secret.
_NOT_IN_DIGEST = frozenset(
    {
        *("line", "api_key", "missing_key", "headers", "priority", "weight", "enabled", "tags", "cache_key"),
        *("learnt_window", "guessed_window"),
    }
)
_SECRET_HEADERS = ("auth", "key", "token", "secret", "cookie")


@dataclass(frozen=True, slots=True)
class Remedy:
    """One change. `path` is a member of the upstream's request, such as `tools[].strict`, or a key of the row."""

    kind: str
    path: str
    value: Any = None
    """A new name, the allowed values as a tuple, the largest number, or the value of the row's key."""

    def __str__(self) -> str:
        if self.kind == ROW:
            # As an operator would write it.
            return f"{self.path}: {str(self.value).lower() if isinstance(self.value, bool) else self.value}"
        return " ".join((self.kind, self.path, *_words(self.value)))

    def apply(self, row: Channel) -> Channel:
        """The row with this change; the same row if it has it already."""
        if self.kind == ROW:
            return row if getattr(row, self.path) == self.value else replace(row, **{self.path: self.value})
        params = row.params.with_(self.kind, self.path, self.value)
        return row if params == row.params else replace(row, params=params)

    def wire(self) -> list[Any]:
        return [self.kind, self.path, self.value]

    @classmethod
    def of(cls, wire: object) -> Remedy | None:
        """The remedy from its JSON; None if this version does not know it."""
        if not isinstance(wire, list) or len(wire) != 3 or wire[0] not in _KINDS or not isinstance(wire[1], str):
            return None
        kind, path, value = wire
        if kind == ROW and path not in Channel.__slots__:
            return None
        return cls(kind, path, tuple(value) if isinstance(value, list) else value)


_KINDS = frozenset({DROP, OMIT, RENAME, ALLOW, HASH, AT_MOST, ROW})


@dataclass(frozen=True, slots=True)
class LearntRemedy:
    """A remedy with the channel and the upstream's model that it was learnt for. `digest` is that of the row."""

    channel: str
    model: str
    digest: str
    remedy: Remedy
    learnt_at: int = 0
    """Unix seconds."""

    @property
    def key(self) -> str:
        """The same for the same remedy of the same row, in every process."""
        subject = orjson.dumps((self.channel, self.model, self.digest, self.remedy.wire()))
        return hashlib.sha256(subject).hexdigest()

    def wire(self) -> dict[str, Any]:
        return {"model": self.model, "remedy": str(self.remedy), "learnt_at": self.learnt_at}


def apply_all(remedies: Iterable[Remedy], row: Channel) -> Channel:
    for remedy in remedies:
        row = remedy.apply(row)
    return row


def digest_of(row: Channel) -> str:
    """A digest of what a row says about its upstream. Remedies that were learnt for another digest are void."""
    said = {field.name: getattr(row, field.name) for field in fields(row) if field.name not in _NOT_IN_DIGEST}
    said["models"] = sorted(row.models.items())
    said["headers"] = sorted((name, value) for name, value in row.headers.items() if not _is_secret(name))
    return hashlib.sha256(repr([(name, _plain(value)) for name, value in sorted(said.items())]).encode()).hexdigest()


def _is_secret(header: str) -> bool:
    return any(word in header.lower() for word in _SECRET_HEADERS)


def _plain(value: Any) -> Any:
    """A value whose repr shows all of it."""
    if isinstance(value, list):
        return [(str(name), str.__str__(text)) for name, text in value]
    return value.wire() if isinstance(value, Params) else value


def _words(value: Any) -> Sequence[str]:
    if value is None:
        return ()
    if isinstance(value, tuple):
        return ("|".join(map(str, value)),)
    return (str(value),)
