// Writes GPTQ checkpoints of a checkpoint in BF16, rounded to nearest: packed here from the format's description.
import { cpSync, mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";

/** A safetensors file's tensors: name → { dtype, shape, bytes }. */
export function readSafetensors(path) {
  const file = readFileSync(path);
  const length = Number(file.readBigUInt64LE(0));
  const tensors = {};
  for (const [name, t] of Object.entries(JSON.parse(file.toString("utf8", 8, 8 + length)))) {
    if (name === "__metadata__") continue;
    const [begin, end] = t.data_offsets;
    tensors[name] = { dtype: t.dtype, shape: t.shape, bytes: file.subarray(8 + length + begin, 8 + length + end) };
  }
  return tensors;
}

export function writeSafetensors(path, tensors) {
  const header = {};
  let at = 0;
  for (const [name, t] of Object.entries(tensors)) header[name] = { dtype: t.dtype, shape: t.shape, data_offsets: [at, (at += t.bytes.length)] };
  let text = JSON.stringify(header);
  text += " ".repeat((8 - (text.length % 8)) % 8);
  const length = Buffer.alloc(8);
  length.writeBigUInt64LE(BigInt(text.length));
  writeFileSync(path, Buffer.concat([length, Buffer.from(text), ...Object.values(tensors).map((t) => t.bytes)]));
}

const bytesOf = (array) => Buffer.from(array.buffer, array.byteOffset, array.byteLength);

function bf16ToFloats(bytes) {
  const words = new Uint32Array(bytes.length / 2);
  for (let i = 0; i < words.length; ++i) words[i] = bytes.readUInt16LE(2 * i) << 16;
  return new Float32Array(words.buffer);
}

/** Bits of a number as f16, rounded down; positive numbers of a scale's size. */
function f16(value) {
  const bits = new Uint32Array(new Float32Array([value]).buffer)[0];
  return Math.max(0x400, (((bits >>> 23) - 112) << 10) | ((bits >>> 13) & 0x3ff));
}
const f16ToNumber = (half) => 2 ** ((half >> 10) - 15) * (1 + (half & 0x3ff) / 1024);

/** One stream of `bits`-bit values, the lowest bits first; word j goes to words[first + j · stride]. */
function pack(words, first, stride, bits, values) {
  values.forEach((value, i) => {
    for (let b = 0; b < bits; ++b) if ((value >> b) & 1) words[first + Math.floor((i * bits + b) / 32) * stride] |= 1 << ((i * bits + b) % 32);
  });
}

function shuffled(values, seed) {
  for (let i = values.length - 1; i > 0; --i) {
    seed = (Math.imul(seed, 1664525) + 1013904223) >>> 0;
    const j = seed % (i + 1);
    [values[i], values[j]] = [values[j], values[i]];
  }
  return values;
}

/** The tensors of a module: W is [rows][cols]. */
function quantize(w, rows, cols, { bits, group, sym, order, v2 }) {
  const groups = cols / group, top = 2 ** bits - 1;
  const gIdx = Int32Array.from({ length: cols }, (_, k) => Math.floor(k / group));
  if (order) shuffled(gIdx, cols);
  const qweight = new Int32Array(((cols * bits) / 32) * rows), qzeros = new Int32Array(groups * ((rows * bits) / 32));
  const scales = new Uint16Array(groups * rows), zeros = Array.from({ length: groups }, () => new Array(rows));
  const codes = new Array(cols);
  for (let n = 0; n < rows; ++n) {
    const low = new Float64Array(groups), high = new Float64Array(groups);
    for (let k = 0; k < cols; ++k) {
      const x = w[n * cols + k], g = gIdx[k];
      if (x < low[g]) low[g] = x;
      if (x > high[g]) high[g] = x;
    }
    for (let g = 0; g < groups; ++g) {
      const range = sym ? 2 * Math.max(high[g], -low[g]) : high[g] - low[g];
      const half = f16(range / top) + 1;
      scales[g * rows + n] = half;
      zeros[g][n] = sym ? 2 ** (bits - 1) : Math.min(top, Math.max(0, Math.round(-low[g] / f16ToNumber(half))));
    }
    for (let k = 0; k < cols; ++k) {
      const g = gIdx[k];
      codes[k] = Math.min(top, Math.max(0, Math.round(w[n * cols + k] / f16ToNumber(scales[g * rows + n])) + zeros[g][n]));
    }
    pack(qweight, n, rows, bits, codes);
  }
  const zeroWords = (rows * bits) / 32;
  for (let g = 0; g < groups; ++g) pack(qzeros, g * zeroWords, 1, bits, bits === 3 && !v2 ? zeros[g].map((z) => (z + 7) % 8) : zeros[g]);
  const ones = { 2: 0x55555555, 4: 0x11111111, 8: 0x01010101 }[bits];
  if (bits !== 3 && !v2) qzeros.forEach((word, i) => (qzeros[i] = word - ones));
  return {
    qweight: { dtype: "I32", shape: [(cols * bits) / 32, rows], bytes: bytesOf(qweight) },
    qzeros: { dtype: "I32", shape: [groups, zeroWords], bytes: bytesOf(qzeros) },
    scales: { dtype: "F16", shape: [groups, rows], bytes: bytesOf(scales) },
    g_idx: { dtype: "I32", shape: [cols], bytes: bytesOf(gIdx) },
  };
}

/**
 * A GPTQ checkpoint of the one in folder `source`, in two shards. `edit` may change the tensors and the configuration.
 * @param {{bits: number, group: number, sym: boolean, order?: boolean, v2?: boolean}} options
 */
export function writeGptq(source, folder, options, edit = () => {}) {
  mkdirSync(folder, { recursive: true });
  for (const file of ["generation_config.json", "special_tokens_map.json", "tokenizer.json", "tokenizer_config.json"]) cpSync(join(source, file), join(folder, file));
  const tensors = {};
  for (const [name, t] of Object.entries(readSafetensors(join(source, "model.safetensors")))) {
    if (!/_proj\.weight$/.test(name)) {
      tensors[name] = t;
      continue;
    }
    const parts = quantize(bf16ToFloats(t.bytes), t.shape[0], t.shape[1], options);
    for (const [part, tensor] of Object.entries(parts)) tensors[name.replace(/weight$/, part)] = tensor;
  }
  const config = JSON.parse(readFileSync(join(source, "config.json"), "utf8"));
  config.quantization_config = { quant_method: "gptq", bits: options.bits, group_size: options.group, sym: options.sym, desc_act: options.order ?? false };
  if (options.v2) config.quantization_config.checkpoint_format = "gptq_v2";
  edit(tensors, config);
  writeFileSync(join(folder, "config.json"), JSON.stringify(config));
  const shards = [{}, {}], weight_map = {};
  Object.entries(tensors).forEach(([name, t], i) => {
    shards[i % 2][name] = t;
    weight_map[name] = `model-0000${(i % 2) + 1}-of-00002.safetensors`;
  });
  shards.forEach((shard, i) => writeSafetensors(join(folder, `model-0000${i + 1}-of-00002.safetensors`), shard));
  writeFileSync(join(folder, "model.safetensors.index.json"), JSON.stringify({ weight_map }));
  return folder;
}
