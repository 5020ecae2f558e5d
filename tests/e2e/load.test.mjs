// Many clients at once, some of whom leave: every finished answer is the one that the request gets alone.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { makeModel, Quern } from "./server.mjs";

const CLIENTS = 64;
const SECONDS = Number(process.env.QUERN_LOAD_SECONDS ?? 15);

/** Deterministic, so that a failure can be had again. */
function random(seed) {
  return () => {
    seed = (seed * 1664525 + 1013904223) >>> 0;
    return seed / 2 ** 32;
  };
}

const kinds = Array.from({ length: 24 }, (_, i) => ({
  prompt: `Story ${i}: ` + "the quick brown fox jumps over the lazy dog. ".repeat(1 + (i % 8)),
  max_tokens: 4 + ((i * 7) % 40),
  temperature: 0,
  ignore_eos: true,
}));

async function stream(server, body, signal, leaveAfter = Infinity) {
  const response = await fetch(server.url + "/api/generate/stream", {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify(body),
    signal,
  });
  if (response.status === 503) return { refused: true };
  assert.equal(response.status, 200);
  let pending = "", text = "", events = 0;
  for await (const part of response.body.pipeThrough(new TextDecoderStream())) {
    pending += part;
    for (let end; (end = pending.indexOf("\n\n")) >= 0; pending = pending.slice(end + 2)) {
      const line = pending.slice(0, end);
      if (line.startsWith(":")) continue;
      if (line === "data: [DONE]") return { text, done: true };
      const event = JSON.parse(line.slice(6));
      assert.equal(event.error, undefined, line);
      text += event.text ?? "";
      if (++events >= leaveAfter) return { left: true };
    }
  }
  throw new Error("the stream ended without [DONE]");
}

const residentKiB = (pid) => Number(/VmRSS:\s+(\d+)/.exec(readFileSync(`/proc/${pid}/status`, "utf8"))[1]);

test(`${CLIENTS} streaming clients with random aborts for ${SECONDS} s`, async () => {
  const model = makeModel("tiny", "load.gguf", "--distinct", "--type", "Q4_K_M", "--vocab-size", "1024");
  const server = await Quern.start({
    LLM_ALLOWED_MODELS: model,
    LLM_MAX_CONCURRENT_REQUESTS: "16",
    LLM_CONTEXT_SIZE: "512",
    LLM_QUEUE_TIMEOUT_MS: "60000",
  });
  try {
    const free = await server.metric("quern_kv_blocks_free");
    const alone = [];
    for (const body of kinds) alone.push((await stream(server, body)).text);
    const count = { done: 0, left: 0, refused: 0 };
    const memory = [];
    const end = Date.now() + SECONDS * 1000;
    const watch = setInterval(() => memory.push(residentKiB(server.process.pid)), 500);
    const client = async (index) => {
      const next = random(index + 1);
      while (Date.now() < end) {
        const kind = Math.floor(next() * kinds.length);
        const leaveAfter = next() < 0.3 ? 1 + Math.floor(next() * 5) : Infinity;
        const abort = new AbortController();
        const timer = next() < 0.15 ? setTimeout(() => abort.abort(), next() * 300) : undefined;
        try {
          const result = await stream(server, kinds[kind], abort.signal, leaveAfter);
          if (result.done) assert.equal(result.text, alone[kind]);
          count[result.done ? "done" : result.left ? "left" : "refused"]++;
        } catch (error) {
          if (error.name !== "AbortError") throw error;
          count.left++;
        } finally {
          clearTimeout(timer);
        }
      }
    };
    await Promise.all(Array.from({ length: CLIENTS }, (_, i) => client(i)));
    clearInterval(watch);
    console.log(`finished ${count.done}, left ${count.left}, refused ${count.refused}`);
    assert.ok(count.done > 20 && count.left > 5, JSON.stringify(count));
    for (let i = 0; i < 200 && (await server.metric("quern_requests_running")) !== 0; i++) await new Promise((r) => setTimeout(r, 50));
    assert.equal(await server.metric("quern_requests_running"), 0);
    assert.equal(await server.metric("quern_kv_blocks_free"), free, "KV blocks leaked");
    const middle = memory[Math.floor(memory.length / 2)], last = memory.at(-1);
    assert.ok(last < middle * 1.1 + 20480, `memory grew from ${middle} to ${last} KiB`);
    assert.equal((await fetch(server.url + "/health/live")).status, 200);
  } finally {
    assert.equal(await server.stop(), 0);
  }
});
