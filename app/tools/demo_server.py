"""The demo tool server: a clock, a calculator and a search over Antiphon's README, for a first try without a network.

Importing this module imports the SDK.
"""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, metadata
from pathlib import Path
from typing import Any

import uvicorn
from mcp.server.lowlevel import Server
from mcp.shared.exceptions import MCPError
from mcp_types import (
    INVALID_PARAMS,
    CallToolRequestParams,
    CallToolResult,
    ListToolsResult,
    PaginatedRequestParams,
    TextContent,
    Tool,
    ToolAnnotations,
)

from app.tools.demo_tools import calculated, found, sections, time_in

Arguments = Mapping[str, Any]

_CHECKOUT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True, slots=True)
class DemoTool:
    description: str
    properties: Mapping[str, str]
    """Name of each argument, a string → its description."""
    required: tuple[str, ...]
    run: Callable[[Arguments], tuple[str, Mapping[str, Any]]]
    """The text and the structured content of the result. Raises ValueError in words for the model."""


def _clock(arguments: Arguments) -> tuple[str, Mapping[str, Any]]:
    time = time_in(str(arguments.get("timezone") or "UTC"), datetime.now(UTC))
    return time, {"time": time}


def _calculator(arguments: Arguments) -> tuple[str, Mapping[str, Any]]:
    expression = str(arguments["expression"])
    result = calculated(expression)
    return f"{expression} = {result}", {"result": result}


def _search(arguments: Arguments) -> tuple[str, Mapping[str, Any]]:
    query = str(arguments["query"])
    results = [
        {"title": section.title, "url": f"antiphon://readme#{section.anchor}", "text": section.text, "score": score}
        for score, section in found(query, [*sections(readme())])
    ]
    text = "\n\n".join(f"# {result['title']}\n{result['text']}" for result in results)
    return text or f"Nothing in the README says {query!r}.", {"results": results}


TOOLS = {
    "clock": DemoTool(
        "The present time.", {"timezone": "An IANA time zone such as Europe/Paris; UTC when left out."}, (), _clock
    ),
    "calculator": DemoTool(
        "Computes an expression.",
        {"expression": "Numbers, parentheses and + - * / // % **, such as (17 + 4) * 2."},
        ("expression",),
        _calculator,
    ),
    "search": DemoTool("Searches the README of Antiphon.", {"query": "Words to look for."}, ("query",), _search),
}


def readme() -> str:
    """The README of the checkout, else that of the installed package."""
    if (_CHECKOUT / "setup.cfg").is_file():
        return (_CHECKOUT / "README.md").read_text()
    try:
        return metadata("antiphon")["Description"]
    except PackageNotFoundError:
        return ""


def serve(listener: socket.socket, version: str) -> None:
    """Serves the tools at /mcp until the process gets a signal to stop."""
    logging.getLogger("mcp").setLevel(logging.WARNING)
    host = str(listener.getsockname()[0])
    server: Server[Any] = Server("antiphon-demo", version=version, on_list_tools=_list, on_call_tool=_call)
    app = server.streamable_http_app(json_response=True, stateless_http=True, host=host)
    config = uvicorn.Config(app, log_config=None, access_log=False, ws="none", timeout_graceful_shutdown=1)
    uvicorn.Server(config).run(sockets=[listener])


async def _list(context: object, params: PaginatedRequestParams | None) -> ListToolsResult:
    return ListToolsResult(tools=[_listed(name, tool) for name, tool in TOOLS.items()])


def _listed(name: str, tool: DemoTool) -> Tool:
    properties = {name: {"type": "string", "description": words} for name, words in tool.properties.items()}
    return Tool(
        name=name,
        description=tool.description,
        input_schema={"type": "object", "properties": properties, "required": [*tool.required]},
        annotations=ToolAnnotations(read_only_hint=True, idempotent_hint=True, open_world_hint=False),
    )


async def _call(context: object, params: CallToolRequestParams) -> CallToolResult:
    tool, arguments = TOOLS.get(params.name), params.arguments or {}
    if tool is None:
        raise MCPError(code=INVALID_PARAMS, message=f"Unknown tool: {params.name}")
    if missing := [name for name in tool.required if name not in arguments]:
        return _result(f"The argument {missing[0]!r} is missing.", is_error=True)
    try:
        text, structured = tool.run(arguments)
    except ValueError as error:
        return _result(f"{params.name} cannot answer: {error}.", is_error=True)
    return _result(text, structured_content=dict(structured))


def _result(text: str, **more: Any) -> CallToolResult:
    return CallToolResult(content=[TextContent(type="text", text=text)], **more)
