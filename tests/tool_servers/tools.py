"""The tools of the test servers. Each says in one line what it is for."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from mcp.shared.exceptions import MCPError
from mcp_types import (
    INVALID_PARAMS,
    AudioContent,
    CallToolResult,
    EmbeddedResource,
    ImageContent,
    InputRequiredResult,
    ResourceLink,
    TextContent,
    TextResourceContents,
    Tool,
    ToolAnnotations,
)

if TYPE_CHECKING:
    from tests.tool_servers.server import ToolServer

Arguments = Mapping[str, Any]
Run = Callable[[Arguments, "ToolServer"], Awaitable[CallToolResult | InputRequiredResult]]

#: A picture of one pixel.
PIXEL = bytes.fromhex(
    "89504e470d0a1a0a0000000d49484452000000010000000108060000001f15c4890000000d49444154789c6360606060000000050001a5f645400000"
    "000049454e44ae426082"
)


@dataclass(frozen=True, slots=True)
class TestTool:
    """What the server lists, and what runs when it is called."""

    __test__ = False

    name: str
    run: Run
    description: str | None = None
    properties: Mapping[str, Any] = field(default_factory=dict)
    annotations: ToolAnnotations | None = None
    output_schema: dict[str, Any] | None = None
    schema: dict[str, Any] | None = None
    """The whole input schema, when properties alone do not say it."""

    @property
    def listed(self) -> Tool:
        return Tool(
            name=self.name,
            description=self.description,
            input_schema=self.schema or {"type": "object", "properties": dict(self.properties)},
            annotations=self.annotations,
            output_schema=self.output_schema,
        )


def text(words: str, **more: Any) -> CallToolResult:
    return CallToolResult(content=[TextContent(type="text", text=words)], **more)


def plain(name: str, words: str = "done", **more: Any) -> TestTool:
    """A tool that always answers with these words."""

    async def run(arguments: Arguments, server: ToolServer) -> CallToolResult:
        return text(words)

    return TestTool(name, run, **more)


async def _echo(arguments: Arguments, server: ToolServer) -> CallToolResult:
    return text(str(arguments.get("text", "")))


async def _add(arguments: Arguments, server: ToolServer) -> CallToolResult:
    total = arguments["a"] + arguments["b"]
    return text(str(total), structured_content={"result": total})


async def _hold(arguments: Arguments, server: ToolServer) -> CallToolResult:
    await server.permission()
    return text("released")


async def _fail(arguments: Arguments, server: ToolServer) -> CallToolResult:
    return text(str(arguments.get("text", "it did not work")), is_error=True)


async def _refuse(arguments: Arguments, server: ToolServer) -> CallToolResult:
    raise MCPError(code=INVALID_PARAMS, message="these arguments are not for me")


async def _die(arguments: Arguments, server: ToolServer) -> CallToolResult:
    server.cut()
    await server.permission()
    return text("too late")


async def _big(arguments: Arguments, server: ToolServer) -> CallToolResult:
    return text("é" * (int(arguments["size"]) // 2))


async def _image(arguments: Arguments, server: ToolServer) -> CallToolResult:
    data = b64encode(PIXEL + bytes(int(arguments.get("padding", 0)))).decode()
    return CallToolResult(
        content=[
            TextContent(type="text", text="a pixel"),
            ImageContent(type="image", data=data, mime_type="image/png"),
        ]
    )


async def _mixed(arguments: Arguments, server: ToolServer) -> CallToolResult:
    return CallToolResult(
        content=[
            TextContent(type="text", text="first"),
            AudioContent(type="audio", data=b64encode(bytes(2048)).decode(), mime_type="audio/wav"),
            ResourceLink(type="resource_link", uri="https://docs.example/a", name="a", title="Page A"),
            EmbeddedResource(type="resource", resource=TextResourceContents(uri="file:///notes.txt", text="the notes")),
            TextContent(type="text", text="last"),
        ]
    )


async def _structured(arguments: Arguments, server: ToolServer) -> CallToolResult:
    return CallToolResult(content=[], structured_content={"answer": 42, "unit": "°C"})


async def _search(arguments: Arguments, server: ToolServer) -> CallToolResult:
    found = [{"title": "Antiphon", "url": "https://docs.example/antiphon", "text": f"about {arguments['query']}"}]
    return text(
        f"1 page about {arguments['query']}: https://docs.example/antiphon", structured_content={"results": found}
    )


async def _ask(arguments: Arguments, server: ToolServer) -> InputRequiredResult:
    return InputRequiredResult(request_state="more, please")


#: A long result.
REPORT = "One line of the report says little.\n" * 1000

READ_ONLY = ToolAnnotations(read_only_hint=True)
TEXT = {"text": {"type": "string"}}

TOOLS = (
    TestTool("echo", _echo, "Returns the text.", TEXT, READ_ONLY),
    TestTool("add", _add, "Adds two numbers.", {"a": {"type": "number"}, "b": {"type": "number"}}),
    TestTool("hold", _hold, "Ends when the test releases it."),
    TestTool("hold_again", _hold, "The same, and may be repeated.", annotations=ToolAnnotations(idempotent_hint=True)),
    TestTool("hold_reading", _hold, "The same, and only reads.", annotations=READ_ONLY),
    TestTool("fail", _fail, "Answers with an error.", TEXT),
    TestTool("refuse", _refuse, "Is refused by the protocol."),
    TestTool("die", _die, "Cuts every connection while it runs."),
    TestTool("die_again", _die, "The same, and may be repeated.", annotations=ToolAnnotations(idempotent_hint=True)),
    TestTool("big", _big, "Returns this many bytes.", {"size": {"type": "integer"}}),
    TestTool("image", _image, "Returns text and a picture.", {"padding": {"type": "integer"}}),
    TestTool("mixed", _mixed, "Returns blocks of every kind."),
    TestTool("structured", _structured, "Returns structured content and no text."),
    TestTool("search", _search, "Searches pages.", {"query": {"type": "string"}}, READ_ONLY),
    TestTool(
        "lie",
        _structured,
        "Returns what its schema does not allow.",
        output_schema={"type": "object", "properties": {"answer": {"type": "string"}}, "required": ["missing"]},
    ),
    TestTool("ask", _ask, "Asks the client for more, which only the modern protocol knows."),
    TestTool("undescribed", _echo),
    plain("report", REPORT, description="Returns much."),
)


def named(*names: str) -> tuple[TestTool, ...]:
    """These tools of the usual ones."""
    return tuple(tool for tool in TOOLS if tool.name in names)
