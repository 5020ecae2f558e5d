#include "scheduler/prompt_lookup.h"

#include <algorithm>
#include <bit>

namespace quern {
namespace {

/// Places that a look-up compares with: a frequent pair has thousands.
constexpr int kMostPlaces = 64;

/// How many tokens before `a` are those before `b`, up to kMostMatch.
int64_t agreement(std::span<const int32_t> tokens, int64_t a, int64_t b) {
  int64_t length = 0;
  while (length < std::min(a, PromptLookup::kMostMatch) &&
         tokens[static_cast<size_t>(a - 1 - length)] == tokens[static_cast<size_t>(b - 1 - length)])
    ++length;
  return length;
}

}  // namespace

/// The slot of the pair that ends before index `end`.
size_t PromptLookup::slot(std::span<const int32_t> tokens, int64_t end) const {
  const auto at = static_cast<size_t>(end);
  const uint64_t pair =
      (uint64_t{static_cast<uint32_t>(tokens[at - 2])} << 32) | static_cast<uint32_t>(tokens[at - 1]);
  return (pair * 0x9e3779b97f4a7c15u >> 32) & (latest_.size() - 1);  // Fibonacci hashing
}

void PromptLookup::index(std::span<const int32_t> tokens) {
  if (tokens.size() > latest_.size()) {  // more slots: everything is put in anew
    latest_.assign(std::bit_ceil(2 * tokens.size()), 0);
    earlier_.clear();
  }
  // The last pair has no token after it yet.
  for (auto place = static_cast<int64_t>(earlier_.size()); place < static_cast<int64_t>(tokens.size());
       ++place) {
    int32_t before = 0;
    if (place >= 2) {
      int32_t& latest = latest_[slot(tokens, place)];
      before = latest;
      latest = static_cast<int32_t>(place);
    }
    earlier_.push_back(before);
  }
}

PromptLookup::Match PromptLookup::find(std::span<const int32_t> tokens) {
  index(tokens);
  const auto end = static_cast<int64_t>(tokens.size());
  Match best;
  if (end < 2) return best;
  int32_t place = latest_[slot(tokens, end)];
  for (int i = 0; i < kMostPlaces && place > 0 && best.length < kMostMatch; ++i) {
    const int64_t length = agreement(tokens, place, end);
    if (length >= kLeastMatch && length > best.length) best = {place, length};
    place = earlier_[static_cast<size_t>(place)];
  }
  return best;
}

}  // namespace quern
