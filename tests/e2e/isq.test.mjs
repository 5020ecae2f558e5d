// quern quantize and quantizing while loading (ISQ), on the bundled model's checkpoint.
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { cpSync, existsSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { quern, Quern, scratch } from "./server.mjs";

const guide = join(process.env.QUERN_SOURCE_DIR ?? join(import.meta.dirname, "../.."), "models/guide");
const checkpoint = join(guide, "checkpoint");
const cache = scratch("isq-cache");
const environment = { PATH: process.env.PATH, HOME: scratch("."), XDG_CACHE_HOME: cache };
const results = () => (existsSync(join(cache, "quern/isq")) ? readdirSync(join(cache, "quern/isq")) : []);

function run(...args) {
  const done = spawnSync(quern, args, { encoding: "utf8", cwd: scratch("."), env: environment });
  return { status: done.status, out: done.stdout, err: done.stderr };
}
const chat = async (server, model) => {
  const messages = [{ role: "user", content: "Which port does the server listen on?" }];
  const { status, text, json } = await server.post("/api/chat", { model, messages, temperature: 0, max_tokens: 60 });
  assert.equal(status, 200, text);
  return json.message.content;
};
const isq = (type, more = {}) =>
  Quern.start({ ...environment, LLM_ALLOWED_MODELS: checkpoint, LLM_ENABLE_ISQ: "true", LLM_ISQ_TYPE: type, ...more });

test("quantize tells what each tensor became, and the file runs", () => {
  const out = scratch("q8.gguf");
  const { status, out: text, err } = run("quantize", checkpoint, out, "--type", "q8_0", "--json");
  assert.equal(status, 0, err);
  const report = JSON.parse(text);
  const embedding = report.tensors.find((t) => t.name === "token_embd.weight");
  assert.equal(embedding.used, "Q8_0");
  assert.ok(embedding.error > 0.001 && embedding.error < 0.01, text);
  assert.ok(report.tensors.filter((t) => t.name.endsWith("norm.weight")).every((t) => t.used === "F32"));
  const kl = JSON.parse(run("perplexity", out, "-f", join(guide, "heldout.txt"), "--against", checkpoint, "--json").out);
  assert.ok(kl.against.kl_divergence.value < 0.001, JSON.stringify(kl));
  const again = JSON.parse(run("inspect", out, "--tensors", "--json").out);
  const kept = again.tensors.find((t) => t.name === "token_embd.weight").error; // as a float
  assert.ok(Math.abs(kept / embedding.error - 1) < 1e-6);
});

test("named mixes are llama-quantize's", () => {
  const { tensors } = JSON.parse(run("quantize", checkpoint, scratch("mix.gguf"), "--type", "q4_k_m", "--json").out);
  const used = (name) => tensors.find((t) => t.name === name).used;
  assert.equal(used("token_embd.weight"), "Q6_K"); // the head too: tied
  assert.equal(used("blk.0.attn_q.weight"), "Q4_K");
  assert.equal(used("blk.5.ffn_down.weight"), "Q6_K"); // the last layers get more bits
  assert.match(run("inspect", scratch("mix.gguf")).out, /Q4_K_M/);
});

test("an importance matrix makes a small type better", () => {
  const matrix = scratch("guide.imatrix");
  const text = scratch("calibration.txt"); // other text than what is measured
  writeFileSync(text, readFileSync(join(guide, "facts/http.txt"), "utf8").repeat(3) + readFileSync(join(guide, "questions.jsonl"), "utf8"));
  const made = run("imatrix", checkpoint, "--file", text, matrix, "--ctx", "256");
  assert.equal(made.status, 0, made.err);
  const kl = (...flags) => {
    const out = scratch("q2.gguf");
    const done = run("quantize", checkpoint, out, "--type", "Q2_K", ...flags);
    assert.equal(done.status, 0, done.err);
    return JSON.parse(run("perplexity", out, "-f", join(guide, "heldout.txt"), "--against", checkpoint, "--json").out).against.kl_divergence.value;
  };
  const plain = kl(), better = kl("--imatrix", matrix);
  assert.ok(better < plain, `${better} with, ${plain} without`);
});

test("what cannot be quantized is said in one line", () => {
  const out = scratch("x.gguf");
  const line = (...args) => {
    const { status, err } = run("quantize", ...args);
    assert.equal(status, 1, err);
    assert.match(err, /^error: [^\n]+\n$/);
    assert.ok(!existsSync(out));
    return err;
  };
  assert.match(line(checkpoint, out, "--type", "Q9"), /Q9: no such type.*Q4_K_M/);
  assert.match(line(checkpoint, out, "--type", "Q4_K_M", "--pure"), /--pure takes one type/);
  assert.match(line("no/such", out, "--type", "Q4_K"), /no\/such/);
  assert.match(line(checkpoint, "/no/such/folder/x.gguf", "--type", "Q4_K"), /no\/such\/folder/);
  writeFileSync(scratch("text"), "no matrix");
  assert.match(line(checkpoint, out, "--type", "Q4_K", "--imatrix", scratch("text")), /not an importance matrix/);
});

test("a server quantizes once and serves from the cache then", async () => {
  let server = await isq("q5k");
  assert.match(server.log, /"quantized"/);
  const answer = await chat(server, checkpoint);
  assert.match(answer, /8091/);
  const { tensors } = await (await fetch(`${server.url}/api/llms/${encodeURIComponent(checkpoint)}/quantization`)).json();
  const of = (name) => tensors.find((t) => t.name === name);
  assert.deepEqual([of("blk.0.ffn_up.weight").asked, of("blk.0.ffn_up.weight").used], ["Q5_K", "Q5_K"]);
  assert.equal(of("token_embd.weight").used, "Q8_0");
  assert.match(of("token_embd.weight").why, /embedding/);
  assert.ok(of("blk.0.ffn_up.weight").error > 0);
  assert.equal(await server.stop(), 0);

  assert.equal(results().filter((name) => name.endsWith(".gguf")).length, 1);
  server = await isq("Q5_K");
  assert.match(server.log, /taken from the cache/);
  assert.equal(await chat(server, checkpoint), answer);
  await server.stop();

  const listed = JSON.parse(run("list", "--json").out).find((m) => m.source === "isq");
  assert.deepEqual([listed.id, listed.quantization], [checkpoint, "Q5_K"]);
  assert.match(run("rm", checkpoint).out, /removed/);
  assert.deepEqual(results(), []);
});

test("another content is another result; none is kept where none is wanted", async () => {
  const folder = scratch("changed");
  cpSync(checkpoint, folder, { recursive: true });
  const start = async () => {
    const server = await isq("Q4_0", { LLM_ALLOWED_MODELS: folder });
    await server.stop();
    return server.log.includes('"quantized"');
  };
  assert.equal(await start(), true);
  assert.equal(await start(), false);
  const config = JSON.parse(readFileSync(join(folder, "config.json"), "utf8"));
  writeFileSync(join(folder, "config.json"), JSON.stringify({ ...config, rms_norm_eps: 1e-6 }));
  assert.equal(await start(), true);
  run("rm", folder);

  const server = await isq("Q8_0", { LLM_ISQ_CACHE: "false" });
  assert.match(await chat(server, checkpoint), /8091/);
  await server.stop();
  assert.deepEqual(results(), []);
});

test("killed at random moments, the cache never holds half a model", async () => {
  for (let i = 0; i < 12; i++) {
    const server = await Quern.start({ ...environment, LLM_ALLOWED_MODELS: checkpoint, LLM_ENABLE_ISQ: "true", LLM_ISQ_TYPE: "Q3_K" }, { ready: false });
    await new Promise((resolve) => setTimeout(resolve, 40 * i));
    await server.stop("SIGKILL");
    for (const name of results().filter((file) => file.endsWith(".gguf")))
      assert.equal(run("inspect", join(cache, "quern/isq", name)).status, 0, name);
  }
  const server = await isq("Q3_K");
  assert.ok((await chat(server, checkpoint)).length > 0);
  await server.stop();
  assert.ok(results().every((name) => /\.gguf(\.lock)?$/.test(name)), results().join());
  run("rm", checkpoint);
});

test("two processes make it once", async () => {
  const settings = { ...environment, LLM_ALLOWED_MODELS: checkpoint, LLM_ENABLE_ISQ: "true", LLM_ISQ_TYPE: "Q6_K" };
  const servers = await Promise.all([Quern.start(settings), Quern.start(settings)]);
  const made = servers.filter((server) => server.log.includes('"quantized"'));
  assert.equal(made.length, 1);
  const [a, b] = await Promise.all(servers.map((server) => chat(server, checkpoint)));
  assert.equal(a, b);
  await Promise.all(servers.map((server) => server.stop()));
});
