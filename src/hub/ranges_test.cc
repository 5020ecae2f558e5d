#include "hub/ranges.h"

#include <gtest/gtest.h>

#include <random>
#include <thread>

namespace quern::hub {
namespace {

TEST(RangeSet, MergesWhatTouches) {
  RangeSet set;
  set.add({10, 20});
  set.add({30, 40});
  set.add({5, 5});
  EXPECT_EQ(set.ranges(), (std::vector<ByteRange>{{10, 20}, {30, 40}}));
  set.add({20, 30});
  EXPECT_EQ(set.ranges(), (std::vector<ByteRange>{{10, 40}}));
  EXPECT_EQ(set.missing(50), (std::vector<ByteRange>{{0, 10}, {40, 50}}));
  EXPECT_EQ(set.missing(30), (std::vector<ByteRange>{{0, 10}}));
  set.add({0, 100});
  EXPECT_TRUE(set.covers(50));
  EXPECT_TRUE(RangeSet().covers(0));
}

TEST(RangeSet, AgreesWithAnArrayOfBytes) {
  std::mt19937 random(1);
  for (int round = 0; round < 200; ++round) {
    RangeSet set;
    std::vector<bool> bytes(64);
    for (int i = 0; i < 12; ++i) {
      const uint64_t begin = random() % 64, end = begin + random() % (65 - begin);
      set.add({begin, end});
      std::fill(bytes.begin() + static_cast<long>(begin), bytes.begin() + static_cast<long>(end), true);
    }
    std::vector<bool> missing(64, true);
    uint64_t last_end = 0;
    for (const ByteRange& range : set.ranges()) {
      EXPECT_TRUE(range.begin > last_end || last_end == 0);
      last_end = range.end;
      std::fill(missing.begin() + static_cast<long>(range.begin),
                missing.begin() + static_cast<long>(range.end), false);
    }
    missing.flip();
    EXPECT_EQ(missing, bytes);
    EXPECT_EQ(set.total(), static_cast<uint64_t>(std::count(bytes.begin(), bytes.end(), true)));
  }
}

TEST(WorkSharing, AnIdleOneTakesHalfOfTheBusiest) {
  WorkSharing work({{0, 100}, {200, 210}}, 10);
  const auto a = work.take();
  ASSERT_TRUE(a && a->range == (ByteRange{0, 100}));
  EXPECT_EQ(work.advance(a->ticket, 20), 20U);
  const auto b = work.take();
  ASSERT_TRUE(b && b->range == (ByteRange{200, 210}));
  const auto c = work.take();  // of 20 … 100
  ASSERT_TRUE(c && c->range == (ByteRange{60, 100}));
  EXPECT_EQ(work.advance(a->ticket, 50), 40U) << "the rest is another's by now";
  work.put_back(a->ticket);
  work.put_back(c->ticket);
  EXPECT_EQ(work.take()->range, (ByteRange{60, 100}));
  EXPECT_EQ(work.take()->range, (ByteRange{80, 100}));
  EXPECT_EQ(work.take()->range, (ByteRange{70, 80}));
  EXPECT_EQ(work.take()->range, (ByteRange{90, 100}));
  EXPECT_FALSE(work.take()) << "too little to share";
}

TEST(WorkSharing, ManyThreadsDoEveryByteOnce) {
  constexpr uint64_t kSize = 100'000;
  WorkSharing work({{0, kSize}}, 16);
  std::vector<std::atomic<int>> done(kSize);
  const auto serve = [&](unsigned seed) {
    std::mt19937 random(seed);
    while (const auto mine = work.take()) {
      for (uint64_t at = mine->range.begin;;) {
        const uint64_t count = 1 + random() % 50;
        const uint64_t own = work.advance(mine->ticket, count);
        for (uint64_t i = 0; i < own; ++i) ++done[at++];
        if (own < count || random() % 20 == 0) break;  // done, taken from, or a connection that drops
      }
      work.put_back(mine->ticket);
    }
  };
  {
    std::vector<std::jthread> threads;
    for (unsigned i = 0; i < 4; ++i) threads.emplace_back(serve, i);
  }
  serve(99);
  EXPECT_EQ(std::count(done.begin(), done.end(), 1), static_cast<long>(kSize));
}

}  // namespace
}  // namespace quern::hub
