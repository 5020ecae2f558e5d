// The ops of a device. One scalar CPU implementation is the reference; every other is held to it by the
// conformance test (conformance_test.cc). A backend never includes another backend.
#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "core/best_of_row.h"
#include "core/dtype.h"
#include "core/result.h"
#include "core/tensor.h"

namespace quern {

/// Device memory with one owner.
class DeviceBuffer {
 public:
  virtual ~DeviceBuffer() = default;
  virtual void* data() = 0;
  virtual size_t size() const = 0;
};

/// Dense f32 activations in device memory, row-major: element (r, c) is data[r · stride + c]. Does not own.
/// Only a backend may follow `data`; whoever wants the values on the host asks `read` for a copy.
struct Tensor {
  float* data = nullptr;
  int64_t rows = 0;
  int64_t cols = 0;
  int64_t stride = 0;  // in elements; ≥ cols

  /// Rows [first, first + count).
  Tensor slice_rows(int64_t first, int64_t count) const {
    return {data + first * stride, count, cols, stride};
  }
  /// Columns [first, first + count).
  Tensor slice_cols(int64_t first, int64_t count) const { return {data + first, rows, count, stride}; }
};

/// A weight matrix, or a stack of them (experts), as the backend wants it: uploaded and repacked once.
class Weight {
 public:
  virtual ~Weight() = default;
  int64_t experts = 1;  // matrices in the stack
  int64_t rows = 0;     // outputs of one matrix
  int64_t cols = 0;     // inputs
  DType dtype = DType::F32;
  /// Not empty: it works, but worse than it could, and why. One line.
  std::string warning;
  /// Device bytes that this weight holds beyond the mapped file, or will hold once it is in its final form.
  virtual size_t bytes() const = 0;
  /// Whether matmuls read the tensor's own data. Asked between steps, as long as it is `until_final`.
  enum class SourceUse : uint8_t { always, until_final, never };
  virtual SourceUse source_use() const { return SourceUse::always; }
};

/// A short vector of f32 in device memory: norm gains, biases, rope factors.
class Vector {
 public:
  virtual ~Vector() = default;
  virtual std::span<const float> host() const = 0;  // a copy the host may read
};

enum class KvType : uint8_t { f16, q8_0, f8e4m3 };

/// One layer's paged key/value cache: `blocks` blocks of `block_size` tokens. The layout inside a block is
/// the backend's own; `kv_block_bytes` says its size.
struct KvLayer {
  void* data = nullptr;
  int64_t blocks = 0;
};

struct KvShape {
  int64_t kv_heads = 0;
  int64_t head_dim = 0;     // of K and of V
  int64_t block_size = 32;  // tokens
  KvType type = KvType::f16;
};

/// Rows of a batch that belong to one sequence: rows [row, row + count) hold its positions
/// [start, start + count). Position p lies in slot p % block_size of blocks[p / block_size].
struct SequenceSlice {
  int32_t row = 0;
  int32_t count = 0;
  int32_t start = 0;
  std::span<const int32_t> blocks;
};

/// What a step's ops are told about its rows (models/model.h: ForwardBatch), for a device to take over once
/// instead of once an op.
struct StepInputs {
  std::span<const int32_t> tokens;
  std::span<const int32_t> positions;
  std::span<const SequenceSlice> sequences;
  std::span<const int32_t> logit_rows;
};

/// Memory of a device that has its own.
struct DeviceMemory {
  uint64_t total = 0;
  uint64_t free = 0;
};

enum class RopeStyle : uint8_t {
  interleaved,  // rotates (x[2i], x[2i+1]): GGUF's llama
  half_split,   // rotates (x[i], x[i + n/2]): NeoX, Hugging Face; GGUF's phi3, qwen2, qwen3
};

struct RopeShape {
  RopeStyle style = RopeStyle::interleaved;
  int64_t head_dim = 0;
  int64_t rotated = 0;     // the first `rotated` values of a head turn; the rest pass through
  float magnitude = 1.0f;  // multiplies cos and sin (long-rope, yarn)
};

struct AttentionShape {
  int64_t heads = 0;
  float scale = 0;     // usually 1/sqrt(head_dim)
  int64_t window = 0;  // keys with position ≤ query − window are not seen; 0: no window
};

/// One output of `matmul_multi`; see `matmul`.
struct MatmulTarget {
  Tensor out;
  const Weight* weight = nullptr;
  const Vector* bias = nullptr;
  bool accumulate = false;
};

/// Ops run in the order of the calls, on a device perhaps after they have returned; the host memory that they
/// are given is read before. Not thread-safe: an engine holds `step_mutex` for a whole step, so that several
/// models can share one device. Shapes are the caller's duty (checked in dev builds); what can fail returns a
/// Result. Ops return nothing: a device that fails in the middle of a step says so in `end_step`.
class Backend {
 public:
  virtual ~Backend() = default;
  virtual std::string_view name() const = 0;    // "cpu"
  virtual std::string description() const = 0;  // "cpu (avx512, 2 threads)"
  std::mutex step_mutex;

