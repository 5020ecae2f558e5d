// What a request's `model` means among those that are served.
#pragma once

#include <span>
#include <string>
#include <string_view>

#include "core/result.h"

namespace quern {

/// Which of `served` (references as configured) an id means: "" the first; one that is written alike; or the
/// only one that is the same without its selector and tokenizer ("owner/repo" for "owner/repo:Q8_0").
/// not_found names what is served.
Result<size_t> find_model_id(std::span<const std::string> served, std::string_view id);

}  // namespace quern
