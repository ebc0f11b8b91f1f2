"""The name of the program that sent a request, by its User-Agent. Sums are made by it, so there are few names."""

from __future__ import annotations

from functools import lru_cache

#: What a User-Agent contains, in small letters, and the name. The first match counts: programs add their name to that
#: of the library they are made with.
_NAMES = (
    ("codex", "codex"),
    ("claude-cli", "claude-code"),
    ("claude-code", "claude-code"),
    ("opencode", "opencode"),
    ("open-webui", "open-webui"),
    ("open webui", "open-webui"),
    ("openwebui", "open-webui"),
    ("librechat", "librechat"),
    ("anythingllm", "anythingllm"),
    ("lobechat", "lobechat"),
    ("roo-code", "roo-code"),
    ("roocode", "roo-code"),
    ("cline", "cline"),
    ("continue", "continue"),
    ("cursor", "cursor"),
    ("zed/", "zed"),
    ("aider", "aider"),
    ("goose", "goose"),
    ("qwen-code", "qwen-code"),
    ("n8n", "n8n"),
    ("litellm", "litellm"),
    ("langchain", "langchain"),
    ("llama-index", "llama-index"),
    ("llama_index", "llama-index"),
    ("pydantic-ai", "pydantic-ai"),
    ("ai-sdk/", "ai-sdk"),
    ("agents/", "openai-agents"),
    ("openai/python", "openai-python"),
    ("openai/js", "openai-node"),
    ("openai/", "openai-sdk"),
    ("anthropic/", "anthropic-sdk"),
    ("curl/", "curl"),
    ("python-requests/", "python"),
    ("python-httpx/", "python"),
    ("aiohttp/", "python"),
    ("python-urllib", "python"),
    ("undici", "node"),
    ("node", "node"),
    ("bun/", "node"),
    ("deno/", "node"),
    ("axios/", "node"),
    ("go-http-client/", "go"),
    ("reqwest/", "rust"),
    ("okhttp/", "java"),
    ("java", "java"),
    ("dotnet", "dotnet"),
    ("postman", "postman"),
    ("mozilla/", "browser"),
)  # fmt: skip

OTHER = "other"
CLIENTS = tuple(dict.fromkeys((*(name for _, name in _NAMES), OTHER)))
"""All names."""

_LONGEST = 512


@lru_cache(maxsize=256)
def _named(user_agent: str) -> str:
    text = user_agent.lower()
    return next((name for part, name in _NAMES if part in text), OTHER)


def client_name(user_agent: str | None) -> str:
    """One of a few names, `other` for an unknown program, and an empty text for one that does not say."""
    return _named(user_agent[:_LONGEST]) if user_agent else ""
