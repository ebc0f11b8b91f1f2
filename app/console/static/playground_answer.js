/** One answer on the page: its text, calls and reasoning as they stream in, and what is known at its end. */

import { badge, element } from "./elements.js";
import { amount, money, seconds } from "./numbers.js";

/** Events that add text to a part of the answer, and the part. */
const DELTAS = new Map([
  ["response.output_text.delta", "text"],
  ["response.refusal.delta", "text"],
  ["response.reasoning_text.delta", "reasoning"],
  ["response.reasoning_summary_text.delta", "reasoning"],
  ["response.function_call_arguments.delta", "arguments"],
  ["response.mcp_call_arguments.delta", "arguments"],
  ["response.custom_tool_call_input.delta", "arguments"],
]);

const STATES = new Map([
  ["incomplete", ["half", "incomplete", "warn"]],
  ["failed", ["bad", "failed", "bad"]],
  ["cancelled", ["off", "stopped", ""]],
]);

export class AnswerView {
  /** @param {string} model */
  constructor(model) {
    this.by = element("div", { class: "by" }, element("b", {}, model));
    this.body = element("div", { class: "flow" });
    this.actions = element("div", { class: "tools" });
    this.element = element("div", { class: "msg", "aria-busy": "true" }, this.by, this.body, this.actions);
    this.#caret = element("span", { class: "caret", "aria-hidden": "true" });
  }

  #items = new Map();
  #caret;
  #state = null;

  /** Draws what an event of the stream brings. */
  take(event) {
    const part = DELTAS.get(event.type);
    if (part) this.#item(event.output_index, event).append(part, event.delta);
    else if (event.type === "response.output_item.added") this.#item(event.output_index, event).begin(event.item);
    else if (event.type === "response.output_item.done") this.#item(event.output_index, event).end(event.item);
  }

