// Metadata → ModelConfig. Keys: github.com/ggml-org/ggml/blob/master/docs/gguf.md; defaults as llama.cpp
// takes them.
#include <fmt/ranges.h>

#include <algorithm>
#include <cmath>
#include <optional>

#include "core/log.h"
#include "models/arch.h"
#include "models/limits.h"
#include "models/model.h"
#include "models/tensor_table.h"
#include "nn/rope.h"
#include "quant/quant.h"

namespace quern {
namespace {

using namespace limits;

/// Reads "<architecture>.<key>" and holds it to a range.
class Keys {
 public:
  Keys(const WeightSource& source, std::string_view prefix) : source_(source), prefix_(prefix) {}

  std::string full(std::string_view key) const { return fmt::format("{}.{}", prefix_, key); }

  /// Empty when absent. A value for each layer counts as one when all are equal.
  Result<std::optional<int64_t>> find(std::string_view key, int64_t low, int64_t high) const {
    const std::string name = full(key);
    const Metadata& metadata = source_.metadata();
    if (!metadata.contains(name)) return std::nullopt;
    auto value = metadata.integer(name);
    if (const auto values = metadata.integers(name)) {
      if (values->empty() || std::ranges::any_of(*values, [&](int64_t v) { return v != values->front(); })) {
        return fail(ErrorCode::unsupported, "{}: {} differs from layer to layer, which is not supported",
                    source_.name(), name);
      }
      value = values->front();
    }
    if (!value) return fail(ErrorCode::corrupt, "{}: {} is not an integer", source_.name(), name);
    if (*value < low || *value > high) {
      return fail(ErrorCode::corrupt, "{}: {} is {}, must be in {}…{}", source_.name(), name, *value, low,
                  high);
    }
    return value;
  }

  Result<int64_t> require(std::string_view key, int64_t low, int64_t high) const {
    QUERN_TRY(const auto value, find(key, low, high));
    if (!value)
      return fail(ErrorCode::not_found, "{}: metadata key {} is missing", source_.name(), full(key));
    return *value;
  }

  Result<int64_t> get(std::string_view key, int64_t otherwise, int64_t low, int64_t high) const {
    QUERN_TRY(const auto value, find(key, low, high));
    return value.value_or(otherwise);
  }

  /// Finite and in (low, high]; empty when absent.
  Result<std::optional<double>> find_number(std::string_view key, double low, double high) const {
    const std::string name = full(key);
    if (!source_.metadata().contains(name)) return std::nullopt;
    const auto value = source_.metadata().number(name);
    if (!value || !(*value > low && *value <= high)) {
      return fail(ErrorCode::corrupt, "{}: {} is {}, must be a number above {} and at most {}",
                  source_.name(), name, value.value_or(0), low, high);
    }
    return value;
  }

