// Runs the console's scripts that need no page on one job after another: a line of JSON each, and its outcome.
import { createInterface } from "node:readline";
import { eventsOf } from "./event_stream.js";
import { amount, money, seconds, shortId } from "./numbers.js";
import { adviceFor } from "./playground_errors.js";
import { typeOf } from "./playground_images.js";
import * as requests from "./playground_requests.js";
import { Timeline, summary } from "./playground_timeline.js";
import { Turn, contextAfter, totals } from "./playground_turns.js";

const bytes = (base64) => new Uint8Array(Buffer.from(base64, "base64"));

function streamOf(pieces) {
  return new ReadableStream({
    start(controller) {
      pieces.forEach((piece) => controller.enqueue(bytes(piece)));
      controller.close();
    },
  });
}

async function parse({ pieces }) {
  const found = [];
  for await (const event of eventsOf(streamOf(pieces))) found.push(event);
  return found;
}

function timeline({ events }) {
  const made = new Timeline();
  for (const { at, event } of events) made.add({ data: JSON.stringify(event), value: event }, at);
  return {
    rows: made.rows.map((row) => ({ ...row, words: summary(made, row) })),
    spans: made.spans,
    kept: made.events.length,
    rowsLeftOut: made.rowsLeftOut,
    eventsLeftOut: made.eventsLeftOut,
    lines: made.asLines(),
  };
}

/** The same stream of deltas, too long to be sent here. */
function manyDeltas({ count }) {
  const event = (number) => ({ type: "response.output_text.delta", item_id: `item-${number % 2}`, delta: "x", sequence_number: number });
  return timeline({ events: Array.from({ length: count }, (_, number) => ({ at: number, event: event(number) })) });
}

function tools({ text, servers = [], hosted = [] }) {
  try {
    return { tools: requests.readTools(text, servers, hosted) };
  } catch (error) {
    return { field: error.field, message: error.message };
  }
}

/** The context and the totals after turns that follow each other. */
function turns({ made }) {
  const tip = made.reduce((before, { items, replaces, response, stored, cost, opened }) => {
    const turn = new Turn({ before, items, replaces });
    turn.note(response, stored);
    return Object.assign(turn, { cost, opened });
  }, null);
  return { context: contextAfter(tip), totals: totals(tip) };
}

const JOBS = {
  turns,
  parse,
  timeline,
  manyDeltas: (job) => ({ ...manyDeltas(job), lines: "" }),
  tools,
  numbers: ({ values }) => values.map((value) => [amount(value), seconds(value), money(value)]),
  shortId: ({ id }) => shortId(id),
  advice: adviceFor,
  typeOf: ({ start }) => typeOf(bytes(start)),
  call: ({ name, values }) => requests[name](...values),
};

for await (const line of createInterface({ input: process.stdin })) {
  const { job, ...values } = JSON.parse(line);
  const outcome = await Promise.resolve(values).then(JOBS[job]).then((value) => ({ value }), (error) => ({ error: String(error.stack) }));
  console.log(JSON.stringify(outcome));
}
