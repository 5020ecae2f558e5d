#include "scheduler/prompt_lookup.h"

#include <gtest/gtest.h>

#include <random>

namespace quern {
namespace {

/// The longest match, by trying every place.
PromptLookup::Match slow_find(std::span<const int32_t> tokens) {
  const auto end = static_cast<int64_t>(tokens.size());
  PromptLookup::Match best;
  for (int64_t place = end - 1; place >= 1; --place) {
    int64_t length = 0;
    while (length < std::min(place, PromptLookup::kMostMatch) &&
           tokens[static_cast<size_t>(place - 1 - length)] == tokens[static_cast<size_t>(end - 1 - length)])
      ++length;
    if (length >= PromptLookup::kLeastMatch && length > best.length) best = {place, length};
  }
  return best;
}

TEST(PromptLookup, FindsTheLongestAndOfEqualsTheLatest) {
  for (uint32_t seed = 0; seed < 50; ++seed) {
    std::mt19937 random(seed);
    const auto kinds = 2 + random() % 40;
    PromptLookup lookup;
    std::vector<int32_t> tokens;
    for (int step = 0; step < 60; ++step) {
      for (auto more = 1 + random() % 5; more > 0; --more)
        tokens.push_back(static_cast<int32_t>(random() % kinds) * 7919);
      const auto found = lookup.find(tokens);
      const auto expected = slow_find(tokens);
      if (found.length < expected.length) {
        // Only a frequent pair may hide a place.
        ASSERT_LT(kinds, 8u) << "seed " << seed;
        ASSERT_GT(tokens.size(), 64u);
        continue;
      }
      ASSERT_EQ(found.length, expected.length) << "seed " << seed;
      if (found.length > 0) {
        ASSERT_EQ(found.next, expected.next) << "seed " << seed;
      }
    }
  }
}

TEST(PromptLookup, ALongTextOfOneTokenIsLookedUpQuickly) {
  PromptLookup lookup;
  std::vector<int32_t> tokens(100000, 5);
  const auto match = lookup.find(tokens);
  EXPECT_EQ(match.length, PromptLookup::kMostMatch);
  EXPECT_EQ(match.next, 99999);
  for (int64_t i = 0; i < 10; ++i) EXPECT_EQ(PromptLookup::guess(tokens, match, i), 5);
}

TEST(PromptLookup, GuessesGoOnOverTheEndOfTheText) {
  const std::vector<int32_t> tokens = {9, 1, 2, 3, 1, 2, 3, 1, 2};
  PromptLookup lookup;
  const auto match = lookup.find(tokens);
  EXPECT_EQ(match.next, 6);
  EXPECT_EQ(match.length, 5);
  std::vector<int32_t> guesses;
  for (int64_t i = 0; i < 7; ++i) guesses.push_back(PromptLookup::guess(tokens, match, i));
  EXPECT_EQ(guesses, (std::vector<int32_t>{3, 1, 2, 3, 1, 2, 3}));
}

TEST(PromptLookup, ShortAndNewTextsMatchNothing) {
  PromptLookup lookup;
  std::vector<int32_t> tokens;
  EXPECT_EQ(lookup.find(tokens).length, 0);
  for (int32_t i = 0; i < 100; ++i) {
    tokens.push_back(i);
    EXPECT_EQ(lookup.find(tokens).length, 0);
  }
  tokens.push_back(50);
  EXPECT_EQ(lookup.find(tokens).length, 0) << "one token alone says too little";
  tokens.push_back(51);
  EXPECT_EQ(lookup.find(tokens).next, 52);
}

}  // namespace
}  // namespace quern
