// What every quantization costs: the tables of docs/quantization.md, in Markdown.
//
// usage: node bench/quality/table.mjs [--speed MODEL] [--keep FILE.json] [--write docs/quantization.md]
//   quality is measured on the bundled model and its held-out text
//   --speed: encode and decode speed on this model (best in F16, and larger than the caches); otherwise left out
//   --keep: what has been measured is written there after every step, and not measured again
//   --write: in place of what stands between the <!-- table --> marks of that file
import { createReadStream, existsSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { parseArgs } from "node:util";
import { checkpoint, families, fullPrecision, gptq, isq, isqFamilies, quality, quantize, run } from "./measure.mjs";

const { values: options } = parseArgs({ options: { speed: { type: "string" }, keep: { type: "string" }, write: { type: "string" } } });
const measured = options.keep && existsSync(options.keep) ? JSON.parse(readFileSync(options.keep, "utf8")) : {};
function once(what, measure) {
  measured[what] ??= measure();
  if (options.keep) writeFileSync(options.keep, JSON.stringify(measured, null, 1));
  return measured[what];
}

// What `quantize --type` writes.
const written = ["F16", "BF16", ...Object.values(families).flat()];
// One type for all but embeddings and head: what a server makes of a checkpoint.
const inSitu = Object.values(isqFamilies).flat();

const human = (bytes) => `${(bytes / 2 ** 20).toFixed(2)} MiB`;
const estimate = ({ value, error }, digits) => `${value.toFixed(digits)} ± ${error.toFixed(digits)}`;

/** "| size | bits a weight | perplexity | KL divergence | same top token |" */
function qualityCells(file) {
  const { bytes, bits_per_weight } = JSON.parse(run("quern", ["inspect", file, "--json"]));
  const { perplexity, kl, same } = quality(file, fullPrecision());
  return [human(bytes), bits_per_weight.toFixed(2), perplexity.value.toFixed(4), estimate(kl, 5), `${(100 * same.value).toFixed(1)} %`];
}

const grids = [["--rtn"], [], ["--act-order"], ["--asym", "--rtn"], ["--asym"], ["--asym", "--act-order"]];
/** "| bits a weight | KL divergence of each of `grids` |"; groups of act-order are other ones, so it has no --rtn of its own. */
function gptqCells(type) {
  const made = grids.map((flags) => {
    const { file, bits_per_weight } = gptq(type, ...flags);
    const { kl } = quality(file, fullPrecision());
    rmSync(file, { recursive: true });
    return { bits_per_weight, kl };
  });
  return [made[0].bits_per_weight.toFixed(2), ...made.map(({ kl }) => estimate(kl, 5))];
}

/** Source bytes that are encoded in a second by all threads, and tokens decoded one by one. */
function speedCells(type) {
  const { file, source_bytes, encode_seconds } = quantize(options.speed, type);
  const { results } = JSON.parse(run("quern", ["bench", file, "-p", "0", "-n", "16", "-b", "1", "-r", "2", "--json"]));
  rmSync(file);
  return [`${(source_bytes / 1e6 / encode_seconds).toFixed(0)} MB/s`, `${results[0].tokens_per_second.toFixed(1)}`];
}

// From the page cache, every time.
if (options.speed) for await (const _ of createReadStream(options.speed, { highWaterMark: 1 << 20 }));

const lines = [];
function table(columns, rows) {
  const row = (cells) => lines.push(`| ${cells.join(" | ")} |`);
  row(columns);
  lines.push(`|${"---|".repeat(columns.length)}`);
  rows.forEach(row);
}
const costs = ["size", "bits a weight", "perplexity", "KL divergence from F32", "same top token"];
const speed = options.speed ? ["encoding", "decode, tokens/s"] : [];
table(["`quantize --type`", ...costs, ...speed], [
  ["F32", ...once("F32", () => qualityCells(fullPrecision())), ...speed.map(() => "-")],
  ...written.map((type) => [type, ...once(type, () => qualityCells(quantize(checkpoint, type).file)), ...(options.speed ? once(`${type} speed`, () => speedCells(type)) : [])]),
]);
lines.push("");
table(["`LLM_ISQ_TYPE`", ...costs], inSitu.map((type) => [type, ...once(`ISQ ${type}`, () => qualityCells(isq(checkpoint, type)))]));

lines.push("");
lines.push("### GPTQ and rounding to nearest", "", "KL divergence from F32 on the same text, calibrated with the text that the model was made of. To nearest: the same grid,", "every weight rounded on its own. Bits are those of the quantized matrices; embedding and head stay as they are.", "");
const kinds = ["rounded to nearest", "GPTQ", "GPTQ, `--act-order`", "`--asym`, to nearest", "`--asym`, GPTQ", "`--asym --act-order`, GPTQ"];
const gptqTypes = [2, 3, 4, 8].flatMap((bits) => ["32g", "128g", "channel"].map((group) => `gptq-${bits}bit-${group}`));
table(["`quantize --type`", "bits a weight", ...kinds], gptqTypes.map((type) => [type, ...once(type, () => gptqCells(type))]));

const text = lines.join("\n") + "\n";
if (!options.write) process.stdout.write(text);
else {
  const page = readFileSync(options.write, "utf8"), mark = "<!-- table -->\n";
  const parts = page.split(mark);
  if (parts.length !== 3) throw new Error(`${options.write}: wants two lines ${mark.trim()}`);
  writeFileSync(options.write, [parts[0], text, parts[2]].join(mark));
}
