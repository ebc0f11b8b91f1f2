// Runs a client on one job after another: a line of JSON each on standard input, and its outcome on standard output.
import { createInterface } from "node:readline";

const { run } = await import(process.argv[2]);
for await (const line of createInterface({ input: process.stdin })) {
  const outcome = await run(JSON.parse(line)).catch((error) => ({ error: String(error.stack) }));
  console.log(JSON.stringify(outcome));
}
