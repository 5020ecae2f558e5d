// model@tokenizer-repo: the weights of one repo, the tokenizer and the chat template of another.
import assert from "node:assert/strict";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { spawn } from "node:child_process";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, afterEach, before, test } from "node:test";
import { Quern, makeModel, quern } from "../e2e/server.mjs";
import { HubServer } from "./hub_server.mjs";

const root = process.env.QUERN_SOURCE_DIR ?? join(import.meta.dirname, "../..");
const MODEL = "owner/Tiny-GGUF";
const TOKENIZER = "owner/Guide";
const TEXT = "Hello Zürich 🦙\n  two  spaces and <|im_start|>";
const TEMPLATE = "{% for m in messages %}<|im_start|>{{ m.content | upper }}{% endfor %}";
let hub, server, env;

before(async () => {
  hub = await HubServer.start();
  const gguf = (name, size) => readFileSync(makeModel("tiny", name, "--distinct", "--type", "Q8_0", "--vocab-size", String(size)));
  hub.add(MODEL, { "tiny.Q8_0.gguf": gguf("wide.gguf", 4096) });
  hub.add("owner/Narrow-GGUF", { "narrow.Q8_0.gguf": gguf("narrow.gguf", 1024) });
  const names = ["config.json", "generation_config.json", "special_tokens_map.json", "tokenizer.json", "tokenizer_config.json"];
  const files = Object.fromEntries(names.map((name) => [name, readFileSync(join(root, "models/guide/checkpoint", name))]));
  hub.add(TOKENIZER, { ...files, "chat_template.jinja": TEMPLATE, "model.safetensors": Buffer.alloc(50_000) });
  hub.add("owner/Broken", { "tokenizer.json": '{"model": {"type": "WordPiece", "vocab": {"a": 0}}}' });
  const folder = mkdtempSync(join(tmpdir(), "quern-tokenizer-"));
  process.on("exit", () => rmSync(folder, { recursive: true, force: true }));
  env = { HF_ENDPOINT: hub.url, HF_HUB_CACHE: folder, no_proxy: "*" };
});
after(() => hub.stop());
afterEach(async () => {
  await server?.stop();
  server = undefined;
});

/** Not spawnSync: the hub answers from this process. */
const run = (args, input = "") =>
  new Promise((resolve) => {
    const child = spawn(quern, args, { env: { PATH: process.env.PATH, HOME: env.HF_HUB_CACHE, ...env } });
    const output = { out: "", err: "" };
    child.stdout.on("data", (data) => (output.out += data));
    child.stderr.on("data", (data) => (output.err += data));
    child.on("close", (status) => resolve({ status, ...output }));
    child.stdin.end(input);
  });
const post = async (path, body) => {
  const response = await fetch(server.url + path, { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(body) });
  return { status: response.status, ...(await response.json()) };
};

test("tokenize and inspect see the other repo's tokenizer", async () => {
  const own = await run(["tokenize", MODEL, "--json"], TEXT);
  const other = await run(["tokenize", `${MODEL}@${TOKENIZER}`, "--json"], TEXT);
  const guide = await run(["tokenize", "quern/guide", "--json"], TEXT);
  assert.equal(other.status, 0, other.err);
  assert.equal(other.out, guide.out);
  assert.notEqual(other.out, own.out);
  const back = await run(["tokenize", `${MODEL}@${TOKENIZER}`, "--ids"], other.out);
  assert.equal(back.out, TEXT);
  const inspected = await run(["inspect", `${MODEL}@${TOKENIZER}`, "--json"]);
  assert.equal(inspected.status, 0, inspected.err);
  assert.equal(JSON.parse(inspected.out).architecture, "llama");
  assert.ok(!hub.bodies().some((request) => request.path.endsWith(".safetensors")), "no weights of the tokenizer's repo");
});

test("serve answers with it, and its chat template", async () => {
  const id = `${MODEL}:Q8_0@${TOKENIZER}`;
  server = await Quern.start({ ...env, LLM_ALLOWED_MODELS: id });
  const messages = [{ role: "user", content: "Hello" }];
  assert.equal((await post("/apply-template", { messages })).prompt, "<|im_start|>HELLO");
  const { tokens } = await post("/tokenize", { content: "Hello <|im_start|>", add_special: false });
  assert.deepEqual(tokens, JSON.parse((await run(["tokenize", "quern/guide", "--json"], "Hello <|im_start|>")).out));
  const answer = await post("/v1/chat/completions", { model: MODEL, messages, max_tokens: 4, temperature: 0, ignore_eos: true });
  assert.equal(answer.status, 200, JSON.stringify(answer));
  assert.equal(answer.usage.completion_tokens, 4);
});

test("what does not fit is one line that says why", async () => {
  const narrow = await run(["tokenize", `owner/Narrow-GGUF@${TOKENIZER}`, "--json"], TEXT);
  assert.equal(narrow.status, 1);
  assert.match(narrow.err.trim().split("\n").at(-1), /^error: .*has 2048 tokens, but the model's embedding only 1024/);
  const broken = await run(["tokenize", `${MODEL}@owner/Broken`, "--json"], TEXT);
  assert.equal(broken.status, 1);
  assert.match(broken.err.trim().split("\n").at(-1), /^error: .*tokenizer\.json: model\.type: 'WordPiece' is not supported/);
  const none = await run(["tokenize", `${MODEL}@${MODEL}`, "--json"], TEXT);
  assert.equal(none.status, 1);
  assert.match(none.err, /it has no tokenizer/);
});
