// Random-weight Hugging Face checkpoints, written from the layout alone: config.json and BF16 safetensors in two
// shards, the tokenizer borrowed from the bundled model.
import { copyFileSync, mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";

const guide = join(import.meta.dirname, "../../models/guide/checkpoint");
const VOCAB = 2048, CONTEXT = 2048;

const llama3 = { rope_type: "llama3", factor: 8, low_freq_factor: 1, high_freq_factor: 4, original_max_position_embeddings: 256 };
const yarn = { type: "yarn", factor: 4, original_max_position_embeddings: 512 };
const divisors = (low, high) => Array.from({ length: 32 }, (_, i) => low + ((high - low) * i) / 31);

/** Changes to the configuration, by name. */
export const shapes = {
  llama: { architectures: ["LlamaForCausalLM"], tie_word_embeddings: true },
  "llama llama3": { architectures: ["LlamaForCausalLM"], rope_theta: 5e5, rope_scaling: llama3 },
  "llama linear": { architectures: ["LlamaForCausalLM"], rope_scaling: { type: "linear", factor: 2 } },
  "llama yarn": { architectures: ["LlamaForCausalLM"], rope_scaling: yarn },
  "llama biases": { architectures: ["LlamaForCausalLM"], attention_bias: true },
  mistral: { architectures: ["MistralForCausalLM"], sliding_window: null, head_dim: 96 },
  mixtral: { architectures: ["MixtralForCausalLM"], num_local_experts: 4, num_experts_per_tok: 2, rope_theta: 1e6 },
  phi3: { architectures: ["Phi3ForCausalLM"] },
  "phi3 longrope": {
    architectures: ["Phi3ForCausalLM"], original_max_position_embeddings: 1024,
    rope_scaling: { type: "longrope", short_factor: divisors(1, 1.5), long_factor: divisors(1, 9) },
  },
  "phi3 partial": { architectures: ["Phi3ForCausalLM"], partial_rotary_factor: 0.75 },
  qwen2: { architectures: ["Qwen2ForCausalLM"], rope_theta: 1e6 },
  "qwen2 yarn": { architectures: ["Qwen2ForCausalLM"], rope_scaling: yarn },
  qwen3: { architectures: ["Qwen3ForCausalLM"], head_dim: 96, tie_word_embeddings: true },
};

function* tensors(c) {
  const cls = c.architectures[0], dim = c.hidden_size, ffn = c.intermediate_size, vocab = c.vocab_size;
  const head = c.head_dim ?? dim / c.num_attention_heads;
  const q = c.num_attention_heads * head, kv = c.num_key_value_heads * head;
  yield ["model.embed_tokens", vocab, dim];
  if (!c.tie_word_embeddings) yield ["lm_head", vocab, dim];
  for (let i = 0; i < c.num_hidden_layers; i++) {
    const p = `model.layers.${i}.`;
    yield [`${p}input_layernorm`, dim];
    yield [`${p}post_attention_layernorm`, dim];
    if (cls === "Phi3ForCausalLM") {
      yield [`${p}self_attn.qkv_proj`, q + 2 * kv, dim];
      yield [`${p}mlp.gate_up_proj`, 2 * ffn, dim];
      yield [`${p}mlp.down_proj`, dim, ffn];
    } else {
      for (const [name, rows] of [["q", q], ["k", kv], ["v", kv]]) yield [`${p}self_attn.${name}_proj`, rows, dim];
      if (cls === "Qwen3ForCausalLM") for (const name of ["q", "k"]) yield [`${p}self_attn.${name}_norm`, head];
      if (cls === "Qwen2ForCausalLM" || c.attention_bias)
        for (const [name, rows] of [["q", q], ["k", kv], ["v", kv]]) yield [`${p}self_attn.${name}_proj.bias`, rows];
      if (c.attention_bias) yield [`${p}self_attn.o_proj.bias`, dim];
    }
    yield [`${p}self_attn.o_proj`, dim, q];
    if (c.num_local_experts) {
      yield [`${p}block_sparse_moe.gate`, c.num_local_experts, dim];
      for (let e = 0; e < c.num_local_experts; e++) {
        for (const name of ["w1", "w3"]) yield [`${p}block_sparse_moe.experts.${e}.${name}`, ffn, dim];
        yield [`${p}block_sparse_moe.experts.${e}.w2`, dim, ffn];
      }
    } else if (cls !== "Phi3ForCausalLM") {
      for (const name of ["gate", "up"]) yield [`${p}mlp.${name}_proj`, ffn, dim];
      yield [`${p}mlp.down_proj`, dim, ffn];
    }
  }
  yield ["model.norm", dim];
}

/** Standard normal numbers that depend on nothing but the seed. */
function normal(seed) {
  let state = seed >>> 0;
  const uniform = () => {
    state = (state + 0x9e3779b9) >>> 0;
    let x = Math.imul(state ^ (state >>> 16), 0x85ebca6b);
    x = Math.imul(x ^ (x >>> 13), 0xc2b2ae35);
    return (((x ^ (x >>> 16)) >>> 0) + 0.5) / 2 ** 32;
  };
  return () => Math.sqrt(-2 * Math.log(uniform())) * Math.cos(2 * Math.PI * uniform());
}

function bytesOf([name, ...shape], random) {
  const count = shape.reduce((a, b) => a * b), bias = name.endsWith(".bias");
  const [mean, deviation] = shape.length === 2 ? [0, shape[1] ** -0.5] : bias ? [0, 0.2] : [1, 0.1];
  const floats = Float32Array.from({ length: count }, () => mean + deviation * random());
  return Buffer.from(Uint16Array.from(new Uint32Array(floats.buffer), (bits) => bits >>> 16).buffer);
}

function writeShard(path, entries) {
  const header = { __metadata__: { format: "pt" } };
  let at = 0;
  for (const { name, shape, bytes } of entries) header[name] = { dtype: "BF16", shape, data_offsets: [at, (at += bytes.length)] };
  const text = JSON.stringify(header), length = Buffer.alloc(8);
  length.writeBigUInt64LE(BigInt(text.length));
  writeFileSync(path, Buffer.concat([length, Buffer.from(text), ...entries.map((e) => e.bytes)]));
}

export function makeCheckpoint(folder, shape, seed) {
  const config = {
    vocab_size: VOCAB, hidden_size: 256, intermediate_size: 384, num_hidden_layers: 3, num_attention_heads: 4, num_key_value_heads: 2,
    hidden_act: "silu", max_position_embeddings: CONTEXT, rms_norm_eps: 1e-5, rope_theta: 10000, tie_word_embeddings: false, ...shapes[shape],
  };
  mkdirSync(folder, { recursive: true });
  writeFileSync(join(folder, "config.json"), JSON.stringify(config));
  for (const file of ["tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "generation_config.json"])
    copyFileSync(join(guide, file), join(folder, file));
  const random = normal(seed), shards = [[], []], map = {};
  let i = 0;
  for (const tensor of tensors(config)) {
    const name = tensor[0].endsWith(".bias") ? tensor[0] : `${tensor[0]}.weight`, shard = i++ % 2;
    shards[shard].push({ name, shape: tensor.slice(1), bytes: bytesOf(tensor, random) });
    map[name] = `model-0000${shard + 1}-of-00002.safetensors`;
  }
  shards.forEach((entries, n) => writeShard(join(folder, `model-0000${n + 1}-of-00002.safetensors`), entries));
  writeFileSync(join(folder, "model.safetensors.index.json"), JSON.stringify({ metadata: {}, weight_map: map }));
}
