#include "kv/block_manager.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <numeric>
#include <random>

namespace quern {
namespace {

std::vector<int32_t> count_up(int32_t count, int32_t first = 0) {
  std::vector<int32_t> tokens(static_cast<size_t>(count));
  std::iota(tokens.begin(), tokens.end(), first);
  return tokens;
}

TEST(BlockManager, GrowsAllOrNothingAndGivesBack) {
  BlockManager manager(4, 16, false);
  BlockTable a, b;
  EXPECT_TRUE(manager.grow(a, 33));
  EXPECT_EQ(a.blocks.size(), 3u);
  EXPECT_TRUE(manager.grow(a, 48)) << "within the blocks it has";
  EXPECT_EQ(a.blocks.size(), 3u);
  EXPECT_FALSE(manager.grow(b, 17));
  EXPECT_TRUE(b.blocks.empty());
  EXPECT_EQ(manager.free(), 1);
  manager.release(a);
  EXPECT_EQ(manager.free(), 4);
  EXPECT_TRUE(manager.grow(b, 64));
}

TEST(BlockManager, ASharedPrefixIsFoundAndHeldTogether) {
  BlockManager manager(8, 4, true);
  const auto tokens = count_up(11);
  BlockTable a;
  ASSERT_TRUE(manager.grow(a, 11));
  manager.seal(a, tokens, 11);
  EXPECT_EQ(a.sealed, 2) << "the third block is still being written";

  BlockTable b;
  EXPECT_EQ(manager.attach(b, tokens), 8);
  EXPECT_EQ(b.blocks[0], a.blocks[0]);
  EXPECT_EQ(b.blocks[1], a.blocks[1]);
  ASSERT_TRUE(manager.grow(b, 11));
  EXPECT_NE(b.blocks[2], a.blocks[2]) << "a block being written is never shared";
  EXPECT_EQ(manager.free(), 4);
  manager.release(a);
  EXPECT_EQ(manager.free(), 5);
  manager.release(b);
  EXPECT_EQ(manager.free(), 8);
  EXPECT_EQ(manager.cached(), 2);
}

TEST(BlockManager, TheLastTokenIsAlwaysComputed) {
  BlockManager manager(8, 4, true);
  const auto tokens = count_up(8);
  BlockTable a, b;
  ASSERT_TRUE(manager.grow(a, 8));
  manager.seal(a, tokens, 8);
  EXPECT_EQ(a.sealed, 2);
  EXPECT_EQ(manager.attach(b, tokens), 4);
  manager.release(b);
  EXPECT_EQ(manager.attach(b, std::vector<int32_t>{}), 0);
  manager.release(a);
}

TEST(BlockManager, TheSameTokensAfterAnotherPrefixAreAnotherBlock) {
  BlockManager manager(8, 2, true);
  const std::vector<int32_t> first{1, 2, 7, 7, 0}, second{3, 4, 7, 7, 0};
  BlockTable a, b;
  ASSERT_TRUE(manager.grow(a, 5));
  manager.seal(a, first, 5);
  EXPECT_EQ(manager.attach(b, second), 0);
  ASSERT_TRUE(manager.grow(b, 5));
  manager.seal(b, second, 5);
  EXPECT_NE(a.blocks[1], b.blocks[1]);
  manager.release(a);
  manager.release(b);
}

TEST(BlockManager, EqualContentComputedTwiceIsKeptOnce) {
  BlockManager manager(8, 2, true);
  const auto tokens = count_up(5);
  BlockTable a, b;
  ASSERT_TRUE(manager.grow(a, 5));
  ASSERT_TRUE(manager.grow(b, 5));
  manager.seal(a, tokens, 5);
  manager.seal(b, tokens, 5);
  EXPECT_EQ(a.blocks[0], b.blocks[0]);
  EXPECT_EQ(a.blocks[1], b.blocks[1]);
  EXPECT_NE(a.blocks[2], b.blocks[2]);
  EXPECT_EQ(manager.free(), 4);
  manager.release(a);
  manager.release(b);
  EXPECT_EQ(manager.free(), 8);
}

TEST(BlockManager, AttachReplacesReservedBlocks) {
  BlockManager manager(8, 2, true);
  const auto tokens = count_up(7);
  BlockTable a, b;
  ASSERT_TRUE(manager.grow(a, 7));
  ASSERT_TRUE(manager.grow(b, 7));
  EXPECT_EQ(manager.free(), 0);
  manager.seal(a, tokens, 4);
  EXPECT_EQ(manager.attach(b, tokens), 4);
  EXPECT_EQ(b.blocks.size(), 4u);
  EXPECT_EQ(manager.free(), 2);
  manager.release(a);
  manager.release(b);
  EXPECT_EQ(manager.free(), 8);
}

TEST(BlockManager, TheLeastRecentlyUsedGoFirstAndTheEndBeforeTheBeginning) {
  BlockManager manager(6, 2, true);
  const auto old_tokens = count_up(6, 0), new_tokens = count_up(6, 100);
  BlockTable table;
  ASSERT_TRUE(manager.grow(table, 6));
  manager.seal(table, old_tokens, 6);
  manager.release(table);
  ASSERT_TRUE(manager.grow(table, 6));
  manager.seal(table, new_tokens, 6);
  manager.release(table);
  EXPECT_EQ(manager.cached(), 6);

  BlockTable other;
  ASSERT_TRUE(manager.grow(other, 2));  // takes the end of the old prefix
  std::vector<int32_t> longer = old_tokens;
  longer.push_back(0);
  EXPECT_EQ(manager.attach(table, longer), 4);
  manager.release(table);
  longer = new_tokens;
  longer.push_back(0);
  EXPECT_EQ(manager.attach(table, longer), 6);
  manager.release(table);
  manager.release(other);
  EXPECT_EQ(manager.free(), 6);
}

// Random use against a plain model of what each block holds: a sequence must always read its own tokens.
TEST(BlockManager, RandomUseNeverMixesContents) {
  std::mt19937 random(7);
  const auto below = [&](int n) { return static_cast<int>(random() % static_cast<unsigned>(n)); };
  constexpr int kBlocks = 24, kSize = 3;
  BlockManager manager(kBlocks, kSize, true);
  std::vector<std::vector<int32_t>> memory(kBlocks, std::vector<int32_t>(kSize, -1));
  struct User {
    std::vector<int32_t> tokens;
    int64_t computed = 0;
    BlockTable table;
  };
  std::vector<User> users(6);
  int64_t hits = 0;
  for (int step = 0; step < 20000; ++step) {
    User& user = users[static_cast<size_t>(below(6))];
    if (user.tokens.empty()) {
      for (int i = below(20) + 1; i-- > 0;)
        user.tokens.push_back(below(2));  // few kinds: many shared prefixes
      user.computed = manager.attach(user.table, user.tokens);
      hits += user.computed;
    } else if (below(5) == 0) {
      manager.release(user.table);
      user = {};
    } else {
      if (user.computed == static_cast<int64_t>(user.tokens.size())) user.tokens.push_back(below(2));
      const int64_t end =
          std::min<int64_t>(user.computed + 1 + below(5), static_cast<int64_t>(user.tokens.size()));
      if (!manager.grow(user.table, end)) {
        manager.release(user.table);
        user = {};
        continue;
      }
      for (int64_t p = user.computed; p < end; ++p)
        memory[static_cast<size_t>(user.table.blocks[static_cast<size_t>(p / kSize)])]
              [static_cast<size_t>(p % kSize)] = user.tokens[static_cast<size_t>(p)];
      user.computed = end;
      manager.seal(user.table, user.tokens, end);
    }
    std::map<int32_t, int> holders;
    for (const User& u : users) {
      for (int64_t p = 0; p < u.computed; ++p)
        ASSERT_EQ(memory[static_cast<size_t>(u.table.blocks[static_cast<size_t>(p / kSize)])]
                        [static_cast<size_t>(p % kSize)],
                  u.tokens[static_cast<size_t>(p)])
            << "step " << step;
      for (size_t i = 0; i < u.table.blocks.size(); ++i) {
        ++holders[u.table.blocks[i]];
        if (static_cast<int64_t>(i) >= u.table.sealed) holders[u.table.blocks[i]] += 1000;
      }
    }
    for (const auto& [block, count] : holders)
      ASSERT_TRUE(count < 1000 || count == 1001) << "a block being written is shared";
    ASSERT_EQ(manager.free(), kBlocks - static_cast<int64_t>(holders.size()));
  }
  for (User& user : users) manager.release(user.table);
  EXPECT_EQ(manager.free(), kBlocks);
  EXPECT_GT(hits, 1000);
}

}  // namespace
}  // namespace quern
