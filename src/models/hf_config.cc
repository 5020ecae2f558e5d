#include "models/hf_config.h"

#include <algorithm>

#include "formats/json_walk.h"
#include "formats/printable.h"
#include "models/hf_fields.h"
#include "models/limits.h"

namespace quern {
namespace {

using namespace limits;
using nlohmann::json;

void set(HfConfig& out, std::string_view key, Metadata::Value value) {
  out.metadata.add(fmt::format("{}.{}", out.arch->name, key), std::move(value));
}
void set_count(HfConfig& out, std::string_view key, int64_t value) {
  set(out, key, static_cast<uint64_t>(value));
}

Result<> find_class(const HfFields& config, HfConfig& out) {
  QUERN_TRY(const auto names, config.texts("architectures"));
  if (names.empty())
    return fail(ErrorCode::unsupported, "{} names none; these work: {}", config.full("architectures"),
                hf_class_names());
  out.arch = find_arch_of_hf_class(names.front());
  if (out.arch == nullptr)
    return fail(ErrorCode::unsupported, "{} is {}, which is not supported; these work: {}",
                config.full("architectures"), printable(names.front()), hf_class_names());
  out.hf_class = find_hf_class(*out.arch, names.front());
  return {};
}

Result<> check_activation(const HfFields& config) {
  QUERN_TRY(const auto activation, config.text("hidden_act"));
  if (!activation || *activation == "silu" || *activation == "swish") return {};
  return fail(ErrorCode::unsupported, "{} is {}; only silu is supported", config.full("hidden_act"),
              printable(*activation));
}

Result<> read_biases(const HfFields& config, HfConfig& out) {
  const HfClass& hf = *out.hf_class;
  out.attention_bias = hf.attention_bias == HfBias::qkv;
  if (hf.attention_bias == HfBias::by_key) {
    QUERN_TRY(out.attention_bias, config.boolean("attention_bias", false));
  }
  if (hf.mlp_bias) {
    QUERN_TRY(out.mlp_bias, config.boolean("mlp_bias", false));
  }
  return {};
}

Result<> read_experts(const HfFields& config, HfConfig& out) {
  if (!out.hf_class->experts) return {};
  QUERN_TRY(const int64_t experts, config.require("num_local_experts", 1, max_experts));
  QUERN_TRY(const int64_t used, config.require("num_experts_per_tok", 1, experts));
  set_count(out, "expert_count", experts);
  set_count(out, "expert_used_count", used);
  return {};
}

/// Layers that look back no further than the window: all of them, or none, or it is refused.
Result<> read_window(const HfFields& config, int64_t context, HfConfig& out) {
  const HfClass& hf = *out.hf_class;
  if (hf.window == HfWindow::never) return {};
  if (hf.window == HfWindow::if_switched) {
    QUERN_TRY(const bool used, config.boolean("use_sliding_window", false));
    if (!used) return {};
  }
  // Where the key is there, null says: no window.
  QUERN_TRY(const auto said, config.integer("sliding_window", 0, int64_t{1} << 40));
  const int64_t window = said.value_or(config.mentions("sliding_window") ? 0 : hf.default_window);
  if (window == 0 || window >= context) return {};
  int64_t first = 0;
  if (hf.window == HfWindow::if_switched) {
    QUERN_TRY(const auto full_layers, config.integer("max_window_layers", 0, max_layers));
    first = full_layers.value_or(28);
  }
  QUERN_TRY(const auto types, config.texts("layer_types"));
  const auto sliding = types.empty() ? std::max<int64_t>(0, out.layers - first)
                                     : std::ranges::count(types, "sliding_attention");
  if (sliding == 0) return {};
  if (sliding < out.layers)
    return fail(ErrorCode::unsupported,
                "{}: {} of {} layers have a sliding window; only all or none is supported",
                config.full(types.empty() ? "max_window_layers" : "layer_types"), sliding, out.layers);
  set_count(out, "attention.sliding_window", window);
  return {};
}

Result<> read_shape(const HfFields& config, HfConfig& out) {
  QUERN_TRY(out.layers, config.require("num_hidden_layers", 1, max_layers));
  QUERN_TRY(const int64_t dim, config.require("hidden_size", 1, max_dim));
  QUERN_TRY(const int64_t ffn, config.require("intermediate_size", 1, max_dim));
  QUERN_TRY(const int64_t context, config.require("max_position_embeddings", 1, max_context));
  QUERN_TRY(const int64_t heads, config.require("num_attention_heads", 1, max_heads));
  QUERN_TRY(const auto kv_heads, config.integer("num_key_value_heads", 1, max_heads));
  QUERN_TRY(auto head_dim, config.integer("head_dim", 1, max_head_dim));
  if (!head_dim && out.hf_class->head_dim > 0) head_dim = out.hf_class->head_dim;
  if (!head_dim && dim % heads != 0)
    return fail(ErrorCode::corrupt,
                "{} {} is not a multiple of num_attention_heads {}, and head_dim is missing",
                config.full("hidden_size"), dim, heads);
  QUERN_TRY(const auto eps, config.number("rms_norm_eps", -1e-30, 1));
  QUERN_TRY(out.vocab,
            config.integer("vocab_size", 1, int64_t{1} << 30).map([](auto v) { return v.value_or(0); }));
  set_count(out, "block_count", out.layers);
  set_count(out, "embedding_length", dim);
  set_count(out, "feed_forward_length", ffn);
  set_count(out, "attention.head_count", heads);
  set_count(out, "attention.head_count_kv", kv_heads.value_or(heads));
  set_count(out, "attention.key_length", head_dim.value_or(dim / heads));
  set_count(out, "attention.value_length", head_dim.value_or(dim / heads));
  set(out, "attention.layer_norm_rms_epsilon", eps.value_or(out.hf_class->norm_eps));
  if (out.vocab > 0) set_count(out, "vocab_size", out.vocab);
  QUERN_TRY_VOID(read_window(config, context, out));
  return read_hf_rope(config, head_dim.value_or(dim / heads), context, out);
}

}  // namespace

Result<HfConfig> read_hf_config(std::string_view text, const std::string& name) {
  constexpr int max_depth = 64;
  if (text.size() > kMaxHfConfigBytes)
    return fail(ErrorCode::corrupt, "{}: larger than {} bytes", name, kMaxHfConfigBytes);
  // First without building it, because only that is bounded in depth.
  JsonWalk walk(max_depth);
  if (!walk.walk(text)) return fail(ErrorCode::corrupt, "{}: {}", name, walk.problem());
  const json parsed = json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (!parsed.is_object()) return fail(ErrorCode::corrupt, "{}: not a JSON object", name);
  const HfFields config(parsed, name + ": ");
  HfConfig out;
  QUERN_TRY_VOID(find_class(config, out));
  QUERN_TRY_VOID(check_activation(config));
  QUERN_TRY_VOID(read_biases(config, out));
  if (config.has("tie_word_embeddings")) {
    QUERN_TRY(out.tied, config.boolean("tie_word_embeddings", false));
  }
  out.metadata.add("general.architecture", std::string(out.arch->name));
  QUERN_TRY_VOID(read_shape(config, out));
  QUERN_TRY_VOID(read_experts(config, out));
  return out;
}

}  // namespace quern
