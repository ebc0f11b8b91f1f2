/** The playground: a conversation of one's own, turn by turn, with the events of each answer beside it. */

import { AnswerView, questionView } from "./playground_answer.js";
import { badge, button, element, note } from "./elements.js";
import { adviceFor, failureInEvent } from "./playground_errors.js";
import { EventsView } from "./playground_events.js";
import { PlaygroundGateway, Refused } from "./playground_gateway.js";
import { MOST_IMAGES, dataUrlOf } from "./playground_images.js";
import { amount, money, shortId } from "./numbers.js";
import {
  EntryError,
  asCurl,
  asPython,
  compactRequest,
  createRequest,
  inputItems,
  readTools,
  textOf,
  toolsAsText,
  waitingFor,
} from "./playground_requests.js";
import { Timeline } from "./playground_timeline.js";

const $ = (id) => document.getElementById(id);
const page = $("playground");
const facts = JSON.parse(page.dataset.facts);
const gateway = new PlaygroundGateway(facts.url, document.querySelector('meta[name="csrf"]').content);
const eventsView = new EventsView($("events"), $("drawing"));
const controls = {
  settings: $("settings"), say: $("say"), input: $("input"), send: $("send"), stop: $("stop"), compact: $("compact"),
};

const DRAFT = "antiphon-playground-draft";
/** Milliseconds between two drawings of a running answer. */
const DRAW_EVERY = 80;
const CHAINABLE = new Set(["completed", "incomplete"]);
/** Characters of an answer that are read aloud at its end. */
const MOST_ANNOUNCED = 600;

/** The turn that the next one goes on from: `{id, before, stored, items, output, usage, cost, element, timeline}`. */
let tip = null;
/** What runs: `{abort, id, background}`. */
let running = null;
/** The newest request, for the programs: `{path, body}`. */
let latest = null;
let shownTimeline = null;
let images = [];

// --- settings and input

function settings() {
  return {
    model: $("f-model").value,
    effort: $("f-effort").value,
    tools: readTools($("tools").value, facts.servers, facts.hosted),
    store: $("f-store").checked,
    stream: $("f-stream").checked,
    background: $("f-background").checked,
    instructions: $("f-instructions").value,
    threshold: Number($("f-threshold").value) || null,
  };
}

/** What the next turn needs of those before it: the newest stored response, and the items since then. */
function context() {
  const items = [];
  let turn = tip;
  while (turn && !turn.stored) {
    items.unshift(...turn.items, ...turn.output);
    if (turn.replaces) return { previous: null, items };
    turn = turn.before;
  }
  return { previous: turn?.id ?? null, items };
}

/** The answers that a person has entered to what the model waits for. Throws EntryError. */
function enteredOutputs() {
  return [...$("waiting").querySelectorAll("[data-call]")].map((field) => {
    if (field.dataset.kind === "mcp_approval_request") return approvalOf(field);
    const output = field.querySelector("textarea").value;
    if (!output) throw new EntryError(field.querySelector("textarea").id, "The model waits for the output of this call.");
    return { type: "function_call_output", call_id: field.dataset.call, output };
  });
}

function approvalOf(field) {
  const chosen = field.querySelector("input:checked");
  if (!chosen) throw new EntryError(field.querySelector("input").id, "Approve this call, or deny it.");
  return { type: "mcp_approval_response", approval_request_id: field.dataset.call, approve: chosen.value === "yes" };
}

function showWaiting(output) {
  const fields = waitingFor(output).map((item, place) => {
    return item.type === "mcp_approval_request" ? approvalField(item, place) : outputField(item, place);
  });
  $("waiting").replaceChildren(...fields);
  $("waiting").hidden = !fields.length;
}

function outputField(item, place) {
  const id = `output-${place}`;
  return element(
    "div",
    { class: "field", "data-call": item.call_id, "data-kind": item.type },
    element("label", { for: id }, "Output of ", element("code", {}, `${item.name}(${item.arguments})`)),
    element("textarea", { id, class: "mono", rows: 2 }),
  );
}

function approvalField(item, place) {
  const choice = (value, words) => {
    const radio = element("input", { type: "radio", name: `approval-${place}`, id: `approval-${place}-${value}`, value });
    return element("label", { class: "check" }, radio, words);
  };
  return element(
    "fieldset",
    { class: "field", "data-call": item.id, "data-kind": item.type },
    element("legend", {}, "May the gateway call ", element("code", {}, `${item.server_label}.${item.name}(${item.arguments})`), "?"),
    element("div", { class: "tools" }, choice("yes", "Approve"), choice("no", "Deny")),
  );
}

