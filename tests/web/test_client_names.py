"""Names of programs by their User-Agent."""

from __future__ import annotations

import pytest

from app.web.client_names import client_name


@pytest.mark.parametrize(
    ("user_agent", "name"),
    [
        (None, ""),
        ("", ""),
        ("codex_cli_rs/0.169.0 (Debian 12; x86_64) xterm", "codex"),
        ("OpenAI/Python 3.54.0", "openai-python"),
        ("AsyncOpenAI/Python 3.54.0", "openai-python"),
        ("Agents/Python 0.24.0", "openai-agents"),
        ("OpenAI/JS 6.1.0", "openai-node"),
        ("claude-cli/2.1 (external, cli)", "claude-code"),
        ("curl/8.5.0", "curl"),
        ("python-requests/2.32", "python"),
        ("Mozilla/5.0 (X11; Linux x86_64)", "browser"),
        ("made-up-by-a-stranger/1", "other"),
        ("x" * 100_000 + "curl/", "other"),
    ],
)
def test_a_program_has_one_of_a_few_names(user_agent: str | None, name: str) -> None:
    assert client_name(user_agent) == name
