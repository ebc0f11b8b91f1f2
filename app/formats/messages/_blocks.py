"""Adds content blocks to an output, as text, reasoning and calls."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import orjson

from app.contract.turn import Turn
from app.errors import UpstreamBroken
from app.formats._output import Output
from app.formats._reader import has_content
from app.formats._tool_call_stream import Call
from app.formats.messages import _thinking_blocks


class Blocks:
    """Adds blocks to an output while they grow; the start of a whole block holds all of it.

    Unknown types are left out: they belong to tools that the upstream runs. Text that comes for such a block, for one
    of another type, or for one that is not open, is text of the answer all the same.
    """

    def __init__(self, turn: Turn, output: Output) -> None:
        self.went_on = False
        """Content has come since the decoder cleared this."""
        self.empty = True
        """No block has begun."""
        self._turn = turn
        self._output = output
        self._open: dict[int, _Block] = {}
        self._unfinished: list[Call] = []

    def add(self, blocks: Iterable[object]) -> None:
        """Adds whole blocks."""
        for index, block in enumerate(blocks):
            self.start(index, block)
            self.stop(index)

    def start(self, index: object, content: object) -> None:
        index = _place(index)
        if not isinstance(content, dict):
            raise UpstreamBroken("The model's server began a piece of its answer that is none.")
        self.stop(index)
        self._finish_calls()
        self.went_on, self.empty = True, False
        self._open[index] = self._block(content)

    def extend(self, index: object, delta: object) -> None:
        if not isinstance(delta, dict):
            return
        self.went_on, self.empty = True, False
        block = self._open.get(_place(index))
        if block is not None:
            block.extend(delta)
        if not (block and delta.keys() <= block.takes):
            self._add_stray(delta, block)

    def stop(self, index: object) -> None:
        block = self._open.pop(_place(index), None)
        if block is not None:
            block.stop()

    def _add_stray(self, delta: Mapping[str, Any], block: _Block | None) -> None:
        """Adds what a block does not take. Raises UpstreamBroken for content that is not understood."""
        stray = {name: value for name, value in delta.items() if block is None or name not in block.takes}
        if _arguments(stray.pop("partial_json", "")).strip():
            raise UpstreamBroken("The model's server sent arguments without a call.")
        self._output.write("reasoning_text", _string(stray.pop("thinking", "")))
        self._output.write("output_text", _string(stray.pop("text", "")))
        stray.pop("citation", None)
        if has_content(stray) and not isinstance(block, _Foreign):
            raise UpstreamBroken("The model's server sent content that this gateway does not understand.")

    def _block(self, content: Mapping[str, Any]) -> _Block:
        match content.get("type"):
            case "text":
                return _Text(self._output, content)
            case "thinking":
                return _Thinking(self._output, content, self._turn.model)
            case "redacted_thinking":
                return _Redacted(self._output, content, self._turn.model)
            case "tool_use":
                return _ToolUse(self._output, content, self._unfinished)
            case "image":
                return _Image(self._output, content)
        return _Foreign(self._output, content)

    def _finish_calls(self) -> None:
        """A block that another one follows was not cut off."""
        while self._unfinished:
            self._output.finish(self._unfinished.pop(0))


class _Block:
    """One block while it grows."""

    takes = frozenset({"type"})
    """The members of deltas that are the block's own."""

    def __init__(self, output: Output) -> None:
        self._output = output

    def extend(self, delta: Mapping[str, Any]) -> None:
        """Takes a delta."""

    def stop(self) -> None:
        """The block has ended, cut off or not."""


class _Text(_Block):
    takes = frozenset({"type", "text", "citation"})

    def __init__(self, output: Output, content: Mapping[str, Any]) -> None:
        super().__init__(output)
        self._start = output.text_length
        self._citations = list(cited) if isinstance(cited := content.get("citations"), list) else []
        self.extend(content)

    def extend(self, delta: Mapping[str, Any]) -> None:
        self._output.write("output_text", _string(delta.get("text")))
        if "citation" in delta:
            self._citations.append(delta["citation"])

    def stop(self) -> None:
        """Adds the sources from the web. Places in documents have no form in the contract."""
        places = {"start_index": self._start, "end_index": self._output.text_length}
        cited = [one for one in self._citations if isinstance(one, dict) and _string(one.get("url"))]
        self._output.annotate(
            {"type": "url_citation", "url": one["url"], "title": _string(one.get("title")), **places} for one in cited
        )


class _Foreign(_Block):
    """A block of a tool that the upstream runs, or of an unknown type: only its text is the answer's."""

    takes = frozenset({"type", "partial_json"})

    def __init__(self, output: Output, content: Mapping[str, Any]) -> None:
        super().__init__(output)
        output.write("output_text", _string(content.get("text")))


class _Image(_Block):
    def __init__(self, output: Output, content: Mapping[str, Any]) -> None:
        super().__init__(output)
        source = content.get("source")
        data = _string(source.get("data")) if isinstance(source, dict) else ""
        if not data:
            raise UpstreamBroken("The model's server sent an image without data.")
        output.draw(data)


class _Thinking(_Block):
    takes = frozenset({"type", "thinking", "signature"})

    def __init__(self, output: Output, content: Mapping[str, Any], model: str) -> None:
        super().__init__(output)
        self._model = model
        self._pieces: list[str] = []
        self._signature = ""
        self.extend(content)

    def extend(self, delta: Mapping[str, Any]) -> None:
        text = _string(delta.get("thinking"))
        self._pieces.append(text)
        self._output.write("reasoning_text", text)
        self._signature = _string(delta.get("signature")) or self._signature

    def stop(self) -> None:
        if self._signature:
            block = {"type": "thinking", "thinking": "".join(self._pieces), "signature": self._signature}
            self._output.seal(_thinking_blocks.sealed(block, self._model))


class _Redacted(_Block):
    def __init__(self, output: Output, content: Mapping[str, Any], model: str) -> None:
        super().__init__(output)
        self._model = model
        self._data = _string(content.get("data"))

    def stop(self) -> None:
        if self._data:
            self._output.seal(_thinking_blocks.sealed({"type": "redacted_thinking", "data": self._data}, self._model))


class _ToolUse(_Block):
    """A call. The next block or the end of the answer shows whether its arguments are whole."""

    takes = frozenset({"type", "partial_json"})

    def __init__(self, output: Output, content: Mapping[str, Any], unfinished: list[Call]) -> None:
        super().__init__(output)
        self._unfinished = unfinished
        self._input = content.get("input")
        self._call = output.begin()
        output.extend(self._call, _string(content.get("id")), _string(content.get("name")))

    def extend(self, delta: Mapping[str, Any]) -> None:
        self._output.extend(self._call, arguments=_arguments(delta.get("partial_json")))

    def stop(self) -> None:
        if self._input and not self._call.begun:
            self._output.extend(self._call, arguments=_arguments(self._input))
        if self._call.whole:
            self._output.finish(self._call)
        else:
            self._unfinished.append(self._call)


def _place(index: object) -> int:
    """The index of a block. Servers that give none send one block at a time."""
    return index if isinstance(index, int) else 0


def _arguments(value: object) -> str:
    """Arguments as JSON: some servers send an object in the place of its text."""
    return orjson.dumps(value).decode() if isinstance(value, dict) and value else _string(value)


def _string(value: object) -> str:
    return value if isinstance(value, str) else ""
