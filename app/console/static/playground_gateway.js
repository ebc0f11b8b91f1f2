/** The playground's requests: the views of the API, with the session's cookie instead of a token. */

import { eventsOf } from "./event_stream.js";
import { failureInEvent, failureOf } from "./playground_errors.js";

const ENDED = new Set(["response.completed", "response.incomplete", "response.failed"]);
/** Milliseconds before each attempt to follow a broken stream of a background response. */
const PAUSES = [250, 500, 1000, 2000, 4000, 8000];

/** A request that got no success. `failure`: as `failureOf` makes it. */
export class Refused extends Error {
  constructor(failure) {
    super(failure.message);
    this.failure = failure;
  }
}

export class PlaygroundGateway {
  /** @param {string} url of the playground  @param {string} csrf */
  constructor(url, csrf) {
    this.#url = url;
    this.#csrf = csrf;
  }

  #url;
  #csrf;

  /** The JSON at a path below the playground's. Throws Refused. */
  async get(path) {
    return (await this.#fetch(path, {})).json();
  }

  async cancel(id) {
    return (await this.post(`/${id}/cancel`, {})).json();
  }

  /** Posts JSON. A new session of the same browser has another CSRF token: it is fetched, and the request sent once
   * more. Throws Refused. */
  async post(path, body, signal = null) {
    const send = () => {
      const headers = { "Content-Type": "application/json", "X-CSRF-Token": this.#csrf };
      return this.#fetch(path, { method: "POST", headers, body: JSON.stringify(body), signal });
    };
    try {
      return await send();
    } catch (error) {
      if (!(error instanceof Refused) || error.failure.code !== "csrf_failed" || !(await this.#renew())) throw error;
      return send();
    }
  }

  /** Whether the page has another CSRF token now. */
  async #renew() {
    const page = await fetch(this.#url, { redirect: "manual" });
    if (!page.ok) return false;
    const read = new DOMParser().parseFromString(await page.text(), "text/html");
    const csrf = read.querySelector('meta[name="csrf"]')?.content;
    if (!csrf || csrf === this.#csrf) return false;
    this.#csrf = csrf;
    return true;
  }

  async #fetch(path, options) {
    let answer;
    try {
      answer = await fetch(this.#url + path, { ...options, redirect: "error" });
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw new Refused({ status: 0, code: null, param: null, message: "The gateway does not answer.", retryAfter: null });
    }
    if (!answer.ok) throw new Refused(await failureOf(answer));
    return answer;
  }

  /**
   * The events of a stream, with their JSON as `value`, and its comments. A background response goes on after its connection broke: `onBreak` is called
   * before each attempt, and events that were read already are not read again. Throws Refused when it cannot go on.
   */
  async *events(answer, { background, signal, onBreak }) {
    const state = { id: null, sequence: null, ended: false };
    let pauses = [...PAUSES];
    for (;;) {
      const before = state.sequence;
      yield* this.#untilBroken(answer, state, signal);
      if (state.ended) return;
      if (state.sequence !== before) pauses = [...PAUSES];
      answer = null;
      while (!answer) {
        if (!background || !state.id || !pauses.length) throw brokenOff(state);
        onBreak();
        await new Promise((resolve) => setTimeout(resolve, pauses.shift()));
        answer = await this.#again(state, signal);
      }
    }
  }

  async *#untilBroken(answer, state, signal) {
    try {
      for await (const found of eventsOf(answer.body)) {
        const value = found.comment === undefined ? parsed(found.data) : null;
        if (value) note(value, state);
        yield { ...found, value };
      }
    } catch (error) {
      if (signal.aborted) throw error;
    }
  }

  /** The stream from the last event on; null while the gateway does not answer. */
  async #again({ id, sequence }, signal) {
    const after = sequence === null ? "" : `&starting_after=${sequence}`;
    try {
      return await this.#fetch(`/${id}?stream=true${after}`, { signal });
    } catch (error) {
      if (error instanceof Refused && (error.failure.status === 0 || error.failure.status >= 502)) return null;
      throw error;
    }
  }

  /** The stream of a background response from its beginning. */
  follow(id, signal) {
    return this.#fetch(`/${id}?stream=true`, { signal });
  }
}

function parsed(data) {
  try {
    const value = JSON.parse(data);
    return typeof value === "object" ? value : null;
  } catch {
    return null;
  }
}

function note(event, state) {
  state.id = event.response?.id ?? state.id;
  state.sequence = event.sequence_number ?? state.sequence;
  state.ended ||= ENDED.has(event.type);
}

function brokenOff(state) {
  const message = state.id
    ? "The connection broke before the end of the answer. What had arrived is stored as a cancelled response."
    : "The connection broke before the answer began.";
  return new Refused({ ...failureInEvent({}), status: 0, message });
}
