// What a stream feels of another model being loaded: times between tokens of one stream from the first model, before,
// while and after a server loads (and then packs) a second one, both files in the page cache.
// usage: node bench/start/gap.mjs FIRST.gguf SECOND.gguf [--threads 2] [--quern PATH]
import { spawn } from "node:child_process";
import { createReadStream } from "node:fs";
import { join } from "node:path";
import { parseArgs } from "node:util";

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    threads: { type: "string", default: "2" },
    quern: { type: "string", default: join(import.meta.dirname, "../../build/release/bin/quern") },
    port: { type: "string", default: "8191" },
    tokens: { type: "string", default: "400" },
  },
});
if (positionals.length !== 2) {
  console.error("usage: gap.mjs FIRST.gguf SECOND.gguf [--threads N] [--tokens N] [--quern PATH]");
  process.exit(2);
}
const [first, second] = positionals;
for (const file of positionals) for await (const chunk of createReadStream(file)) void chunk; // into the page cache

// The second is not loaded ahead of need: with room for one model it comes when it is asked for.
const url = `http://127.0.0.1:${values.port}`;
const env = { ...process.env, LLM_ALLOWED_MODELS: first, LLM_MODEL_PATH: "/", LLM_THREADS: values.threads };
Object.assign(env, { LLM_INFERENCE_PORT: values.port, LLM_CONTEXT_SIZE: "1024", LLM_MAX_CONCURRENT_REQUESTS: "2", LOG_LEVEL: "error" });
const state = async (model) =>
  (await (await fetch(url + "/health/ready")).json()).models.find((m) => m.id === model)?.state;
const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

async function serve(models) {
  const server = spawn(values.quern, ["serve"], { env: { ...env, LLM_ALLOWED_MODELS: models.join(",") }, stdio: "inherit" });
  for (;;) {
    try {
      if ((await state(first)) === "ready") return server;
    } catch {}
    await sleep(5);
  }
}

/** Milliseconds between the tokens of one stream, with the time each came. */
async function stream() {
  const body = { model: first, prompt: "Once upon a time", max_tokens: Number(values.tokens), temperature: 0, ignore_eos: true };
  const response = await fetch(url + "/v1/completions", {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify({ ...body, stream: true, logprobs: 0 }),
  });
  const gaps = [];
  let last = NaN;
  for await (const part of response.body.pipeThrough(new TextDecoderStream())) {
    if (!part.includes("data: {")) continue;
    const now = performance.now();
    if (last === last) gaps.push({ at: now, ms: now - last });
    last = now;
  }
  return gaps;
}

function show(name, gaps) {
  const ms = gaps.map((g) => g.ms).sort((a, b) => a - b);
  const at = (q) => ms[Math.min(ms.length - 1, Math.floor(q * ms.length))].toFixed(0).padStart(5);
  console.log(`${name.padEnd(44)} ${String(ms.length).padStart(5)} ${at(0.5)} ${at(0.99)} ${at(1)}`);
}

const end = async (server) => {
  server.kill("SIGTERM");
  await new Promise((resolve) => server.on("exit", resolve));
};

let server = await serve([first]);
await stream(); // until the first model has its final form
const alone = await stream();
await end(server);

server = await serve([first, second]); // the second is loaded as soon as the first is ready
const beside = await stream();
const packed = await stream();
const final = await state(second);
await end(server);
if (final !== "ready") throw new Error(`${second} is ${final}`);

console.log(`${"milliseconds between tokens".padEnd(44)} count   p50   p99  longest`);
show("alone", alone);
show("from its start on, the second being loaded", beside);
show("after that", packed);
