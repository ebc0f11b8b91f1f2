/** What the playground sends: bodies of the Responses API, and the same as programs. Pure. */

const SIGNATURE = /^([A-Za-z_][A-Za-z0-9_-]{0,63})\s*\((.*)\)$/s;
const TYPES = new Set(["string", "number", "integer", "boolean", "object", "array"]);

/** An entry that a person has to correct; `field` is the id of its control. */
export class EntryError extends Error {
  constructor(field, message) {
    super(message);
    this.field = field;
  }
}

/**
 * The tools that a person has named: JSON as in the API, or labels of tool servers and functions such as
 * `lookup_order(order: integer)`, with commas between them.
 * @param {string} text
 * @param {string[]} servers labels that the token may use
 * @param {string[]} hosted hosted tools that the gateway runs
 */
export function readTools(text, servers, hosted) {
  const entered = text.trim();
  if (!entered) return [];
  if (entered.startsWith("[") || entered.startsWith("{")) return toolsOfJson(entered);
  return atTopLevel(entered).map((part) => toolNamed(part, servers, hosted));
}

function toolsOfJson(text) {
  let value;
  try {
    value = JSON.parse(text);
  } catch (error) {
    throw new EntryError("tools", `This is not JSON: ${error.message}`);
  }
  return Array.isArray(value) ? value : [value];
}

/** The parts between the commas that stand in no parentheses. */
function atTopLevel(text) {
  const parts = [""];
  let depth = 0;
  for (const letter of text) {
    if (letter === "(") depth += 1;
    if (letter === ")") depth -= 1;
    if (letter === "," && depth === 0) parts.push("");
    else parts[parts.length - 1] += letter;
  }
  return parts.map((part) => part.trim()).filter(Boolean);
}

function toolNamed(part, servers, hosted) {
  if (servers.includes(part)) return { type: "mcp", server_label: part };
  if (hosted.includes(part)) return { type: part };
  const signature = SIGNATURE.exec(part);
  if (signature) return functionTool(signature[1], signature[2]);
  const known = [...servers, ...hosted];
  const those = known.length ? `a tool server that your token may use (${known.join(", ")})` : "a tool server that your token may use";
  throw new EntryError("tools", `'${part}' is neither ${those} nor a function such as lookup_order(order: integer).`);
}

function functionTool(name, parameters) {
  const properties = {};
  for (const parameter of atTopLevel(parameters)) {
    const [argument, type = "string"] = parameter.split(":").map((word) => word.trim());
    if (!argument || !TYPES.has(type)) {
      throw new EntryError("tools", `'${parameter}' in ${name} is not an argument such as order: integer. The types are ${[...TYPES].join(", ")}.`);
    }
    properties[argument] = { type };
  }
  return {
    type: "function",
    name,
    parameters: { type: "object", properties, required: Object.keys(properties), additionalProperties: false },
    strict: true,
  };
}

/** The tools as a person would name them, for those that have such a name, else as JSON. */
export function toolsAsText(tools) {
  const names = tools.map(nameOfTool);
  if (names.every(Boolean)) return names.join(", ");
  return JSON.stringify(tools);
}

function nameOfTool(tool) {
  if (tool.type === "mcp" && onlyHas(tool, ["type", "server_label"])) return tool.server_label;
  return null;
}

function onlyHas(tool, names) {
  return Object.entries(tool).every(([name, value]) => names.includes(name) || value === null);
}

/**
 * The items of one turn: answers to what the model waits for, then the person's message.
 * @param {{text: string, images: string[], outputs: object[]}} entered `images`: data URLs
 */
export function inputItems({ text, images, outputs }) {
  if (!text && !images.length) return outputs;
  const pictures = images.map((url) => ({ type: "input_image", image_url: url, detail: "auto" }));
  const content = text ? [{ type: "input_text", text }, ...pictures] : pictures;
  return [...outputs, { type: "message", role: "user", content }];
}

/**
 * The body of a create request. What is left at its default is left out.
 * @param {{model: string, instructions: string, effort: string, tools: object[], store: boolean, stream: boolean,
 *   background: boolean, threshold: number | null}} settings
 * @param {{previous: string | null, items: object[]}} context the history: the response to continue, and the
 *   items since then that the gateway does not store
 * @param {object[]} items the input of this turn
 */
