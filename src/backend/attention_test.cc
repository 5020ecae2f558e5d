// Attention on every ISA that this CPU has: against exact arithmetic, and bit for bit against the scalar
// reference, whatever the chunks, the batch and the number of threads.
#include <gtest/gtest.h>

#include <cmath>

#include "backend/isa_for_test.h"
#include "backend/test_util.h"

namespace quern {
namespace {

using namespace quern::testing;

class IsaAttention : public Isa {};
INSTANTIATE_TEST_SUITE_P(All, IsaAttention, ::testing::ValuesIn(isas()), isa_name);

struct AttentionCase {
  int64_t heads, kv_heads, head_dim, block_size, window;
  KvType type;
};

/// A sequence whose keys and values are written, and whose queries are asked, in the chunks given.
struct Session {
  Session(Backend& backend, const AttentionCase& c, int64_t length, uint32_t seed)
      : backend(backend),
        c(c),
        shape{c.kv_heads, c.head_dim, c.block_size, c.type},
        k(TestTensor::random(length, c.kv_heads * c.head_dim, seed)),
        v(TestTensor::random(length, c.kv_heads * c.head_dim, seed + 1)),
        q(TestTensor::random(length, c.heads * c.head_dim, seed + 2)) {}
  Backend& backend;
  AttentionCase c;
  KvShape shape;
  TestTensor k, v, q;
};

std::vector<float> attend(Session& s, std::span<const int64_t> chunks, std::span<const int32_t> blocks,
                          int64_t pool_blocks) {
  std::vector<std::byte> cache(s.backend.kv_block_bytes(s.shape) * pool_blocks, std::byte{0xff});  // NaNs
  KvLayer layer{cache.data(), pool_blocks};
  TestTensor out(s.q.view.rows, s.q.view.cols);
  int64_t start = 0;
  for (const int64_t count : chunks) {
    const SequenceSlice slice{0, static_cast<int32_t>(count), static_cast<int32_t>(start), blocks};
    s.backend.kv_write(layer, s.shape, s.k.view.slice_rows(start, count), s.v.view.slice_rows(start, count),
                       std::span(&slice, 1));
    s.backend.attention(out.view.slice_rows(start, count), s.q.view.slice_rows(start, count), layer, s.shape,
                        {s.c.heads, 0.125f, s.c.window}, std::span(&slice, 1));
    start += count;
  }
  return out.values;
}

/// Rows from `first` on.
std::vector<double> exact_attention(const Session& s, int64_t first = 0) {
  const int64_t length = s.q.view.rows, dim = s.c.head_dim, group = s.c.heads / s.c.kv_heads;
  std::vector<double> out;
  for (int64_t r = first; r < length; ++r)
    for (int64_t h = 0; h < s.c.heads; ++h) {
      const int64_t from = s.c.window > 0 ? std::max<int64_t>(0, r - s.c.window + 1) : 0;
      std::vector<double> weight;
      double total = 0;
      for (int64_t t = from; t <= r; ++t) {
        double dot = 0;
        for (int64_t d = 0; d < dim; ++d)
          dot += static_cast<double>(s.q.at(r, h * dim + d)) * s.k.at(t, h / group * dim + d);
        weight.push_back(std::exp(dot * 0.125));
        total += weight.back();
      }
      for (int64_t d = 0; d < dim; ++d) {
        double sum = 0;
        for (int64_t t = from; t <= r; ++t) sum += weight[t - from] * s.v.at(t, h / group * dim + d);
        out.push_back(sum / total);
      }
    }
  return out;
}

TEST_P(IsaAttention, InChunks) {
  auto backend = make(GetParam(), 2);
  auto reference = make("scalar");
  const AttentionCase cases[] = {{8, 2, 64, 32, 0, KvType::f16},   {4, 4, 80, 32, 0, KvType::f16},
                                 {6, 2, 96, 16, 0, KvType::q8_0},  {4, 1, 128, 32, 7, KvType::f16},
                                 {2, 1, 256, 8, 33, KvType::q8_0}, {5, 5, 20, 24, 0, KvType::f16},
                                 {71, 1, 16, 32, 0, KvType::f16},  {4, 2, 80, 20, 1, KvType::q8_0},
                                 {7, 1, 64, 80, 0, KvType::f16},   {9, 3, 48, 64, 40, KvType::q8_0}};
  for (const AttentionCase& c : cases) {
    const int64_t length = 75, blocks = (length + c.block_size - 1) / c.block_size;
    std::vector<int32_t> table;
    for (int64_t i = 0; i < blocks; ++i) table.push_back(static_cast<int32_t>((i * 7 + 3) % (blocks + 1)));
    std::sort(table.begin(), table.end());
    table.erase(std::unique(table.begin(), table.end()), table.end());
    for (int32_t i = 0; static_cast<int64_t>(table.size()) < blocks; ++i)
      if (std::find(table.begin(), table.end(), i) == table.end()) table.push_back(i);
    std::reverse(table.begin(), table.end());
    Session s(*backend, c, length, 101), r(*reference, c, length, 101);
    const std::string where = fmt::format("{}/{} heads of {}, block {}, window {}", c.heads, c.kv_heads,
                                          c.head_dim, c.block_size, c.window);
    const auto whole = attend(s, std::vector<int64_t>{length}, table, blocks + 1);
    EXPECT_LE(nmse(whole, exact_attention(s)), c.type == KvType::f16 ? 1e-6 : 5e-4) << where;
    EXPECT_TRUE(same_bits(whole, attend(r, std::vector<int64_t>{length}, table, blocks + 1))) << where;
    EXPECT_TRUE(same_bits(whole, attend(s, std::vector<int64_t>(length, 1), table, blocks + 1))) << where;
    EXPECT_TRUE(same_bits(whole, attend(s, std::vector<int64_t>{13, 1, 1, 40, 20}, table, blocks + 1)))
        << where;
  }
}

/// Asks for rows from `first` on, whose queries come in chunks of `count`, when all keys and values are
/// there.
std::vector<float> ask(Session& s, int64_t first, int64_t count, std::span<const int32_t> blocks) {
  const auto pool_blocks = std::ssize(blocks);
  std::vector<std::byte> cache(s.backend.kv_block_bytes(s.shape) * blocks.size());
  KvLayer layer{cache.data(), pool_blocks};
  const int64_t length = s.q.view.rows;
  const SequenceSlice all{0, static_cast<int32_t>(length), 0, blocks};
  s.backend.kv_write(layer, s.shape, s.k.view, s.v.view, std::span(&all, 1));
  TestTensor out(length - first, s.q.view.cols);
  for (int64_t start = first; start < length; start += count) {
    const int64_t rows = std::min(count, length - start);
    const SequenceSlice slice{0, static_cast<int32_t>(rows), static_cast<int32_t>(start), blocks};
    s.backend.attention(out.view.slice_rows(start - first, rows), s.q.view.slice_rows(start, rows), layer,
                        s.shape, {s.c.heads, 0.125f, s.c.window}, std::span(&slice, 1));
  }
  return out.values;
}

TEST_P(IsaAttention, OverSeveralStretches) {
  // Some 1024 tokens are a stretch: what several give is put together in their order, whether threads shared
  // them (many threads, one KV head) or not, however many rows were asked for at once, and also where a
  // window begins in a later one than the first.
  const AttentionCase cases[] = {
      {3, 1, 32, 32, 0, KvType::f16}, {2, 1, 48, 24, 0, KvType::q8_0}, {2, 2, 16, 32, 1030, KvType::f16}};
  auto alone = make(GetParam(), 1), many = make(GetParam(), 5), reference = make("scalar");
  for (const AttentionCase& c : cases) {
    const int64_t length = 2090, blocks = (length + c.block_size - 1) / c.block_size;
    std::vector<int32_t> table;
    for (int64_t i = 0; i < blocks; ++i) table.push_back(static_cast<int32_t>(blocks - 1 - i));
    Session s(*alone, c, length, 301), m(*many, c, length, 301), r(*reference, c, length, 301);
    const std::string where = fmt::format("{} heads of {}, window {}", c.heads, c.head_dim, c.window);
    const int64_t first = 2030;  // a window of 1030 begins before, at and behind position 1024
    const auto one_by_one = ask(s, first, 1, table);
    EXPECT_LE(nmse(one_by_one, exact_attention(s, first)), c.type == KvType::f16 ? 1e-6 : 5e-4) << where;
    EXPECT_TRUE(same_bits(one_by_one, ask(s, first, 60, table))) << where;
    EXPECT_TRUE(same_bits(one_by_one, ask(m, first, 1, table))) << where;
    EXPECT_TRUE(same_bits(one_by_one, ask(m, first, 7, table))) << where;
    EXPECT_TRUE(same_bits(one_by_one, ask(r, first, 60, table))) << where;
  }
}

TEST_P(IsaAttention, OfSeveralSequencesEqualsEachAlone) {
  auto backend = make(GetParam(), 2);
  const AttentionCase c{8, 2, 64, 32, 0, KvType::f16};
  const KvShape shape{2, 64, 32, KvType::f16};
  std::vector<std::byte> cache(backend->kv_block_bytes(shape) * 10);
  KvLayer layer{cache.data(), 10};
  Session a(*backend, c, 50, 201), b(*backend, c, 37, 211);
  const std::vector<int32_t> blocks_a = {7, 2}, blocks_b = {0, 9};
  const auto alone_a = attend(a, std::vector<int64_t>{50}, blocks_a, 10);
  const auto alone_b = attend(b, std::vector<int64_t>{37}, blocks_b, 10);
  TestTensor k(87, 128), v(87, 128), q(87, 512), out(87, 512);
  const auto join = [](TestTensor& to, const TestTensor& x, const TestTensor& y) {
    std::copy(x.values.begin(), x.values.end(), to.values.begin());
    std::copy(y.values.begin(), y.values.end(), to.values.begin() + static_cast<int64_t>(x.values.size()));
  };
  join(k, a.k, b.k), join(v, a.v, b.v), join(q, a.q, b.q);
  const SequenceSlice slices[] = {{0, 50, 0, blocks_a}, {50, 37, 0, blocks_b}};
  backend->kv_write(layer, shape, k.view, v.view, slices);
  backend->attention(out.view, q.view, layer, shape, {8, 0.125f, 0}, slices);
  EXPECT_TRUE(same_bits(std::span(out.values).first(alone_a.size()), alone_a));
  EXPECT_TRUE(same_bits(std::span(out.values).subspan(alone_a.size()), alone_b));

  backend->kv_copy_block(layer, shape, 2, 5);
  const std::vector<int32_t> moved = {7, 5};
  const SequenceSlice slice{0, 50, 0, moved};
  backend->attention(out.view.slice_rows(0, 50), a.q.view, layer, shape, {8, 0.125f, 0},
                     std::span(&slice, 1));
  EXPECT_TRUE(same_bits(std::span(out.values).first(alone_a.size()), alone_a));
}

}  // namespace
}  // namespace quern
