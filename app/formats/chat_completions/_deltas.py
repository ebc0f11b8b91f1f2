"""Adds the deltas of a chat upstream to an output, as text and calls."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from app.contract.turn import Turn
from app.errors import UpstreamBroken
from app.formats._output import Output
from app.formats._reader import has_content
from app.formats._tool_call_stream import Call
from app.formats.chat_completions._chunks import HOLDERS
from app.formats.chat_completions._extras import Extras
from app.formats.chat_completions._pieces import WRITTEN, Piece, annotations_of, call_fields, pieces, sources_of
from app.formats.chat_completions._request import LOGPROBS

#: Members of a delta that is text and nothing else.
_PLAIN = frozenset({"role", "content"})


class Deltas:
    """Adds the pieces of choices to an output. Deltas of a call have the call's index, or none."""

    def __init__(self, turn: Turn, output: Output) -> None:
        self._output = output
        self._extras = Extras()
        self._positions: dict[Call, int] = {}
        output.secret_source = self._extras.take
        self._logs = LOGPROBS in turn.echo.include
        self._last: Call | None = None
        self._by_index: dict[int, Call] = {}
        self._ids: set[str] = set()
        self._images: set[str] = set()
        self._cited: set[str] = set()
        self._is_silent = False
        """Audio has come without its words."""
        self._grows = False
        """Text has come in deltas, so that a whole message repeats it."""
        self._adds_up: bool | None = None
        """Whether messages in place of deltas hold all text so far; None until it shows."""

    def take(self, choice: Mapping[str, Any], *, has_finished: bool = False) -> bool:
        """Adds what a choice says; returns whether it said anything. Raises UpstreamBroken for content that cannot be
        expressed, and for a delta of an unknown call.

        `has_finished`: a reason for the end has come, so that a message may repeat the whole text.
        """
        delta, message = choice.get("delta"), choice.get("message")
        if message is None and isinstance(delta, dict) and delta.keys() <= _PLAIN:
            return self._take_text(delta.get("content"), choice)
        self._extras.read(delta if isinstance(delta, dict) else choice)
        if isinstance(message, dict):
            self._extras.read_whole(message)
        found: list[Piece] = []
        said = False
        if isinstance(delta, dict | str):
            found = list(pieces(delta if isinstance(delta, dict) else {"content": delta}))
            said = self._add(found, choice.get("logprobs"))
            self._grows = self._grows or said
        if isinstance(message, dict):
            whole = list(pieces(message))
            said = self._take_message(whole, choice, has_finished) or said
            found += whole
        elif choice.keys().isdisjoint(HOLDERS) or isinstance(choice.get("text"), str):
            found += pieces(choice)
            said = self._add(found)
        for holder in (delta, message, choice):
            if isinstance(holder, dict) and holder.get("annotations"):
                self._output.annotate(annotations_of(holder))
        if not found and has_content(choice):
            raise UpstreamBroken("The model's server sent a message whose content this gateway does not understand.")
        return said

    def _take_text(self, text: object, choice: Mapping[str, Any]) -> bool:
        """Adds a delta that is text and nothing else, as most are."""
        if not isinstance(text, str):
            return self._add(pieces({"content": text}), choice.get("logprobs"))
        if not text:
            return False
        logprobs = choice.get("logprobs") if self._logs else None
        self._output.write(
            "output_text", text, _logprobs(logprobs.get("content")) if isinstance(logprobs, dict) else ()
        )
        self._grows = True
        return True

    def cite(self, completion: Mapping[str, Any]) -> None:
        """Adds the sources that stand beside the choices; some servers repeat them in every chunk."""
        if "citations" in completion or "search_results" in completion:
            new = [source for source in sources_of(completion) if source["url"] not in self._cited]
            self._cited.update(source["url"] for source in new)
            self._output.annotate(new)

    def end(self, status: str) -> None:
        """Ends the output. Raises UpstreamBroken if it lacks what was said aloud."""
        self._output.end(status)
        if self._is_silent and not self._output.written("output_text"):
            raise UpstreamBroken("The model's server answered with sound alone, which this gateway cannot pass on.")

    def _add(self, said: Iterable[Piece], logprobs: object = None) -> bool:
        any_said = False
        for kind, value in said:
            any_said = True
            if kind == "call":
                self._extend(value)
            elif kind == "image":
                self._draw(value)
            elif kind == "audio":
                self._is_silent = True
            elif kind == "output_text":
                logged = logprobs.get("content") if self._logs and isinstance(logprobs, dict) else None
                self._output.write(kind, value, _logprobs(logged))
            else:
                self._output.write(kind, value)
        self._output.advance()
        return any_said

    def _draw(self, image: str) -> None:
        if image not in self._images:
            self._images.add(image)
            self._output.draw(image)

    # --- a whole message

    def _take_message(self, said: Sequence[Piece], choice: Mapping[str, Any], has_finished: bool) -> bool:
        """Adds what a whole message says and was not said before."""
        texts: dict[str, str] = {}
        for kind, value in said:
            if kind in WRITTEN:
                texts[kind] = texts.get(kind, "") + value
        known = {kind: len(text) - len(self._rest(kind, text, has_finished)) for kind, text in texts.items()}
        calls = [piece.value for piece in said if piece.kind == "call"]
        new = [piece for piece in _without(said, known) if piece.kind != "call"]
        any_said = self._add(new, choice.get("logprobs"))
        ids = frozenset(self._ids)
        for position, call in enumerate(calls):
            any_said = self._take_call(call, position, ids) or any_said
        self._output.advance()
        return any_said

    def _rest(self, kind: str, whole: str, is_last: bool) -> str:
        """The part of a message's text that was not written before. Messages in place of deltas hold either all text so
        far or the next piece of it: the first two of them show which."""
        written = self._output.written(kind)
        if not written:
            return whole
        extends = whole.startswith(written)
        if self._grows:
            return whole[len(written) :] if extends else ""
        if self._adds_up is None and not (extends and is_last):
            self._adds_up = extends and len(whole) > len(written)
        return whole[len(written) :] if extends and self._adds_up is not False else whole

    def _take_call(self, call: Mapping[str, Any], position: int, ids: frozenset[str]) -> bool:
        """Adds a whole call unless it has come before: under one of these ids, or without an id in this position."""
        call_id, name, arguments = call_fields(call)
        earlier = self._by_index.get(position)
        if call_id in ids if call_id else earlier is not None and earlier.is_like(name, arguments):
            return False
        self._last = self._by_index[len(self._by_index)] = begun = self._output.begin()
        self._add_call(begun, call)
        self._ids |= {call_id} if call_id else set()
        return True

    # --- a call

    def _extend(self, call: Mapping[str, Any]) -> None:
        fields = call_fields(call)
        self._ids |= {fields[0]} if fields[0] else set()
        found = self._find(call)
        if not _repeats(found, call):
            self._add_call(found, call)

    def _add_call(self, call: Call, given: Mapping[str, Any]) -> None:
        """Adds to a call, without events yet: what belongs to the calls of one chunk comes before the first of them."""
        self._output.add(call, *call_fields(given))
        self._extras.read_call(self._positions.setdefault(call, len(self._positions)), call, given)

    def _find(self, delta: Mapping[str, Any]) -> Call:
        """The call that a delta continues, or a new one."""
        index = delta.get("index")
        at = index if isinstance(index, int) else None
        known = self._by_index.get(at) if at is not None else self._last
        if known is not None and not _differs(known, delta):
            return known
        self._last = call = self._output.begin()
        if at is not None:
            self._by_index[at] = call
        return call


