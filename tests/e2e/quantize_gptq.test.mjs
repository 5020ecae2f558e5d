// quern quantize to GPTQ checkpoints, on the bundled model's.
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { existsSync, mkdirSync, readFileSync, readdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { calibration } from "../../bench/quality/measure.mjs";
import { quern, scratch } from "./server.mjs";

const guide = join(process.env.QUERN_SOURCE_DIR ?? join(import.meta.dirname, "../.."), "models/guide");
const checkpoint = join(guide, "checkpoint");
const text = calibration();

function run(...args) {
  const done = spawnSync(quern, args, { encoding: "utf8", cwd: scratch("."), env: { PATH: process.env.PATH, HOME: scratch(".") } });
  return { status: done.status, out: done.stdout, err: done.stderr };
}
const quantize = (out, type, ...flags) => {
  const done = run("quantize", checkpoint, out, "--type", type, ...flags, "--json");
  assert.equal(done.status, 0, done.err);
  return JSON.parse(done.out);
};

/** Header of a safetensors file. */
function header(path) {
  const bytes = readFileSync(path);
  return JSON.parse(bytes.subarray(8, 8 + Number(bytes.readBigUInt64LE(0))).toString());
}

test("the folder is what the Hugging Face tools expect", () => {
  const out = scratch("guide-gptq");
  const report = quantize(out, "GPTQ-4bit-128g", "--calibration", text);
  assert.deepEqual(readdirSync(out).sort(), ["config.json", "generation_config.json", "model.safetensors", "quantize_config.json", "special_tokens_map.json", "tokenizer.json", "tokenizer_config.json"]);
  const config = JSON.parse(readFileSync(join(out, "config.json"), "utf8"));
  assert.equal(config.hidden_size, 256);
  const { bits, group_size, desc_act, sym, quant_method, checkpoint_format } = config.quantization_config;
  assert.deepEqual([bits, group_size, desc_act, sym, quant_method, checkpoint_format], [4, 128, false, true, "gptq", "gptq"]);
  const tensors = header(join(out, "model.safetensors"));
  const of = (part) => [tensors[`model.layers.0.mlp.down_proj.${part}`].dtype, ...tensors[`model.layers.0.mlp.down_proj.${part}`].shape];
  assert.deepEqual(of("qweight"), ["I32", 768 / 8, 256]);
  assert.deepEqual(of("qzeros"), ["I32", 6, 256 / 8]);
  assert.deepEqual(of("scales"), ["F16", 6, 256]);
  assert.deepEqual(of("g_idx"), ["I32", 768]);
  assert.equal(tensors["model.embed_tokens.weight"].dtype, "BF16");
  assert.ok(!("model.layers.0.mlp.down_proj.weight" in tensors));
  const down = report.tensors.find((t) => t.name === "model.layers.0.mlp.down_proj.weight");
  assert.ok(down.inputs_seen > 8192 && down.output_error < down.error, JSON.stringify(down));
  assert.ok(report.bits_per_weight > 4 && report.bits_per_weight < 4.5);
});

test("what cannot be is said in one line, and nothing is left", () => {
  const out = scratch("gptq-none");
  const line = (pattern, ...args) => {
    const { status, err } = run("quantize", ...args);
    assert.equal(status, 1, err);
    assert.match(err, /^error: [^\n]+\n$/);
    assert.match(err, pattern);
    assert.ok(!existsSync(out));
    assert.deepEqual(readdirSync(scratch(".")).filter((name) => name.endsWith(".tmp")), []);
  };
  line(/needs --calibration TEXT/, checkpoint, out, "--type", "gptq-4bit-128g");
  line(/gptq-5bit-128g is no type.*gptq-4bit-128g.*gptq-4bit-channel/, checkpoint, out, "--type", "gptq-5bit-128g", "--calibration", text);
  line(/groups of 100/, checkpoint, out, "--type", "gptq-4bit-100g", "--calibration", text);
  line(/no-such-text/, checkpoint, out, "--type", "gptq-4bit-128g", "--calibration", "no-such-text");
  line(/--imatrix is for GGUF types/, checkpoint, out, "--type", "gptq-4bit-128g", "--imatrix", "x");
  line(/--act-order is for GPTQ types/, checkpoint, out, "--type", "Q4_K", "--act-order");
  line(/full precision/, "quern/guide", out, "--type", "gptq-4bit-128g", "--calibration", text);
  writeFileSync(scratch("short.txt"), "Too short.");
  line(/a sequence of 512 is needed/, checkpoint, out, "--type", "gptq-4bit-128g", "--calibration", scratch("short.txt"));
  const there = scratch("gptq-there");
  mkdirSync(there, { recursive: true });
  writeFileSync(join(there, "file"), "mine");
  line(/it is there already/, checkpoint, there, "--type", "gptq-4bit-128g", "--calibration", text);
  assert.deepEqual(readdirSync(there), ["file"]);
});
