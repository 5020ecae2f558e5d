// Three models where memory holds two: requests at random among them.
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { after, test } from "node:test";
import { makeModel, Quern } from "./server.mjs";

const SECONDS = Number(process.env.QUERN_LOAD_SECONDS ?? 15);
const CLIENTS = 6;

const models = [1, 2, 3].map((seed) =>
  makeModel("tinyllama-1b", `m${seed}.gguf`, "--distinct", "--layers", "2", "--type", "Q4_K_M", "--seed", String(seed)),
);
const settings = {
  LLM_ALLOWED_MODELS: models.join(","),
  LLM_CONTEXT_SIZE: "512",
  LLM_MAX_CONCURRENT_REQUESTS: "4",
  LLM_QUEUE_TIMEOUT_MS: "120000",
};
const KINDS = 7;
const request = (i) => ({ prompt: `Number ${i} is`, max_tokens: 2 + i, temperature: 0, ignore_eos: true });

/** Anonymous memory of a process: what is not a clean page of a file. */
function anonymous(pid) {
  const field = (name) => Number(new RegExp(`^${name}:\\s+(\\d+)`, "m").exec(rollup)[1]) * 1024;
  const rollup = readFileSync(`/proc/${pid}/smaps_rollup`, "utf8");
  return Math.max(field("Anonymous"), field("Private_Dirty") + field("Shared_Dirty"));
}

let server;
after(() => server?.stop());

test(`requests at random for ${SECONDS} s: all answered, all right, the limit kept`, async () => {
  server = await Quern.start(settings);
  const alone = new Map();
  const ask = async (model, i) => {
    const answer = await server.post("/api/generate", { ...request(i), model });
    assert.equal(answer.status, 200, answer.text);
    assert.equal(answer.json.tokens_generated, request(i).max_tokens);
    return answer.json.text;
  };
  for (const model of models) for (let i = 0; i < KINDS; i++) alone.set(`${model} ${i}`, await ask(model, i));
  const status = await (await fetch(server.url + "/api/llms")).json();
  const bytes = status.map((model) => model.bytes);
  assert.ok(Math.min(...bytes) > 50e6, "models large enough for what else a process takes not to matter");
  await server.stop();

  const limit = Math.ceil(2.5 * Math.max(...bytes));
  server = await Quern.start({ ...settings, LLM_MEMORY_LIMIT: String(limit) });
  let most = 0;
  const watch = setInterval(() => (most = Math.max(most, anonymous(server.process.pid))), 20);
  const end = Date.now() + SECONDS * 1000;
  const client = async (seed) => {
    let answers = 0;
    for (; Date.now() < end; answers++) {
      seed = (Math.imul(seed, 1664525) + 1013904223) >>> 0;
      const model = models[(seed >>> 16) % 3], i = (seed >>> 20) % KINDS;
      assert.equal(await ask(model, i), alone.get(`${model} ${i}`));
      const states = await (await fetch(server.url + "/api/llms")).json();
      const held = states.reduce((sum, state) => sum + state.bytes, 0);
      assert.ok(held <= limit, `${held} bytes in memory, the limit is ${limit}`);
    }
    return answers;
  };
  const answers = await Promise.all(Array.from({ length: CLIENTS }, (_, i) => client(i + 1)));
  clearInterval(watch);
  const loaded = server.log.split("\n").filter((line) => line.includes('"model ready"')).length;
  console.log(
    `${answers.reduce((a, b) => a + b)} answers, models loaded ${loaded} times; anonymous memory at most ` +
      `${(most / 1e6).toFixed(0)} MB of ${(limit / 1e6).toFixed(0)} MB`,
  );
  assert.ok(answers.every((n) => n > 0));
  assert.ok(loaded > 3, `loaded only ${loaded} times: nothing was unloaded`);
  assert.ok(most <= limit, `${most} bytes of anonymous memory, the limit is ${limit}`);
  assert.equal(await server.stop(), 0);
});