def _without(said: Iterable[Piece], known: dict[str, int]) -> Iterable[Piece]:
    """The pieces without the first characters of each kind of text, as many as are known."""
    for kind, value in said:
        skipped = min(known.get(kind, 0), len(value)) if kind in known else 0
        if kind in known:
            known[kind] -= skipped
        if kind not in known or value[skipped:]:
            yield Piece(kind, value[skipped:] if skipped else value)


def _differs(call: Call, delta: Mapping[str, Any]) -> bool:
    """Whether a delta with the same index, or without one, begins another call."""
    call_id, name, arguments = call_fields(delta)
    if not name:
        return False
    if call.has_placeholder and name == call.name and call_id in ("", call.id) and "index" in delta:
        return False
    if arguments.lstrip().startswith("{") and call.whole:
        # Whole arguments cannot go on, so that two calls have one id, unless the server repeats itself.
        return not _repeats(call, delta)
    if call_id and call.id:
        # Some servers give every delta an id of its own.
        goes_on = name == call.name and call.begun and not call.whole and not arguments.lstrip().startswith("{")
        return call_id != call.id and not (goes_on and "index" in delta)
    # Servers that give no index send each call whole.
    return (call.begun or call.has_placeholder) and "index" not in delta


def _repeats(call: Call, delta: Mapping[str, Any]) -> bool:
    """Whether a delta says a whole call once more."""
    call_id, name, arguments = call_fields(delta)
    return bool(call_id) and call_id == call.id and call.is_like(name, arguments) and call.whole


def _logprobs(value: object) -> list[dict[str, Any]]:
    if not isinstance(value, list):
        return []
    return [
        {**_logprob(token), "top_logprobs": [_logprob(top) for top in _logged(token.get("top_logprobs"))]}
        for token in _logged(value)
    ]


def _logged(value: object) -> list[dict[str, Any]]:
    return [token for token in value if isinstance(token, dict)] if isinstance(value, list) else []


def _logprob(token: Mapping[str, Any]) -> dict[str, Any]:
    spelled, logprob, raw = token.get("token"), token.get("logprob"), token.get("bytes")
    text = spelled if isinstance(spelled, str) else ""
    return {
        "token": text,
        "logprob": float(logprob) if isinstance(logprob, int | float) else 0.0,
        "bytes": raw if _are_bytes(raw) else list(text.encode("utf-8", "replace")),
    }


def _are_bytes(value: object) -> bool:
    return isinstance(value, list) and all(type(byte) is int and 0 <= byte <= 255 for byte in value)