async function addImages() {
  clearError();
  for (const file of $("img").files) {
    try {
      if (images.length >= MOST_IMAGES) throw new Error(`At most ${MOST_IMAGES} images go with a message.`);
      images.push({ name: file.name, url: await dataUrlOf(file) });
    } catch (error) {
      showEntryError(new EntryError("img", error.message));
    }
  }
  $("img").value = "";
  showImages();
}

function showImages() {
  const shown = images.map((image) => {
    const remove = button("Remove", { class: "btn quiet small", "aria-label": `Remove ${image.name}` }, () => {
      images = images.filter((each) => each !== image);
      showImages();
    });
    return element("li", {}, preview(image), element("span", { class: "clip" }, image.name), remove);
  });
  $("images").replaceChildren(...shown);
}

function preview(image) {
  return element("img", { src: image.url, alt: image.name });
}

// --- errors

function showEntryError(error) {
  const field = $(error.field);
  $("error").replaceChildren(note("bad", [error.message]));
  field?.setAttribute("aria-invalid", "true");
  field?.focus();
}

function clearError() {
  $("error").replaceChildren();
  for (const field of page.querySelectorAll("[aria-invalid]")) field.removeAttribute("aria-invalid");
}

function failureNote(failure) {
  const code = [failure.status || null, failure.code].filter(Boolean).join(" ");
  const words = [
    element("b", {}, code ? `${code} ` : ""),
    element("span", {}, failure.message),
    element("span", { class: "sub" }, failure.param ? `Parameter ${failure.param}. ` : "", adviceFor(failure)),
  ];
  return note("bad", words, failure.status === 401 ? signInLink() : null);
}

function signInLink() {
  return element("a", { class: "btn small", href: facts.signIn, target: "_blank", rel: "noopener" }, "Sign in");
}

function takeDraft() {
  controls.input.value ||= sessionStorage.getItem(DRAFT) ?? "";
  sessionStorage.removeItem(DRAFT);
}

// --- a turn

async function send() {
  if (running) return;
  clearError();
  const entered = entries(() => ({ chosen: settings(), items: newItems() }));
  if (!entered) return;
  const { chosen, items } = entered;
  const request = { path: "/responses", body: createRequest(chosen, context(), items) };
  const question = questionView(items, images.map(preview));
  const draft = { text: controls.input.value, images, outputs: [...$("waiting").childNodes] };
  controls.input.value = "";
  images = [];
  showImages();
  $("waiting").replaceChildren();
  const turn = await take({ request, question, items, chosen, path: "" });
  if (CHAINABLE.has(turn.status)) sessionStorage.removeItem(DRAFT);
  else restore(draft, turn.failure);
}

/** What `read` gives; null, and the page says why, for an entry that has to be corrected. */
function entries(read) {
  try {
    return read();
  } catch (error) {
    if (!(error instanceof EntryError)) throw error;
    showEntryError(error);
    return null;
  }
}

function newItems() {
  const text = controls.input.value.trim();
  const items = inputItems({ text, images: images.map((image) => image.url), outputs: enteredOutputs() });
  if (!items.length) throw new EntryError("input", "Write a message, or add an image.");
  return items;
}

async function compact() {
  if (running) return;
  clearError();
  const before = context();
  const chosen = entries(() => {
    if (!before.previous && !before.items.length) throw new EntryError("input", "There is nothing to compact yet.");
    return settings();
  });
  if (!chosen) return;
  const request = { path: "/responses/compact", body: compactRequest(chosen, before) };
  await take({ request, question: null, items: [], chosen, path: "/compact" });
}

/** Puts back what was entered, for a request that has made no turn. Where the session has ended, the text outlives the
 * page as well: it may be left for the sign-in. */
function restore(draft, failure) {
  controls.input.value ||= draft.text;
  if (failure?.status === 401) sessionStorage.setItem(DRAFT, draft.text);
  if (!images.length) images = draft.images;
  $("waiting").replaceChildren(...draft.outputs);
  $("waiting").hidden = !draft.outputs.length;
  showImages();
  controls.input.focus();
}

/** Sends a request and draws its answer. Returns the turn, which may have failed. */
async function take({ request, question, items, chosen, path }) {
  latest = request;
  const view = new AnswerView(path ? "compaction" : chosen.model);
  const turn = {
    id: null, before: tip, stored: false, items, output: [], usage: null, cost: null, status: null,
    question, replaces: Boolean(path), timeline: new Timeline(), startedAt: performance.now(), view,
    element: element("div", {}, ...(question ? [question] : []), view.element),
  };
  $("turns").append(turn.element);
  showTimeline(turn.timeline);
  begin(chosen);
  const ticking = setInterval(() => draw(turn, true), DRAW_EVERY);
  try {
    await receive(turn, request.body, chosen, path);
  } catch (error) {
    if (error.name === "AbortError") turn.status = "cancelled";
    else if (error instanceof Refused) refuse(turn, error.failure);
    else throw error;
  } finally {
    clearInterval(ticking);
    running = null;
    finish(turn);
  }
  return turn;
}

