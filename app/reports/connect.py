"""The settings and the code with which a client uses this gateway, for the command and for pages."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from app.channels.table import Table
from app.errors import ConfigurationError

#: In place of a token, which the gateway does not know.
PLACEHOLDER = "ap_..."
#: Tokens of context of a model whose window nothing tells.
WINDOW = 128_000


@dataclass(frozen=True, slots=True)
class Target:
    """What a client is pointed at."""

    url: str
    """The base URL, with /v1."""
    model: str
    token: str = PLACEHOLDER
    window: int = WINDOW
    """Tokens of context of the model."""


class Step(NamedTuple):
    title: str
    """What is done with the text; in front of `file` if there is one."""
    text: str
    file: str = ""


class Trouble(NamedTuple):
    """An error that people meet with a client, as the client words it."""

    error: str
    cause: str
    """With the remedy."""


@dataclass(frozen=True, slots=True)
class Guide:
    """The instructions for one client."""

    client: str
    title: str
    steps: tuple[Step, ...]
    """The last one is a test."""
    troubles: tuple[Trouble, ...]
    environment: Mapping[str, str]
    install: str
    """The command that installs the package which the text imports; empty for none."""
    file: str
    """The file that the text belongs into; empty when it is typed into a shell or a form."""
    text: str

    def wire(self) -> dict[str, Any]:
        return {
            "client": self.client,
            "environment": dict(self.environment),
            "install": self.install or None,
            "file": self.file or None,
            "text": self.text,
            "steps": [{"title": step.title, "file": step.file or None, "text": step.text} for step in self.steps],
            "errors": [{"error": trouble.error, "cause": trouble.cause} for trouble in self.troubles],
        }


@dataclass(frozen=True, slots=True)
class _Recipe:
    """A guide before its values are filled in. In a text, the names of `_filled`, such as `$URL`, stand for values,
    quoted as the text needs it."""

    title: str
    text: str
    troubles: tuple[Trouble, ...]
    file: str = ""
    form: str = ""
    """Where the settings that the text names are entered by hand."""
    needs: str = ""
    variables: Mapping[str, str] = field(default_factory=dict)
    test: str = ""
    """A command of the shell; without one the text itself is the test."""
    shows: str = ""
    """What the test shows when all is well."""


# --- the errors -------------------------------------------------------------------------------------------------

_NO_MODEL = Trouble(
    "400 model_not_found",
    "The gateway has no such model, or the token may not use it. GET /v1/models lists those that it may use.",
)
_NO_CHAT = Trouble(
    "503 chat_completions_not_supported",
    "This client uses /v1/chat/completions, which only some channels serve. supported_endpoints in GET /v1/models "
    "says for which models it works.",
)
_NO_RESPONSES = Trouble(
    "404 on /v1/chat/completions",
    "The client uses chat completions, and no channel of this model serves them. Set its API type to Responses.",
)


def _unauthorized(where: str) -> Trouble:
    return Trouble("401 invalid_api_key", f"{where}, or the token was rotated, revoked or has expired.")


def _untrusted(error: str, remedy: str) -> Trouble:
    return Trouble(error, f"The client does not know the authority of the gateway's certificate. {remedy}")


_UNSET = _unauthorized("OPENAI_API_KEY is not set in the shell that runs the program")
_PYTHON_TLS = _untrusted("CERTIFICATE_VERIFY_FAILED", "Set SSL_CERT_FILE to the certificate of that authority.")
_NODE_TLS = _untrusted(
    "unable to verify the first certificate", "Set NODE_EXTRA_CA_CERTS to the certificate of that authority."
)

# --- the clients ------------------------------------------------------------------------------------------------

_OPENAI = {"OPENAI_BASE_URL": "$URL", "OPENAI_API_KEY": "$TOKEN"}
_LIST = "curl -sS $URL/models -H $AUTHORIZATION"
_LISTED = "the list names the model"

_RECIPES: Mapping[str, _Recipe] = {
    "codex": _Recipe(
        title="Codex",
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
        test='codex exec "Say hello."',
        troubles=(
            _unauthorized("ANTIPHON_TOKEN is not set in the shell that started Codex"),
            Trouble(
                "stream disconnected before completion",
                "A proxy in between buffers the answer or cuts it off. `antiphon doctor` on the server checks nginx.",
            ),
            _untrusted(
                "invalid peer certificate: UnknownIssuer",
                "Set SSL_CERT_FILE to the certificate of that authority; a self-signed one must be a server's, not an "
                "authority's.",
            ),
        ),
    ),
    "python": _Recipe(
        title="Python",
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
        test="python3 hello.py",
        shows="the second answer knows the name",
        troubles=(_UNSET, _NO_MODEL, _PYTHON_TLS),
    ),
    "node": _Recipe(
        title="Node",
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
        test="node hello.mjs",
        shows="the second answer knows the name",
        troubles=(_UNSET, _NO_MODEL, _NODE_TLS),
    ),
    "agents": _Recipe(
        title="Agents SDK",
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
        test="python3 hello.py",
        troubles=(
            _UNSET,
            Trouble(
                "OPENAI_API_KEY is not set, skipping trace export; [non-fatal] Tracing client error 401",
                "Traces go to api.openai.com, not to the gateway. set_tracing_disabled(True) has to come first.",
            ),
            _PYTHON_TLS,
        ),
    ),
    "langchain": _Recipe(
        title="LangChain",
        file="hello.py",
        needs="pip install langchain-openai",
        variables=_OPENAI,
        text="""\
