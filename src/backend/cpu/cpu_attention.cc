// Rope, the KV cache and attention.
#include <cmath>
#include <cstring>

#include "backend/cpu/attention.h"
#include "backend/cpu/cpu_backend.h"
#include "core/check.h"
#include "core/half.h"

namespace quern::cpu {
namespace {

/// One group of up to 32 values to int8, value i to store(i, code); returns the scale.
template <typename Store>
float quantize_group(const float* x, int64_t n, const Store& store) {
  float amax = 0;
  for (int64_t i = 0; i < n; ++i) amax = std::max(amax, std::fabs(x[i]));
  const bool tiny = !(amax > 1e-30f);
  const float inverse = tiny ? 0.0f : 127.0f / amax;
  for (int64_t i = 0; i < n; ++i) store(i, static_cast<int>(std::nearbyint(x[i] * inverse)));
  return tiny ? 0.0f : amax / 127.0f;
}

void store_f16(const KvLayout& layout, int64_t dim, std::byte* head, int64_t slot, const float* k,
               const float* v) {
  auto* keys = reinterpret_cast<uint16_t*>(head) + slot;
  auto* values = reinterpret_cast<uint16_t*>(head + layout.v_offset()) + slot * layout.dim;
  for (int64_t d = 0; d < dim; ++d) keys[d * layout.tokens] = f32_to_f16(k[d]);
  for (int64_t d = 0; d < dim; ++d) values[d] = f32_to_f16(v[d]);
}

void store_q8(const KvLayout& layout, int64_t dim, std::byte* head, int64_t slot, const float* k,
              const float* v) {
  auto* k_scale = reinterpret_cast<float*>(head + layout.k_scale_offset()) + slot;
  auto* v_scale = reinterpret_cast<float*>(head + layout.v_scale_offset()) + slot;
  auto* keys = reinterpret_cast<uint8_t*>(head) + 4 * slot;
  auto* values = reinterpret_cast<int8_t*>(head + layout.v_offset()) + slot * layout.dim;
  for (int64_t g = 0; g < layout.groups; ++g) {
    const int64_t d = 32 * g, n = std::min<int64_t>(32, dim - d);
    k_scale[g * layout.tokens] = quantize_group(k + d, n, [&](int64_t i, int code) {
      keys[(d + i) / 4 * 4 * layout.tokens + i % 4] = static_cast<uint8_t>(code + 128);
    });
    v_scale[g * layout.tokens] =
        quantize_group(v + d, n, [&](int64_t i, int code) { values[d + i] = static_cast<int8_t>(code); });
  }
}

}  // namespace

Result<> CpuBackend::supports(KvType type) const {
  if (type == KvType::f8e4m3)
    return fail(ErrorCode::unsupported, "KV type f8e4m3: the CPU backend has none; use f16 or q8_0");
  return {};
}

size_t CpuBackend::kv_block_bytes(const KvShape& shape) const {
  const int64_t bytes = shape.kv_heads * KvLayout(shape).head_bytes();
  return static_cast<size_t>((bytes + 63) / 64 * 64);
}

void CpuBackend::prepare_rotation(std::span<const int32_t> positions, const CpuVector& frequency,
                                  const RopeShape& shape) {
  Rotation& r = rotation_;
  const int64_t pairs = shape.rotated / 2;
  if (r.frequency == frequency.id && r.magnitude == shape.magnitude && r.pairs == pairs &&
      std::ranges::equal(r.positions, positions))
    return;
  r.frequency = frequency.id;
  r.magnitude = shape.magnitude;
  r.pairs = pairs;
  r.positions.assign(positions.begin(), positions.end());
  r.cosine.resize(positions.size() * static_cast<size_t>(pairs));
  r.sine.resize(r.cosine.size());
  const std::span<const float> f = frequency.host();
  for_rows(static_cast<int64_t>(positions.size()), [&](int64_t row) {
    for (int64_t i = 0; i < pairs; ++i) {
      // In double: at large positions an f32 angle has lost the digits that matter.
      const double angle =
          positions[static_cast<size_t>(row)] / static_cast<double>(f[static_cast<size_t>(i)]);
      r.cosine[static_cast<size_t>(row * pairs + i)] = static_cast<float>(std::cos(angle)) * shape.magnitude;
      r.sine[static_cast<size_t>(row * pairs + i)] = static_cast<float>(std::sin(angle)) * shape.magnitude;
    }
  });
}

void CpuBackend::rope(Tensor x, std::span<const int32_t> positions, const Vector& frequency,
                      const RopeShape& shape) {
  const int64_t pairs = shape.rotated / 2;
  QUERN_DCHECK(x.rows == static_cast<int64_t>(positions.size()) && x.cols % shape.head_dim == 0);
  QUERN_DCHECK(shape.rotated <= shape.head_dim && static_cast<int64_t>(frequency.host().size()) >= pairs);
  prepare_rotation(positions, static_cast<const CpuVector&>(frequency), shape);
  const int64_t step = shape.style == RopeStyle::interleaved ? 2 : 1;
  const int64_t partner = shape.style == RopeStyle::interleaved ? 1 : pairs;
  for_rows(x.rows, [&](int64_t row) {
    const float* cosine = rotation_.cosine.data() + row * pairs;
    const float* sine = rotation_.sine.data() + row * pairs;
    float* end = x.data + row * x.stride + x.cols;
    for (float* head = x.data + row * x.stride; head < end; head += shape.head_dim) {
      for (int64_t i = 0; i < pairs; ++i) {
        float& a = head[i * step];
        float& b = head[i * step + partner];
        const float rotated = a * cosine[i] - b * sine[i];
        b = a * sine[i] + b * cosine[i];
        a = rotated;
      }
    }
  });
}

void CpuBackend::kv_write(KvLayer layer, const KvShape& shape, Tensor k, Tensor v,
                          std::span<const SequenceSlice> sequences) {
  const KvLayout layout(shape);
  const size_t block_bytes = kv_block_bytes(shape);
  QUERN_DCHECK(k.cols == shape.kv_heads * shape.head_dim && v.cols == k.cols && v.rows == k.rows);
  for (const SequenceSlice& s : sequences) {
    for_rows(s.count, [&](int64_t i) {
      const int64_t position = s.start + i;
      const int64_t slot = position % shape.block_size;
      const int32_t block = s.blocks[static_cast<size_t>(position / shape.block_size)];
      QUERN_DCHECK(block >= 0 && block < layer.blocks);
      std::byte* data = static_cast<std::byte*>(layer.data) + static_cast<size_t>(block) * block_bytes;
      const float* keys = k.data + (s.row + i) * k.stride;
      const float* values = v.data + (s.row + i) * v.stride;
      for (int64_t h = 0; h < shape.kv_heads; ++h) {
        std::byte* head = data + h * layout.head_bytes();
        (layout.q8 ? store_q8 : store_f16)(layout, shape.head_dim, head, slot, keys + h * shape.head_dim,
                                           values + h * shape.head_dim);
      }
    });
  }
}

void CpuBackend::kv_copy_block(KvLayer layer, const KvShape& shape, int32_t from, int32_t to) {
  const size_t bytes = kv_block_bytes(shape);
  auto* data = static_cast<std::byte*>(layer.data);
  std::memcpy(data + static_cast<size_t>(to) * bytes, data + static_cast<size_t>(from) * bytes, bytes);
}

void CpuBackend::attention(Tensor out, Tensor q, KvLayer layer, const KvShape& kv,
                           const AttentionShape& shape, std::span<const SequenceSlice> sequences) {
  const KvLayout layout(kv);
  const int64_t group = shape.heads / kv.kv_heads;  // query heads per KV head
  QUERN_DCHECK(shape.heads % kv.kv_heads == 0 && q.cols == shape.heads * kv.head_dim && out.cols == q.cols);
  // One task: some rows of a sequence by (a part of) the query heads of one KV head.
  const int64_t heads = std::min<int64_t>(group, kMaxQueries);
  const int64_t rows = std::max<int64_t>(1, kMaxQueries / heads);
  std::vector<AttentionTask>& tasks = attention_.tasks;
  tasks.clear();
  AttentionTask task{.layout = &layout,
                     .block_size = kv.block_size,
                     .head_dim = kv.head_dim,
                     .block_bytes = static_cast<int64_t>(kv_block_bytes(kv)),
                     .q_stride = q.stride,
                     .out_stride = out.stride,
                     .window = shape.window,
                     .scale = shape.scale};
  for (const SequenceSlice& s : sequences) {
    task.blocks = s.blocks.data();
    for (int64_t first = 0; first < s.count; first += rows) {
      task.rows = static_cast<int>(std::min<int64_t>(rows, s.count - first));
      task.start = s.start + first;
      for (int64_t head = 0; head < kv.kv_heads; ++head) {
        task.head = static_cast<const std::byte*>(layer.data) + head * layout.head_bytes();
        for (int64_t part = 0; part < group; part += heads) {
          const int64_t column = (head * group + part) * kv.head_dim;
          task.heads = static_cast<int>(std::min(heads, group - part));
          task.q = q.data + (s.row + first) * q.stride + column;
          task.out = out.data + (s.row + first) * out.stride + column;
          tasks.push_back(task);
        }
      }
    }
  }
  // Here, where running out of memory is one failed step, and not on the pool's threads.
  const int64_t floats = AttentionScratch(layout).floats;
  for (int t = 0; t < pool_.size(); ++t) scratch(t, floats);
  const auto run = [&](std::span<const AttentionTask> some) {
    pool_.for_parts(std::ssize(some), [&](int thread, int64_t i) {
      kernels_.attention(some[static_cast<size_t>(i)], scratch(thread, floats));
    });
  };
  if (std::ssize(tasks) >= 2 * pool_.size() || !split_tasks(layout)) return run(tasks);
  run(attention_.stretches);
  pool_.for_parts(std::ssize(tasks), [&](int, int64_t i) {
    const AttentionTask& whole = tasks[static_cast<size_t>(i)];
    kernels_.merge_attention(whole, whole.gathered);
  });
}

bool CpuBackend::split_tasks(const KvLayout& layout) {
  const auto stretches = [](const AttentionTask& t) { return t.last_stretch() - t.first_stretch() + 1; };
  int64_t count = 0, floats = 0;
  for (const AttentionTask& t : attention_.tasks) {
    count += stretches(t);
    floats += stretches(t) * Gathered::floats(layout.dim, t.queries());
  }
  if (pool_.size() == 1 || count == std::ssize(attention_.tasks)) return false;
  attention_.gathered.resize(std::max(attention_.gathered.size(), static_cast<size_t>(floats) / 16));
  attention_.stretches.clear();
  float* to = attention_.gathered.data()->f;
  for (AttentionTask& t : attention_.tasks) {
    t.gathered = to;
    for (int64_t i = 0; i < stretches(t); ++i, to += Gathered::floats(layout.dim, t.queries())) {
      attention_.stretches.push_back(t);
      attention_.stretches.back().stretch = t.first_stretch() + i;
      attention_.stretches.back().gathered = to;
    }
  }
  return true;
}

}  // namespace quern::cpu
