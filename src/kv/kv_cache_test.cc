#include "kv/kv_cache.h"

#include <gtest/gtest.h>

namespace quern {
namespace {

TEST(KvCache, HoldsALayerOfBlocksPerLayer) {
  const auto backend = *make_cpu_backend({.threads = 1});
  const KvShape shape{.kv_heads = 3, .head_dim = 20, .block_size = 8, .type = KvType::f16};
  const auto cache = KvCache::create(*backend, shape, 4, 7);
  ASSERT_TRUE(cache.has_value()) << cache.error().message;
  EXPECT_EQ((*cache)->blocks(), 7);
  EXPECT_EQ((*cache)->bytes(), backend->kv_block_bytes(shape) * 7 * 4);
  EXPECT_GE((*cache)->bytes(), size_t{3 * 20 * 8 * 2 * 2 * 7 * 4});
  for (int64_t i = 0; i < 4; ++i) {
    EXPECT_NE((*cache)->layer(i).data, nullptr);
    EXPECT_EQ((*cache)->layer(i).blocks, 7);
    if (i > 0) {
      EXPECT_NE((*cache)->layer(i).data, (*cache)->layer(i - 1).data);
    }
  }
}

TEST(KvCache, RefusesWhatCannotBe) {
  const auto backend = *make_cpu_backend({.threads = 1});
  const KvShape shape{.kv_heads = 2, .head_dim = 64};
  EXPECT_EQ(KvCache::create(*backend, shape, 2, 0).error().code, ErrorCode::invalid_argument);
  EXPECT_EQ(KvCache::create(*backend, shape, 0, 1).error().code, ErrorCode::invalid_argument);
  EXPECT_EQ(KvCache::create(*backend, {}, 1, 1).error().code, ErrorCode::invalid_argument);
  const auto huge = KvCache::create(*backend, shape, 32, int64_t{1} << 60);
  ASSERT_FALSE(huge.has_value());
  EXPECT_EQ(huge.error().code, ErrorCode::resource_exhausted);
}

}  // namespace
}  // namespace quern
