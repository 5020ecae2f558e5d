// Vocabularies to build tokenizer.json files over: the bundled model's, and public ones from GGUF files.
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";

const root = process.env.QUERN_SOURCE_DIR ?? join(import.meta.dirname, "../..");
const data = process.env.QUERN_TEST_DATA ?? join(root, "../shared/fixtures");

/** The metadata of a well-formed GGUF file. */
export function readGgufMetadata(path) {
  const bytes = readFileSync(path);
  let at = 8;
  const u64 = () => Number(bytes.readBigUInt64LE((at += 8) - 8));
  const text = () => {
    const length = u64();
    return bytes.toString("utf8", at, (at += length));
  };
  const readers = [
    () => bytes.readUInt8(at++),
    () => bytes.readInt8(at++),
    () => bytes.readUInt16LE((at += 2) - 2),
    () => bytes.readInt16LE((at += 2) - 2),
    () => bytes.readUInt32LE((at += 4) - 4),
    () => bytes.readInt32LE((at += 4) - 4),
    () => bytes.readFloatLE((at += 4) - 4),
    () => bytes.readUInt8(at++) !== 0,
    text,
    () => {
      const read = readers[bytes.readUInt32LE((at += 4) - 4)];
      return Array.from({ length: u64() }, read);
    },
    u64,
    () => Number(bytes.readBigInt64LE((at += 8) - 8)),
    () => bytes.readDoubleLE((at += 8) - 8),
  ];
  u64(); // tensors
  const metadata = {};
  for (let left = u64(); left > 0; --left) {
    const key = text();
    metadata[key] = readers[bytes.readUInt32LE((at += 4) - 4)]();
  }
  return metadata;
}

const added = (id, content, more = {}) => ({ id, content, single_word: false, lstrip: false, rstrip: false, normalized: false, special: true, ...more });

/** "model" and "added_tokens" of a byte-level vocabulary. */
function byteLevel(tokens, types, merges) {
  const vocab = {};
  const specials = [];
  tokens.forEach((token, id) => (types[id] === 1 ? (vocab[token] = id) : specials.push(added(id, token))));
  return { model: { type: "BPE", dropout: null, unk_token: null, continuing_subword_prefix: null, end_of_word_suffix: null, fuse_unk: false, byte_fallback: false, ignore_merges: false, vocab, merges }, added_tokens: specials };
}

/** Every way to make a piece of two others, in the order of the scores, as Hugging Face's converter does it. */
function mergesOf(tokens, types, scores) {
  const ids = new Map();
  tokens.forEach((token, id) => types[id] === 1 && ids.set(token, id));
  const merges = [];
  for (const [token, id] of ids) {
    const characters = [...token];
    for (let n = 1; n < characters.length; ++n) {
      const left = characters.slice(0, n).join("");
      const right = characters.slice(n).join("");
      if (ids.has(left) && ids.has(right)) merges.push([scores[id], id, n, left, right]);
    }
  }
  merges.sort((a, b) => b[0] - a[0] || a[1] - b[1] || a[2] - b[2]);
  return merges.map(([, , , left, right]) => [left, right]);
}

/** "model" and "added_tokens" of a SentencePiece vocabulary. */
function byteFallback(tokens, types, scores) {
  const vocab = Object.fromEntries(tokens.map((token, id) => [token, id]));
  const specials = tokens.flatMap((token, id) => (types[id] === 2 || types[id] === 3 || types[id] === 4 ? [added(id, token, { special: types[id] !== 4 })] : []));
  return { model: { type: "BPE", dropout: null, unk_token: "<unk>", continuing_subword_prefix: null, end_of_word_suffix: null, fuse_unk: true, byte_fallback: true, ignore_merges: false, vocab, merges: mergesOf(tokens, types, scores) }, added_tokens: specials };
}

/** {bytes: […], characters: […]}: what there is here. */
export function vocabularies() {
  const guide = JSON.parse(readFileSync(join(root, "models/guide/checkpoint/tokenizer.json"), "utf8"));
  const found = { bytes: [["guide", { model: guide.model, added_tokens: guide.added_tokens }]], characters: [] };
  for (const name of ["gpt-2", "llama-spm", "phi-3"]) {
    const path = join(data, "vocab", `${name}.gguf`);
    if (!existsSync(path)) {
      console.log(`without ${name}: no public test data: set QUERN_TEST_DATA`);
      continue;
    }
    const m = readGgufMetadata(path);
    const [tokens, types] = [m["tokenizer.ggml.tokens"], m["tokenizer.ggml.token_type"]];
    if (m["tokenizer.ggml.model"] === "gpt2") found.bytes.push([name, byteLevel(tokens, types, m["tokenizer.ggml.merges"])]);
    else found.characters.push([name, byteFallback(tokens, types, m["tokenizer.ggml.scores"])]);
  }
  return found;
}

/** The public cases, where they are. */
export function cases() {
  const path = join(data, "vocab/cases.txt");
  return existsSync(path) ? readFileSync(path, "utf8").split("\n__ggml_vocab_test__\n") : [];
}
