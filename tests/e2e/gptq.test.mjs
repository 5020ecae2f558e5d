// GPTQ checkpoints of the bundled model: perplexity, answers, and what is told of them.
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { cpSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { writeGptq } from "./gptq.mjs";
import { quern, Quern, scratch } from "./server.mjs";

const guide = join(process.env.QUERN_SOURCE_DIR ?? join(import.meta.dirname, "../.."), "models/guide");
const checkpoint = join(guide, "checkpoint");
const eight = writeGptq(checkpoint, scratch("eight"), { bits: 8, group: 64, sym: false, order: true });

function run(...args) {
  const done = spawnSync(quern, args, { encoding: "utf8", cwd: scratch("."), env: { PATH: process.env.PATH, HOME: scratch(".") } });
  return { status: done.status, out: done.stdout, err: done.stderr };
}

/** Against the checkpoint in full precision. */
function perplexity(model) {
  const { status, out, err } = run("perplexity", model, "--file", join(guide, "heldout.txt"), "--against", checkpoint, "--json");
  assert.equal(status, 0, err);
  const report = JSON.parse(out);
  return { value: report.perplexity.value, kl: report.against.kl_divergence.value, same: report.against.same_top.value };
}

test("rounded to 8 bits it is the model; to 4 bits nearly so", () => {
  const full = perplexity(checkpoint);
  const variants = [
    [eight, 0.002],
    [writeGptq(checkpoint, scratch("eight-v2"), { bits: 8, group: 128, sym: true, v2: true }), 0.002],
    [writeGptq(checkpoint, scratch("four"), { bits: 4, group: 32, sym: true, order: true }), 0.1],
    [writeGptq(checkpoint, scratch("four-asym"), { bits: 4, group: 128, sym: false, v2: true }), 0.1],
    [writeGptq(checkpoint, scratch("three"), { bits: 3, group: 32, sym: false, order: true }), 0.4],
  ];
  for (const [folder, most] of variants) {
    const { value, kl } = perplexity(folder);
    console.log(`${folder.replace(/.*\//, "")}: perplexity ${value.toFixed(4)} (full precision ${full.value.toFixed(4)}), KL ${kl.toFixed(5)}`);
    assert.ok(kl >= 0 && kl < most, `${folder}: KL ${kl}`);
  }
});

test("inspect, run and a configuration of its own beside it", () => {
  const report = JSON.parse(run("inspect", eight, "--json", "--tensors").out);
  assert.equal(report.quantization, "GPTQ 8-bit g64");
  const layer = report.tensors.find((t) => t.name === "model.layers.3.mlp.up_proj.weight");
  assert.equal(layer.type, "GPTQ 8-bit g64");
  assert.deepEqual(layer.shape, [768, 256]);
  assert.equal(layer.bytes, (768 * 256) + (4 * 768 * 3) + 4 * 256);
  assert.match(run("run", eight, "-p", "Which port does the server listen on?", "--temperature", "0").out, /8091/);
  const beside = scratch("beside");
  cpSync(eight, beside, { recursive: true });
  const config = JSON.parse(readFileSync(join(beside, "config.json"), "utf8"));
  const { quant_method, ...quantization } = config.quantization_config;
  delete config.quantization_config;
  writeFileSync(join(beside, "config.json"), JSON.stringify(config));
  writeFileSync(join(beside, "quantize_config.json"), JSON.stringify(quantization));
  assert.match(run("run", beside, "-p", "Which port does the server listen on?", "--temperature", "0").out, /8091/);
});

test("served, with ISQ asked for: it stays as it is", async () => {
  const server = await Quern.start({ LLM_ALLOWED_MODELS: eight, LLM_ENABLE_ISQ: "true" });
  const [model] = await (await fetch(server.url + "/api/llms")).json();
  assert.equal(model.quantization, "GPTQ 8-bit g64");
  const { tensors } = await (await fetch(`${server.url}/api/llms/${encodeURIComponent(eight)}/quantization`)).json();
  assert.equal(tensors.find((t) => t.name.endsWith("0.self_attn.q_proj.weight")).used, "GPTQ 8-bit g64");
  assert.equal(tensors.find((t) => t.name === "model.norm.weight").used, "BF16");
  const { json } = await server.post("/v1/chat/completions", { temperature: 0, max_tokens: 48, messages: [{ role: "user", content: "Which port does the server listen on?" }] });
  assert.match(json.choices[0].message.content, /8091/);
  assert.match(server.log, /ISQ leaves this model as it is/);
  assert.equal(await server.stop(), 0);
});

test("a label that the zero points contradict warns, and the answer is right", () => {
  const folder = writeGptq(checkpoint, scratch("mislabelled"), { bits: 8, group: 64, sym: true, v2: true }, (_, config) => {
    config.quantization_config.checkpoint_format = "gptq";
  });
  const { out, err } = run("run", folder, "-p", "Which port does the server listen on?", "--temperature", "0");
  assert.match(err, /checkpoint_format is gptq, but the zero points of 42 symmetric modules are those of gptq_v2/);
  assert.match(out, /8091/);
});

test("what is wrong is said in one line", () => {
  const wrong = (edit, says) => {
    const folder = writeGptq(checkpoint, scratch("wrong"), { bits: 8, group: 64, sym: true }, edit);
    const { status, err } = run("run", folder, "-p", "hi");
    assert.equal(status, 1, err);
    const lines = err.trim().split("\n").filter((line) => line.startsWith("error:"));
    assert.equal(lines.length, 1, err);
    assert.match(lines[0], says);
  };
  const quantization = (changes) => (_, config) => Object.assign(config.quantization_config, changes);
  wrong(quantization({ bits: 5 }), /bits is 5; supported are 2, 3, 4 and 8/);
  wrong(quantization({ group_size: 40 }), /group_size is 40, which does not divide its (256|768) inputs/);
  wrong(quantization({ pack_dtype: "int16" }), /pack_dtype is int16/);
  wrong(quantization({ checkpoint_format: "marlin" }), /checkpoint_format is marlin/);
  wrong(quantization({ quant_method: "awq" }), /quant_method is awq/);
  wrong((tensors) => delete tensors["model.layers.2.mlp.up_proj.scales"], /module model\.layers\.2\.mlp\.up_proj: tensor scales is missing/);
  wrong((tensors) => (tensors["model.layers.1.mlp.down_proj.qzeros"].shape = [6, 128]), /qzeros/);
  wrong((_, config) => delete config.quantization_config, /is quantized \(it has a qweight\), but nothing says how/);
});
