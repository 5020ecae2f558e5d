// The bundled model's checkpoint, cut into shards.
import { readFileSync, readdirSync } from "node:fs";
import { join } from "node:path";

export const guide = join(process.env.QUERN_SOURCE_DIR ?? join(import.meta.dirname, "../.."), "models/guide");

/** Name → {dtype, shape, data} of a safetensors file. */
function parse(file) {
  const length = Number(file.readBigUInt64LE(0));
  const { __metadata__, ...header } = JSON.parse(file.subarray(8, 8 + length).toString());
  const tensors = new Map();
  for (const [name, { dtype, shape, data_offsets: [begin, end] }] of Object.entries(header))
    tensors.set(name, { dtype, shape, data: file.subarray(8 + length + begin, 8 + length + end) });
  return tensors;
}

function build(tensors) {
  const header = {};
  let at = 0;
  for (const [name, { dtype, shape, data }] of tensors) header[name] = { dtype, shape, data_offsets: [at, (at += data.length)] };
  let text = JSON.stringify(header);
  text += " ".repeat((8 - (text.length % 8)) % 8);
  const length = Buffer.alloc(8);
  length.writeBigUInt64LE(BigInt(text.length));
  return Buffer.concat([length, Buffer.from(text), ...[...tensors.values()].map((t) => t.data)]);
}

/** The checkpoint's files with its tensors dealt out to `count` shards, neighbours apart. */
export function sharded(count) {
  const folder = join(guide, "checkpoint");
  const files = Object.fromEntries(readdirSync(folder).map((name) => [name, readFileSync(join(folder, name))]));
  const shards = Array.from({ length: count }, () => new Map());
  const name = (i) => `model-${String(i + 1).padStart(5, "0")}-of-${String(count).padStart(5, "0")}.safetensors`;
  const weight_map = {};
  let next = 0;
  for (const [tensor, value] of parse(files["model.safetensors"])) {
    weight_map[tensor] = name(next % count);
    shards[next++ % count].set(tensor, value);
  }
  delete files["model.safetensors"];
  shards.forEach((tensors, i) => (files[name(i)] = build(tensors)));
  files["model.safetensors.index.json"] = JSON.stringify({ metadata: {}, weight_map });
  return files;
}

export const isShard = (name) => name.endsWith(".safetensors");
export const weightBytes = (files) => Object.entries(files).reduce((sum, [name, data]) => sum + (isShard(name) ? data.length : 0), 0);
