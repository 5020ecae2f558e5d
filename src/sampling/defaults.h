// How a model's makers sample from it.
#pragma once

#include <cstdint>
#include <optional>

#include "core/metadata.h"
#include "sampling/sampler.h"

namespace quern {

/// What the model recommends under `general.sampling.*` (temp, top_p, top_k, min_p, penalty_repeat; its
/// generation_config.json), where it does and the value makes sense; the rest of `params` stays.
void take_model_defaults(const Metadata& metadata, SamplingParams& params);

/// Its longest answer in tokens (`quern.generation.max_new_tokens`), where it says so.
std::optional<int32_t> model_max_tokens(const Metadata& metadata);

}  // namespace quern
