"""Tool servers: MCP servers that the gateway lists and calls itself. The only place that knows the MCP SDK."""
