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

struct Matrix {
  std::vector<std::byte> bytes;
  std::vector<float> values;
  RawTensor tensor;
};

Matrix random_stored(const QuantInfo& info, int64_t rows, int64_t cols, std::mt19937& random) {
  const auto n = static_cast<size_t>(rows * cols);
  Matrix m;
  m.bytes.resize(n / info.block * info.bytes);
  m.values.resize(n);
  if (info.family == Family::affine) {
    for (size_t b = 0; b < n / info.block; ++b) random_block(info, &m.bytes[b * info.bytes], random);
  } else {
    info.encode(random_values(n, random).data(), m.bytes.data(), n, nullptr);
  }
  info.decode(m.bytes.data(), m.values.data(), n);
  m.tensor = {"self-test", info.dtype, {rows, cols}, m.bytes};
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

/// `values`: [rows][cols], what the weight stands for.
Result<> test_product(Backend& backend, const Weight& weight, std::span<const float> values, int64_t batch,
                      std::string_view what, std::mt19937& random) {
  const int64_t rows = weight.rows, cols = weight.cols;
  const std::vector<float> x = random_values(static_cast<size_t>(batch * cols), random);
  QUERN_TRY(const Memory in, upload(backend, batch, cols, x));
  QUERN_TRY(const Memory out, upload(backend, batch, rows, {}));
  backend.matmul(out.view, weight, in.view);
  std::vector<double> right;
  for (int64_t b = 0; b < batch; ++b)
    for (int64_t n = 0; n < rows; ++n) {
      double sum = 0;
      for (int64_t k = 0; k < cols; ++k)
        sum += static_cast<double>(values[static_cast<size_t>(n * cols + k)]) *
               x[static_cast<size_t>(b * cols + k)];
      right.push_back(sum);
    }
  return compare(backend, out, right, fmt::format("{} times {} rows", what, batch));
}

constexpr int64_t kRows = 150, kCols = 768;
constexpr int64_t kBatches[] = {3, 20, 100};  // one for each kernel

Result<> test_format(Backend& backend, const QuantInfo& info, std::mt19937& random) {
  const Matrix m = random_stored(info, kRows, kCols, random);
  QUERN_TRY(const auto weight, backend.prepare(m.tensor));
  for (const int64_t batch : kBatches)
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
Result<> test_grouped(CudaBackend& backend, int bits, bool zero_points, std::mt19937& random) {
  constexpr int64_t rows = 160, group = 128, groups = kCols / group;
  std::vector<uint32_t> codes(static_cast<size_t>(kCols * bits / 32 * rows)),
      zeros(static_cast<size_t>(groups * (rows * bits / 32)));
  std::vector<float> scales(static_cast<size_t>(groups * rows));
  GroupedMatrix m{.bits = bits, .rows = rows, .cols = kCols, .groups = groups, .scale_type = DType::F32};
  for (int64_t k = 0; k < kCols; ++k) m.group_of.push_back(static_cast<int32_t>(k / group));
  std::ranges::shuffle(m.group_of, random);
  for (float& s : scales) s = f16_to_f32(f32_to_f16(0.01f + 0.001f * static_cast<float>(random() % 16)));
  for (int64_t g = 0; g < groups; ++g)
    for (int64_t n = 0; n < rows; ++n)
      put_field(&zeros[static_cast<size_t>(g * (rows * bits / 32))], 1, n, bits, random() % (1u << bits));
  for (int64_t n = 0; n < rows; ++n)
    for (int64_t k = 0; k < kCols; ++k)
      put_field(&codes[static_cast<size_t>(n)], rows, k, bits, random() % (1u << bits));
  m.codes = reinterpret_cast<const std::byte*>(codes.data());
  m.zeros = reinterpret_cast<const std::byte*>(zeros.data());
  m.scales = reinterpret_cast<const std::byte*>(scales.data());
  if (!zero_points) m.zero = 1 << (bits - 1);
  std::vector<float> values(static_cast<size_t>(rows * kCols));
  decode_grouped(m, 0, rows, values.data());
  QUERN_TRY(
      const auto weight,
      backend.prepare({"self-test", DType::Grouped, {rows, kCols}, std::as_bytes(std::span(codes)), &m}));
  const auto what = fmt::format("GPTQ {}-bit{}", bits, zero_points ? " with zero points" : "");
  for (const int64_t batch : kBatches)
    QUERN_TRY_VOID(test_product(backend, *weight, values, batch, what, random));
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
  for (const QuantInfo* info : all_quants()) QUERN_TRY_VOID(test_format(backend, *info, random));
  for (const int bits : {2, 3, 4, 8})
    for (const bool zero_points : {false, true})
      QUERN_TRY_VOID(test_grouped(backend, bits, zero_points, random));
  for (const int64_t head_dim : {64, 128}) QUERN_TRY_VOID(test_attention(backend, head_dim, random));
  return {};
}

}  // namespace quern::cuda
