// quern serve with models that the hub has: fetched in the background, waited for, kept.
import assert from "node:assert/strict";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, afterEach, before, test } from "node:test";
import { Quern, makeModel } from "../e2e/server.mjs";
import { HubServer } from "./hub_server.mjs";

const REPO = "owner/Tiny-GGUF";
let hub, model, server;
before(async () => {
  hub = await HubServer.start();
  model = readFileSync(makeModel("tiny", "served.gguf", "--distinct", "--type", "Q8_0", "--vocab-size", "1024"));
  hub.add(REPO, { "tiny.Q8_0.gguf": model });
});
after(() => hub.stop());
afterEach(async () => {
  await server?.stop();
  hub.reset();
});

const home = () => {
  const folder = mkdtempSync(join(tmpdir(), "quern-serve-"));
  process.on("exit", () => rmSync(folder, { recursive: true, force: true }));
  return { HF_ENDPOINT: hub.url, HF_HUB_CACHE: folder, no_proxy: "*" };
};
const ready = async () => (await (await fetch(server.url + "/health/ready")).json()).models[0];
const ask = () =>
  fetch(server.url + "/api/generate", {
    method: "POST",
    headers: { "content-type": "application/json" },
    body: JSON.stringify({ prompt: "Hello", max_tokens: 4, temperature: 0, ignore_eos: true }),
  });

test("a request waits for the download; the next start needs none", async () => {
  const settings = { ...home(), LLM_ALLOWED_MODELS: REPO };
  hub.faults = { dripBytes: Math.ceil(model.length / 40), dripMs: 50 };
  server = await Quern.start(settings, { ready: false });
  const answer = ask();
  let status;
  do status = await ready();
  while (status.state === "absent" || (status.state === "downloading" && status.bytes_done === 0));
  assert.equal(status.state, "downloading");
  assert.equal(status.bytes_total, model.length);
  assert.ok(status.bytes_done > 0 && status.bytes_done < model.length);
  const first = await (await answer).json();
  assert.equal(first.tokens_generated, 4);
  assert.equal(first.model, REPO);
  assert.equal((await ready()).state, "ready");
  await server.stop();

  hub.reset();
  server = await Quern.start({ ...settings, HF_HUB_OFFLINE: "1" });
  assert.equal((await (await ask()).json()).text, first.text);
  assert.equal(hub.requests.length, 0);
});

test("a wrong reference is a reason that says what to write; other models are served", async () => {
  const local = makeModel("tiny", "local.gguf", "--distinct", "--vocab-size", "1024");
  server = await Quern.start({ ...home(), LLM_ALLOWED_MODELS: `${REPO}:Q4_K_S,${local}` }, { ready: false });
  let models;
  do models = (await (await fetch(server.url + "/health/ready")).json()).models;
  while (models[0].state !== "failed" || models[1].state !== "ready");
  assert.match(models[0].error, /Q4_K_S is not in .*did you mean Q8_0/);
  const refused = await ask();
  assert.equal(refused.status, 503);
  assert.ok(Number(refused.headers.get("retry-after")) > 0);
  assert.equal((await refused.json()).code, "MODEL_LOAD_ERROR");
});

test("a stop in the middle of a download is quick, and the next start goes on", async () => {
  const settings = { ...home(), LLM_ALLOWED_MODELS: REPO };
  hub.faults = { dripBytes: Math.ceil(model.length / 200), dripMs: 50 };
  server = await Quern.start(settings, { ready: false });
  while (((await ready()).bytes_done ?? 0) < model.length / 20) await new Promise((resolve) => setTimeout(resolve, 20));
  assert.equal(await server.stop(), 0);
  hub.reset();
  server = await Quern.start(settings);
  assert.equal((await (await ask()).json()).tokens_generated, 4);
});
