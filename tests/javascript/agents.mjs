// The Agents SDK: an agent with the tools of an MCP server, over the texts of the job.
// The SDK keeps the history itself when the job says `own_history`, and chains by ids otherwise.
import OpenAI from "openai";
import { Agent, OpenAIResponsesModel, Runner, hostedMcpTool, setTracingDisabled, user } from "@openai/agents";

setTracingDisabled(true);

export async function run(job) {
  const client = new OpenAI({ baseURL: job.base_url, apiKey: job.token, maxRetries: 0 });
  const approvals = [];
  const onApproval = async (_, request) => {
    approvals.push(request.rawItem.name);
    return { approve: job.approve, reason: job.reason };
  };
  const server = { serverLabel: job.label, serverUrl: job.url, allowedTools: job.allowed };
  const approval = "approve" in job ? { requireApproval: "always", onApproval } : { requireApproval: "never" };
  const agent = new Agent({
    name: "Ada",
    instructions: "Be brief.",
    model: new OpenAIResponsesModel(client, job.model),
    modelSettings: { store: job.store },
    tools: [hostedMcpTool({ ...server, ...approval })],
  });

  const answers = [];
  let result;
  for (const text of job.texts) {
    const previous = result ? { previousResponseId: result.lastResponseId } : {};
    if (job.own_history) result = await turn(agent, [...(result?.history ?? []), user(text)], job.streamed, {});
    else result = await turn(agent, text, job.streamed, previous);
    answers.push(result.finalOutput);
  }
  return { answers, approvals };
}

async function turn(agent, input, stream, keys) {
  const result = await new Runner().run(agent, input, { ...keys, stream });
  if (stream) {
    for await (const _ of result);
    await result.completed;
  }
  return result;
}
