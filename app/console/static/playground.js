/** The playground: a conversation of one's own, turn by turn, with the events of each answer beside it. */

import { button, element, note } from "./elements.js";
import { amount, money, shortId } from "./numbers.js";
import { AnswerView, questionView } from "./playground_answer.js";
import { Entry } from "./playground_entry.js";
import { adviceFor, failureInEvent } from "./playground_errors.js";
import { EventsView } from "./playground_events.js";
import { PlaygroundGateway, Refused } from "./playground_gateway.js";
import { EntryError, asCurl, asPython, compactRequest, createRequest, textOf } from "./playground_requests.js";
import { Timeline } from "./playground_timeline.js";
import { Turn, contextAfter, lineOf, totals } from "./playground_turns.js";

const $ = (id) => document.getElementById(id);
const facts = JSON.parse($("playground").dataset.facts);
const gateway = new PlaygroundGateway(facts.url, document.querySelector('meta[name="csrf"]').content);
const entry = new Entry(facts);
const eventsView = new EventsView($("events"), $("drawing"));

const firstAddress = location.pathname + location.search;

/** Milliseconds between two drawings of a running answer. */
const DRAW_EVERY = 80;
/** Answers whose events are kept. */
const MOST_TIMELINES = 10;
/** Characters of an answer that are read aloud at its end. */
const MOST_ANNOUNCED = 600;
const RUNNING = new Set(["queued", "in_progress"]);
/** Headers that say what the model did not get, and the words before it. */
const CHANGES = [["X-Antiphon-Dropped-Tools", "tools left out"], ["X-Antiphon-Adapted", "adapted"]];

/** The parent of the next turn. */
let tip = null;
/** What runs: `{turn, background, abort}`. */
let running = null;
/** The newest request, for the programs: `{path, body}`. */
let latest = null;
/** The turn whose events are shown, and all that have some, the oldest first. */
let shown = null;
const recorded = [];

// --- sending

async function send() {
  if (running) return;
  const entered = entry.read(() => ({ settings: entry.settings(), items: entry.items() }));
  if (!entered) return;
  const { settings, items } = entered;
  const turn = new Turn({ before: tip, items });
  latest = { path: "/responses", body: createRequest(settings, contextAfter(tip), items) };
  const question = questionView(items, entry.previews());
  const draft = entry.take();
  await run(turn, question, settings, (signal) => gateway.post("", latest.body, signal));
  if (turn.isChainable) entry.drop();
  else entry.restore(draft);
  if (turn.failure?.status === 401) entry.keep(draft.text);
}

async function compact() {
  if (running) return;
  const context = contextAfter(tip);
  const settings = entry.read(() => {
    if (!context.previous && !context.items.length) throw new EntryError("input", "There is nothing to compact yet.");
    return entry.settings();
  });
  if (!settings) return;
  latest = { path: "/responses/compact", body: compactRequest(settings, context) };
  const turn = new Turn({ before: tip, replaces: true });
  const plain = { ...settings, model: "compaction", background: false };
  await run(turn, null, plain, (signal) => gateway.post("/compact", latest.body, signal));
}

/** Stops the answer that is made: by leaving, or in the background by cancelling it. */
async function stop() {
  if (!running) return;
  const { turn, background, abort } = running;
  if (!background || !turn.id) {
    abort.abort();
    return;
  }
  try {
    await gateway.cancel(turn.id);
  } catch (error) {
    if (!(error instanceof Refused)) throw error;
    abort.abort();
  }
}

// --- a turn

/** Draws a turn from its request to its end. `connect` returns its answer. */
async function run(turn, question, settings, connect) {
  turn.timeline = new Timeline();
  turn.startedAt = performance.now();
  turn.view = new AnswerView(settings.model);
  turn.element = element("div", {}, question, turn.view.element);
  $("turns").append(turn.element);
  running = { turn, background: settings.background, abort: new AbortController() };
  setRunning(true);
  showEvents(turn);
  const drawing = setInterval(() => draw(turn), DRAW_EVERY);
  try {
    await receive(turn, settings, connect);
  } catch (error) {
    if (error.name === "AbortError") turn.status = "cancelled";
    else if (error instanceof Refused) refuse(turn, error.failure);
    else throw error;
  } finally {
    clearInterval(drawing);
    running = null;
    finish(turn, question);
    setRunning(false);
  }
}