from langchain_openai import ChatOpenAI

# use_responses_api: not chat completions. use_previous_response_id: send only the new messages.
model = ChatOpenAI(model=$MODEL, base_url=$URL, use_responses_api=True, use_previous_response_id=True)
print(model.invoke("My name is Ada.").text)
""",
        test="python3 hello.py",
        troubles=(
            _UNSET,
            Trouble(
                "404 or 503 on /v1/chat/completions",
                "use_responses_api=True is missing: without it LangChain uses chat completions.",
            ),
            _PYTHON_TLS,
        ),
    ),
    "vercel": _Recipe(
        title="Vercel AI",
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
        test="node hello.mjs",
        troubles=(
            _UNSET,
            Trouble(
                "404 or 503 on /v1/chat/completions",
                "The model was made by antiphon.chat(...), which uses chat completions. antiphon(...) does not.",
            ),
            _NODE_TLS,
        ),
    ),
    "open-webui": _Recipe(
        title="Open WebUI",
        form="In Admin Panel, Settings, Connections, OpenAI: add a connection",
        text="""\
URL         $URL
Key         $TOKEN
API Type    Responses
Model IDs   $MODEL
""",
        test=_LIST,
        shows=_LISTED,
        troubles=(
            _unauthorized("The key of the connection is not the whole token"),
            Trouble(
                "Network Problem, Connection refused",
                "Open WebUI runs in a container, where 127.0.0.1 is the container. Give it the host's name or address.",
            ),
            _NO_RESPONSES,
        ),
    ),
    "zed": _Recipe(
        title="Zed",
        file="~/.config/zed/settings.json",
        variables={"ANTIPHON_API_KEY": "$TOKEN"},
        text="""\
{
  "language_models": {
    "openai_compatible": {
      "Antiphon": {
        "api_url": $URL,
        "available_models": [
          {
            "name": $MODEL,
            "max_tokens": $WINDOW,
            "capabilities": {
              "tools": true,
              "images": true,
              "parallel_tool_calls": true,
              "prompt_cache_key": true,
              "chat_completions": false
            }
          }
        ]
      }
    }
  }
}
""",
        test='curl -sS $URL/models -H "Authorization: Bearer $ANTIPHON_API_KEY"',
        shows=_LISTED,
        troubles=(
            Trouble(
                "The provider is listed, and asks for a key",
                "Zed was not started from the shell that has ANTIPHON_API_KEY. Enter the token in Zed's settings.",
            ),
            Trouble(
                "The model is not in the list",
                "Zed does not fetch the list: each model needs an entry in available_models.",
            ),
            _NO_RESPONSES._replace(cause="chat_completions: false is missing in the model's capabilities."),
        ),
    ),
    "continue": _Recipe(
        title="Continue",
        file="~/.continue/config.yaml",
        text="""\
name: Antiphon
version: 0.0.1
schema: v1
models:
  - name: Antiphon
    provider: openai
    model: $MODEL
    apiBase: $URL
    apiKey: $TOKEN
    roles: [chat, edit, apply]
""",
        test=_LIST,
        shows=_LISTED,
        troubles=(_unauthorized("apiKey is not the whole token"), _NO_CHAT, _NODE_TLS),
    ),
    "cline": _Recipe(
        title="Cline",
        form="In Cline's settings",
        text="""\
API Provider   OpenAI Compatible
Base URL       $URL
API Key        $TOKEN
Model ID       $MODEL
""",
        test=_LIST,
        shows=_LISTED,
        troubles=(_unauthorized("The key of the form is not the whole token"), _NO_CHAT, _NODE_TLS),
    ),
    "n8n": _Recipe(
        title="n8n",
        form="In a credential of the type OpenAI, and in the node OpenAI Chat Model",
        text="""\