function begin(chosen) {
  running = { abort: new AbortController(), id: null, background: chosen.background };
  controls.send.disabled = controls.compact.disabled = true;
  controls.stop.hidden = false;
}

async function receive(turn, body, chosen, path) {
  const { signal } = running.abort;
  let answer = await gateway.post(path, body, signal);
  const streams = answer.headers.get("Content-Type")?.startsWith("text/event-stream");
  if (!streams && chosen.background) {
    const queued = await answer.json();
    noteResponse(turn, queued);
    answer = await gateway.follow(queued.id, signal);
  } else if (!streams) {
    const response = await answer.json();
    turn.timeline.add({ name: "answer", data: JSON.stringify(response), value: response }, elapsed(turn));
    turn.view.takeOutput(response.output);
    noteResponse(turn, { status: "completed", ...response });
    return;
  }
  const onBreak = () => turn.view.streaming(elapsed(turn), "connecting again");
  for await (const found of gateway.events(answer, { background: chosen.background, signal, onBreak })) {
    turn.timeline.add(found, elapsed(turn));
    if (found.value) takeEvent(turn, found.value);
  }
}

function takeEvent(turn, event) {
  turn.view.take(event);
  if (event.response) noteResponse(turn, event.response);
  if (event.type === "error") turn.failure = failureInEvent(event);
}

function noteResponse(turn, response) {
  turn.id = response.id;
  running.id = response.id;
  turn.status = response.status;
  turn.stored = response.store ?? $("f-store").checked;
  turn.output = response.output;
  turn.usage = response.usage ?? null;
  if (response.status === "failed") turn.failure ??= failureInEvent({ response });
}

function refuse(turn, failure) {
  turn.failure = failure;
  turn.status = turn.id ? "failed" : null;
}

function elapsed(turn) {
  return performance.now() - turn.startedAt;
}

function draw(turn, isRunning) {
  if (isRunning) turn.view.streaming(elapsed(turn), turn.id ? "streaming" : "waiting");
  if (shownTimeline === turn.timeline) eventsView.draw(isRunning ? elapsed(turn) : turn.endedAt, isRunning);
}

function finish(turn) {
  turn.endedAt = elapsed(turn);
  turn.view.finish(turn.status);
  if (turn.failure) turn.view.body.append(failureNote(turn.failure));
  draw(turn, false);
  controls.send.disabled = controls.compact.disabled = false;
  controls.stop.hidden = true;
  $("programs").hidden = false;
  if (turn.id) turn.view.facts({ totalMs: turn.endedAt, usage: turn.usage });
  else {
    // It has made no response: what was entered goes back to where it came from.
    turn.question?.remove();
    turn.view.by.remove();
    if (!turn.failure) turn.element.remove();
  }
  if (CHAINABLE.has(turn.status)) goOnFrom(turn);
  offer(turn);
  announce(turn);
  if (turn.id) showFacts(turn);
}

/** Makes the turn the one that the next goes on from. */
function goOnFrom(turn) {
  tip = turn;
  foldLater(turn);
  showWaiting(turn.output);
  showHead();
}

/** Turns of another branch stay on the page, folded. */
function foldLater(turn) {
  const later = [];
  for (let next = turn.element.nextElementSibling; next; next = next.nextElementSibling) later.push(next);
  if (!later.length) return;
  const words = later.length === 1 ? "1 turn of another branch" : `${later.length} turns of another branch`;
  const folded = element("details", { class: "more-d" }, element("summary", {}, words));
  turn.element.after(folded);
  folded.append(...later);
}

function offer(turn) {
  const { view } = turn;
  if (CHAINABLE.has(turn.status)) view.offer("Branch here", () => branch(turn));
  if (turn.id && turn.stored) {
    view.actions.append(element("a", { class: "btn quiet small", href: facts.tree.replace("ID", turn.id) }, "In the tree"));
  }
  if (turn.timeline) view.offer("Events", () => showTimeline(turn.timeline, turn.endedAt));
}

function branch(turn) {
  if (running) return;
  goOnFrom(turn);
  controls.input.focus();
}

function showTimeline(timeline, at = 0) {
  shownTimeline = timeline;
  eventsView.show(timeline);
  eventsView.draw(at, false);
}

function announce(turn) {
  const words = turn.failure ? `Failed: ${turn.failure.message}` : `${turn.status ?? "stopped"}. ${textOf(turn.output)}`;
  $("status").textContent = words.slice(0, MOST_ANNOUNCED);
}

