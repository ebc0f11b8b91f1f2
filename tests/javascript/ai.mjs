// The AI SDK: a chat with the tools of an MCP server, over the texts of the job.
// It refers to the items of a response by their ids when the job says `store`, and sends them otherwise.
import { createOpenAI } from "@ai-sdk/openai";
import { generateText, streamText } from "ai";

globalThis.AI_SDK_LOG_WARNINGS = false;

export async function run(job) {
  const openai = createOpenAI({ baseURL: job.base_url, apiKey: job.token });
  const mcp = openai.tools.mcp({
    serverLabel: job.label,
    serverUrl: job.url,
    allowedTools: job.allowed,
    requireApproval: "approve" in job ? "always" : "never",
  });
  const providerOptions = { openai: { store: job.store } };
  const settings = { model: openai.responses(job.model), maxRetries: 0, providerOptions, tools: { mcp } };
  const messages = [];
  const turns = [];

  async function turn(message) {
    messages.push(message);
    const result = await generate({ ...settings, messages }, job.streamed);
    messages.push(...result.response.messages);
    turns.push({ answer: result.text, content: result.content });
    return result.content.filter((part) => part.type === "tool-approval-request");
  }

  for (const text of job.texts) {
    const requests = await turn({ role: "user", content: text });
    if (requests.length) await turn({ role: "tool", content: requests.map((request) => answer(request, job)) });
  }
  return { turns };
}

function answer(request, job) {
  // The server runs the tool, so the answer goes there.
  const given = { approved: job.approve, reason: job.reason, providerExecuted: true };
  return { type: "tool-approval-response", approvalId: request.approvalId, ...given };
}

async function generate(settings, streamed) {
  if (!streamed) return await generateText(settings);
  const result = streamText({ ...settings, onError: () => {} });
  for await (const part of result.fullStream) if (part.type === "error") throw part.error;
  return { text: await result.text, content: await result.content, response: await result.response };
}