export function createRequest(settings, context, items) {
  const body = { model: settings.model, input: [...context.items, ...items] };
  if (context.previous) body.previous_response_id = context.previous;
  if (settings.instructions) body.instructions = settings.instructions;
  if (settings.tools.length) body.tools = settings.tools;
  if (settings.effort) body.reasoning = { effort: settings.effort };
  if (settings.threshold) body.context_management = [{ type: "compaction", compact_threshold: settings.threshold }];
  if (!settings.store) {
    body.store = false;
    // What the gateway does not keep has to come back with the next turn.
    body.include = ["reasoning.encrypted_content"];
  }
  if (settings.background) body.background = true;
  if (settings.stream) body.stream = true;
  return body;
}

/** The body of a compaction of all that came before. */
export function compactRequest(settings, context) {
  const body = { model: settings.model };
  if (context.previous) body.previous_response_id = context.previous;
  if (context.items.length) body.input = context.items;
  if (!settings.store) body.store = false;
  return body;
}

/** Calls that a person can answer, and the items that answer them. */
export const OUTPUTS = new Map([
  ["function_call", "function_call_output"],
  ["custom_tool_call", "custom_tool_call_output"],
]);

/**
 * What the model of a response waits for: calls without an output, and approvals.
 * @param {object[]} output items of a response
 */
export function waitingFor(output) {
  const outputs = new Set(OUTPUTS.values());
  const answered = new Set(output.filter((item) => outputs.has(item.type)).map((item) => item.call_id));
  return output.filter(
    (item) =>
      (OUTPUTS.has(item.type) && item.status !== "incomplete" && !answered.has(item.call_id)) ||
      item.type === "mcp_approval_request",
  );
}

/** The text of an answer: its messages, and refusals, one after the other. */
export function textOf(output) {
  return output
    .filter((item) => item.type === "message")
    .flatMap((item) => (typeof item.content === "string" ? [{ text: item.content }] : item.content ?? []))
    .map((part) => part.text ?? part.refusal ?? "")
    .join("\n\n");
}

// --- the same as programs

/** A shell command. The body is a here-document: nothing in it needs quotes, and it may have any length. */
export function asCurl(base, path, body) {
  return [
    `curl ${body.stream ? "-N " : ""}${base}${path} \\`,
    `  -H "Authorization: Bearer $ANTIPHON_TOKEN" \\`,
    `  -H "Content-Type: application/json" \\`,
    `  --data-binary @- <<'JSON'`,
    JSON.stringify(body, null, 2),
    "JSON",
    "",
  ].join("\n");
}

/** A program for the openai package. */
export function asPython(base, path, body) {
  const method = path === "/responses" ? "create" : "compact";
  const parameters = Object.entries(body).map(([name, value]) => `    ${name}=${asLiteral(value, "    ")},`);
  return [
    "import os",
    "",
    "from openai import OpenAI",
    "",
    `client = OpenAI(base_url=${asLiteral(base, "")}, api_key=os.environ["ANTIPHON_TOKEN"])`,
    `response = client.responses.${method}(`,
    ...parameters,
    ")",
    ...printed(method, body),
    "",
  ].join("\n");
}

function printed(method, body) {
  if (method === "compact") return ["print(response.id)"];
  if (!body.stream) return ["print(response.output_text)"];
  return [
    "for event in response:",
    '    if event.type == "response.output_text.delta":',
    '        print(event.delta, end="", flush=True)',
    "print()",
  ];
}

const NAMED = new Map([[true, "True"], [false, "False"], [null, "None"]]);

/** A JSON value as Python writes it. */
function asLiteral(value, indent) {
  if (NAMED.has(value)) return NAMED.get(value);
  if (typeof value !== "object") return JSON.stringify(value);
  const inner = `${indent}    `;
  const [open, close, members] = Array.isArray(value)
    ? ["[", "]", value.map((each) => asLiteral(each, inner))]
    : ["{", "}", Object.entries(value).map(([name, each]) => `${JSON.stringify(name)}: ${asLiteral(each, inner)}`)];
  if (!members.length) return open + close;
  return `${open}\n${members.map((member) => `${inner}${member},\n`).join("")}${indent}${close}`;
}
