#include "quantize/imatrix_collect.h"

#include <algorithm>
#include <unordered_map>
#include <utility>

#include "eval/chunk_runner.h"
#include "models/gguf_tensors.h"

namespace quern {
namespace {

/// Column sums of squares for one matrix, or a stack of them.
struct Sums {
  std::string name;  // the tensor's
  std::vector<double> squares, counts;
};

/// Does what another backend does, and adds up the inputs of every matrix.
class ObservingBackend final : public Backend {
 public:
  explicit ObservingBackend(Backend& inner) : inner_(inner) {}

  const std::unordered_map<const Weight*, Sums>& sums() const { return sums_; }

  std::string_view name() const override { return inner_.name(); }
  std::string description() const override { return inner_.description(); }
  Result<std::unique_ptr<DeviceBuffer>> alloc(size_t bytes) override { return inner_.alloc(bytes); }
  std::optional<DeviceMemory> memory() const override { return inner_.memory(); }
  Result<std::unique_ptr<Weight>> prepare(const RawTensor& tensor) override {
    QUERN_TRY(auto weight, inner_.prepare(tensor));
    const auto experts = static_cast<size_t>(weight->experts), cols = static_cast<size_t>(weight->cols);
    sums_.emplace(weight.get(),
                  Sums{tensor.name, std::vector<double>(experts * cols), std::vector<double>(experts)});
    return weight;
  }
  Result<std::unique_ptr<Weight>> prepare_table(const RawTensor& tensor) override {
    return inner_.prepare_table(tensor);
  }
  uint64_t prepared_bytes(const RawTensor& tensor) const override { return inner_.prepared_bytes(tensor); }
  Result<std::unique_ptr<Vector>> prepare_vector(const RawTensor& tensor) override {
    return inner_.prepare_vector(tensor);
  }
  Result<std::unique_ptr<Vector>> prepare_vector(std::span<const float> values) override {
    return inner_.prepare_vector(values);
  }
  void settle() override { inner_.settle(); }
  size_t kv_block_bytes(const KvShape& shape) const override { return inner_.kv_block_bytes(shape); }
  Result<> supports(KvType type) const override { return inner_.supports(type); }

  void begin_step(const StepInputs& inputs) override { inner_.begin_step(inputs); }
  Result<> end_step() override { return inner_.end_step(); }
  void embed(Tensor out, const Weight& table, std::span<const int32_t> ids) override {
    inner_.embed(out, table, ids);
  }
  void rms_norm(Tensor out, Tensor in, const Vector& gain, float eps) override {
    inner_.rms_norm(out, in, gain, eps);
  }
  void matmul(Tensor out, const Weight& weight, Tensor in, const Vector* bias, bool accumulate) override {
    read(in);
    observe(weight, in);
    inner_.matmul(out, weight, in, bias, accumulate);
  }
  void matmul_multi(std::span<const MatmulTarget> targets, Tensor in) override {
    read(in);
    for (const MatmulTarget& target : targets) observe(*target.weight, in);
    inner_.matmul_multi(targets, in);
  }
  void matmul_experts(Tensor out, const Weight& stack, Tensor in, std::span<const int32_t> expert,
                      std::span<const int32_t> source) override {
    read(in);
    for (size_t i = 0; i < expert.size(); ++i) add(stack, expert[i], row(in, source[i]));
    inner_.matmul_experts(out, stack, in, expert, source);
  }
  void rope(Tensor x, std::span<const int32_t> positions, const Vector& frequency,
            const RopeShape& shape) override {
    inner_.rope(x, positions, frequency, shape);
  }
  void kv_write(KvLayer layer, const KvShape& shape, Tensor k, Tensor v,
                std::span<const SequenceSlice> sequences) override {
    inner_.kv_write(layer, shape, k, v, sequences);
  }
  void attention(Tensor out, Tensor q, KvLayer layer, const KvShape& kv, const AttentionShape& shape,
                 std::span<const SequenceSlice> sequences) override {
    inner_.attention(out, q, layer, kv, shape, sequences);
  }
  void silu_mul(Tensor out, Tensor gate, Tensor up) override { inner_.silu_mul(out, gate, up); }
  void add(Tensor out, Tensor in) override { inner_.add(out, in); }
  void gather_rows(Tensor out, Tensor in, std::span<const int32_t> rows) override {
    inner_.gather_rows(out, in, rows);
  }
  void scatter_add(Tensor out, Tensor in, std::span<const int32_t> target,
                   std::span<const float> weight) override {
    inner_.scatter_add(out, in, target, weight);
  }
  void read(float* host, Tensor in) override { inner_.read(host, in); }
  void write(Tensor out, const float* host) override { inner_.write(out, host); }
  void kv_copy_block(KvLayer layer, const KvShape& shape, int32_t from, int32_t to) override {
    inner_.kv_copy_block(layer, shape, from, to);
  }