/** The facts that the API's answer does not hold. A response that is not stored has its row a little later. */
async function showFacts(turn) {
  for (const pause of [0, 500, 2000]) {
    await new Promise((resolve) => setTimeout(resolve, pause));
    try {
      const found = await gateway.get(`/${turn.id}/facts`);
      turn.cost = found.cost;
      turn.view.facts({ ...found, usage: turn.usage });
      showHead();
      return;
    } catch (error) {
      if (!(error instanceof Refused) || error.failure.status !== 404) return;
    }
  }
}

/** The line under the heading: where the conversation goes on from, and what it has used. */
function showHead() {
  const turns = [];
  for (let turn = tip; turn; turn = turn.before) turns.push(turn);
  const made = turns.filter((turn) => turn.timeline);
  const tokens = made.reduce((sum, turn) => sum + (turn.usage?.total_tokens ?? 0), 0);
  const costs = made.map((turn) => turn.cost);
  const cost = costs.length && costs.every((each) => each !== null && each !== undefined) ? costs.reduce((sum, each) => sum + each) : null;
  const words = [
    element("span", {}, turns.some((turn) => !turn.timeline) ? `goes on from ${shortId(turns.at(-1).id)}` : "new conversation"),
    made.length ? element("span", {}, `${amount(tokens)} tokens, ${money(cost)} so far`) : null,
    tip ? element("span", { class: "mono" }, shortId(tip.id)) : null,
  ];
  $("facts").replaceChildren(...words.filter(Boolean));
}

// --- the buttons

async function stop() {
  if (!running) return;
  const { id, background, abort } = running;
  if (!background || !id) {
    abort.abort();
    return;
  }
  try {
    await gateway.cancel(id);
  } catch (error) {
    if (!(error instanceof Refused)) throw error;
    abort.abort();
  }
}

async function copyProgram(as, copied) {
  const text = as(facts.base, latest.path, latest.body);
  const words = copied.textContent;
  try {
    await navigator.clipboard.writeText(text);
    copied.textContent = "Copied";
  } catch {
    $("program").textContent = text;
    $("program").hidden = false;
    copied.textContent = "Select it and copy";
  }
  setTimeout(() => { copied.textContent = words; }, 2000);
}

function download() {
  const url = URL.createObjectURL(new Blob([shownTimeline.asLines()], { type: "application/x-ndjson" }));
  const link = element("a", { href: url, download: `${tip?.id ?? "events"}.jsonl` });
  link.click();
  URL.revokeObjectURL(url);
}

// --- the beginning

/** Goes on from a stored response of one's own. */
async function open(id) {
  let response;
  try {
    response = await gateway.get(`/${id}`);
  } catch (error) {
    if (!(error instanceof Refused)) throw error;
    $("turns").append(failureNote(error.failure));
    return;
  }
  const view = new AnswerView(response.model);
  view.takeOutput(response.output);
  view.finish(response.status);
  view.facts({ usage: response.usage });
  const turn = { id, before: null, stored: true, items: [], output: response.output, status: response.status, view, element: view.element };
  $("turns").append(view.element);
  fillSettings(response);
  if (CHAINABLE.has(response.status)) goOnFrom(turn);
  else $("turns").append(note("warn", [`This response is ${response.status}: only complete ones can be continued.`]));
  offer(turn);
}

/** What is not carried over from turn to turn is entered again. */
function fillSettings(response) {
  const model = $("f-model");
  if (!facts.model && [...model.options].some((option) => option.value === response.model)) model.value = response.model;
  if (typeof response.instructions === "string") $("f-instructions").value = response.instructions;
  if (response.tools?.length) $("tools").value = toolsAsText(response.tools);
  if (response.reasoning?.effort) $("f-effort").value = response.reasoning.effort;
}

function start() {
  page.hidden = false;
  $("needs-script").hidden = true;
  controls.say.addEventListener("submit", (event) => {
    event.preventDefault();
    send();
  });
  controls.settings.addEventListener("submit", (event) => event.preventDefault());
  controls.input.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || !(event.ctrlKey || event.metaKey) || event.isComposing) return;
    event.preventDefault();
    send();
  });
  controls.stop.addEventListener("click", stop);
  controls.compact.addEventListener("click", compact);
  $("img").addEventListener("change", addImages);
  $("copy-curl").addEventListener("click", (event) => copyProgram(asCurl, event.currentTarget));
  $("copy-python").addEventListener("click", (event) => copyProgram(asPython, event.currentTarget));
  $("download").addEventListener("click", download);
  window.addEventListener("beforeunload", (event) => {
    if (running) event.preventDefault();
  });
  takeDraft();
  showHead();
  if (facts.from) open(facts.from);
}

start();
