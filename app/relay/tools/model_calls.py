"""The calls of one answer that the gateway answers instead of the client, and the items that show them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import Enum, auto
from typing import Any

from app.contract.items import Item, gateway_item_id
from app.contract.replay import has_half_arguments
from app.contract.tool_history import CallResult
from app.contract.tools import ToolOutcome
from app.relay.tools.found import found_files, found_sources
from app.relay.tools.rounds import refused
from app.relay.tools.toolset import MCP_CALL, OfferedTool, Toolset

APPROVAL_REQUEST = "mcp_approval_request"

#: What the model reads instead of a result.
LIMIT_REACHED = "tool call limit reached"
_UNKNOWN = "Unknown tool: "


class Fate(Enum):
    """What becomes of a call. It is known as soon as the model has written the call's name."""

    RUN = auto()
    ASK = auto()
    """The client has to approve it first; the turn ends with the question."""
    REFUSE = auto()
    """It gets no item, and the model reads why."""


@dataclass(slots=True, eq=False)
class ToolCall:
    """A call that the gateway answers."""

    item_id: str
    """Of the item that shows it."""
    fate: Fate
    tool: OfferedTool | None = None
    """None only for a call that is refused."""
    words: str = ""
    """Why it is refused."""
    arguments: str = ""
    """As the model wrote them."""
    made: Item | None = None
    """The model's own item, once it is whole."""
    approval_request_id: str | None = None
    outcome: ToolOutcome | None = None
    """None while it has not ended."""

    @property
    def offered(self) -> OfferedTool:
        assert self.tool is not None
        return self.tool

    @property
    def is_shown(self) -> bool:
        """Whether the response has an item for it."""
        return self.fate is Fate.RUN or (self.fate is Fate.ASK and self.is_whole)

    @property
    def is_whole(self) -> bool:
        """Whether the model has written all of it."""
        return self.made is not None and self.made.get("status") in (None, "completed") and not _is_half(self.made)

    def finish(self, made: Item) -> None:
        """Takes the model's finished item."""
        self.made, self.arguments = made, made.get("arguments") or "{}"

    def item(self, status: str | None = None) -> Item:
        """The item as it is stored; `status` for one that has not ended."""
        if self.fate is Fate.ASK:
            return self._request()
        outcome = self.outcome
        ended = status or "in_progress" if outcome is None else "completed" if outcome.error is None else "failed"
        return {"id": self.item_id, "type": self.offered.item_type, "status": ended, **self._members()}

    def result(self) -> CallResult:
        """What the model reads of it."""
        outcome = self.outcome
        assert outcome is not None
        return CallResult(outcome.text_for_model, outcome.images, outcome.error is not None)

    def _request(self) -> Item:
        tool = self.offered
        return {
            "id": self.item_id,
            "type": APPROVAL_REQUEST,
            "arguments": self.arguments,
            "name": tool.tool.name,
            "server_label": tool.server.label,
        }

    def _members(self) -> Item:
        return _MEMBERS[self.offered.item_type](self)


def _mcp_call(call: ToolCall) -> Item:
    outcome = call.outcome
    return {
        "approval_request_id": call.approval_request_id,
        "arguments": call.arguments,
        "error": dict(outcome.error) if outcome and outcome.error else None,
        "name": call.offered.tool.name,
        "output": outcome.output if outcome and not outcome.error else None,
        "server_label": call.offered.server.label,
    }


def _web_search(call: ToolCall) -> Item:
    query = _query(call)
    action: dict[str, Any] = {"type": "search", "query": query, "queries": [query]}
    if sources := found_sources(call.outcome):
        action["sources"] = sources
    return {"action": action}


def _file_search(call: ToolCall) -> Item:
    return {"queries": [_query(call)], "results": None if call.outcome is None else found_files(call.outcome)}


def _query(call: ToolCall) -> str:
    search = call.offered.search
    assert search is not None
    return search.query(call.arguments)


_MEMBERS = {MCP_CALL: _mcp_call, "web_search_call": _web_search, "file_search_call": _file_search}


class AnswerCalls:
    """The calls of one answer, each with its fate. Asked in the model's order."""

    def __init__(
        self,
        toolset: Toolset,
        turn_id: str,
        number: int,
        left: int | None,
        strangers: bool,
    ) -> None:
        """`number`: that of the turn's next call, from which ids are made. `left`: how many calls may still run; None
        for any number. `strangers`: the client may have functions of its own, so that unknown names are its."""
        self.left = left
        self.offered = left != 0
        """Whether the model could call tools."""
        self._toolset = toolset
        self._turn_id = turn_id
        self._first = number
        self._strangers = strangers
        self._calls: dict[str, ToolCall] = {}

    def of(self, item: Mapping[str, Any]) -> ToolCall | None:
        """The call that an item of the model makes; None if it is none of the gateway's."""
        if item.get("type") != "function_call" or item.get("namespace"):
            return None
        call = self._calls.get(item["id"])
        if call is None and (call := self._decided(item["name"])) is not None:
            self._calls[item["id"]] = call
        return call

    def output(self, items: Iterable[Item], status: str) -> list[Item]:
        """The model's items with the items that show its calls. `status`: of a call that has not ended."""
        shown: list[Item] = []
        for item in items:
            call = self.of(item)
            if call is None:
                shown.append(item)
                continue
            call.finish(item)
            if call.is_shown:
                shown.append(call.item(status))
        return shown

    def with_fate(self, fate: Fate) -> list[ToolCall]:
        return [call for call in self._calls.values() if call.fate is fate]

    @property
    def any(self) -> bool:
        return bool(self._calls)

    @property
    def next_number(self) -> int:
        return self._first + len(self._calls)

    def _decided(self, name: str) -> ToolCall | None:
        tool = self._toolset.called(name)
        if tool is None:
            return None if self._strangers else self._refused(_UNKNOWN + name)
        if self.left == 0:
            return self._refused(LIMIT_REACHED)
        if tool.needs_approval:
            return ToolCall(self._item_id(APPROVAL_REQUEST), Fate.ASK, tool)
        if self.left is not None:
            self.left -= 1
        return ToolCall(self._item_id(tool.item_type), Fate.RUN, tool)

    def _refused(self, words: str) -> ToolCall:
        return ToolCall("", Fate.REFUSE, words=words)

    def _item_id(self, kind: str) -> str:
        # The number of its first call tells this answer from the turn's others.
        return gateway_item_id(kind, self._turn_id, self.next_number, self._first)


def model_items(items: Iterable[Item], calls: AnswerCalls) -> list[Item]:
    """The items of an answer for the next exchange: the calls that ran as their items, and the refused ones with the
    words that the model reads."""
    given: list[Item] = []
    for item in items:
        call = calls.of(item)
        if call is None:
            given.append(item)
        elif call.fate is Fate.REFUSE:
            given += refused(item, call.words)
        elif call.is_shown:
            given.append(call.item())
    return given


def _is_half(item: Item) -> bool:
    return item.get("status") == "incomplete" or (bool(item.get("arguments")) and has_half_arguments(item))
