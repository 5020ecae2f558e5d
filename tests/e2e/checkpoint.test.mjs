// A Hugging Face checkpoint as a model: the bundled model in BF16, beside a GGUF file of it.
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { cpSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { before, test } from "node:test";
import { quern, Quern, scratch } from "./server.mjs";

const guide = join(process.env.QUERN_SOURCE_DIR ?? join(import.meta.dirname, "../.."), "models/guide");
const checkpoint = join(guide, "checkpoint");
const gguf = scratch("guide-bf16.gguf");

function run(...args) {
  const done = spawnSync(quern, args, { encoding: "utf8", cwd: scratch("."), env: { PATH: process.env.PATH, HOME: scratch(".") } });
  return { status: done.status, out: done.stdout, err: done.stderr };
}

before(() => {
  const made = run("quantize", checkpoint, gguf, "--type", "BF16");
  assert.equal(made.status, 0, made.err);
});

test("greedy chat answers are those of its GGUF", async () => {
  const server = await Quern.start({ LLM_ALLOWED_MODELS: `${checkpoint},${gguf}` });
  const questions = readFileSync(join(guide, "dev_questions.jsonl"), "utf8").trim().split("\n").slice(0, 8).map((line) => JSON.parse(line).question);
  const answers = async (model) => {
    const all = [];
    for (const content of questions) {
      const { status, text, json } = await server.post("/v1/chat/completions", { model, temperature: 0, max_tokens: 48, messages: [{ role: "user", content }] });
      assert.equal(status, 200, text);
      assert.ok(json.choices[0].message.content.length > 1);
      all.push(json.choices[0].message.content);
    }
    return all;
  };
  assert.deepEqual(await answers(checkpoint), await answers(gguf));
  const models = await (await fetch(server.url + "/v1/models")).json();
  assert.ok(models.data.some((m) => m.id === checkpoint));
  assert.equal(await server.stop(), 0);
});

// The figure that PyTorch gives for this checkpoint.
test("perplexity is PyTorch's, and the GGUF agrees", () => {
  const reference = Number(readFileSync(join(guide, "README.md"), "utf8").match(/perplexity of `heldout.txt`[^|]*\| ([\d.]+) \|/)[1]);
  const { status, out, err } = run("perplexity", checkpoint, "--file", join(guide, "heldout.txt"), "--against", gguf, "--json");
  assert.equal(status, 0, err);
  const report = JSON.parse(out);
  assert.ok(Math.abs(report.perplexity.value / reference - 1) < 0.002, `${report.perplexity.value} against ${reference}`);
  assert.ok(Math.abs(report.against.kl_divergence.value) < 1e-5, out);
  assert.ok(report.against.same_top.value > 0.999, out);
});

test("inspect, run and tokenize take it", () => {
  const report = JSON.parse(run("inspect", checkpoint, "--json").out);
  const same = JSON.parse(run("inspect", gguf, "--json").out);
  for (const key of ["architecture", "parameters", "context", "layers", "dim", "heads", "kv_heads", "head_dim", "vocabulary", "kv_bytes_per_token"])
    assert.equal(report[key], same[key], key);
  assert.equal(report.quantization, "BF16");
  assert.equal(report.bits_per_weight, 16);
  assert.match(run("run", checkpoint, "-p", "Which port does the server listen on?", "--temperature", "0").out, /8091/);
  assert.equal(run("tokenize", checkpoint, "--json", "Hello world").out, run("tokenize", gguf, "--json", "Hello world").out);
});

test("what is wrong with a checkpoint is one line", () => {
  const copy = scratch("broken");
  cpSync(checkpoint, copy, { recursive: true });
  const config = JSON.parse(readFileSync(join(copy, "config.json"), "utf8"));
  const says = (change, pattern) => {
    writeFileSync(join(copy, "config.json"), JSON.stringify({ ...config, ...change }));
    const { status, err } = run("run", copy, "-p", "Hello");
    assert.equal(status, 1, err);
    assert.match(err, pattern);
    assert.match(err, /^error: .*\n$/);
    const inspected = JSON.parse(run("inspect", copy, "--json").out);
    assert.match(inspected.problem, pattern);
  };
  says({ quantization_config: { quant_method: "awq", bits: 4 } }, /quant_method is awq/);
  says({ architectures: ["BertModel"] }, /BertModel.*LlamaForCausalLM/);
  says({ hidden_size: 0 }, /hidden_size is 0/);
});
