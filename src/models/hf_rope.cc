// Rotary embeddings as config.json describes them. Formulas: transformers, modeling_rope_utils.py.
#include <algorithm>
#include <cmath>
#include <numbers>

#include "formats/printable.h"
#include "models/hf_config.h"
#include "models/hf_fields.h"
#include "models/limits.h"

namespace quern {
namespace {

constexpr std::string_view kinds = "default, linear, dynamic, llama3, longrope, yarn";

/// rope_scaling (or what transformers 5 calls rope_parameters), and what its kinds need of the rest.
struct Rope {
  const HfFields& config;
  const HfFields& scaling;  // `config` itself where there is none
  int64_t rotated = 0;
  double base = 0;
  int64_t context = 0;  // max_position_embeddings; a kind may raise it
  HfConfig& out;

  void set(std::string_view key, Metadata::Value value) const {
    out.metadata.add(fmt::format("{}.rope.{}", out.arch->name, key), std::move(value));
  }
  Result<double> factor() const {
    QUERN_TRY(const auto factor, scaling.number("factor", 0, 1e6));
    if (!factor) return fail(ErrorCode::not_found, "{} is missing", scaling.full("factor"));
    return *factor;
  }
  /// Beside the factor, or in the configuration itself (Phi-3).
  Result<std::optional<int64_t>> original_context() const {
    constexpr const char* key = "original_max_position_embeddings";
    QUERN_TRY(const auto here, scaling.integer(key, 1, limits::max_context));
    return here ? here : config.integer(key, 1, limits::max_context);
  }
  /// Divisors that GGUF files hold as a tensor.
  Result<> add_factors(Role role, std::vector<float> divisors) const {
    if (find_name(*out.arch, role) == nullptr)
      return fail(ErrorCode::unsupported, "{}: {} models with this kind of rope are not supported",
                  scaling.full("rope_type"), out.hf_class->name);
    out.rope_factors.push_back({role, std::move(divisors)});
    return {};
  }
};

Result<> read_linear(const Rope& rope) {
  QUERN_TRY(const double factor, rope.factor());
  rope.set("scaling.type", std::string("linear"));
  rope.set("scaling.factor", factor);
  return {};
}

/// Llama 3.1: high frequencies stay, low ones are divided, in between it slides.
Result<> read_llama3(const Rope& rope) {
  QUERN_TRY(const double factor, rope.factor());
  QUERN_TRY(const auto low, rope.scaling.number("low_freq_factor", 0, 1e6));
  QUERN_TRY(const auto high, rope.scaling.number("high_freq_factor", 0, 1e6));
  QUERN_TRY(const auto original, rope.original_context());
  if (!low || !high || !original || *low >= *high)
    return fail(
        ErrorCode::corrupt,
        "{} llama3 needs low_freq_factor below high_freq_factor, and original_max_position_embeddings",
        rope.scaling.full("rope_type"));
  const auto context = static_cast<double>(*original);
  std::vector<float> divisors;
  for (int64_t i = 0; i < rope.rotated; i += 2) {
    const double wavelength = 2 * std::numbers::pi *
                              std::pow(rope.base, static_cast<double>(i) / static_cast<double>(rope.rotated));
    const double kept = std::clamp((context / wavelength - *low) / (*high - *low), 0.0, 1.0);
    divisors.push_back(static_cast<float>(1 / ((1 - kept) / factor + kept)));
  }
  return rope.add_factors(Role::rope_freqs, std::move(divisors));
}

/// Phi-3's: one list of divisors up to the original context, one beyond, and a factor on cos and sin.
Result<> read_longrope(const Rope& rope) {
  const auto count = static_cast<size_t>(rope.rotated / 2);
  QUERN_TRY(auto longer, rope.scaling.positive_numbers("long_factor", count));
  QUERN_TRY(auto shorter, rope.scaling.positive_numbers("short_factor", count));
  if (longer.empty() || shorter.empty())
    return fail(ErrorCode::corrupt, "{} longrope needs long_factor and short_factor",
                rope.scaling.full("rope_type"));
  QUERN_TRY(const auto said, rope.original_context());
  QUERN_TRY(const auto factor, rope.scaling.number("factor", 0, 1e6));
  QUERN_TRY(const auto magnitude, rope.scaling.number("attention_factor", 0, 1e6));
  const int64_t original = said.value_or(rope.context);
  const double stretch =
      said ? static_cast<double>(rope.context) / static_cast<double>(original) : factor.value_or(1);
  const bool computed = stretch > 1 && original > 1;
  rope.set("scaling.type", std::string("longrope"));
  rope.set("scaling.original_context_length", static_cast<uint64_t>(original));
  rope.set("scaling.attn_factor",
           magnitude.value_or(
               computed ? std::sqrt(1 + std::log(stretch) / std::log(static_cast<double>(original))) : 1.0));
  QUERN_TRY_VOID(rope.add_factors(Role::rope_factors_long, std::move(longer)));
  return rope.add_factors(Role::rope_factors_short, std::move(shorter));
}

/// The factor on cos and sin, as a multiple of YaRN's own, 1 + 0.1 ln(factor).
Result<double> yarn_magnitude(const HfFields& scaling, double factor) {
  QUERN_TRY(const auto said, scaling.number("attention_factor", 0, 1e6));
  QUERN_TRY(const auto mscale, scaling.number("mscale", -1e-30, 1e6));
  QUERN_TRY(const auto mscale_all, scaling.number("mscale_all_dim", -1e-30, 1e6));
  const auto magnitude = [&](double scale) { return factor > 1 ? 0.1 * scale * std::log(factor) + 1 : 1.0; };
  if (said) return *said / magnitude(1);
  if (mscale.value_or(0) > 0 && mscale_all.value_or(0) > 0)
    return magnitude(*mscale) / magnitude(*mscale_all) / magnitude(1);
  return 1.0;
}

Result<> read_yarn(Rope& rope) {
  const HfFields& scaling = rope.scaling;
  QUERN_TRY(const bool truncate, scaling.boolean("truncate", true));
  if (!truncate)
    return fail(ErrorCode::unsupported, "{} is false, which is not supported", scaling.full("truncate"));
  QUERN_TRY(const auto said, rope.original_context());
  QUERN_TRY(auto factor, scaling.number("factor", 0, 1e6));
  if (!factor && said) factor = static_cast<double>(rope.context) / static_cast<double>(*said);
  if (!factor) return fail(ErrorCode::not_found, "{} is missing", scaling.full("factor"));
  QUERN_TRY(const double magnitude, yarn_magnitude(scaling, *factor));
  rope.set("scaling.type", std::string("yarn"));
  rope.set("scaling.factor", *factor);
  rope.set("scaling.original_context_length", static_cast<uint64_t>(said.value_or(rope.context)));
  if (std::abs(magnitude - 1) > 1e-9) rope.set("scaling.attn_factor", magnitude);
  for (const auto& [key, name] :
       {std::pair{"beta_fast", "scaling.yarn_beta_fast"}, std::pair{"beta_slow", "scaling.yarn_beta_slow"}}) {
    QUERN_TRY(const auto beta, scaling.number(key, -1e-30, 1e6));
    if (beta.value_or(0) > 0) rope.set(name, *beta);
  }
  // Qwen2.5's configurations keep the context before stretching in max_position_embeddings.
  if (said) {
    const double stretched = std::min(*factor * static_cast<double>(*said), double{limits::max_context});
    rope.context = std::max(rope.context, static_cast<int64_t>(stretched));
  }
  return {};
}

/// The kind by its new name, its old one, or the names that Phi-3's first versions had for longrope.
Result<std::string> read_kind(const HfFields& scaling) {
  QUERN_TRY(auto kind, scaling.text("rope_type"));
  if (!kind) {
    QUERN_TRY(kind, scaling.text("type"));
  }
  const std::string name = kind.value_or("default");
  if (name == "su" || (name == "yarn" && scaling.has("short_factor"))) return std::string("longrope");
  return name == "none" ? "default" : name;
}

Result<> read_kind_of_rope(Rope& rope) {
  QUERN_TRY(const std::string kind, read_kind(rope.scaling));
  if (kind == "default") return {};
  // NTK with a base that grows with the text: up to max_position_embeddings, and no text here is longer, the
  // base is the plain one.
  if (kind == "dynamic") return {};
  if (kind == "linear") return read_linear(rope);
  if (kind == "llama3") return read_llama3(rope);
  if (kind == "longrope") return read_longrope(rope);
  if (kind == "yarn") return read_yarn(rope);
  return fail(ErrorCode::unsupported, "{} is {}; supported are {}", rope.scaling.full("rope_type"),
              printable(kind), kinds);
}

}  // namespace

Result<> read_hf_rope(const HfFields& config, int64_t head_dim, int64_t context, HfConfig& out) {
  QUERN_TRY(auto scaling, config.object("rope_parameters"));
  if (!scaling) {
    QUERN_TRY(scaling, config.object("rope_scaling"));
  }
  if (scaling && scaling->has_objects())
    return fail(ErrorCode::unsupported, "{} differs from layer to layer, which is not supported",
                scaling->full("*"));
  const HfFields& first = scaling ? *scaling : config;
  QUERN_TRY(auto base, first.number("rope_theta", 0, 1e30));
  QUERN_TRY(auto part, first.number("partial_rotary_factor", 0, 1));
  if (!base) {
    QUERN_TRY(base, config.number("rope_theta", 0, 1e30));
  }
  if (!part) {
    QUERN_TRY(part, config.number("partial_rotary_factor", 0, 1));
  }
  const auto rotated = static_cast<int64_t>(static_cast<double>(head_dim) * part.value_or(1));
  Rope rope{.config = config,
            .scaling = first,
            .rotated = rotated,
            .base = base.value_or(out.hf_class->rope_theta),
            .context = context,
            .out = out};
  if (rotated < 2 || rotated % 2 != 0)
    return fail(ErrorCode::unsupported, "{}: rope turns pairs, but {} values of a head would be turned",
                config.full("partial_rotary_factor"), rotated);
  rope.set("dimension_count", static_cast<uint64_t>(rotated));
  rope.set("freq_base", rope.base);
  if (scaling) QUERN_TRY_VOID(read_kind_of_rope(rope));
  out.metadata.add(fmt::format("{}.context_length", out.arch->name), static_cast<uint64_t>(rope.context));
  return {};
}

}  // namespace quern