async function receive(turn, settings, connect) {
  const { signal } = running.abort;
  let answer = await connect(signal);
  turn.changes = CHANGES.map(([name, words]) => [words, answer.headers.get(name)]).filter(([, value]) => value);
  if (!isStream(answer)) {
    const response = await answer.json();
    turn.note(response, settings.store);
    if (!settings.background) {
      turn.timeline.add({ name: "answer", data: JSON.stringify(response), value: response }, elapsed(turn));
      turn.view.takeOutput(response.output);
      return;
    }
    answer = await gateway.follow(response.id, signal);
  }
  const onBreak = () => { turn.isBroken = true; };
  for await (const found of gateway.events(answer, { background: settings.background, signal, onBreak })) {
    turn.isBroken = false;
    turn.timeline.add(found, elapsed(turn));
    if (found.value) take(turn, found.value, settings);
  }
}

function refuse(turn, failure) {
  turn.failure = failure;
  if (failure.body) {
    turn.timeline.add({ name: String(failure.status), data: JSON.stringify(failure.body), value: failure.body }, elapsed(turn));
  }
}

function isStream(answer) {
  return answer.headers.get("Content-Type")?.startsWith("text/event-stream");
}

function take(turn, event, settings) {
  turn.view.take(event);
  if (event.response) {
    turn.note(event.response, settings.store);
    if (settings.background) showAddress(turn);
  }
  if (event.type === "error" || event.type === "response.failed") turn.failure ??= failureInEvent(event);
}

function elapsed(turn) {
  return performance.now() - turn.startedAt;
}

function draw(turn) {
  const words = turn.isBroken ? "connecting again" : turn.id ? "streaming" : "waiting";
  turn.view.streaming(elapsed(turn), words);
  if (shown === turn) eventsView.draw(elapsed(turn), true);
}

function finish(turn, question) {
  turn.endedAt = elapsed(turn);
  turn.view.finish(turn.failure && turn.id ? "failed" : turn.status);
  if (shown === turn) eventsView.draw(turn.endedAt, false);
  if (turn.failure) turn.view.body.append(failureNote(turn.failure));
  announce(turn);
  $("programs").hidden = false;
  if (!turn.id) {
    // It has made no response: what was entered goes back to where it came from.
    question?.remove();
    turn.view.by.remove();
    if (!turn.failure) turn.element.remove();
    return;
  }
  showAddress(tip);
  turn.view.facts({ totalMs: turn.endedAt, usage: turn.usage, changes: turn.changes });
  if (turn.isChainable) goOnFrom(turn);
  recorded.push(turn);
  offer(turn);
  forgetOldEvents();
  showFacts(turn);
}

function announce(turn) {
  const words = turn.failure ? `Failed: ${turn.failure.message}` : `${turn.status ?? "stopped"}. ${textOf(turn.output)}`;
  $("status").textContent = words.slice(0, MOST_ANNOUNCED);
}

function failureNote(failure) {
  const code = [failure.status || null, failure.code].filter(Boolean).join(" ");
  const words = [
    code ? element("b", {}, `${code} `) : "",
    element("span", {}, failure.message),
    element("span", { class: "sub" }, failure.param ? `Parameter ${failure.param}. ` : "", adviceFor(failure)),
  ];
  return note("bad", words, failure.status === 401 ? signInLink() : null);
}

function signInLink() {
  return element("a", { class: "btn small", href: facts.signIn, target: "_blank", rel: "noopener" }, "Sign in");
}

/** The focus does not fall to the page when the button that has it goes. */
function setRunning(isRunning) {
  const focused = document.activeElement;
  $("stop").hidden = !isRunning;
  $("send").disabled = $("compact").disabled = isRunning;
  if (isRunning && (focused === $("send") || focused === $("compact"))) $("stop").focus();
  if (!isRunning && (focused === $("stop") || focused === document.body)) entry.input.focus();
}

/** What the gateway's row knows beside the answer. That of a response that is not stored comes a little later. */
async function showFacts(turn) {
  for (const pause of [0, 500, 2000]) {
    await new Promise((resolve) => setTimeout(resolve, pause));
    try {
      const found = await gateway.get(`/${turn.id}/facts`);
      turn.cost = found.cost;
      turn.view.facts({ ...found, usage: turn.usage, changes: turn.changes });
      showHead();
      return;
    } catch (error) {
      if (!(error instanceof Refused)) throw error;
      if (error.failure.status !== 404) return;
    }
  }
}