API Key             $TOKEN
Base URL            $URL
Model               $MODEL
Use Responses API   on
""",
        test=_LIST,
        shows=_LISTED,
        troubles=(
            _unauthorized("The key of the credential is not the whole token"),
            Trouble(
                "ECONNREFUSED",
                "n8n runs in a container, where 127.0.0.1 is the container. Give it the host's name or address.",
            ),
            _NO_RESPONSES._replace(cause="Use Responses API is off in the node OpenAI Chat Model."),
        ),
    ),
    "curl": _Recipe(
        title="curl",
        variables={"ANTIPHON_TOKEN": "$TOKEN"},
        text="""\
curl -N $URL/responses \\
  -H "Authorization: Bearer $ANTIPHON_TOKEN" \\
  -H "Content-Type: application/json" \\
  -d $BODY
""",
        shows="the events come one after the other",
        troubles=(
            _unauthorized("ANTIPHON_TOKEN is not set in this shell"),
            Trouble(
                "All events come at once, at the end",
                "A proxy in between buffers the answer. `antiphon doctor` on the server checks nginx.",
            ),
            _untrusted("curl: (60) SSL certificate problem", "Name the certificate of that authority with --cacert."),
        ),
    ),
}

CLIENTS = tuple(_RECIPES)
#: The clients' names as people write them.
TITLES: Mapping[str, str] = {client: recipe.title for client, recipe in _RECIPES.items()}


def guide(client: str, target: Target) -> Guide:
    """`client`: one of `CLIENTS`."""
    recipe = _RECIPES[client]
    environment = {name: _filled(value, target, str) for name, value in recipe.variables.items()}
    text = _filled(recipe.text, target, _quoting(recipe))
    return Guide(
        client=client,
        title=recipe.title,
        steps=tuple(_steps(recipe, target, environment, text)),
        troubles=recipe.troubles,
        environment=environment,
        install=recipe.needs,
        file=recipe.file,
        text=text,
    )


def _steps(recipe: _Recipe, target: Target, environment: Mapping[str, str], text: str) -> list[Step]:
    shell = [f"export {name}={shlex.quote(value)}" for name, value in environment.items()]
    shell += [recipe.needs] if recipe.needs else []
    test = _filled(recipe.test, target, shlex.quote) if recipe.test else text
    return [
        *([Step("Into", text, recipe.file)] if recipe.file else []),
        *([Step(recipe.form, text)] if recipe.form else []),
        *([Step("In the shell", "".join(f"{line}\n" for line in shell))] if shell else []),
        Step(f"Test it: {recipe.shows}" if recipe.shows else "Test it", test if test.endswith("\n") else f"{test}\n"),
    ]


Quoting = Callable[[str], str]


def _quoting(recipe: _Recipe) -> Quoting:
    """A JSON string is also a string in TOML, YAML, Python and JavaScript. A shell needs other quotes, a form none."""
    if recipe.file:
        return partial(json.dumps, ensure_ascii=False)
    return str if recipe.form else shlex.quote


def _filled(text: str, target: Target, quoted: Quoting) -> str:
    body = json.dumps({"model": target.model, "input": "My name is Ada.", "stream": True})
    values = {
        "$URL": quoted(target.url),
        "$MODEL": quoted(target.model),
        "$TOKEN": quoted(target.token),
        "$WINDOW": str(target.window),
        "$AUTHORIZATION": quoted(f"Authorization: Bearer {target.token}"),
        # Without an apostrophe, so that the shell's quotes stay readable.
        "$BODY": quoted(body.replace("'", r"\u0027")),
    }
    pieces = text.split("$")
    return pieces[0] + "".join(_with_value(f"${piece}", values) for piece in pieces[1:])


def _with_value(piece: str, values: Mapping[str, str]) -> str:
    """The piece, which begins with `$`, with the value of its name. A value is never looked through for names."""
    name = next((name for name in values if piece.startswith(name)), None)
    return piece if name is None else values[name] + piece.removeprefix(name)


def target(table: Table, url: str, model: str | None = None, token: str | None = None) -> Target:
    """`model`: the first of the table if left out. Raises ConfigurationError for a URL that is none."""
    model = model or first_model(table)
    window = table.facts(model).context_window or WINDOW
    return Target(base_url(url), model, token or PLACEHOLDER, window)


def base_url(url: str) -> str:
    """Appends /v1 to a URL without a path. Raises ConfigurationError for one that is none."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.netloc:
        raise ConfigurationError(f"{url!r} is not a URL", "write it as https://antiphon.example.com/v1")
    return url.rstrip("/") if parts.path.strip("/") else f"{url.rstrip('/')}/v1"


def first_model(table: Table) -> str:
    """The first model of the channel with the highest priority."""
    ranked = sorted(table.channels, key=lambda channel: -channel.priority)
    return next((name for channel in ranked if channel.enabled for name in channel.models), "MODEL")
