// Time from nothing to the first token of an 8-token prompt, for a file in the page cache: quern (process start to
// the answer, everything included) and llama.cpp (node-llama-cpp; from loading the model on, in a process of its own),
// turn by turn; and what no start can be without: mapping the file, and one prefill of 8 tokens by weights that have their
// final form.
// usage: node bench/start/start.mjs MODEL.gguf [--threads 2] [--rounds 5] [--quern PATH]
import { execFileSync, spawn } from "node:child_process";
import { createReadStream } from "node:fs";
import { dirname, join } from "node:path";
import { parseArgs } from "node:util";

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    threads: { type: "string", default: "2" },
    rounds: { type: "string", default: "5" },
    quern: { type: "string", default: join(import.meta.dirname, "../../build/release/bin/quern") },
    peer: { type: "boolean", default: false },
  },
});
if (positionals.length !== 1) {
  console.error("usage: start.mjs MODEL.gguf [--threads N] [--rounds N] [--quern PATH]");
  process.exit(2);
}
const [file] = positionals;
const threads = Number(values.threads);

if (values.peer) {
  const { getLlama, LlamaLogLevel } = await import("node-llama-cpp");
  const llama = await getLlama({ gpu: false, logLevel: LlamaLogLevel.error, progressLogs: false });
  const begin = performance.now();
  const model = await llama.loadModel({ modelPath: file });
  const context = await model.createContext({ contextSize: 512, batchSize: 512, threads, flashAttention: true });
  const tokens = Array.from({ length: 8 }, (_, i) => 697 + i * 331);
  await context.getSequence().controlledEvaluate([...tokens.slice(0, -1), [tokens.at(-1), { generateNext: { token: true } }]]);
  console.log((performance.now() - begin) / 1000);
  process.exit(0);
}

/** Seconds until the process says something, and its end awaited. */
async function ours() {
  const begin = performance.now();
  const flags = ["run", file, "-p", "one two three four five six seven", "-n", "1", "-c", "512", "--threads", values.threads, "--json"];
  const child = spawn(values.quern, flags, { stdio: ["ignore", "pipe", "ignore"], env: { ...process.env, LLM_ALLOWED_MODELS: file } });
  let seconds = NaN;
  child.stdout.once("data", () => (seconds = (performance.now() - begin) / 1000));
  const status = await new Promise((resolve) => child.once("close", resolve));
  if (status !== 0) throw new Error(`quern run: exit status ${status}`);
  return seconds;
}

const peer = () => Number(execFileSync(process.execPath, [import.meta.filename, file, "--peer", "--threads", values.threads], { encoding: "utf8" }));

function prefill() {
  const flags = ["bench", file, "-p", "8", "-n", "1", "-b", "1", "-t", values.threads, "-r", "5", "--json"];
  const report = JSON.parse(execFileSync(values.quern, flags, { encoding: "utf8" }));
  return { seconds: 8 / report.results.find((r) => r.phase === "prefill").tokens_per_second, machine: report.machine };
}

const sorted = (list) => list.toSorted((a, b) => a - b);
const median = (list) => sorted(list)[Math.floor(list.length / 2)];
const show = (name, list) => console.log(`${name.padEnd(44)} ${median(list).toFixed(2).padStart(6)}  (${sorted(list).map((s) => s.toFixed(2)).join(" ")})`);

/** Seconds to map the file and touch all of it. */
const mapping = () => Number(execFileSync(join(dirname(values.quern), "quern_touch_file"), [file, values.threads], { encoding: "utf8" }));

for await (const chunk of createReadStream(file)) void chunk; // into the page cache
const rounds = { ours: [], peer: [], mapping: [] };
for (let i = 0; i < Number(values.rounds); i++) {
  rounds.ours.push(await ours());
  rounds.peer.push(peer());
  rounds.mapping.push(mapping());
}
const { seconds, machine } = prefill();
console.log(`${file}\n${machine.cpu}, ${machine.isa}, ${threads} threads; seconds: median (all)\n`);
show("quern: process start to first token", rounds.ours);
show("llama.cpp: model load to first token", rounds.peer);
show("quern: prefill of 8 tokens, weights packed", [seconds]);
show("mapping and touching the file", rounds.mapping);
const least = median(rounds.mapping) + seconds;
console.log(`\nquern's start over mapping and one prefill: ${(median(rounds.ours) / least).toFixed(2)}`);
