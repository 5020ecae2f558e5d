// Plain prompts, with or without a suffix.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "engine/model_host.h"
#include "http/error.h"

namespace quern {

/// The tokens of `prompt`, or, with a suffix, prompt and suffix around the model's fill-in-the-middle tokens.
/// An empty prompt is BOS alone where the model has one. 400: a suffix for a model without such tokens; an
/// empty prompt for a model without BOS; too long.
Parsed<std::vector<int32_t>> fill_in_prompt(const ServedModel& model, std::string_view prompt,
                                            const std::optional<std::string>& suffix);

}  // namespace quern
