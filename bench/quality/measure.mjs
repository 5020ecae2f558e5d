// What quantizing costs, measured on the bundled model and its held-out text; shared by the table and the tests.
import { execFileSync } from "node:child_process";
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

const root = process.env.QUERN_SOURCE_DIR ?? join(import.meta.dirname, "../..");
export const bin = process.env.QUERN_BIN ?? join(root, "build/release/bin");
export const checkpoint = join(root, "models/guide/checkpoint");
export const heldout = join(root, "models/guide/heldout.txt");

/** What `quern quantize --type` takes, the largest first in each family: more bits must never be worse. */
export const families = {
  "two-level": ["Q8_K", "Q6_K", "Q5_K_M", "Q5_K_S", "Q4_K_M", "Q4_K_S", "Q3_K_L", "Q3_K_M", "Q3_K_S", "Q2_K"],
  symmetric: ["Q8_0", "Q5_0", "Q4_0"],
  "with minimum": ["Q8_1", "Q5_1", "Q4_1"],
};
/** LLM_ISQ_TYPE's, in the same way. */
export const isqFamilies = {
  "two-level": ["Q8_K", "Q6_K", "Q5_K", "Q4_K", "Q3_K", "Q2_K"],
  symmetric: ["Q8_0", "Q5_0", "Q4_0"],
  "with minimum": ["Q8_1", "Q5_1", "Q4_1"],
};

const folder = mkdtempSync(join(tmpdir(), "quern-quality-"));
process.on("exit", () => rmSync(folder, { recursive: true, force: true }));
export const scratch = (name) => join(folder, name);

export const run = (program, args, env = {}) =>
  execFileSync(join(bin, program), args, { encoding: "utf8", cwd: folder, env: { PATH: process.env.PATH, HOME: folder, ...env }, stdio: ["ignore", "pipe", "pipe"] });

/** The file, and what quantize says of it. */
export function quantize(source, type, ...flags) {
  const file = scratch(`${type}.gguf`);
  return { file, ...JSON.parse(run("quern", ["quantize", source, file, "--type", type, "--json", ...flags])) };
}

/** The file that a server keeps of a checkpoint. */
export function isq(source, type) {
  const cache = scratch(`isq-${type}`);
  run("quern", ["run", source, "-p", "Hello"], { XDG_CACHE_HOME: cache, LLM_ENABLE_ISQ: "true", LLM_ISQ_TYPE: type, LLM_MAX_TOKENS_LIMIT: "1" });
  const results = join(cache, "quern/isq");
  return join(results, readdirSync(results).find((name) => name.endsWith(".gguf")));
}

let calibrationText;
/** A file with answers and prose that the model was made of, and nothing of the held-out text. */
export function calibration() {
  if (calibrationText) return calibrationText;
  const facts = join(root, "models/guide/facts");
  const files = readdirSync(facts).filter((name) => !/^(wordings|heldout)/.test(name));
  const lines = files.flatMap((name) => readFileSync(join(facts, name), "utf8").split("\n"));
  writeFileSync(scratch("calibration.txt"), lines.filter((line) => /^[AP] /.test(line)).map((line) => line.slice(2)).join("\n\n"));
  return (calibrationText = scratch("calibration.txt"));
}

/** The bundled model as a GPTQ checkpoint; flags: --asym, --act-order, --rtn. */
export function gptq(type, ...flags) {
  const folder = scratch([type, ...flags].join(""));
  const how = flags.includes("--rtn") ? [] : ["--calibration", calibration()];
  return { file: folder, ...JSON.parse(run("quern", ["quantize", checkpoint, folder, "--type", type, "--json", ...how, ...flags])) };
}

/** Perplexity of a text and its distance from the reference: estimates, {value, error}. */
export function quality(file, reference, text = heldout) {
  const { perplexity, against } = JSON.parse(run("quern", ["perplexity", file, "--file", text, "--against", reference, "--json"]));
  return { perplexity, kl: against.kl_divergence, same: against.same_top };
}

let reference;
/** The bundled checkpoint in F32. */
export const fullPrecision = () => (reference ??= quantize(checkpoint, "F32").file);
