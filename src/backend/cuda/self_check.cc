#include "backend/cuda/self_check.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <random>
#include <vector>

#include "core/half.h"
#include "quant/affine.h"

namespace quern::cuda {
namespace {

constexpr double kLimit = 1e-5;  // Σ error² / Σ value²; halves as activations give about 1e-7

std::vector<float> random_values(size_t n, std::mt19937& random) {
  std::uniform_real_distribution<float> uniform(-1, 1);
  std::vector<float> out(n);
  for (float& x : out) x = uniform(random);
  return out;
}

/// A block of random codes and scales; encoding would take longer than the test.
void random_block(const QuantInfo& info, std::byte* to, std::mt19937& random) {
  const AffineShape& shape = info.affine;
  AffineBlock block{};
  block.d = f16_to_f32(f32_to_f16(0.01f + 0.01f * static_cast<float>(random() % 8)));
  block.dmin = shape.has_min ? f16_to_f32(f32_to_f16(0.02f)) : 0.0f;
  for (int g = 0; g < affine_groups(info); ++g) {
    const int limit = shape.scale_limit;
    block.scale[g] = 1;
    block.min[g] = shape.has_min ? 1 : 0;
    if (!shape.has_scales) continue;
    block.scale[g] = static_cast<int16_t>(1 + random() % static_cast<unsigned>(limit - 1));
    if (shape.has_min) block.min[g] = static_cast<uint8_t>(random() % static_cast<unsigned>(limit));
  }
  for (uint32_t i = 0; i < info.block; ++i)
    block.code[i] = static_cast<uint8_t>(random() % (1u << shape.bits));
  info.pack(block, to);
}

/// A product's size: `rows` random outputs, and the same ones again, `times` in all.
struct Shape {
  int64_t rows, cols, times;
  std::span<const int64_t> batches;
};

/// The first `period` of each `length` values, over and over.
template <class T>
void repeat(std::vector<T>& values, int64_t period, int64_t length) {
  for (size_t i = 0; i < values.size(); ++i)
    if (const auto at = static_cast<int64_t>(i) % length; at >= period)
      values[i] = values[i - static_cast<size_t>(period)];
}

struct Matrix {
  std::vector<std::byte> bytes;
  std::vector<float> values;
  RawTensor tensor;
};

Matrix random_stored(const QuantInfo& info, const Shape& shape, std::mt19937& random) {
  const auto n = static_cast<size_t>(shape.rows * shape.cols);
  Matrix m;
  m.bytes.resize(n / info.block * info.bytes);
  m.values.resize(n);
  if (info.family == Family::affine) {
    for (size_t b = 0; b < n / info.block; ++b) random_block(info, &m.bytes[b * info.bytes], random);
  } else {
    info.encode(random_values(n, random).data(), m.bytes.data(), n, nullptr);
  }
  info.decode(m.bytes.data(), m.values.data(), n);
  const auto once = static_cast<int64_t>(m.bytes.size());
  m.bytes.resize(m.bytes.size() * static_cast<size_t>(shape.times));
  repeat(m.bytes, once, static_cast<int64_t>(m.bytes.size()));
  m.tensor = {"self-test", info.dtype, {shape.rows * shape.times, shape.cols}, m.bytes};
  return m;
}

/// Activations on the device.
struct Memory {
  std::unique_ptr<DeviceBuffer> buffer;
  Tensor view;
};
Result<Memory> upload(Backend& backend, int64_t rows, int64_t cols, std::span<const float> values) {
  Memory m;
  QUERN_TRY(m.buffer, backend.alloc(static_cast<size_t>(rows * cols) * sizeof(float)));
  m.view = {static_cast<float*>(m.buffer->data()), rows, cols, cols};
  if (!values.empty()) backend.write(m.view, values.data());
  return m;
}

/// Compares the device's values with the right ones.
Result<> compare(Backend& backend, const Memory& memory, std::span<const double> right,
                 std::string_view what) {
  std::vector<float> got(right.size());
  backend.read(got.data(), memory.view);
  QUERN_TRY_VOID(backend.end_step());
  double error = 0, power = 0;
  for (size_t i = 0; i < got.size(); ++i) {
    error += (got[i] - right[i]) * (got[i] - right[i]);
    power += right[i] * right[i];
  }
  if (error <= kLimit * power) return {};  // false for NaN, too
  return fail(ErrorCode::internal,
              "cuda: the GPU failed the self-test: {} is off by {:.2g} (squared, relative)", what,
              error / power);
}

/// `values`: [rows][cols], what the weight stands for, but for repetitions.
Result<> test_product(Backend& backend, const Weight& weight, std::span<const float> values, int64_t batch,
                      std::string_view what, std::mt19937& random) {
  const int64_t rows = weight.rows, cols = weight.cols;
  const int64_t distinct = static_cast<int64_t>(values.size()) / cols;
  const std::vector<float> x = random_values(static_cast<size_t>(batch * cols), random);
  QUERN_TRY(const Memory in, upload(backend, batch, cols, x));
  QUERN_TRY(const Memory out, upload(backend, batch, rows, {}));
  backend.matmul(out.view, weight, in.view);
  std::vector<double> right(static_cast<size_t>(batch * rows));
  for (int64_t b = 0; b < batch; ++b)
    for (int64_t n = 0; n < distinct; ++n) {
      double sum = 0;
      for (int64_t k = 0; k < cols; ++k)
        sum += static_cast<double>(values[static_cast<size_t>(n * cols + k)]) *
               x[static_cast<size_t>(b * cols + k)];
      right[static_cast<size_t>(b * rows + n)] = sum;
    }
  repeat(right, distinct, rows);
  return compare(backend, out, right, fmt::format("{} outputs of {} times {} rows", rows, what, batch));
}

Result<> test_format(Backend& backend, const QuantInfo& info, const Shape& shape, std::mt19937& random) {
  const Matrix m = random_stored(info, shape, random);
  QUERN_TRY(const auto weight, backend.prepare(m.tensor));
  for (const int64_t batch : shape.batches)
    QUERN_TRY_VOID(test_product(backend, *weight, m.values, batch, info.name, random));
  return {};
}

/// Appends `value` to a stream of fields whose words lie `stride` apart.
void put_field(uint32_t* words, int64_t stride, int64_t index, int bits, uint32_t value) {
  for (int b = 0; b < bits; ++b) {
    const int64_t bit = index * bits + b;
    words[bit / 32 * stride] |= (value >> b & 1) << (bit % 32);
  }
}

/// With its columns in another order, as act-order leaves them.
Result<> test_grouped(CudaBackend& backend, int bits, bool zero_points, const Shape& shape,
                      std::mt19937& random) {
  constexpr int64_t group = 128;
  const int64_t cols = shape.cols, groups = cols / group, all = shape.rows * shape.times;
  const int64_t zero_words = shape.rows * bits / 32;
  std::vector<uint32_t> codes(static_cast<size_t>(cols * bits / 32 * all)),
      zeros(static_cast<size_t>(groups * zero_words * shape.times));
  std::vector<float> scales(static_cast<size_t>(groups * all));
  GroupedMatrix m{.bits = bits, .rows = all, .cols = cols, .groups = groups, .scale_type = DType::F32};
  for (int64_t k = 0; k < cols; ++k) m.group_of.push_back(static_cast<int32_t>(k / group));
  std::ranges::shuffle(m.group_of, random);
  for (float& s : scales) s = f16_to_f32(f32_to_f16(0.01f + 0.001f * static_cast<float>(random() % 16)));
  for (int64_t g = 0; g < groups; ++g)
    for (int64_t n = 0; n < shape.rows; ++n)
      put_field(&zeros[static_cast<size_t>(g * zero_words * shape.times)], 1, n, bits,
                random() % (1u << bits));
  for (int64_t n = 0; n < shape.rows; ++n)
    for (int64_t k = 0; k < cols; ++k)
      put_field(&codes[static_cast<size_t>(n)], all, k, bits, random() % (1u << bits));
  repeat(scales, shape.rows, all);
  repeat(zeros, zero_words, zero_words * shape.times);
  repeat(codes, shape.rows, all);
  m.codes = reinterpret_cast<const std::byte*>(codes.data());
  m.zeros = reinterpret_cast<const std::byte*>(zeros.data());
  m.scales = reinterpret_cast<const std::byte*>(scales.data());
  if (!zero_points) m.zero = 1 << (bits - 1);
  std::vector<float> values(static_cast<size_t>(shape.rows * cols));
  decode_grouped(m, 0, shape.rows, values.data());
  QUERN_TRY(const auto weight,
            backend.prepare({"self-test", DType::Grouped, {all, cols}, std::as_bytes(std::span(codes)), &m}));
  const auto what = fmt::format("GPTQ {}-bit{}", bits, zero_points ? " with zero points" : "");
  for (const int64_t batch : shape.batches)
    QUERN_TRY_VOID(test_product(backend, *weight, values, batch, what, random));
  return {};
}

/// One for each kernel, but those of many columns on Hopper, which need many outputs (run_hopper).
constexpr int64_t kBatches[] = {3, 10, 20, 100};
constexpr int64_t kManyColumns[] = {100, 200};

Result<> test_products(CudaBackend& backend, std::mt19937& random) {
  const Shape small{150, 768, 1, kBatches}, small_grouped{160, 768, 1, kBatches};
  for (const QuantInfo* info : all_quants()) QUERN_TRY_VOID(test_format(backend, *info, small, random));
  for (const int bits : {2, 3, 4, 8})
    for (const bool zero_points : {false, true})
      QUERN_TRY_VOID(test_grouped(backend, bits, zero_points, small_grouped, random));
  if (!backend.hopper()) return {};
  const int64_t times = kHopperRows * int64_t{backend.device().multiprocessors()} / 32 + 1;
  std::vector<Form> forms;
  for (const QuantInfo* info : all_quants()) {
    const Shape large{32, std::max<int64_t>(info->block, kUnit), times, kManyColumns};
    const Form form = pack_plan(*info, large.rows, large.cols).form;
    if (std::ranges::find(forms, form) != forms.end()) continue;
    forms.push_back(form);
    QUERN_TRY_VOID(test_format(backend, *info, large, random));
  }
  for (const int bits : {2, 3, 4, 8})
    for (const bool zero_points : {false, true})
      QUERN_TRY_VOID(test_grouped(backend, bits, zero_points, {32, 128, times, kManyColumns}, random));
  return {};
}

Result<> test_attention(Backend& backend, int64_t head_dim, std::mt19937& random) {
  const int64_t length = 70, heads = 4;
  const KvShape shape{.kv_heads = 1, .head_dim = head_dim, .block_size = 32, .type = KvType::f16};
  const auto count = [&](int64_t cols) { return static_cast<size_t>(length * cols); };
  const std::vector<float> q = random_values(count(heads * head_dim), random);
  const std::vector<float> k = random_values(count(head_dim), random),
                           v = random_values(count(head_dim), random);
  QUERN_TRY(const Memory dq, upload(backend, length, heads * head_dim, q));
  QUERN_TRY(const Memory dk, upload(backend, length, head_dim, k));
  QUERN_TRY(const Memory dv, upload(backend, length, head_dim, v));
  QUERN_TRY(const Memory out, upload(backend, length, heads * head_dim, {}));
  QUERN_TRY(const auto cache, backend.alloc(backend.kv_block_bytes(shape) * 4));
  const KvLayer layer{cache->data(), 4};
  const std::vector<int32_t> blocks = {3, 0, 1};
  // A prompt, then a single token: both kernels.
  for (const auto& [start, rows] : {std::pair<int32_t, int32_t>{0, 69}, {69, 1}}) {
    const SequenceSlice slice{0, rows, start, blocks};
    backend.kv_write(layer, shape, dk.view.slice_rows(start, rows), dv.view.slice_rows(start, rows),
                     {&slice, 1});
    backend.attention(out.view.slice_rows(start, rows), dq.view.slice_rows(start, rows), layer, shape,
                      {heads, 0.5f, 0}, {&slice, 1});
  }
  std::vector<double> right;
  std::vector<double> weight(static_cast<size_t>(length));
  for (int64_t r = 0; r < length; ++r)
    for (int64_t h = 0; h < heads; ++h) {
      double total = 0;
      for (int64_t t = 0; t <= r; ++t) {
        double dot = 0;
        for (int64_t d = 0; d < head_dim; ++d)
          dot += static_cast<double>(q[static_cast<size_t>((r * heads + h) * head_dim + d)]) *
                 k[static_cast<size_t>(t * head_dim + d)];
        total += weight[static_cast<size_t>(t)] = std::exp(dot * 0.5);
      }
      for (int64_t d = 0; d < head_dim; ++d) {
        double sum = 0;
        for (int64_t t = 0; t <= r; ++t)
          sum += weight[static_cast<size_t>(t)] * v[static_cast<size_t>(t * head_dim + d)];
        right.push_back(sum / total);
      }
    }
  return compare(backend, out, right, fmt::format("attention with heads of {}", head_dim));
}

}  // namespace

Result<> self_check(CudaBackend& backend) {
  std::mt19937 random(1);
  QUERN_TRY_VOID(test_products(backend, random));
  for (const int64_t head_dim : {64, 128}) QUERN_TRY_VOID(test_attention(backend, head_dim, random));
  return {};
}

}  // namespace quern::cuda
