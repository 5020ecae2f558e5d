// "Did you mean …": the known name nearest to what somebody typed.
#pragma once

#include <cstddef>
#include <span>
#include <string_view>

namespace quern {

/// Levenshtein distance in bytes.
size_t edit_distance(std::string_view a, std::string_view b);

/// The candidate with the smallest distance to `name` (the first of several); empty when there is none.
std::string_view nearest(std::string_view name, std::span<const std::string_view> candidates);

}  // namespace quern