  // ---- memory
  /// resource_exhausted when the device has no such memory.
  virtual Result<std::unique_ptr<DeviceBuffer>> alloc(size_t bytes) = 0;
  /// Memory of the host that `read` is fastest into.
  virtual Result<std::unique_ptr<DeviceBuffer>> alloc_host(size_t bytes) { return alloc(bytes); }
  /// Empty where weights and caches lie in the machine's own memory.
  virtual std::optional<DeviceMemory> memory() const { return std::nullopt; }
  /// The share of the last moments in which such a device was busy, with anybody's work; empty when it cannot
  /// say.
  virtual std::optional<double> utilization() const { return std::nullopt; }
  /// A 2-D matrix or 3-D expert stack, any known DType. `tensor.data` must outlive the weight (a backend may
  /// keep using the mapped file). Returns at once: a backend may bring the weight into its final form later,
  /// on a thread of its own; until then ops give the same results, to the bit, more slowly.
  virtual Result<std::unique_ptr<Weight>> prepare(const RawTensor& tensor) = 0;
  /// A table that only `embed` reads, so that no second copy is made of it. (A weight from `prepare` serves
  /// `embed` too: tied embeddings.)
  virtual Result<std::unique_ptr<Weight>> prepare_table(const RawTensor& tensor) { return prepare(tensor); }
  /// Memory that a matrix takes in its final form: what `prepare` makes of it, or, where the file's own bytes
  /// are used, those.
  virtual uint64_t prepared_bytes(const RawTensor& tensor) const { return tensor.data.size(); }
  /// A 1-D tensor of any DType, as f32.
  virtual Result<std::unique_ptr<Vector>> prepare_vector(const RawTensor& tensor) = 0;
  virtual Result<std::unique_ptr<Vector>> prepare_vector(std::span<const float> values) = 0;
  /// Returns when all weights prepared so far are in their final form: for benchmarks.
  virtual void settle() {}
  virtual size_t kv_block_bytes(const KvShape& shape) const = 0;
  /// What is refused by name: a KV type that this backend does not have.
  virtual Result<> supports(KvType type) const = 0;

  // ---- steps
  /// Rows of a prompt that one step should have at most: with more it is hardly faster a row.
  virtual int64_t prompt_rows() const { return 256; }
  /// From here to end_step, ops that are given exactly these spans (the same memory) may use a copy that was
  /// made now, so the memory stays as it is. Other spans, and ops outside a step, work as well.
  virtual void begin_step(const StepInputs& inputs) {}
  /// Returns when all ops have run. Fails when the device failed since the last call: results since then mean
  /// nothing.
  virtual Result<> end_step() { return {}; }
  /// Whether the device has failed for good: all that lies on it is lost, and every step fails until
  /// `restart`. From any thread.
  virtual bool failed() const { return false; }
  /// Makes a device that has failed usable again. All buffers, weights and vectors must be gone.
  virtual Result<> restart() { return {}; }