 private:
  void read(Tensor in) {
    host_.resize(static_cast<size_t>(in.rows * in.cols));
    inner_.read(host_.data(), in);
  }
  std::span<const float> row(Tensor in, int64_t r) const {
    return std::span(host_).subspan(static_cast<size_t>(r * in.cols), static_cast<size_t>(in.cols));
  }
  void observe(const Weight& weight, Tensor in) {
    for (int64_t r = 0; r < in.rows; ++r) add(weight, 0, row(in, r));
  }
  void add(const Weight& weight, int32_t expert, std::span<const float> x) {
    Sums& sums = sums_.at(&weight);
    double* squares = sums.squares.data() + static_cast<size_t>(expert) * x.size();
    for (size_t i = 0; i < x.size(); ++i) squares[i] += static_cast<double>(x[i]) * x[i];
    ++sums.counts[static_cast<size_t>(expert)];
  }

  Backend& inner_;
  std::unordered_map<const Weight*, Sums> sums_;
  std::vector<float> host_;
};

/// Under GGUF's names; experts that are tensors of their own become a stack.
Result<ImportanceMatrix> named(const WeightSource& source, const ObservingBackend& backend) {
  std::unordered_map<std::string_view, const Sums*> by_name;
  for (const auto& [weight, sums] : backend.sums()) by_name.emplace(sums.name, &sums);
  QUERN_TRY(const auto plans, gguf_tensors(source));
  ImportanceMatrix matrix;
  for (const GgufTensorPlan& plan : plans) {
    ImportanceMatrix::Entry entry;
    for (const RawTensor* part : plan.parts) {
      const auto found = by_name.find(part->name);
      if (found == by_name.end()) break;
      entry.squares.insert(entry.squares.end(), found->second->squares.begin(), found->second->squares.end());
      entry.counts.insert(entry.counts.end(), found->second->counts.begin(), found->second->counts.end());
    }
    if (!entry.counts.empty()) matrix.entries.emplace(plan.name, std::move(entry));
  }
  return matrix;
}

}  // namespace

Result<ImportanceMatrix> collect_imatrix(Backend& backend, const WeightSource& source,
                                         std::span<const int32_t> tokens, int64_t context, int32_t bos,
                                         const std::function<bool(int64_t done, int64_t total)>& progress) {
  const int64_t chunks = static_cast<int64_t>(tokens.size()) / std::max<int64_t>(context, 1);
  if (context < 1 || chunks < 1)
    return fail(ErrorCode::invalid_argument,
                "the text has {} tokens, but a chunk of {} is needed: give a longer text or a smaller --ctx",
                tokens.size(), context);
  ObservingBackend observing(backend);
  QUERN_TRY(const auto model, load_model(source, observing, {.context = context}));
  QUERN_TRY(ChunkRunner runner, ChunkRunner::create(observing, *model, context));
  std::vector<int32_t> chunk;
  for (int64_t i = 0; i < chunks; ++i) {
    const auto begin = tokens.begin() + i * context;
    chunk.assign(begin, begin + context);
    if (bos >= 0) chunk.front() = bos;
    // All logits: rows that nobody wants do not go through the whole of the last layer.
    for (int64_t at = 0; at < context; at += ChunkRunner::kRows)
      QUERN_TRY_VOID(runner.step(chunk, at, 0, context));
    if (progress && !progress(i + 1, chunks))
      return fail(ErrorCode::cancelled, "stopped after {} of {} chunks", i + 1, chunks);
  }
  QUERN_TRY(ImportanceMatrix matrix, named(source, observing));
  matrix.chunks = chunks;
  matrix.chunk_tokens = context;
  return matrix;
}

}  // namespace quern
