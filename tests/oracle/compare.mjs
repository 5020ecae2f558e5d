// Logits of quern against llama.cpp (node-llama-cpp) on random-weight models, and on the bundled one as `quern quantize`
// writes it: mean KL divergence over the whole vocabulary, and greedy tokens, which may differ only at near-ties.
//
// usage: node compare.mjs [--cases FILE.json] [--only REGEX] [--models FOLDER]
//   --models: keeps the models there and reuses them
import { execFileSync } from "node:child_process";
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { getLlama, LlamaLogLevel } from "node-llama-cpp";
import { makeCheckpoint } from "./checkpoint.mjs";

const { values: options } = parseArgs({
  options: {
    cases: { type: "string", default: join(import.meta.dirname, "cases.json") },
    only: { type: "string", default: "" },
    models: { type: "string" },
    quern: { type: "string", default: process.env.QUERN_BIN ?? join(import.meta.dirname, "../../build/release/bin") },
  },
});
const { limits, cases } = JSON.parse(readFileSync(options.cases, "utf8"));
const scratch = mkdtempSync(join(tmpdir(), "quern-oracle-"));
process.on("exit", () => rmSync(scratch, { recursive: true, force: true }));
const guide = join(import.meta.dirname, "../../models/guide");
const GENERATED = 16, PROMPT_POSITIONS = 16;
const llama = await getLlama({ gpu: false, build: "never", logLevel: LlamaLogLevel.error, progressLogs: false });

/** A sequence of ids that depends on nothing but the seed. */
function randomTokens(count, vocab, seed) {
  let state = seed >>> 0;
  return Array.from({ length: count }, () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return (state >>> 8) % vocab;
  });
}

/** Ids of the bundled model's held-out text, from somewhere in it on. */
const textTokens = (count, seed) => heldout().slice(seed, seed + count);
let heldoutTokens;
const heldout = () => (heldoutTokens ??= JSON.parse(execFileSync(join(options.quern, "quern"), ["tokenize", join(guide, "checkpoint"), "--json"], { input: readFileSync(join(guide, "heldout.txt")), encoding: "utf8" })));

/** llama.cpp: logits of the prompt's last positions and of its own greedy continuation. */
async function theirs(file, { prompt, context, seed, quantize }) {
  const model = await llama.loadModel({ modelPath: file });
  const ctx = await model.createContext({ contextSize: context, batchSize: 512, threads: 2 });
  const sequence = ctx.getSequence();
  const vocab = model.fileInfo.metadata.tokenizer.ggml.tokens.length;
  const tokens = quantize ? textTokens(prompt, seed) : randomTokens(prompt, vocab, seed);
  const first = Math.max(0, prompt - PROMPT_POSITIONS);
  const wanted = { generateNext: { token: true, logits: true } };
  const rows = [];
  const keep = (next) => {
    const row = new Float64Array(vocab);
    for (const [token, logit] of next.logits) row[token] = logit;
    rows.push(row);
    return next.token;
  };
  const output = await sequence.controlledEvaluate(tokens.map((t, i) => (i < first ? t : [t, wanted])));
  let next;
  for (let i = first; i < prompt; i++) next = keep(output[i].next);
  for (let i = 0; i < GENERATED; i++) {
    tokens.push(next);
    next = keep((await sequence.controlledEvaluate([[next, wanted]]))[0].next);
  }
  await ctx.dispose();
  await model.dispose();
  return { tokens, first, rows, vocab, context: ctx.contextSize };
}

/** quern: logits of the same positions of the same tokens. */
function ours(file, { tokens, first, vocab }, { prompt, context }) {
  const ids = join(scratch, "tokens.json"), out = join(scratch, "logits.f32");
  writeFileSync(ids, JSON.stringify(tokens));
  execFileSync(join(options.quern, "quern_logits"), [file, ids, out, "--prompt", `${prompt}`, "--first", `${first}`,
    "--context", `${context}`, "--chunk", "100", "--threads", "2"], { stdio: ["ignore", "ignore", "inherit"] });
  const bytes = readFileSync(out);
  const all = new Float32Array(bytes.buffer, bytes.byteOffset, bytes.length / 4);
  return Array.from({ length: tokens.length - first }, (_, i) => all.subarray(i * vocab, (i + 1) * vocab));
}

