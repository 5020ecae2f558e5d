// The native endpoints, health, helpers and the life of the process.
import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { makeModel, Quern } from "./server.mjs";

let server, model;
before(async () => {
  model = makeModel("tiny", "native.gguf", "--distinct", "--type", "Q8_0", "--vocab-size", "1024");
  server = await Quern.start({ LLM_ALLOWED_MODELS: model });
});
after(() => server?.stop());

const ask = { prompt: "Once upon a time", temperature: 0, max_tokens: 20 };

test("generate, and its stream, say the same", async () => {
  const { status, json } = await server.post("/api/generate", ask);
  assert.equal(status, 200);
  assert.deepEqual(Object.keys(json).sort(), ["finish_reason", "model", "text", "tokens_generated"]);
  const events = await server.events("/api/generate/stream", ask);
  assert.equal(events.at(-1), "[DONE]");
  const { done, finish_reason, tokens_generated } = events.at(-2);
  assert.deepEqual({ done, finish_reason, tokens_generated }, { done: true, finish_reason: json.finish_reason, tokens_generated: json.tokens_generated });
  assert.equal(events.slice(0, -2).map((e) => e.text).join(""), json.text);
});

test("chat, and its stream, say the same", async () => {
  const body = { messages: [{ role: "user", content: "Hello" }], temperature: 0, max_tokens: 20 };
  const { json } = await server.post("/api/chat", body);
  assert.equal(json.message.role, "assistant");
  const events = await server.events("/api/chat/stream", body);
  assert.equal(events.slice(0, -2).map((e) => e.content).join(""), json.message.content);
});

test("health, models and the description", async () => {
  const get = async (path) => (await fetch(server.url + path)).json();
  assert.equal((await fetch(server.url + "/health/live")).status, 200);
  const ready = await get("/health/ready");
  assert.equal(ready.ready, true);
  assert.equal(ready.models[0].state, "ready");
  const [llm] = await get("/api/llms");
  assert.equal(llm.id, model);
  assert.ok(llm.parameters > 0 && llm.bytes > 0 && llm.context > 0);
  for (const id of [model, encodeURIComponent(model)]) {
    const report = await get(`/api/llms/${id.replace(/^\//, id === model ? "%2F" : "/")}/quantization`);
    assert.ok(report.tensors.length > 10, JSON.stringify(report).slice(0, 200));
  }
  const api = await get("/openapi.json");
  for (const path of ["/api/generate", "/v1/chat/completions", "/tokenize", "/metrics"]) assert.ok(api.paths[path], path);
});

test("tokenize and detokenize turn into each other", async () => {
  const content = "Hello Zürich 🦙\n\tend";
  const { tokens } = (await server.post("/tokenize", { content })).json;
  const back = (await server.post("/detokenize", { tokens })).json;
  assert.equal(back.content ?? back.prompt, content);
});

test("apply-template renders what chat is prompted with", async () => {
  const { json } = await server.post("/apply-template", { messages: [{ role: "user", content: "Hi" }], add_generation_prompt: true });
  assert.match(json.prompt, /Hi/);
});

test("bad requests are answered, and the server goes on", async () => {
  const bad = async (path, body, status, pattern, headers) => {
    const answer = await server.post(path, body, headers);
    assert.equal(answer.status, status, `${path} ${JSON.stringify(body).slice(0, 80)}: ${answer.text}`);
    assert.match(answer.json.error.message ?? answer.json.error, pattern);
    if (path.startsWith("/api")) assert.equal(typeof answer.json.code, "string");
  };
  await bad("/api/generate", "{", 400, /JSON/i);
  await bad("/api/generate", "[".repeat(100000), 400, /JSON|nest|deep/i);
  await bad("/api/generate", { prompt: 7 }, 400, /prompt/);
  await bad("/api/generate", {}, 400, /prompt/);
  await bad("/api/generate", { ...ask, max_tokens: -1 }, 400, /max_tokens/);
  await bad("/api/generate", { ...ask, model: "x/y" }, 404, /x\/y/);
  await bad("/api/generate", { prompt: "a ".repeat(9000) }, 400, /\d+.*\d+/);
  await bad("/api/chat", { messages: "hi" }, 400, /messages/);
  await bad("/api/generate", "prompt=hi", 415, /json/i, { "content-type": "application/x-www-form-urlencoded" });
  const big = await fetch(server.url + "/api/generate", { method: "POST", headers: { "content-type": "application/json" }, body: "x".repeat(70 << 20) }).catch(() => null);
  assert.ok(big === null || big.status === 413);
  assert.equal((await fetch(server.url + "/nowhere")).status, 404);
  assert.equal((await fetch(server.url + "/api/generate")).status, 405);
  assert.equal((await server.post("/api/generate", ask)).status, 200);
});

test("every answer carries a request id", async () => {
  const { headers } = await server.post("/api/generate", ask, { "x-request-id": "mine-42" });
  assert.equal(headers.get("x-request-id"), "mine-42");
  assert.ok((await fetch(server.url + "/nowhere")).headers.get("x-request-id"));
});

test("keys guard everything but health", async () => {
  const guarded = await Quern.start({ LLM_ALLOWED_MODELS: model, LLM_API_KEYS: "one,two" });
  try {
    assert.equal((await guarded.post("/api/generate", ask)).status, 401);
    assert.equal((await guarded.post("/api/generate", ask, { authorization: "Bearer wrong" })).status, 401);
    assert.equal((await guarded.post("/api/generate", ask, { authorization: "Bearer two" })).status, 200);
    assert.equal((await guarded.post("/api/generate", ask, { "x-api-key": "one" })).status, 200);
    assert.equal((await fetch(guarded.url + "/v1/models")).status, 401);
    assert.equal((await fetch(guarded.url + "/health/live")).status, 200);
  } finally {
    await guarded.stop();
  }
});

test("SIGTERM finishes what runs, refuses what comes, and exits with 0", async () => {
  const leaving = await Quern.start({ LLM_ALLOWED_MODELS: model });
  const response = await fetch(leaving.url + "/api/generate/stream", {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify({ ...ask, max_tokens: 100, ignore_eos: true }),
  });
  assert.equal(response.status, 200); // it has begun: the status comes with the first event
  const exited = leaving.stop();
  assert.match(await response.text(), /"tokens_generated":100}\n\ndata: \[DONE\]\n\n$/);
  assert.equal(await exited, 0);
  await assert.rejects(fetch(leaving.url + "/health/live"));
});

test("a wrong setting stops the start with one line", async () => {
  await assert.rejects(Quern.start({ LLM_ALLOWED_MODELS: model, LLM_QUEUE_TIMEOUT_MS: "soon" }), /error: .*LLM_QUEUE_TIMEOUT_MS.*soon/);
});

test("a model file that is not there is reported, and the server lives", async () => {
  const lost = await Quern.start({ LLM_ALLOWED_MODELS: "/no/such/model.gguf" }, { ready: false });
  try {
    let state;
    for (let i = 0; i < 100 && state !== "failed"; i++) {
      const report = await (await fetch(lost.url + "/health/ready")).json();
      state = report.models[0].state;
      await new Promise((r) => setTimeout(r, 20));
    }
    assert.equal(state, "failed");
    const answer = await lost.post("/api/generate", ask);
    assert.equal(answer.status, 503);
    assert.match(answer.json.error, /no such|not found|cannot open/i);
  } finally {
    assert.equal(await lost.stop(), 0);
  }
});
