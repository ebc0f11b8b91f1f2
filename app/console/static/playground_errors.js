/** What to do about an error, in the words of the page. Pure. */

/** By the error's code. */
const BY_CODE = new Map([
  ["session_ended", "Sign in again: what you have written stays here."],
  ["csrf_failed", "Reload the page: what you have written stays here."],
  ["cross_site", "Open the console by its own address."],
  ["rate_limit_exceeded", "Wait, and send it again. Your token's limits are on the page People."],
  ["insufficient_quota", "The budget of your token is spent until its next period. An operator can raise it."],
  ["model_not_found", "Choose another model."],
  ["previous_response_not_found", "It was deleted, is past its retention, or is not yours. Branch from another answer."],
  ["previous_response_failed", "Only complete answers can be continued. Branch from the one before."],
  ["previous_response_not_ready", "Wait for its end, then send it again."],
  ["context_length_exceeded", "Compact the conversation, or branch from an earlier answer."],
  ["request_too_large", "Send smaller images, or fewer."],
  ["server_is_overloaded", "Wait a moment, and send it again."],
  ["external_connector_error", "Try it without this tool server, or look at the page Tools."],
  ["invalid_encrypted_content", "Branch from an earlier answer."],
]);

/** By the status, where the code says no more. */
const BY_STATUS = new Map([
  [0, "Look at your connection. Send it again when the gateway answers."],
  [401, "Sign in again: what you have written stays here."],
  [413, "Send smaller images, or fewer."],
  [424, "Try it without this tool server, or look at the page Tools."],
  [429, "Wait, and send it again."],
]);

/**
 * @param {{status: number | null, code: string | null, retryAfter: number | null}} failure `status`: 0 without an
 *   answer, null for an event of a stream
 */
export function adviceFor({ status, code, retryAfter }) {
  if (status === 429 && retryAfter && code !== "insufficient_quota") return `Send it again in ${retryAfter} s.`;
  if (BY_CODE.has(code)) return BY_CODE.get(code);
  if (BY_STATUS.has(status)) return BY_STATUS.get(status);
  if (status === null || status >= 500) return "The page Requests shows what each channel answered. Send it again, or choose another model.";
  return "Correct it, and send it again.";
}

/** The failure in an answer that is no success. `body`: its JSON, null for another one. */
export async function failureOf(answer) {
  const retryAfter = Number(answer.headers.get("Retry-After")) || null;
  const body = await answer.json().catch(() => null);
  const { code = null, param = null, message = `The gateway answered ${answer.status}.` } = body?.error ?? {};
  return { status: answer.status, code, param, message, retryAfter, body };
}

/** The failure that an event names: `error`, or `response.failed`. */
export function failureInEvent(event) {
  const error = event.error ?? event.response?.error ?? {};
  const { code = null, param = null, message = "The answer failed." } = error;
  return { status: null, code, param, message, retryAfter: null };
}