// --- the conversation

/** Makes the turn the parent of the next one. */
function goOnFrom(turn) {
  tip = turn;
  foldLater(turn);
  entry.ask(turn.output);
  showAddress(turn);
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

/** The address of the page leads back to where the conversation is. */
function showAddress(turn) {
  history.replaceState(null, "", turn?.stored ? `${facts.url}?from=${turn.id}` : firstAddress);
}

function showHead() {
  const { count, tokens, cost } = totals(tip);
  const opened = lineOf(tip).find((turn) => turn.opened);
  const words = [
    element("span", {}, opened ? `goes on from ${shortId(opened.id)}` : "new conversation"),
    count ? element("span", {}, `${amount(tokens)} tokens, ${money(cost)} so far`) : null,
    tip ? element("span", { class: "mono" }, shortId(tip.id)) : null,
  ];
  $("facts").replaceChildren(...words.filter(Boolean));
}

function offer(turn) {
  const { actions } = turn.view;
  const add = (words, action) => {
    const made = button(words, { class: "btn quiet small" }, action);
    actions.append(made);
    return made;
  };
  if (turn.isChainable) add("Branch here", () => branch(turn));
  if (turn.stored) {
    actions.append(element("a", { class: "btn quiet small", href: facts.tree.replace("ID", turn.id) }, "In the tree"));
  }
  if (turn.timeline) turn.eventsButton = add("Events", () => showEvents(turn));
}

function branch(turn) {
  if (running) return;
  goOnFrom(turn);
  entry.input.focus();
}

// --- events

function showEvents(turn) {
  shown = turn;
  eventsView.show(turn.timeline);
  eventsView.draw(turn.endedAt ?? 0, turn === running?.turn);
}

function forgetOldEvents() {
  while (recorded.length > MOST_TIMELINES) {
    const oldest = recorded.shift();
    oldest.timeline = null;
    oldest.eventsButton.remove();
  }
}

function download() {
  const url = URL.createObjectURL(new Blob([shown.timeline.asLines()], { type: "application/x-ndjson" }));
  element("a", { href: url, download: `${shown.id ?? "events"}.jsonl` }).click();
  URL.revokeObjectURL(url);
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

// --- the beginning

/** Continues a stored response of the visitor's, or follows one that still runs in the background. */
async function open(id) {
  let response;
  try {
    response = await gateway.get(`/${id}`);
  } catch (error) {
    if (!(error instanceof Refused)) throw error;
    $("turns").append(failureNote(error.failure));
    return;
  }
  entry.fill(response);
  const turn = new Turn({ before: null });
  turn.note(response, true);
  turn.opened = true;
  if (RUNNING.has(response.status) && response.background) {
    await run(turn, null, { model: response.model, background: true, store: true }, (signal) => gateway.follow(id, signal));
    return;
  }
  showOpened(turn, response);
}

function showOpened(turn, response) {
  turn.view = new AnswerView(response.model);
  turn.element = turn.view.element;
  turn.view.takeOutput(response.output);
  turn.view.finish(response.status);
  turn.view.facts({ usage: response.usage });
  $("turns").append(turn.element);
  if (turn.isChainable) goOnFrom(turn);
  else $("turns").append(note("warn", [`This response is ${response.status}: only complete ones can be continued.`]));
  offer(turn);
  showFacts(turn);
}

function start() {
  $("playground").hidden = false;
  $("needs-script").hidden = true;
  $("say").addEventListener("submit", (event) => {
    event.preventDefault();
    send();
  });
  $("settings").addEventListener("submit", (event) => event.preventDefault());
  entry.input.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || !(event.ctrlKey || event.metaKey) || event.isComposing) return;
    event.preventDefault();
    send();
  });
  $("stop").addEventListener("click", stop);
  $("compact").addEventListener("click", compact);
  $("copy-curl").addEventListener("click", (event) => copyProgram(asCurl, event.currentTarget));
  $("copy-python").addEventListener("click", (event) => copyProgram(asPython, event.currentTarget));
  $("download").addEventListener("click", download);
  window.addEventListener("beforeunload", (event) => {
    if (running) event.preventDefault();
  });
  showHead();
  if (facts.from) open(facts.from);
}

start();
