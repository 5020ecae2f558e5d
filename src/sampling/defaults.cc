#include "sampling/defaults.h"

#include <limits>

namespace quern {

void take_model_defaults(const Metadata& metadata, SamplingParams& params) {
  const auto take = [&](std::string_view key, double least, double most, auto& target) {
    const auto number = metadata.number(key);
    if (number && *number >= least && *number <= most)
      target = static_cast<std::remove_reference_t<decltype(target)>>(*number);
  };
  take("general.sampling.temp", 0, 2, params.temperature);
  take("general.sampling.top_p", 1e-6, 1, params.top_p);
  take("general.sampling.top_k", 0, 1e9, params.top_k);
  take("general.sampling.min_p", 0, 1, params.min_p);
  take("general.sampling.penalty_repeat", 1e-2, 10, params.repetition_penalty);
}

std::optional<int32_t> model_max_tokens(const Metadata& metadata) {
  const auto count = metadata.integer("quern.generation.max_new_tokens");
  if (!count || *count < 1 || *count > std::numeric_limits<int32_t>::max()) return std::nullopt;
  return static_cast<int32_t>(*count);
}

}  // namespace quern
