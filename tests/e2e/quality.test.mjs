// What each quantization costs on the bundled model: bounded, and never more for more bits of the same family. And
// weights that no type can hold.
import assert from "node:assert/strict";
import { cpSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { checkpoint, families, fullPrecision, heldout, isq, isqFamilies, quality, quantize, scratch } from "../../bench/quality/measure.mjs";

// A third of the held-out text: enough to tell the types apart.
const text = scratch("text.txt");
writeFileSync(text, readFileSync(heldout, "utf8").slice(0, 14000));

// KL divergence from F32 that no type may reach: a quarter above what was measured on this text.
const bounds = {
  Q8_K: 0.0011, Q6_K: 0.0044, Q5_K_M: 0.0128, Q5_K_S: 0.0133, Q4_K_M: 0.043, Q4_K_S: 0.041, Q3_K_L: 0.082, Q3_K_M: 0.098, Q3_K_S: 0.164, Q2_K: 0.343,
  Q8_0: 0.00098, Q5_0: 0.0191, Q4_0: 0.065, Q8_1: 0.00098, Q5_1: 0.0144, Q4_1: 0.054,
};
const isqBounds = { ...bounds, Q8_K: 0.0013, Q5_K: 0.0129, Q4_K: 0.048, Q3_K: 0.164, Q2_K: 0.591 };

/** Measures a family, the best first, and holds it to its order and bounds. */
function check(family, fileOf, bound) {
  let better; // the estimate of the type before
  for (const type of family) {
    const { kl, same } = quality(fileOf(type), fullPrecision(), text);
    const shown = `${type}: KL ${kl.value.toFixed(6)} ± ${kl.error.toFixed(6)}, same top token ${(100 * same.value).toFixed(1)} %`;
    console.log(shown);
    assert.ok(kl.value < bound(type), `${shown}; bound ${bound(type)}`);
    if (better) assert.ok(better.value <= kl.value + Math.hypot(better.error, kl.error), `${shown} is better than the type before it`);
    better = kl;
  }
}

for (const [name, family] of Object.entries(families))
  test(`quantize: ${name}`, () => check(family, (type) => quantize(checkpoint, type).file, (type) => bounds[type]));

for (const [name, family] of Object.entries(isqFamilies))
  test(`ISQ: ${name}`, () => check(family, (type) => isq(checkpoint, type), (type) => isqBounds[type]));

test("weights that are not finite are named", () => {
  const folder = scratch("not-finite"), name = "model.layers.3.mlp.up_proj.weight";
  cpSync(checkpoint, folder, { recursive: true });
  const file = join(folder, "model.safetensors"), bytes = readFileSync(file);
  const header = Number(bytes.readBigUInt64LE(0)), tensor = JSON.parse(bytes.toString("utf8", 8, 8 + header))[name];
  const [rows, cols] = tensor.shape, row = rows - 1;
  for (const [what, bits] of Object.entries({ NaN: 0x7fc0, infinity: 0x7f80, "minus infinity": 0xff80 })) {
    bytes.writeUInt16LE(bits, 8 + header + tensor.data_offsets[0] + 2 * (row * cols + 5)); // BF16
    writeFileSync(file, bytes);
    for (const type of ["Q4_K_M", "Q8_0", "BF16"])
      assert.throws(() => quantize(folder, type), new RegExp(`error: tensor ${name}: row ${row} has a value that is not finite`), `${what} ${type}`);
  }
});
