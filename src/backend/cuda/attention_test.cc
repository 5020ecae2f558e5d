// The paged cache and attention, on devices with memory of their own, against exact arithmetic.
#include <gtest/gtest.h>

#include <cmath>

#include "backend/device_for_test.h"
#include "backend/test_util.h"

namespace quern {
namespace {

using namespace quern::testing;

struct AttentionCase {
  int64_t heads, kv_heads, head_dim, block_size, window;
  KvType type;
  int64_t length;
};

class DeviceAttention : public DeviceTest {
 protected:
  struct Cache {
    std::unique_ptr<DeviceBuffer> memory;
    KvLayer layer;
  };
  Cache cache(const KvShape& shape, int64_t blocks) {
    const size_t bytes = backend_->kv_block_bytes(shape) * static_cast<size_t>(blocks);
    Cache c;
    c.memory = *backend_->alloc(bytes);
    c.layer = {c.memory->data(), blocks};
    const std::vector<float> nan((bytes + 3) / 4, std::nanf(""));  // what was never written is anything
    backend_->write({static_cast<float*>(c.memory->data()), 1, static_cast<int64_t>(bytes / 4),
                     static_cast<int64_t>(bytes / 4)},
                    nan.data());
    return c;
  }

  std::vector<float> attend(const AttentionCase& c, const TestTensor& q, const TestTensor& k,
                            const TestTensor& v, std::span<const int64_t> chunks) {
    const KvShape shape{c.kv_heads, c.head_dim, c.block_size, c.type};
    const int64_t blocks = (c.length + c.block_size - 1) / c.block_size;
    std::vector<int32_t> table;
    for (int64_t i = 0; i < blocks; ++i) table.push_back(static_cast<int32_t>(blocks - i));
    const Cache kv = cache(shape, blocks + 1);
    const DeviceTensor dq(*backend_, c.length, q.view.cols, q.values),
        dk(*backend_, c.length, k.view.cols, k.values), dv(*backend_, c.length, v.view.cols, v.values),
        out(*backend_, c.length, q.view.cols);
    int64_t start = 0;
    for (const int64_t count : chunks) {
      const SequenceSlice slice{0, static_cast<int32_t>(count), static_cast<int32_t>(start), table};
      backend_->kv_write(kv.layer, shape, dk.view.slice_rows(start, count), dv.view.slice_rows(start, count),
                         std::span(&slice, 1));
      backend_->attention(out.view.slice_rows(start, count), dq.view.slice_rows(start, count), kv.layer,
                          shape, {c.heads, 0.125f, c.window}, std::span(&slice, 1));
      start += count;
    }
    return out.values();
  }
};
INSTANTIATE_TEST_SUITE_P(All, DeviceAttention, ::testing::ValuesIn(device_names()),
                         [](const auto& test) { return test.param; });

std::vector<double> exact_attention(const AttentionCase& c, const TestTensor& q, const TestTensor& k,
                                    const TestTensor& v) {
  const int64_t dim = c.head_dim, group = c.heads / c.kv_heads;
  std::vector<double> out;
  for (int64_t r = 0; r < c.length; ++r)
    for (int64_t h = 0; h < c.heads; ++h) {
      const int64_t from = c.window > 0 ? std::max<int64_t>(0, r - c.window + 1) : 0;
      std::vector<double> weight;
      double total = 0;
      for (int64_t t = from; t <= r; ++t) {
        double dot = 0;
        for (int64_t d = 0; d < dim; ++d)
          dot += static_cast<double>(q.at(r, h * dim + d)) * k.at(t, h / group * dim + d);
        weight.push_back(std::exp(dot * 0.125));
        total += weight.back();
      }
      for (int64_t d = 0; d < dim; ++d) {
        double sum = 0;
        for (int64_t t = from; t <= r; ++t) sum += weight[t - from] * v.at(t, h / group * dim + d);
        out.push_back(sum / total);
      }
    }
  return out;
}

TEST_P(DeviceAttention, AgainstExact) {
  std::vector<AttentionCase> cases = {
      {8, 2, 64, 32, 0, KvType::f16, 75},    {4, 4, 80, 32, 0, KvType::f16, 75},
      {4, 1, 128, 32, 7, KvType::f16, 75},   {2, 1, 256, 8, 33, KvType::f16, 75},
      {5, 5, 20, 24, 0, KvType::f16, 75},    {71, 1, 16, 32, 0, KvType::f16, 40},
      {4, 2, 80, 20, 1, KvType::f16, 75},    {4, 2, 96, 64, 0, KvType::f16, 75},
      {8, 2, 64, 32, 0, KvType::f8e4m3, 75}, {4, 1, 128, 13, 40, KvType::f8e4m3, 75}};
  if (!emulated()) cases.push_back({32, 8, 128, 32, 0, KvType::f16, 700});
  for (const AttentionCase& c : cases) {
    const TestTensor q = TestTensor::random(c.length, c.heads * c.head_dim, 101);
    const TestTensor k = TestTensor::random(c.length, c.kv_heads * c.head_dim, 102);
    const TestTensor v = TestTensor::random(c.length, c.kv_heads * c.head_dim, 103);
    const auto expected = exact_attention(c, q, k, v);
    const double limit = c.type == KvType::f16 ? 2e-6 : 5e-3;  // e4m3 has three bits of mantissa
    const auto where = fmt::format("{}/{} heads of {}, block {}, window {}", c.heads, c.kv_heads, c.head_dim,
                                   c.block_size, c.window);
    EXPECT_LE(nmse(attend(c, q, k, v, std::vector<int64_t>{c.length}), expected), limit) << where;
    std::vector<int64_t> chunks = {c.length - 35, 1, 1, 13, 20};
    EXPECT_LE(nmse(attend(c, q, k, v, chunks), expected), limit) << where;
    if (c.length < 100) {
      EXPECT_LE(nmse(attend(c, q, k, v, std::vector<int64_t>(static_cast<size_t>(c.length), 1)), expected),
                limit)
          << where;
    }
  }
}

/// Long enough that the keys of one query are split among blocks.
TEST_P(DeviceAttention, SplitKeys) {
  for (const int64_t window : {0, 700}) {
    const AttentionCase c{2, 1, 64, 32, window, KvType::f16, 1100};
    const TestTensor q = TestTensor::random(c.length, c.heads * c.head_dim, 111);
    const TestTensor k = TestTensor::random(c.length, c.kv_heads * c.head_dim, 112);
    const TestTensor v = TestTensor::random(c.length, c.kv_heads * c.head_dim, 113);
    const auto all = exact_attention(c, q, k, v);
    const std::vector<int64_t> chunks = {1096, 1, 3};
    const auto got = attend(c, q, k, v, chunks);
    const size_t last = 4 * 128;
    EXPECT_LE(nmse(std::span(got).last(last), std::span(all).last(last)), 2e-6) << window;
  }
}

TEST_P(DeviceAttention, SeveralSequencesInAStep) {
  const AttentionCase c{8, 2, 64, 32, 0, KvType::f16, 50};
  const KvShape shape{2, 64, 32, KvType::f16};
  const TestTensor q = TestTensor::random(87, 512, 201), k = TestTensor::random(87, 128, 202),
                   v = TestTensor::random(87, 128, 203);
  const auto part = [](const TestTensor& t, int64_t first, int64_t count) {
    TestTensor out(count, t.view.cols);
    std::copy_n(t.values.data() + first * t.view.cols, count * t.view.cols, out.values.data());
    return out;
  };
  std::vector<double> expected;
  for (const auto& [first, count] : {std::pair{0, 50}, std::pair{50, 37}}) {
    AttentionCase own = c;
    own.length = count;
    const auto one =
        exact_attention(own, part(q, first, count), part(k, first, count), part(v, first, count));
    expected.insert(expected.end(), one.begin(), one.end());
  }
  const Cache kv = cache(shape, 10);
  const std::vector<int32_t> blocks_a = {7, 2}, blocks_b = {0, 9};
  const DeviceTensor dq(*backend_, 87, 512, q.values), dk(*backend_, 87, 128, k.values),
      dv(*backend_, 87, 128, v.values), out(*backend_, 87, 512);
  const SequenceSlice slices[] = {{0, 50, 0, blocks_a}, {50, 37, 0, blocks_b}};
  backend_->begin_step({.sequences = slices});
  for (int layer = 0; layer < 2; ++layer) {  // the second uses what the first uploaded
    backend_->kv_write(kv.layer, shape, dk.view, dv.view, slices);
    backend_->attention(out.view, dq.view, kv.layer, shape, {8, 0.125f, 0}, slices);
  }
  ASSERT_TRUE(backend_->end_step().has_value());
  EXPECT_LE(nmse(out.values(), expected), 2e-6);

  backend_->kv_copy_block(kv.layer, shape, 2, 5);
  const std::vector<int32_t> moved = {7, 5};
  const SequenceSlice slice{0, 50, 0, moved};
  backend_->attention(out.view.slice_rows(0, 50), dq.view.slice_rows(0, 50), kv.layer, shape, {8, 0.125f, 0},
                      std::span(&slice, 1));
  const auto again = out.values();
  EXPECT_LE(nmse(again, expected), 2e-6);
}

}  // namespace
}  // namespace quern
