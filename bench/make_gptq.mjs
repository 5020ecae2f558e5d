// Writes a random GPTQ checkpoint of TinyLlama's shape (1.1B), for measuring speed; its tokenizer is the bundled model's.
//   node bench/make_gptq.mjs OUT [--bits 4] [--group 128] [--act-order] [--asym] [--layers 22]
import { randomFillSync } from "node:crypto";
import { cpSync, closeSync, mkdirSync, openSync, writeFileSync, writeSync } from "node:fs";
import { join } from "node:path";
import { parseArgs } from "node:util";

const { values: flags, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    bits: { type: "string", default: "4" }, group: { type: "string", default: "128" }, layers: { type: "string", default: "22" },
    "act-order": { type: "boolean", default: false }, asym: { type: "boolean", default: false },
  },
});
const [out] = positionals, bits = Number(flags.bits), group = Number(flags.group), layers = Number(flags.layers);
const dim = 2048, ffn = 5632, heads = 32, kvHeads = 4, headDim = 64, vocabulary = 32000;

/** A number of a scale's size as f16. */
function f16(value) {
  const word = new Uint32Array(new Float32Array([value]).buffer)[0];
  return (((word >>> 23) - 112) << 10) | ((word >>> 13) & 0x3ff);
}
const filled = (count, half) => new Uint16Array(count).fill(half);
const random = (bytes) => randomFillSync(Buffer.alloc(bytes));
const bytesOf = (array) => Buffer.from(array.buffer, array.byteOffset, array.byteLength);

/** Normal numbers with deviation 1 / √cols, in BF16. */
function floats(rows, cols) {
  const values = new Uint16Array(rows * cols);
  const table = new Float32Array(4096).map(() => Math.sqrt(-2 * Math.log(1 - Math.random())) * Math.cos(2 * Math.PI * Math.random()) / Math.sqrt(cols));
  const words = new Uint32Array(table.buffer), picks = new Uint16Array(random(2 * values.length).buffer);
  for (let i = 0; i < values.length; ++i) values[i] = words[picks[i] & 4095] >>> 16;
  return { dtype: "BF16", shape: [rows, cols], bytes: bytesOf(values) };
}

/** All modules of one shape hold the same numbers. */
const made = {};
function module(rows, cols) {
  const key = `${rows}x${cols}`;
  if (made[key]) return made[key];
  const groups = group < 0 ? 1 : cols / group, top = 2 ** bits - 1;
  const deviation = Math.sqrt(((top + 1) ** 2 - 1) / 12);
  const gIdx = Int32Array.from({ length: cols }, (_, k) => Math.floor((k * groups) / cols));
  if (flags["act-order"]) for (let i = cols - 1; i > 0; --i) {
    const j = Math.floor(Math.random() * (i + 1));
    [gIdx[i], gIdx[j]] = [gIdx[j], gIdx[i]];
  }
  const fill = { 2: 0x55, 4: 0x77, 8: 0x7f }[bits];
  const zeros = Buffer.alloc((groups * rows * bits) / 8, fill);
  if (bits === 3) bytesOf(new Uint32Array(zeros.buffer, zeros.byteOffset, zeros.length / 4).map((_, i) => [0xdb6db6db, 0xb6db6db6, 0x6db6db6d][i % 3])).copy(zeros);
  // One more or less in some fields: not the same for all rows any more.
  if (flags.asym) for (let i = 0; i < zeros.length; i += 3) zeros[i] ^= bits === 8 ? 3 : 0x11;
  return (made[key] = {
    qweight: { dtype: "I32", shape: [(cols * bits) / 32, rows], bytes: random((cols * bits * rows) / 8) },
    qzeros: { dtype: "I32", shape: [groups, (rows * bits) / 32], bytes: zeros },
    scales: { dtype: "F16", shape: [groups, rows], bytes: bytesOf(filled(groups * rows, f16(1 / (deviation * Math.sqrt(cols))))) },
    g_idx: { dtype: "I32", shape: [cols], bytes: bytesOf(gIdx) },
  });
}

const tensors = { "model.embed_tokens.weight": floats(vocabulary, dim), "lm_head.weight": floats(vocabulary, dim) };
const ones = (n) => ({ dtype: "BF16", shape: [n], bytes: bytesOf(filled(n, 0x3f80)) });
tensors["model.norm.weight"] = ones(dim);
for (let i = 0; i < layers; ++i) {
  const layer = `model.layers.${i}.`;
  tensors[layer + "input_layernorm.weight"] = tensors[layer + "post_attention_layernorm.weight"] = ones(dim);
  const modules = {
    "self_attn.q_proj": [heads * headDim, dim], "self_attn.k_proj": [kvHeads * headDim, dim], "self_attn.v_proj": [kvHeads * headDim, dim],
    "self_attn.o_proj": [dim, heads * headDim], "mlp.gate_proj": [ffn, dim], "mlp.up_proj": [ffn, dim], "mlp.down_proj": [dim, ffn],
  };
  for (const [name, [rows, cols]] of Object.entries(modules))
    for (const [part, tensor] of Object.entries(module(rows, cols))) tensors[`${layer}${name}.${part}`] = tensor;
}

mkdirSync(out, { recursive: true });
const header = {};
let at = 0;
for (const [name, t] of Object.entries(tensors)) header[name] = { dtype: t.dtype, shape: t.shape, data_offsets: [at, (at += t.bytes.length)] };
let text = JSON.stringify(header);
text += " ".repeat((8 - (text.length % 8)) % 8);
const length = Buffer.alloc(8);
length.writeBigUInt64LE(BigInt(text.length));
const file = openSync(join(out, "model.safetensors"), "w");
for (const bytes of [length, Buffer.from(text), ...Object.values(tensors).map((t) => t.bytes)]) writeSync(file, bytes);
closeSync(file);
const checkpoint = join(import.meta.dirname, "../models/guide/checkpoint");
for (const name of ["tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"]) cpSync(join(checkpoint, name), join(out, name));
writeFileSync(join(out, "config.json"), JSON.stringify({
  architectures: ["LlamaForCausalLM"], hidden_size: dim, intermediate_size: ffn, num_hidden_layers: layers, num_attention_heads: heads,
  num_key_value_heads: kvHeads, hidden_act: "silu", max_position_embeddings: 2048, rms_norm_eps: 1e-5, rope_theta: 10000,
  tie_word_embeddings: false, vocab_size: vocabulary,
  quantization_config: { quant_method: "gptq", bits, group_size: group, sym: !flags.asym, desc_act: flags["act-order"] },
}));