const argmax = (row) => row.reduce((best, v, i) => (v > row[best] ? i : best), 0);
function logSoftmax(row) {
  const max = row[argmax(row)];
  let sum = 0;
  for (const v of row) sum += Math.exp(v - max);
  return Float64Array.from(row, (v) => v - max - Math.log(sum));
}
function divergence(p, q) {
  let kl = 0;
  for (let i = 0; i < p.length; i++) kl += Math.exp(p[i]) * (p[i] - q[i]);
  return kl;
}

function compare(reference, mine, experts) {
  const kl = reference.map((row, i) => divergence(logSoftmax(row), logSoftmax(mine[i])));
  // Where the greedy tokens differ: how much less likely, by llama.cpp's own logits, ours is.
  const gaps = reference.map((row, i) => row[argmax(row)] - row[argmax(mine[i])]).filter((gap) => gap > 0);
  // A row whose router is undecided between two experts goes another way at the slightest noise, in llama.cpp's own
  // int8 rounding as in ours, and its logits change as a whole: models with experts are judged by the other rows.
  const settled = kl.toSorted((a, b) => a - b).slice(0, Math.ceil(kl.length * (experts ? 0.75 : 1)));
  const mean = (list) => list.reduce((a, b) => a + b) / list.length;
  return { mean: mean(settled), all: mean(kl), max: Math.max(...kl), agree: 1 - gaps.length / kl.length, gap: Math.max(0, ...gaps) };
}

let failed = 0;
console.log("case".padEnd(44), "mean KL".padStart(9), "max KL".padStart(9), "limit".padStart(8), "greedy".padStart(7), "gap".padStart(7));
const wanted = new RegExp(options.only);
for (const one of cases.filter((c) => wanted.test(c.name))) {
  const file = one.file ?? join(options.models ?? scratch, `${one.name.replaceAll(/[^\w.-]+/g, "_")}.gguf`);
  // A checkpoint runs here as it is, and there as the GGUF file made of it. Its folder names the model, and llama.cpp
  // expects tokens of its own where a name has "phi3" in it.
  const checkpoint = one.checkpoint && join(scratch, "random");
  const make = (program, ...args) => execFileSync(join(options.quern, program), args, { stdio: ["ignore", "ignore", "inherit"] });
  if (checkpoint) {
    makeCheckpoint(checkpoint, one.checkpoint, one.seed);
    make("quern", "quantize", checkpoint, file, "--type", one.format);
  } else if (one.quantize) {
    make("quern", "quantize", join(guide, "checkpoint"), file, "--type", one.quantize);
  } else if (!existsSync(file)) {
    make("quern_make_model", ...one.make, file);
  }
  const reference = await theirs(file, one);
  const result = compare(reference.rows, ours(checkpoint ?? file, reference, one), one.experts);
  if (!one.file && !options.models) rmSync(file);
  if (checkpoint) rmSync(checkpoint, { recursive: true });
  const limit = limits[one.format] ?? limits.others;
  // Logits that differ by δ (standard deviation) have a divergence of about δ²/2: a near-tie is a gap of a few δ.
  const ok = result.mean < limit && (one.experts || result.gap < 4 * Math.sqrt(2 * limit));
  failed += ok ? 0 : 1;
  console.log(one.name.padEnd(44), result.mean.toExponential(2).padStart(9), result.max.toExponential(2).padStart(9), limit.toString().padStart(8),
    `${(100 * result.agree).toFixed(0)} %`.padStart(7), result.gap.toFixed(3).padStart(7), one.experts ? `all rows: ${result.all.toExponential(2)}` : "", ok ? "" : "FAILED");
}
await llama.dispose();
console.log(failed === 0 ? "all agree" : `${failed} cases disagree`);
process.exit(failed === 0 ? 0 : 1);
