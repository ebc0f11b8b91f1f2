"""antiphon connect: the settings and the code with which a client uses this gateway, ready to be pasted."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import click

from app.channels.table import Table
from app.cli.address import url_of
from app.cli.context import as_json, print_json
from app.cli.parameters import Text
from app.cli.table import read_table
from app.errors import ConfigurationError
from app.settings import Settings, load_settings

_TOKEN = "ap_..."  # noqa: S105 - a placeholder


@dataclass(frozen=True, slots=True)
class Recipe:
    """The instructions for one client. In `text`, `$URL`, `$MODEL` and `$TOKEN` stand for quoted strings."""

    file: str
    """The file that the text belongs into; empty when it is typed into a shell."""
    text: str
    needs: str = ""
    """The command that installs the package which the text imports."""
    variables: Mapping[str, str] = field(default_factory=dict)


_OPENAI = {"OPENAI_BASE_URL": "$URL", "OPENAI_API_KEY": "$TOKEN"}

_RECIPES: Mapping[str, Recipe] = {
    "codex": Recipe(
        file="~/.codex/config.toml",
        variables={"ANTIPHON_TOKEN": "$TOKEN"},
        text="""\
model = $MODEL
model_provider = "antiphon"

[model_providers.antiphon]
# With exactly this name Codex lets the gateway compact long conversations; with any other name Codex compacts them.
name = "OpenAI"
base_url = $URL
wire_api = "responses"

# A command and not env_key: only with a command Codex asks the gateway for its models, their windows and their tools.
[model_providers.antiphon.auth]
command = "printenv"
args = ["ANTIPHON_TOKEN"]
""",
    ),
    "python": Recipe(
        file="hello.py",
        needs="pip install openai",
        variables=_OPENAI,
        text="""\
from openai import OpenAI

client = OpenAI()
first = client.responses.create(model=$MODEL, input="My name is Ada.")
second = client.responses.create(model=$MODEL, previous_response_id=first.id, input="What is my name?")
print(second.output_text)
""",
    ),
    "node": Recipe(
        file="hello.mjs",
        needs="npm install openai",
        variables=_OPENAI,
        text="""\
import OpenAI from "openai";

const client = new OpenAI();
const first = await client.responses.create({ model: $MODEL, input: "My name is Ada." });
const second = await client.responses.create({
  model: $MODEL,
  previous_response_id: first.id,
  input: "What is my name?",
});
console.log(second.output_text);
""",
    ),
    "agents": Recipe(
        file="hello.py",
        needs="pip install openai-agents",
        variables=_OPENAI,
        text="""\
from agents import Agent, Runner, set_tracing_disabled

# Traces would go to api.openai.com, with this gateway's token.
set_tracing_disabled(True)
agent = Agent(name="Assistant", model=$MODEL)
print(Runner.run_sync(agent, "My name is Ada.").final_output)
""",
    ),
    "langchain": Recipe(
        file="hello.py",
        needs="pip install langchain-openai",
        variables=_OPENAI,
        text="""\
from langchain_openai import ChatOpenAI

# use_responses_api: not chat completions. use_previous_response_id: send only the new messages.
model = ChatOpenAI(model=$MODEL, base_url=$URL, use_responses_api=True, use_previous_response_id=True)
print(model.invoke("My name is Ada.").text)
""",
    ),
    "vercel": Recipe(
        file="hello.mjs",
        needs="npm install ai @ai-sdk/openai",
        variables=_OPENAI,
        text="""\
import { createOpenAI } from "@ai-sdk/openai";
import { generateText } from "ai";

// antiphon(...) uses the Responses API; antiphon.chat(...) would use chat completions.
const antiphon = createOpenAI({ baseURL: $URL, apiKey: process.env.OPENAI_API_KEY });
const { text } = await generateText({ model: antiphon($MODEL), prompt: "My name is Ada." });
console.log(text);
""",
    ),
    "curl": Recipe(
        file="",
        variables={"ANTIPHON_TOKEN": "$TOKEN"},
        text="""\
curl -N $URL/responses \\
  -H "Authorization: Bearer $ANTIPHON_TOKEN" \\
  -H "Content-Type: application/json" \\
  -d '{"model": $MODEL, "input": "My name is Ada.", "stream": true}'
""",
    ),
}


@click.command(short_help="Print how to configure CLIENT for this gateway.")
@click.argument("client", type=click.Choice(list(_RECIPES)))
@click.option(
    "--url", type=Text(), help="The gateway's base URL; default ANTIPHON_URL, or the address that it listens on."
)
@click.option("--model", type=Text(), help="The model to use; default: the first of the channel table.")
@click.option("--token", type=Text(), default=_TOKEN, help="The token to use; default: a placeholder.")
@as_json
def connect(client: str, url: str | None, model: str | None, token: str, as_json: bool) -> None:
    """Print how to configure CLIENT for this gateway. The command writes no file."""
    settings = load_settings()
    values = {
        "$URL": _base_url(url or settings.url or _own_url(settings)),
        "$MODEL": model or _first_model(read_table(settings)),
        "$TOKEN": token,
    }
    recipe = _RECIPES[client]
    variables = {name: values[value] for name, value in recipe.variables.items()}
    text = _filled(recipe, values)
    if as_json:
        print_json(_wire(client, recipe, variables, text))
        return
    click.echo("\n".join(f"export {name}={shlex.quote(value)}" for name, value in variables.items()))
    if recipe.needs:
        click.echo(recipe.needs)
    click.echo(f"\n{_comment(recipe)}{text}", nl=False)


def _wire(client: str, recipe: Recipe, variables: Mapping[str, str], text: str) -> dict[str, Any]:
    return {
        "client": client,
        "environment": dict(variables),
        "install": recipe.needs or None,
        "file": recipe.file or None,
        "text": text,
    }


def _filled(recipe: Recipe, values: Mapping[str, str]) -> str:
    """A JSON string is also a string in TOML, Python and JavaScript. A shell needs other quotes."""
    model, url = json.dumps(values["$MODEL"]), json.dumps(values["$URL"])
    if not recipe.file:
        # The text has the model between single quotes.
        model, url = model.replace("'", r"\u0027"), shlex.quote(values["$URL"])
    return recipe.text.replace("$MODEL", model).replace("$URL", url)


def _comment(recipe: Recipe) -> str:
    if not recipe.file:
        return ""
    sign = "//" if recipe.file.endswith(".mjs") else "#"
    return f"{sign} {recipe.file}\n"


def _base_url(url: str) -> str:
    """Appends /v1 to a URL without a path."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.netloc:
        raise ConfigurationError(f"{url!r} is not a URL", "write it as https://antiphon.example.com/v1")
    return url.rstrip("/") if parts.path.strip("/") else f"{url.rstrip('/')}/v1"


def _own_url(settings: Settings) -> str:
    url = url_of(settings.bind)
    if url is None:
        raise ConfigurationError(
            f"this gateway listens on {settings.bind}, which is not a URL", "add --url, or set ANTIPHON_URL"
        )
    return url


def _first_model(channel_table: Table) -> str:
    ranked = sorted(channel_table.channels, key=lambda channel: -channel.priority)
    return next((name for channel in ranked if channel.enabled for name in channel.models), "MODEL")
