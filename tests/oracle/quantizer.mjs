// Encoders and quantized models against llama.cpp's own, from the libraries that node-llama-cpp brings: errors of the
// encoders on the same rows, and the KL divergence of the bundled model quantized by both, from its F32 weights.
//
// usage: node quantizer.mjs [--only REGEX]
import { spawnSync } from "node:child_process";
import { existsSync, readdirSync } from "node:fs";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { bin, calibration, checkpoint, fullPrecision, quality, quantize, run, scratch } from "../../bench/quality/measure.mjs";

const { values: options } = parseArgs({ options: { only: { type: "string", default: "" } } });
const libraries = join(import.meta.dirname, "../../node_modules/@node-llama-cpp/linux-x64/bins/linux-x64");
if (!existsSync(libraries)) {
  console.log("skipped: no @node-llama-cpp/linux-x64 in node_modules");
  process.exit(77);
}
const library = (name) => join(libraries, readdirSync(libraries).find((file) => file.startsWith(`lib${name}.`)));
let failed = 0;

const matrix = scratch("guide.imatrix");
run("quern", ["imatrix", checkpoint, "--file", calibration(), matrix]);

if (!options.only) {
  const { status, stdout, stderr } = spawnSync(join(bin, "quern_encoder_errors"), [library("ggml-base"), checkpoint, matrix], { encoding: "utf8" });
  console.log(stdout, stderr);
  failed += status === 0 ? 0 : 1;
}

// llama.cpp's numbers of these mixes; it stores no Q8_1 and Q8_K.
const mixes = { Q4_0: 2, Q4_1: 3, Q8_0: 7, Q5_0: 8, Q5_1: 9, Q2_K: 10, Q3_K_S: 11, Q3_K_M: 12, Q3_K_L: 13, Q4_K_S: 14, Q4_K_M: 15, Q5_K_S: 16, Q5_K_M: 17, Q6_K: 18 };
const reference = fullPrecision(), theirs = scratch("llamacpp.gguf");
console.log("KL divergence from F32, bundled model".padEnd(40), "ours".padStart(20), "llama.cpp's".padStart(20), "ratio".padStart(7));
for (const [type, number] of Object.entries(mixes).filter(([type]) => new RegExp(options.only).test(type))) {
  run("quern_llamacpp_quantize", [library("llama"), reference, theirs, `${number}`]);
  const mine = quality(quantize(reference, type).file, reference).kl, peer = quality(theirs, reference).kl;
  const ok = mine.value <= peer.value + Math.hypot(mine.error, peer.error);
  failed += ok ? 0 : 1;
  const shown = ({ value, error }) => `${value.toFixed(6)} ± ${error.toFixed(6)}`.padStart(20);
  console.log(type.padEnd(40), shown(mine), shown(peer), (mine.value / peer.value).toFixed(3).padStart(7), ok ? "" : "FAILED");
}
process.exit(failed === 0 ? 0 : 1);
