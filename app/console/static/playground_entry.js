/** What a person enters: the settings, the message with its images, and answers to what the model waits for. */

import { button, element, note } from "./elements.js";
import { MOST_IMAGES, dataUrlOf } from "./playground_images.js";
import { EntryError, OUTPUTS, inputItems, readTools, toolsAsText, waitingFor } from "./playground_requests.js";

const $ = (id) => document.getElementById(id);

/** The text that was written when the session ended, for the page after the sign-in. */
const DRAFT = "antiphon-playground-draft";

export class Entry {
  /** @param {{servers: string[], hosted: string[]}} facts tools that the token may use */
  constructor(facts) {
    this.#facts = facts;
    this.input = $("input");
    this.input.value ||= sessionStorage.getItem(DRAFT) ?? "";
    sessionStorage.removeItem(DRAFT);
    $("img").addEventListener("change", () => this.#addImages());
  }

  #facts;
  #images = [];

  /** What `read` gives; null, and the page says why, for an entry that has to be corrected. */
  read(read) {
    this.clearError();
    try {
      return read();
    } catch (error) {
      if (!(error instanceof EntryError)) throw error;
      this.#show(error);
      return null;
    }
  }

  clearError() {
    $("error").replaceChildren();
    for (const field of $("playground").querySelectorAll("[aria-invalid]")) field.removeAttribute("aria-invalid");
  }

  #show(error) {
    const field = $(error.field);
    $("error").replaceChildren(note("bad", [error.message]));
    field?.setAttribute("aria-invalid", "true");
    field?.focus();
  }

  // --- settings

  /** Throws EntryError. */
  settings() {
    return {
      model: $("f-model").value,
      effort: $("f-effort").value,
      tools: readTools($("tools").value, this.#facts.servers, this.#facts.hosted),
      store: $("f-store").checked,
      stream: $("f-stream").checked,
      background: $("f-background").checked,
      instructions: $("f-instructions").value,
      threshold: Number($("f-threshold").value) || null,
    };
  }

  /** Enters what a response was made with and the next one does not carry over. */
  fill(response) {
    if (!this.#facts.model) choose($("f-model"), response.model);
    if (typeof response.instructions === "string") $("f-instructions").value = response.instructions;
    if (response.tools?.length) $("tools").value = toolsAsText(response.tools);
    choose($("f-effort"), response.reasoning?.effort);
  }

  // --- the message

  /** The items of the next turn. Throws EntryError. */
  items() {
    const urls = this.#images.map((image) => image.url);
    const items = inputItems({ text: this.input.value.trim(), images: urls, outputs: this.#outputs() });
    if (!items.length) throw new EntryError("input", "Write a message, or add an image.");
    return items;
  }

  /** Empties the entry, and returns what it held, for `restore`. */
  take() {
    const draft = { text: this.input.value, images: this.#images, waiting: [...$("waiting").childNodes] };
    this.input.value = "";
    this.#images = [];
    this.#showImages();
    this.#setWaiting([]);
    return draft;
  }

  /** Puts back what was entered, before what was written meanwhile. */
  restore(draft) {
    this.input.value = [draft.text, this.input.value].filter(Boolean).join("\n");
    this.#images = [...draft.images, ...this.#images].slice(0, MOST_IMAGES);
    this.#setWaiting(draft.waiting);
    this.#showImages();
    this.input.focus();
  }

  /** Keeps the text for another page of this tab. */
  keep(text) {
    sessionStorage.setItem(DRAFT, text);
  }

  drop() {
    sessionStorage.removeItem(DRAFT);
  }

  previews() {
    return this.#images.map(preview);
  }

  async #addImages() {
    this.clearError();
    for (const file of $("img").files) {
      try {
        if (this.#images.length >= MOST_IMAGES) throw new Error(`At most ${MOST_IMAGES} images go with a message.`);
        this.#images.push({ name: file.name, url: await dataUrlOf(file) });
      } catch (error) {
        this.#show(new EntryError("img", error.message));
      }
    }
    $("img").value = "";
    this.#showImages();
  }

  #showImages() {
    const shown = this.#images.map((image) => {
      const remove = button("Remove", { class: "btn quiet small", "aria-label": `Remove ${image.name}` }, () => {
        this.#images = this.#images.filter((each) => each !== image);
        this.#showImages();
      });
      return element("li", {}, preview(image), element("span", { class: "clip" }, image.name), remove);
    });
    $("images").replaceChildren(...shown);
  }

  // --- what the model waits for

  /** Asks for what the model of this output waits for. */
  ask(output) {
    this.#setWaiting(waitingFor(output).map((item, place) => {
      return item.type === "mcp_approval_request" ? approvalField(item, place) : outputField(item, place);
    }));
  }

  #setWaiting(fields) {
    $("waiting").replaceChildren(...fields);
    $("waiting").hidden = !fields.length;
  }

  #outputs() {
    return [...$("waiting").children].map((field) => (field.dataset.approval ? approvalOf(field) : outputOf(field)));
  }
}

function choose(select, value) {
  if ([...select.options].some((option) => option.value === value)) select.value = value;
}

function preview(image) {
  return element("img", { src: image.url, alt: image.name });
}

function outputField(item, place) {
  const id = `output-${place}`;
  return element(
    "div",
    { class: "field", "data-call": item.call_id, "data-type": OUTPUTS.get(item.type) },
    element("label", { for: id }, "Output of ", element("code", {}, `${item.name}(${item.arguments ?? item.input})`)),
    element("textarea", { id, class: "mono", rows: 2 }),
  );
}

function outputOf(field) {
  const area = field.querySelector("textarea");
  if (!area.value) throw new EntryError(area.id, "The model waits for the output of this call.");
  return { type: field.dataset.type, call_id: field.dataset.call, output: area.value };
}

function approvalField(item, place) {
  const choice = (value, words) => {
    const radio = element("input", { type: "radio", name: `approval-${place}`, id: `approval-${place}-${value}`, value });
    return element("label", { class: "check" }, radio, words);
  };
  return element(
    "fieldset",
    { class: "field", "data-approval": item.id },
    element("legend", {}, "May the gateway call ", element("code", {}, `${item.server_label}.${item.name}(${item.arguments})`), "?"),
    element("div", { class: "tools" }, choice("yes", "Approve"), choice("no", "Deny")),
  );
}

function approvalOf(field) {
  const chosen = field.querySelector("input:checked");
  if (!chosen) throw new EntryError(field.querySelector("input").id, "Approve this call, or deny it.");
  return { type: "mcp_approval_response", approval_request_id: field.dataset.approval, approve: chosen.value === "yes" };
}
