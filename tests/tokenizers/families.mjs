// tokenizer.json as model families shape it: what stands around the vocabulary.
// `skip`: texts in which the peer departs from Hugging Face's library: its Digits are ASCII alone (there:
// Unicode's numbers), its Metaspace does not split.
const OTHER_NUMBERS = /[^\P{N}0-9]/u;
const split = (Regex, behavior = "Isolated", invert = false) => ({ type: "Split", pattern: { Regex }, behavior, invert });
const byteLevel = (use_regex, add_prefix_space = false) => ({ type: "ByteLevel", add_prefix_space, trim_offsets: true, use_regex });
const sequence = (...pretokenizers) => ({ type: "Sequence", pretokenizers });
const bosTemplate = (id, token) => ({
  type: "TemplateProcessing",
  single: [{ SpecialToken: { id: token, type_id: 0 } }, { Sequence: { id: "A", type_id: 0 } }],
  pair: [{ Sequence: { id: "A", type_id: 0 } }, { Sequence: { id: "B", type_id: 1 } }],
  special_tokens: { [token]: { id: token, ids: [id], tokens: [token] } },
});
const LLAMA3 = String.raw`(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+`;
const QWEN2 = LLAMA3.replace("{1,3}", "");
const CASED = String.raw`[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*`;
const TEKKEN = CASED + String.raw`|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+`;
const decoder = byteLevel(true);

export const byteFamilies = {
  "GPT-2": { pre_tokenizer: byteLevel(true), decoder },
  "Llama 3": (special) => ({ pre_tokenizer: sequence(split(LLAMA3), byteLevel(false)), decoder, ignore_merges: true, post_processor: { type: "Sequence", processors: [byteLevel(false), bosTemplate(special.id, special.content)] }, config: { bos_token: special.content } }),
  "Qwen 2.5": { normalizer: { type: "NFC" }, pre_tokenizer: sequence(split(QWEN2), byteLevel(false)), decoder },
  SmolLM: { pre_tokenizer: sequence({ type: "Digits", individual_digits: true }, byteLevel(true)), decoder, skip: OTHER_NUMBERS },
  Nemo: { pre_tokenizer: sequence(split(TEKKEN), byteLevel(false)), decoder, ignore_merges: true },
  "Phi-4": { pre_tokenizer: sequence(split(LLAMA3, "Removed", true), byteLevel(false)), decoder },
  "DeepSeek Coder": { pre_tokenizer: sequence(split("[\r\n]"), split(String.raw`\s?\p{L}+`), split(String.raw`\s?\p{P}+`), split("[一-龥ࠀ-一가-퟿]+"), { type: "Digits", individual_digits: true }, byteLevel(false)), decoder, skip: OTHER_NUMBERS },
  "space before all": { pre_tokenizer: byteLevel(true, true), decoder },
  "no family: NFKC, punctuation apart, capitals apart": { normalizer: { type: "NFKC" }, pre_tokenizer: sequence({ type: "Punctuation", behavior: "Contiguous" }, split(String.raw`\p{Lu}`), split(String.raw`\p{Han}+`, "Contiguous"), byteLevel(true)), decoder },
};

const prependAndReplace = { type: "Sequence", normalizers: [{ type: "Prepend", prepend: "▁" }, { type: "Replace", pattern: { String: " " }, content: "▁" }] };
const metaspace = (prepend_scheme, split) => ({ type: "Metaspace", replacement: "▁", prepend_scheme, split });
const characters = { type: "Sequence", decoders: [{ type: "Replace", pattern: { String: "▁" }, content: " " }, { type: "ByteFallback" }, { type: "Fuse" }, { type: "Strip", content: " ", start: 1, stop: 0 }] };
export const characterFamilies = {
  "Llama 2, TinyLlama": { normalizer: prependAndReplace, decoder: characters, post_processor: bosTemplate(1, "<s>"), config: { bos_token: "<s>", eos_token: "</s>" } },
  "Mistral v0.3": { pre_tokenizer: metaspace("first", false), decoder: characters, post_processor: bosTemplate(1, "<s>"), config: { bos_token: "<s>", eos_token: "</s>" } },
  "Phi-3": { normalizer: prependAndReplace, decoder: characters, rstrip: true },
  "words apart": { pre_tokenizer: metaspace("always", true), decoder: characters, skip: /[ ▁][ ▁]/ },
  "no space before": { normalizer: { type: "Replace", pattern: { String: " " }, content: "▁" }, decoder: characters },
};
