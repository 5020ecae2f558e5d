// Runs llama.cpp (node-llama-cpp) and quern on the same file, turn by turn, and prints both and their ratios.
// usage: node bench/compare/compare.mjs MODEL.gguf [--prompt 512] [--generate 64] [--threads 2] [--rounds 3] [--quern PATH]
import { execFileSync } from "node:child_process";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { getLlama, LlamaLogLevel } from "node-llama-cpp";

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    prompt: { type: "string", default: "512" },
    generate: { type: "string", default: "64" },
    threads: { type: "string", default: "2" },
    rounds: { type: "string", default: "3" },
    quern: { type: "string", default: join(import.meta.dirname, "../../build/release/bin/quern") },
  },
});
if (positionals.length !== 1) {
  console.error("usage: compare.mjs MODEL.gguf [--prompt N] [--generate N] [--threads N] [--rounds N] [--quern PATH]");
  process.exit(2);
}
const [file] = positionals;
const prompt = Number(values.prompt), generate = Number(values.generate), threads = Number(values.threads);

const llama = await getLlama({ gpu: false, logLevel: LlamaLogLevel.error, progressLogs: false });
const model = await llama.loadModel({ modelPath: file });
const context = await model.createContext({ contextSize: prompt + generate + 64, batchSize: 512, threads, flashAttention: true });
const sequence = context.getSequence();
const vocabulary = 1000;
const tokens = Array.from({ length: prompt }, (_, i) => (i * 7919 + 13) % vocabulary);

/** Tokens per second of prefill and decode. */
async function peer() {
  await sequence.clearHistory();
  let begin = performance.now();
  await sequence.controlledEvaluate([...tokens.slice(0, -1), [tokens.at(-1), { generateNext: { token: true } }]]);
  const prefill = prompt / ((performance.now() - begin) / 1000);
  begin = performance.now();
  for (let i = 0; i < generate; i++) await sequence.controlledEvaluate([[(i * 31 + 7) % vocabulary, { generateNext: { token: true } }]]);
  return { prefill, decode: generate / ((performance.now() - begin) / 1000) };
}

function ours() {
  const out = execFileSync(values.quern, ["bench", file, "-p", prompt, "-n", generate, "-b", "1", "-t", threads, "-r", "1", "--json"], { encoding: "utf8" });
  const report = JSON.parse(out);
  const speed = (phase) => report.results.find((r) => r.phase === phase).tokens_per_second;
  return { prefill: speed("prefill"), decode: speed("decode"), machine: report.machine };
}

const median = (list) => list.toSorted((a, b) => a - b)[Math.floor(list.length / 2)];
const rounds = [];
await peer(); // warm up: pages, threads
for (let i = 0; i < Number(values.rounds); i++) rounds.push({ peer: await peer(), ours: ours() });

const { machine } = rounds[0].ours;
console.log(`${file}\n${machine.cpu}, ${machine.isa}, ${threads} threads; prompt ${prompt}, ${generate} tokens generated; median of ${values.rounds}\n`);
console.log("phase     llama.cpp tok/s   quern tok/s   ratio");
for (const phase of ["prefill", "decode"]) {
  const theirs = median(rounds.map((r) => r.peer[phase])), mine = median(rounds.map((r) => r.ours[phase]));
  const ratio = median(rounds.map((r) => r.ours[phase] / r.peer[phase]));
  console.log(`${phase.padEnd(9)} ${theirs.toFixed(1).padStart(15)} ${mine.toFixed(1).padStart(13)} ${ratio.toFixed(2).padStart(7)}`);
}
process.exit(0);
