"""Adds content blocks to an output, as text, reasoning and calls."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson

from app.contract.turn import Turn
from app.errors import UpstreamBroken
from app.formats._output import Output
from app.formats._tool_call_stream import Call
from app.formats.messages import _thinking_blocks


class Blocks:
    """Adds blocks to an output while they grow; the start of a whole block holds all of it.

    Unknown types are left out: they belong to tools that the upstream runs. Citations are left out too.
    """

    def __init__(self, turn: Turn, output: Output) -> None:
        self._turn = turn
        self._output = output
        self._open: dict[int, _Block] = {}
        self._unfinished: list[Call] = []

    def start(self, index: object, content: object) -> None:
        if not isinstance(index, int) or not isinstance(content, dict):
            raise UpstreamBroken("The model's server began a piece of its answer that is none.")
        self._finish_calls()
        block = self._block(content)
        if block is not None:
            self._open[index] = block

    def extend(self, index: object, delta: object) -> None:
        block = self._open.get(index) if isinstance(index, int) else None
        if block is not None and isinstance(delta, dict):
            block.extend(delta)

    def stop(self, index: object) -> None:
        block = self._open.pop(index, None) if isinstance(index, int) else None
        if block is not None:
            block.stop()

    def _block(self, content: Mapping[str, Any]) -> _Block | None:
        match content.get("type"):
            case "text":
                return _Text(self._output, content)
            case "thinking":
                return _Thinking(self._output, content, self._turn.model)
            case "redacted_thinking":
                return _Redacted(self._output, content, self._turn.model)
            case "tool_use":
                return _ToolUse(self._output, content, self._unfinished)
        return None

    def _finish_calls(self) -> None:
        """A block that another one follows was not cut off."""
        while self._unfinished:
            self._output.finish(self._unfinished.pop(0))


class _Block:
    """One block while it grows."""

    def __init__(self, output: Output) -> None:
        self._output = output

    def extend(self, delta: Mapping[str, Any]) -> None:
        """Takes a delta."""

    def stop(self) -> None:
        """The block has ended, cut off or not."""


class _Text(_Block):
    def __init__(self, output: Output, content: Mapping[str, Any]) -> None:
        super().__init__(output)
        self.extend(content)

    def extend(self, delta: Mapping[str, Any]) -> None:
        self._output.write("output_text", _string(delta.get("text")))


class _Thinking(_Block):
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

    def __init__(self, output: Output, content: Mapping[str, Any], unfinished: list[Call]) -> None:
        super().__init__(output)
        self._unfinished = unfinished
        self._input = content.get("input")
        self._call = output.begin()
        output.extend(self._call, _string(content.get("id")), _string(content.get("name")))

    def extend(self, delta: Mapping[str, Any]) -> None:
        self._output.extend(self._call, arguments=_string(delta.get("partial_json")))

    def stop(self) -> None:
        if isinstance(self._input, dict) and self._input and not self._call.begun:
            self._output.extend(self._call, arguments=orjson.dumps(self._input).decode())
        if self._call.whole:
            self._output.finish(self._call)
        else:
            self._unfinished.append(self._call)


def _string(value: object) -> str:
    return value if isinstance(value, str) else ""