  /** Draws a whole output. */
  takeOutput(output) {
    output.forEach((item, place) => this.#item(place).end(item));
  }

  #item(place) {
    if (!this.#items.has(place)) {
      const view = new ItemView(this.#caret);
      this.#items.set(place, view);
      this.body.append(view.element);
    }
    return this.#items.get(place);
  }

  /** Says that the answer is being made, and for how long. */
  streaming(ms, words = "streaming") {
    this.#setState(badge("live", `${words}, ${seconds(ms)}`));
  }

  /** Ends the drawing. `status`: of the response. */
  finish(status) {
    this.#caret.remove();
    this.element.setAttribute("aria-busy", "false");
    const state = STATES.get(status);
    this.#setState(state ? badge(...state) : null);
  }

  /** What the gateway knows of the answer: times, tokens, cost. Replaces the facts shown before. */
  facts({ channel, firstMs, totalMs, usage, cost, estimated, changes = [] }) {
    const words = [
      channel,
      firstMs === null || firstMs === undefined ? null : `first token ${seconds(firstMs)}`,
      totalMs === null || totalMs === undefined ? null : seconds(totalMs),
      usage && tokens(usage, estimated),
      cost === null || cost === undefined ? null : money(cost),
      ...changes.map(([words, what]) => `${words}: ${what}`),
    ];
    const kept = [this.by.firstChild, ...words.filter(Boolean).map((word) => element("span", {}, word))];
    this.by.replaceChildren(...kept, ...(this.#state ? [this.#state] : []));
  }

  #setState(state) {
    if (state && this.#state) this.#state.replaceWith(state);
    else if (state) this.by.append(state);
    else this.#state?.remove();
    this.#state = state;
  }
}

function tokens(usage, estimated) {
  const cached = usage.input_tokens_details?.cached_tokens;
  const about = estimated ? "about " : "";
  const share = cached ? `, ${Math.round((100 * cached) / usage.input_tokens)} % cached` : "";
  return `${about}${amount(usage.input_tokens)} → ${amount(usage.output_tokens)} tokens${share}`;
}

/** One item of the output. */
class ItemView {
  constructor(caret) {
    this.element = element("div");
    this.#caret = caret;
  }

  #caret;
  #type = null;
  #name = "";
  #texts = new Map();

  begin(item) {
    if (this.#type === item.type) return;
    this.#type = item.type;
    this.#name = item.server_label ? `${item.server_label}.${item.name ?? ""}` : item.name ?? "";
  }

  append(part, delta) {
    this.#part(part).appendData(delta);
  }

  #part(part) {
    if (!this.#texts.has(part)) {
      const text = document.createTextNode("");
      this.#texts.set(part, text);
      this.element.append(PARTS[part](text, this.#name, this.#caret));
    }
    return this.#texts.get(part);
  }

  /** Draws the finished item, which may differ from its deltas. */
  end(item) {
    this.#caret.remove();
    this.#texts.clear();
    const opened = this.element.querySelector("details")?.open ?? false;
    this.element.replaceChildren(...drawn(item));
    const details = this.element.querySelector("details");
    if (details) details.open = opened;
  }
}

const PARTS = {
  text: (text, _, caret) => element("p", {}, text, caret),
  reasoning: (text) => folded("reasoning", element("p", {}, text)),
  arguments: (text, name) => element("div", { class: "call" }, `${name}(`, text, ")"),
};

function folded(words, content) {
  return element("details", { class: "more-d" }, element("summary", {}, words), content);
}

/** The elements of an item of any type. What has no drawing of its own is shown as JSON. */
function drawn(item) {
  return (DRAWINGS.get(item.type) ?? asJson)(item);
}

const DRAWINGS = new Map([
  ["message", message],
  ["reasoning", reasoning],
  ["function_call", (item) => [call(`${item.name}(${item.arguments})`)]],
  ["custom_tool_call", (item) => [call(`${item.name}(${item.input})`)]],
  ["mcp_call", mcpCall],
  ["mcp_list_tools", listedTools],
  ["mcp_approval_request", (item) => [call(`${item.server_label}.${item.name}(${item.arguments}) waits for an approval`)]],
  ["compaction", (item) => [call(`compaction, ${amount(item.encrypted_content?.length ?? null)} characters, sealed`)]],
  ["function_call_output", callOutput],
  ["custom_tool_call_output", callOutput],
]);

function call(words) {
  return element("div", { class: "call" }, words);
}

function callOutput(item) {
  return [call(`→ ${typeof item.output === "string" ? item.output : JSON.stringify(item.output)}`)];
}

function message(item) {
  const parts = typeof item.content === "string" ? [{ type: "text", text: item.content }] : (item.content ?? []);
  return parts.map((part) => {
    if (typeof (part.text ?? part.refusal) === "string") return element("p", {}, part.text ?? part.refusal);
    return call(part.type === "input_image" ? "an image" : part.type);
  });
}

function reasoning(item) {
  const text = [...(item.summary ?? []), ...(item.content ?? [])].map((part) => part.text).join("\n\n");
  return text ? [folded("reasoning", element("p", {}, text))] : [];
}

function mcpCall(item) {
  const outcome = item.error ? `failed: ${errorWords(item.error)}` : (item.output ?? "no result");
  return [call(`${item.server_label}.${item.name}(${item.arguments}) → ${outcome}`)];
}

function errorWords(error) {
  if (typeof error === "string") return error;
  return error.message ?? (error.content ?? []).map((part) => part.text).join(" ") ?? error.type;
}

function listedTools(item) {
  if (item.error) return [call(`${item.server_label} lists no tools: ${errorWords(item.error)}`)];
  const names = item.tools.map((tool) => tool.name).join(", ");
  return [call(`${item.server_label}: ${names || "no tools"}`)];
}

function asJson(item) {
  return [folded(item.type, element("pre", { class: "wrap" }, JSON.stringify(item, null, 2)))];
}

/** What the person has sent. */
export function questionView(items, images) {
  const made = element("div", { class: "msg" }, element("div", { class: "by" }, element("b", {}, "you")));
  for (const item of items) {
    if (item.type === "message") made.append(...message(item).filter((part) => part.tagName === "P"), ...images);
    else if (item.type === "mcp_approval_response") made.append(call(item.approve ? "approved" : "denied"));
    else made.append(...drawn(item));
  }
  return made;
}
