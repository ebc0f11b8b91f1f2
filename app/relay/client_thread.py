"""The thread that a client names for a conversation which it keeps itself. The threads of one session, such as those of
sub-agents, have keys of their own and may name the thread that started them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson

#: Longest id that counts, and longest kind of a sub-agent that is stored.
_MAX_ID = 256
_MAX_KIND = 64

#: The names of one fact: members of `client_metadata`, header names, and members of the metadata that Codex writes as
#: JSON text. Members come first: one WebSocket may carry several threads.
_SESSION = ("session_id", "session-id")
_THREAD = ("thread_id", "thread-id")
_PARENT = ("x-codex-parent-thread-id", "parent_thread_id", "forked_from_thread_id")
_SUBAGENT = ("x-openai-subagent", "subagent_kind")
#: Names of a conversation that is session and thread in one.
_CONVERSATION = ("conversation-id", "x-openwebui-chat-id")
_TURN_METADATA = "x-codex-turn-metadata"

#: The headers that name threads. Older versions of Codex write the first with an underscore.
HEADERS = ("session-id", "thread-id", *_CONVERSATION, _PARENT[0], _SUBAGENT[0], _TURN_METADATA)


@dataclass(frozen=True, slots=True)
class ClientThread:
    key: str
    """Unique within the client's token."""
    parents: tuple[str, ...] = ()
    """The keys under which the thread that started this one may be known; empty for a session's first thread."""
    subagent: str | None = None
    """The kind of sub-agent, in the client's words."""
    has_id: bool = True
    """False when only a cache key names it, which several conversations may share."""


@dataclass(frozen=True, slots=True)
class ThreadNames:
    """What a request says about its thread, as the client sent it."""

    cache_key: Any
    """Its `prompt_cache_key`."""
    metadata: Any
    """Its `client_metadata`."""
    headers: Mapping[str, str]
    """Those of `HEADERS` that it has."""

    @classmethod
    def of(cls, request: Mapping[str, Any], headers: Mapping[str, str]) -> ThreadNames | None:
        """None when the request says nothing."""
        cache_key, metadata = request.get("prompt_cache_key"), request.get("client_metadata")
        return cls(cache_key, metadata, headers) if cache_key or metadata or headers else None

    @classmethod
    def key_of(cls, request: Mapping[str, Any], headers: Mapping[str, str]) -> str | None:
        """The key of the request's thread; None when nothing names a conversation."""
        names = cls.of(request, headers)
        return names._key() if names else None

    def thread(self) -> ClientThread | None:
        """None when nothing names a conversation."""
        facts = self._with_turn_metadata()
        session, thread = self._ids(facts)
        if session is None and thread is None:
            return None
        key = _joined(session, thread)
        return ClientThread(
            key,
            tuple(parent for parent in _parents(facts, session, thread) if parent != key),
            _kind(_first(facts, _SUBAGENT)),
            has_id=bool(thread or _first(facts, _SESSION + _CONVERSATION)),
        )

    def _key(self) -> str | None:
        """Reads the turn's metadata, which is JSON, only when it must: a request waits for this."""
        session, thread = self._ids(self._stated())
        if session is None or thread is None:
            session, thread = self._ids(self._with_turn_metadata())
        return _joined(session, thread) or None

    def _ids(self, facts: Mapping[str, Any]) -> tuple[str | None, str | None]:
        """Session and thread."""
        return _text(self.cache_key) or _first(facts, _SESSION + _CONVERSATION), _first(facts, _THREAD)

    def _stated(self) -> Mapping[str, Any]:
        """The facts by name. A member of `client_metadata` wins over a header."""
        return {**self.headers, **self.metadata} if isinstance(self.metadata, Mapping) else self.headers

    def _with_turn_metadata(self) -> Mapping[str, Any]:
        """All facts by name. What is stated wins over the turn's metadata."""
        stated = self._stated()
        return {**_turn_metadata(stated.get(_TURN_METADATA)), **stated}


def _turn_metadata(text: Any) -> Mapping[str, Any]:
    if not isinstance(text, str):
        return {}
    try:
        value = orjson.loads(text)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def _first(facts: Mapping[str, Any], names: tuple[str, ...]) -> str | None:
    return next(filter(None, (_text(facts.get(name)) for name in names)), None)


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) and 0 < len(value) <= _MAX_ID else None


def _joined(session: str | None, thread: str | None) -> str:
    """A session's first thread often has the session's own id."""
    if session is None or thread is None or thread == session:
        return thread or session or ""
    return f"{session}\0{thread}"


def _parents(facts: Mapping[str, Any], session: str | None, thread: str | None) -> tuple[str, ...]:
    """A fork names a thread of another session. A sub-agent that names no parent belongs to its session's first
    thread."""
    parent = _first(facts, _PARENT)
    if parent is not None:
        return tuple(dict.fromkeys((_joined(session, parent), parent)))
    return (session,) if session is not None and thread is not None else ()


def _kind(text: str | None) -> str | None:
    return text[:_MAX_KIND] if text and text.isprintable() else None