 private:
  const WeightSource& source_;
  std::string_view prefix_;
};

Result<const ArchSpec*> read_arch(const WeightSource& source) {
  const std::string* name = source.metadata().string("general.architecture");
  if (name == nullptr)
    return fail(ErrorCode::corrupt, "{}: metadata key general.architecture is missing", source.name());
  const ArchSpec* arch = find_arch(*name);
  if (arch == nullptr) {
    return fail(ErrorCode::unsupported, "{}: architecture \"{}\" is not supported; these are: {}",
                source.name(), *name, arch_names());
  }
  return arch;
}

Result<> read_heads(const Keys& keys, const WeightSource& source, ModelConfig& c) {
  QUERN_TRY(c.heads, keys.require("attention.head_count", 1, max_heads));
  QUERN_TRY(c.kv_heads, keys.get("attention.head_count_kv", c.heads, 1, max_heads));
  if (c.heads % c.kv_heads != 0) {
    return fail(ErrorCode::corrupt, "{}: {} query heads cannot share {} key/value heads evenly",
                source.name(), c.heads, c.kv_heads);
  }
  QUERN_TRY(const auto key_length, keys.find("attention.key_length", 1, max_head_dim));
  QUERN_TRY(const auto value_length, keys.find("attention.value_length", 1, max_head_dim));
  if (!key_length && c.dim % c.heads != 0) {
    return fail(ErrorCode::corrupt,
                "{}: embedding_length {} is not a multiple of head_count {}, and {} is missing",
                source.name(), c.dim, c.heads, keys.full("attention.key_length"));
  }
  c.head_dim = key_length.value_or(c.dim / c.heads);
  if (c.head_dim > max_head_dim || value_length.value_or(c.dim / c.heads) != c.head_dim) {
    return fail(ErrorCode::unsupported,
                "{}: heads with {} key values and {} values are not supported: both must be equal, "
                "at most {}",
                source.name(), c.head_dim, value_length.value_or(c.dim / c.heads), max_head_dim);
  }
  return {};
}

Result<> read_experts(const Keys& keys, const WeightSource& source, const ArchSpec& arch, ModelConfig& c) {
  QUERN_TRY(c.experts, keys.get("expert_count", 0, 0, max_experts));
  if (c.experts == 0) return {};
  if (find_name(arch, Role::router) == nullptr) {
    return fail(ErrorCode::unsupported, "{}: {} models with experts are not supported", source.name(),
                arch.name);
  }
  QUERN_TRY(c.experts_used, keys.require("expert_used_count", 1, c.experts));
  return {};
}

/// Rows of the embedding; as many as the vocabulary has tokens, where there is one.
Result<int64_t> read_vocab(const WeightSource& source, const ArchSpec& arch) {
  const auto* tokens = source.metadata().strings("tokenizer.ggml.tokens");
  const auto listed = tokens == nullptr ? int64_t{0} : static_cast<int64_t>(tokens->size());
  const TensorName* names = find_name(arch, Role::token_embd);
  const bool hf = has_hf_names(source, arch);
  const RawTensor* embedding = names == nullptr ? nullptr : source.find(hf ? names->hf : names->gguf);
  const int64_t rows = embedding == nullptr ? listed : embedding->rows();
  // Hugging Face checkpoints pad the embedding; GGUF files list the padding as tokens.
  if (listed > 0 && (hf ? rows < listed : rows != listed)) {
    return fail(ErrorCode::corrupt, "{}: {} has {} rows, but tokenizer.ggml.tokens lists {} tokens",
                source.name(), hf ? names->hf : names->gguf, rows, listed);
  }
  if (rows < 1 || rows > int64_t{1} << 30) {
    return fail(ErrorCode::corrupt,
                "{}: a vocabulary of {} tokens: token_embd.weight or tokenizer.ggml.tokens is needed",
                source.name(), rows);
  }
  return rows;
}

/// The divisors of the rope frequencies that this file has, for sequences of `context` tokens.
Result<std::vector<float>> rope_divisors(const WeightSource& source, const ArchSpec& arch,
                                         const ModelConfig& c, int64_t context, int64_t original_context) {
  const Role longrope = context > original_context ? Role::rope_factors_long : Role::rope_factors_short;
  for (const Role role : {Role::rope_freqs, longrope}) {
    const TensorName* names = find_name(arch, role);
    const RawTensor* tensor = names == nullptr ? nullptr : source.find(names->gguf);
    if (tensor == nullptr) continue;
    if (tensor->rows() != 1 || tensor->cols() != c.rope.rotated / 2) {
      return fail(ErrorCode::corrupt, "{}: tensor {} has shape [{}], expected [{}]", source.name(),
                  tensor->name, fmt::join(tensor->shape, ", "), c.rope.rotated / 2);
    }
    const auto bytes = tensor_bytes(tensor->dtype, 1, static_cast<uint64_t>(tensor->cols()));
    if (!bytes || *bytes != tensor->data.size())
      return fail(ErrorCode::corrupt, "{}: tensor {} cannot be decoded", source.name(), tensor->name);
    std::vector<float> divisors(static_cast<size_t>(tensor->cols()));
    decode_rows(*tensor, 0, 1, divisors.data());
    if (std::ranges::any_of(divisors, [](float d) { return !std::isfinite(d) || d <= 0; }))
      return fail(ErrorCode::corrupt, "{}: tensor {} has a factor that is not positive", source.name(),
                  tensor->name);
    return divisors;
  }
  return std::vector<float>{};
}

Result<> read_rope(const Keys& keys, const WeightSource& source, const ArchSpec& arch, int64_t context_limit,
                   ModelConfig& c) {
  c.rope.style = has_hf_names(source, arch) ? arch.hf_rope : arch.gguf_rope;
  c.rope.head_dim = c.head_dim;
  QUERN_TRY(c.rope.rotated, keys.get("rope.dimension_count", c.head_dim, 2, c.head_dim));
  if (c.rope.rotated % 2 != 0) {
    return fail(ErrorCode::corrupt, "{}: rope turns pairs, but {} values of a head are to be turned",
                source.name(), c.rope.rotated);
  }
  nn::RopeScaling scaling{.rotated = c.rope.rotated};
  QUERN_TRY(const auto base, keys.find_number("rope.freq_base", 0, 1e30));
  scaling.base = base.value_or(10000);
  QUERN_TRY(auto factor, keys.find_number("rope.scaling.factor", -1, 1e6));
  if (!factor) {  // the name before 2023-10
    QUERN_TRY(factor, keys.find_number("rope.scale_linear", -1, 1e6));
  }
  const std::string* type = source.metadata().string(keys.full("rope.scaling.type"));
  if (type != nullptr && *type != "none" && *type != "linear" && *type != "yarn" && *type != "longrope") {
    return fail(ErrorCode::unsupported, "{}: {} is \"{}\"; supported are none, linear, yarn, longrope",
                source.name(), keys.full("rope.scaling.type"), *type);
  }
  if ((type == nullptr || *type != "none") && factor.value_or(0) > 0) scaling.factor = *factor;  // 0: not set
  scaling.yarn = type != nullptr && *type == "yarn";
  QUERN_TRY(const auto beta_fast, keys.find_number("rope.scaling.yarn_beta_fast", 0, 1e6));
  QUERN_TRY(const auto beta_slow, keys.find_number("rope.scaling.yarn_beta_slow", 0, 1e6));
  scaling.beta_fast = beta_fast.value_or(scaling.beta_fast);
  scaling.beta_slow = beta_slow.value_or(scaling.beta_slow);
  QUERN_TRY(const auto magnitude, keys.find_number("rope.scaling.attn_factor", 0, 1e6));
  scaling.magnitude = magnitude.value_or(1);
  QUERN_TRY(const int64_t original_context,
            keys.get("rope.scaling.original_context_length", c.context, 1, max_context));
  scaling.original_context = static_cast<double>(original_context);
  QUERN_TRY(const auto divisors,
            rope_divisors(source, arch, c, context_limit > 0 ? context_limit : c.context, original_context));
  scaling.divisors = divisors;
  nn::RopeTable table = nn::rope_table(scaling);
  c.rope.magnitude = table.magnitude;
  c.rope_frequency = std::move(table.frequency);
  return {};
}

}  // namespace

Result<ModelConfig> read_model_config(const WeightSource& source, int64_t context_limit) {
  QUERN_TRY(const ArchSpec* arch, read_arch(source));
  const Keys keys(source, arch->name);
  ModelConfig c;
  c.architecture = arch->name;
  if (const std::string* name = source.metadata().string("general.name")) c.name = *name;
  QUERN_TRY(c.layers, keys.require("block_count", 1, max_layers));
  QUERN_TRY(c.dim, keys.require("embedding_length", 1, max_dim));
  QUERN_TRY(c.ffn_dim, keys.require("feed_forward_length", 1, max_dim));
  QUERN_TRY(c.context, keys.require("context_length", 1, max_context));
  QUERN_TRY_VOID(read_heads(keys, source, c));
  QUERN_TRY_VOID(read_experts(keys, source, *arch, c));
  QUERN_TRY(const auto eps, keys.find_number("attention.layer_norm_rms_epsilon", -1e-30, 1));
  if (!eps) {
    return fail(ErrorCode::not_found, "{}: metadata key {} is missing", source.name(),
                keys.full("attention.layer_norm_rms_epsilon"));
  }
  c.norm_eps = static_cast<float>(*eps);
  QUERN_TRY(const int64_t window, keys.get("attention.sliding_window", 0, 0, int64_t{1} << 40));
  if (arch->sliding_window || has_hf_names(source, *arch)) {
    c.window = window;
  } else if (window > 0) {
    log::debug("the file's sliding window is not followed for this architecture",
               {{"file", source.name()}, {"architecture", arch->name}, {"window", window}});
  }
  QUERN_TRY(c.vocab, read_vocab(source, *arch));
  QUERN_TRY_VOID(read_rope(keys, source, *arch, context_limit, c));
  return c;
}

}  // namespace quern
