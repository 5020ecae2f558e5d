// The commands as a user types them.
import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { truncateSync, writeFileSync, copyFileSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { before, test } from "node:test";
import { makeModel, quern, scratch } from "./server.mjs";

let model;
before(() => {
  model = makeModel("tiny", "commands.gguf", "--distinct", "--type", "Q4_K_M", "--vocab-size", "1024");
});

function run(args, input = "", env = {}) {
  const done = spawnSync(quern, args, { input, encoding: "utf8", cwd: scratch("."), env: { PATH: process.env.PATH, HOME: scratch("."), ...env } });
  return { status: done.status, out: done.stdout, err: done.stderr };
}

test("no command and a wrong one are wrong usage", () => {
  assert.equal(run([]).status, 2);
  const wrong = run(["serv"]);
  assert.equal(wrong.status, 2);
  assert.equal(wrong.err, "error: serv: no such command: see quern --help\n");
  assert.equal(run(["bench", "--batch", "none", model]).status, 2);
  for (const command of ["serve", "run", "inspect", "tokenize", "bench", "perplexity"]) assert.equal(run([command, "--help"]).status, 0, command);
});

test("tokenize: text to ids and back", () => {
  const text = "Hello Zürich 🦙\n  two  spaces";
  const there = run(["tokenize", model, "--json", "--no-special"], text);
  assert.equal(there.status, 0, there.err);
  assert.ok(JSON.parse(there.out).every(Number.isInteger));
  const back = run(["tokenize", model, "--ids"], there.out);
  assert.equal(back.out, text);
  const wrong = run(["tokenize", model, "--ids"], "1 2 99999999");
  assert.equal(wrong.status, 1);
  assert.match(wrong.err, /^error: .*between 0 and 1023\n$/);
});

test("inspect says what a file is", () => {
  const { status, out } = run(["inspect", model, "--json", "--tensors"]);
  assert.equal(status, 0);
  const report = JSON.parse(out);
  assert.equal(report.architecture, "llama");
  assert.equal(report.quantization, "Q4_K_M");
  assert.ok(report.bits_per_weight > 4 && report.bits_per_weight < 17);
  assert.ok(report.tensors.some((t) => t.name === "blk.0.attn_q.weight" && t.type === "Q4_K"));
  assert.match(run(["inspect", model]).out, /llama/);
});

test("run answers once, the same when greedy", () => {
  const ask = () => run(["run", model, "-p", "Hello", "--temperature", "0", "-n", "12"]);
  const first = ask();
  assert.equal(first.status, 0, first.err);
  assert.ok(first.out.length > 1);
  assert.equal(ask().out, first.out);
  const json = JSON.parse(run(["run", model, "-p", "Hello", "--temperature", "0", "-n", "12", "--json"]).out);
  assert.equal(json.text + "\n", first.out);
  assert.equal(run(["run", model, "--temperature", "0", "-n", "12"], "Hello").out, first.out, "stdin is the prompt");
});

test("bench reports both phases", () => {
  const { status, out, err } = run(["bench", model, "-p", "64", "-n", "8", "-b", "1,3", "-r", "1", "--json"]);
  assert.equal(status, 0, err);
  const { machine, results } = JSON.parse(out);
  assert.ok(machine.read_gb_s > 0 && machine.int8_gops > 0 && machine.threads >= 1);
  assert.deepEqual(results.map((r) => [r.phase, r.batch]), [["prefill", 1], ["decode", 1], ["decode", 3]]);
  assert.ok(results.every((r) => r.tokens_per_second > 0));
});

test("inspect says how much memory a model needs", () => {
  const { memory_needed, context } = JSON.parse(run(["inspect", model, "--json"]).out);
  const ask = (limit) => run(["run", model, "-p", "Hello", "-n", "4", "--device", "cpu"], "",
    { LLM_MEMORY_LIMIT: String(limit), LLM_CONTEXT_SIZE: String(context) });
  assert.equal(ask(memory_needed).status, 0);
  assert.equal(ask(Math.floor(memory_needed / 3)).status, 1);
});

test("threads that the system does not give are an error, not a hang", () => {
  const done = spawnSync("bash", ["-c", 'ulimit -v 3000000; exec "$0" run quern/guide -p hi -t 1000', quern],
    { encoding: "utf8", timeout: 60_000, cwd: scratch("."), env: { PATH: process.env.PATH, HOME: scratch(".") } });
  assert.equal(done.status, 1, done.stderr);
  assert.match(done.stderr, /^error: LLM_THREADS: 1000: the system gives only \d+: [^\n]*\n$/);
});

test("run takes the same settings as serve", () => {
  const small = run(["run", model, "-p", "Hello", "-n", "4"], "", { LLM_MEMORY_LIMIT: "1KiB" });
  assert.equal(small.status, 1);
  assert.match(small.err, /^error: .*limit is 1024 bytes.*LLM_MEMORY_LIMIT\n$/);
  const type = run(["run", model, "-p", "Hello", "-n", "4", "--device", "cpu"], "", { LLM_KV_CACHE_TYPE: "f8e4m3" });
  assert.equal(type.status, 1);
  assert.match(type.err, /^error: LLM_KV_CACHE_TYPE: [^\n]*\n$/);
  const cache = (kind) => {
    const { err } = run(["run", model, "-p", "Hello", "-n", "4", "--log-level", "info"], "", { LLM_KV_CACHE_TYPE: kind, LOG_FORMAT: "json" });
    return Number(err.split("\n").filter(Boolean).map((line) => JSON.parse(line)).find((entry) => entry.bytes).bytes);
  };
  assert.ok(cache("q8_0") < cache("f16"));
});

test("a path that is not UTF-8 is reported, not died of", () => {
  const script = 'exec "$0" quantize "$1" "$(printf \'odd\\377.gguf\')" --type Q4_0 --json';
  const done = spawnSync("sh", ["-c", script, quern, model], { encoding: "utf8", cwd: scratch("."), env: { PATH: process.env.PATH, HOME: scratch(".") } });
  assert.equal(done.status, 0, done.stderr);
  assert.ok(JSON.stringify(JSON.parse(done.stdout)).includes("odd\ufffd.gguf"));
});

test("broken files are one line each, naming the file", () => {
  const broken = (name, make, pattern) => {
    const path = scratch(name);
    make(path);
    const { status, err } = run(["inspect", path]);
    assert.equal(status, 1, name);
    assert.match(err, /^error: [^\n]*\n$/, name);
    assert.match(err, pattern, name);
    assert.ok(err.includes(name));
  };
  const cut = (path) => (copyFileSync(model, path), truncateSync(path, 500_000));
  broken("cut.gguf", cut, /truncated|missing|beyond|ends/i);
  broken("empty.gguf", (p) => writeFileSync(p, ""), /empty|GGUF|truncated/i);
  broken("text.gguf", (p) => writeFileSync(p, "<html>not found</html>"), /GGUF/);
  const { status, err } = run(["run", "/no/such.gguf", "-p", "x"]);
  assert.equal(status, 1);
  assert.match(err, /^error: .*\/no\/such\.gguf/);
});

test("a setting that does not parse is one line with what is allowed", () => {
  const { status, err } = run(["run", model, "-p", "x"], "", { LLM_THREADS: "many" });
  assert.equal(status, 1);
  assert.match(err, /^error: LLM_THREADS.*many.*\n$/);
  assert.match(run(["run", model, "-p", "x", "-n", "1"], "", { LLM_TREADS: "2" }).err, /LLM_TREADS.*LLM_THREADS/);
});

test("the bundled model answers a question about Quern", () => {
  const { status, out, err } = run(["run", "-p", "Which port does the server listen on?", "--temperature", "0"]);
  assert.equal(status, 0, err);
  assert.match(out, /8091/);
});

// The figure that PyTorch gives for the checkpoint (models/guide/README.md); the embedded model is its Q8_0.
test("perplexity of the bundled model is what PyTorch says", () => {
  const folder = join(process.env.QUERN_SOURCE_DIR, "models/guide");
  const reference = Number(readFileSync(join(folder, "README.md"), "utf8").match(/perplexity of `heldout.txt`[^|]*\| ([\d.]+) \|/)[1]);
  const { status, out, err } = run(["perplexity", "quern/guide", "--file", join(folder, "heldout.txt"), "--against", "quern/guide", "--json"]);
  assert.equal(status, 0, err);
  const report = JSON.parse(out);
  assert.ok(Math.abs(report.perplexity.value / reference - 1) < 0.01, `${report.perplexity.value} against ${reference}`);
  assert.equal(report.against.same_top.value, 1);
  assert.ok(Math.abs(report.against.kl_divergence.value) < 1e-9);
  // What a q8_0 cache costs: the other side's stays f16.
  const cached = run(["perplexity", "quern/guide", "--file", join(folder, "heldout.txt"), "--against", "quern/guide", "--json"], "",
    { LLM_KV_CACHE_TYPE: "q8_0", LLM_DEVICE: "cpu" });
  const cost = JSON.parse(cached.out).against.kl_divergence.value;
  assert.ok(cost > 1e-6 && cost < 1e-3, `${cost}`);
  writeFileSync(scratch("short.txt"), "Too short.");
  const short = run(["perplexity", "quern/guide", "--file", scratch("short.txt")]);
  assert.equal(short.status, 1);
  assert.match(short.err, /^error: .*two chunks of 512.*\n$/);
  const missing = run(["perplexity", "quern/guide", "--file", "no-such-file"]);
  assert.equal(missing.status, 1);
  assert.match(missing.err, /^error: .*no-such-file.*\n$/);
});