  // ---- ops
  /// out[r] = table[ids[r]], decoded. ids are below table.rows.
  virtual void embed(Tensor out, const Weight& table, std::span<const int32_t> ids) = 0;
  /// out[r] = in[r] / sqrt(mean(in[r]²) + eps) · gain, over groups of gain.size() columns (so that a row of
  /// heads is normalized head by head). out may be in.
  virtual void rms_norm(Tensor out, Tensor in, const Vector& gain, float eps) = 0;
  /// out[r, n] = Σ_k weight[n, k] · in[r, k] (+ bias[n]) (+ out[r, n] when `accumulate`).
  virtual void matmul(Tensor out, const Weight& weight, Tensor in, const Vector* bias = nullptr,
                      bool accumulate = false) = 0;
  /// Several matmuls of one input, each as `matmul` would do it, to the bit: the input is read and quantized
  /// once. The outputs must not overlap.
  virtual void matmul_multi(std::span<const MatmulTarget> targets, Tensor in) {
    for (const MatmulTarget& t : targets) matmul(t.out, *t.weight, in, t.bias, t.accumulate);
  }
  /// Experts: out row i uses matrix expert[i] and input row source[i]. Rows of one expert are adjacent.
  virtual void matmul_experts(Tensor out, const Weight& stack, Tensor in, std::span<const int32_t> expert,
                              std::span<const int32_t> source) = 0;
  /// Rotates every head of each row in place: angle(i) = position / frequency[i], i < rotated / 2, where
  /// `frequency` holds base^(2i/rotated) times any scaling factor.
  virtual void rope(Tensor x, std::span<const int32_t> positions, const Vector& frequency,
                    const RopeShape& shape) = 0;
  /// Writes each row's keys and values (kv_heads · head_dim) into the cache.
  virtual void kv_write(KvLayer layer, const KvShape& shape, Tensor k, Tensor v,
                        std::span<const SequenceSlice> sequences) = 0;
  /// Causal attention of each row over its own sequence, read from the cache (which already holds the rows'
  /// own keys). q and out: heads · head_dim columns.
  virtual void attention(Tensor out, Tensor q, KvLayer layer, const KvShape& kv, const AttentionShape& shape,
                         std::span<const SequenceSlice> sequences) = 0;
  /// out = silu(gate) · up. out may be gate.
  virtual void silu_mul(Tensor out, Tensor gate, Tensor up) = 0;
  /// out += in.
  virtual void add(Tensor out, Tensor in) = 0;
  /// out[i] = in[rows[i]].
  virtual void gather_rows(Tensor out, Tensor in, std::span<const int32_t> rows) = 0;
  /// out[target[i]] += weight[i] · in[i], in order of i (deterministic).
  virtual void scatter_add(Tensor out, Tensor in, std::span<const int32_t> target,
                           std::span<const float> weight) = 0;
  /// Copies to host memory, after all ops before it: rows · cols floats, packed. Zeros when the device has
  /// failed.
  virtual void read(float* host, Tensor in) = 0;
  /// The best of each row of `in`, the totals at scale[row] > 0: for sampling where reading whole rows takes
  /// its time. False: nothing was done, because here it takes none.
  virtual bool best_of_rows(std::span<BestOfRow> out, Tensor in, std::span<const float> scale) {
    return false;
  }
  /// Copies from host memory: rows · cols floats, packed.
  virtual void write(Tensor out, const float* host) = 0;
  /// Copies block `from` to block `to` in one layer's cache.
  virtual void kv_copy_block(KvLayer layer, const KvShape& shape, int32_t from, int32_t to) = 0;
};

struct CpuOptions {
  int threads = 0;       // 0: physical cores
  std::string_view isa;  // "": the best that the CPU has, or QUERN_FORCE_ISA; names: core/isa.h
  /// false: quantized weights take no memory beyond the file and are repacked at every use.
  bool keep_packed = true;
};

/// invalid_argument when the ISA is unknown or the CPU does not have it.
Result<std::unique_ptr<Backend>> make_cpu_backend(const CpuOptions& options = {});

struct GpuOptions {
  /// Every row of every op has the same bits whatever the other rows are and however a prompt is cut into
  /// steps, as it always is on the CPU.
  bool batch_invariant = false;
  /// Hopper: blocks of a matmul of more than 8 rows that copy activations for each other: 1, 2 or 4.
  int hopper_cluster = 1;
};

struct BackendOptions {
  CpuOptions cpu;
  GpuOptions gpu;
};

/// `spec` is LLM_DEVICE: auto, cpu, cuda, cuda:N, vulkan. What is not built in is refused by name.
Result<std::unique_ptr<Backend>> make_backend(std::string_view spec, const BackendOptions& options = {});

}  // namespace quern
