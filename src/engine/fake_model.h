// A model, a vocabulary and a device that answer at once and by rule, for tests of the engine: what a row's
// logits are follows from all tokens up to it, read back through the KV blocks, so that a block that is lost,
// mixed up or shared wrongly changes the answer.
#pragma once

#include <atomic>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <limits>
#include <string>
#include <vector>

#include "core/best_of_row_for_test.h"
#include "models/model.h"
#include "sampling/random.h"
#include "text/tokenizer.h"

namespace quern::testing {

class FakeTokenizer : public Tokenizer {
 public:
  /// Pieces of one to three letters, parts of characters, and a last token that ends the answer.
  explicit FakeTokenizer(int32_t size) {
    static const char* const special[] = {"\xe2", "\x82", "\xac", " ", "\n", "\xc3\xa9", "the ", " a"};
    for (int32_t i = 0; i < size; ++i) {
      if (i < 8)
        pieces_.emplace_back(special[i]);
      else
        pieces_.push_back(std::string(1 + static_cast<size_t>(i) % 3, static_cast<char>('a' + i % 26)));
    }
    pieces_.back() = "<end>";
  }
  std::vector<int32_t> encode(std::string_view, const EncodeOptions&) const override { return {}; }
  std::string piece(int32_t token, bool special) const override {
    if (token == eos() && !special) return {};
    return pieces_.at(static_cast<size_t>(token));
  }
  std::string decode(std::span<const int32_t> tokens, bool special) const override {
    std::string text;
    for (const int32_t token : tokens) text += piece(token, special);
    return text;
  }
  int32_t size() const override { return static_cast<int32_t>(pieces_.size()); }
  int32_t bos() const override { return -1; }
  int32_t eos() const override { return size() - 1; }
  bool add_bos() const override { return false; }
  bool add_eos() const override { return false; }
  bool is_eog(int32_t token) const override { return token == eos(); }
  bool is_control(int32_t token) const override { return token == eos(); }
  int32_t find(std::string_view) const override { return -1; }
  std::string_view raw(int32_t token) const override { return pieces_.at(static_cast<size_t>(token)); }
  Infill infill() const override { return {}; }

 private:
  std::vector<std::string> pieces_;
};

/// Only memory; the ops are never called.
class FakeBackend : public Backend {
 public:
  struct Memory : DeviceBuffer {
    explicit Memory(size_t n) : bytes(n) {}
    void* data() override { return bytes.data(); }
    size_t size() const override { return bytes.size(); }
    std::vector<std::byte> bytes;
  };
  std::optional<DeviceMemory> device;  // as if it had memory of its own
  std::optional<DeviceMemory> memory() const override { return device; }
  std::string_view name() const override { return "fake"; }
  std::string description() const override { return "fake"; }
  Result<std::unique_ptr<DeviceBuffer>> alloc(size_t bytes) override {
    return std::make_unique<Memory>(bytes);
  }
  Result<std::unique_ptr<Weight>> prepare(const RawTensor&) override { std::abort(); }
  Result<std::unique_ptr<Vector>> prepare_vector(const RawTensor&) override { std::abort(); }
  Result<std::unique_ptr<Vector>> prepare_vector(std::span<const float>) override { std::abort(); }
  /// A slot holds its token.
  size_t kv_block_bytes(const KvShape& shape) const override {
    return static_cast<size_t>(shape.block_size) * sizeof(int32_t);
  }
  Result<> supports(KvType) const override { return {}; }
  void embed(Tensor, const Weight&, std::span<const int32_t>) override { std::abort(); }
  void rms_norm(Tensor, Tensor, const Vector&, float) override { std::abort(); }
  void matmul(Tensor, const Weight&, Tensor, const Vector*, bool) override { std::abort(); }
  void matmul_experts(Tensor, const Weight&, Tensor, std::span<const int32_t>,
                      std::span<const int32_t>) override {
    std::abort();
  }
  void rope(Tensor, std::span<const int32_t>, const Vector&, const RopeShape&) override { std::abort(); }
  void kv_write(KvLayer, const KvShape&, Tensor, Tensor, std::span<const SequenceSlice>) override {
    std::abort();
  }
  void attention(Tensor, Tensor, KvLayer, const KvShape&, const AttentionShape&,
                 std::span<const SequenceSlice>) override {
    std::abort();
  }
  void silu_mul(Tensor, Tensor, Tensor) override { std::abort(); }
  void add(Tensor, Tensor) override { std::abort(); }
  void gather_rows(Tensor, Tensor, std::span<const int32_t>) override { std::abort(); }
  void scatter_add(Tensor, Tensor, std::span<const int32_t>, std::span<const float>) override {
    std::abort();
  }
  void read(float*, Tensor) override { std::abort(); }
  void write(Tensor, const float*) override { std::abort(); }
  void kv_copy_block(KvLayer, const KvShape&, int32_t, int32_t) override { std::abort(); }
};

class FakeModel : public Model {
 public:
  /// `copies` is added to the logit of the token that followed where the last one stood before: from about 4
  /// on, answers repeat themselves and their prompt.
  FakeModel(int64_t vocab, int64_t context, float copies = 0) : copies_(copies) {
    config_.layers = 1;
    config_.vocab = vocab;
    config_.context = context;
  }
  const ModelConfig& config() const override { return config_; }
  int64_t parameters() const override { return 0; }
  KvShape kv_shape(int64_t block_size, KvType type) const override {
    return {.kv_heads = 1, .head_dim = 1, .block_size = block_size, .type = type};
  }

  /// The logits after a text.
  static void logits_after(std::span<const int32_t> text, float copies, std::span<float> logits) {
    uint64_t state = 0;
    for (const int32_t token : text) state = extend(state, token);
    logits_of(state, logits);
    for (size_t i = text.size() - 1; copies > 0 && i-- > 0;) {
      if (text[i] != text.back()) continue;
      logits[static_cast<size_t>(text[i + 1])] += copies;
      break;
    }
  }

 private:
  /// Of a sequence whose tokens hash to `state`.
  static void logits_of(uint64_t state, std::span<float> logits) {
    for (size_t i = 0; i < logits.size(); ++i) {
      const double u = uniform(state, i);
      logits[i] = static_cast<float>(-std::log(1.0 - u) * 2.0);
    }
  }
  static uint64_t extend(uint64_t state, int32_t token) {
    return scatter(state ^ static_cast<uint32_t>(token));
  }
  /// As a device that finds them itself: what is not read is not there.
  void find_best(const BestWanted& best, size_t row, std::span<float> logits) {
    if (!(best.scale[row] > 0)) return;
    const auto all =
        logits.subspan(row * static_cast<size_t>(config_.vocab), static_cast<size_t>(config_.vocab));
    best.found[row] = best_of_row(all.first(static_cast<size_t>(best.tokens)), best.scale[row]);
    if (best.enough(row)) {
      std::ranges::fill(all, std::numeric_limits<float>::quiet_NaN());
      ++rows_of_best;
    } else {
      best.found[row].count = 0;
    }
  }

 public:
  Result<> forward(const ForwardBatch& batch, KvCache& cache, std::span<float> logits) override {
    if (before_forward) {
      if (auto result = before_forward(batch); !result) return result;
    }
    const int64_t size = cache.shape().block_size;
    auto* slots = static_cast<int32_t*>(cache.layer(0).data);
    const auto slot = [&](const SequenceSlice& s, int64_t p) -> int32_t& {
      return slots[s.blocks[static_cast<size_t>(p / size)] * size + p % size];
    };
    for (const SequenceSlice& s : batch.sequences)
      for (int32_t i = 0; i < s.count; ++i)
        slot(s, s.start + i) = batch.tokens[static_cast<size_t>(int64_t{s.row} + i)];
    size_t next = 0;
    for (const SequenceSlice& s : batch.sequences) {
      std::vector<int32_t> text;
      for (int64_t p = 0; p < s.start + s.count; ++p) {
        text.push_back(slot(s, p));
        if (next >= batch.logit_rows.size() || p < s.start || batch.logit_rows[next] != s.row + (p - s.start))
          continue;
        logits_after(
            text, copies_,
            logits.subspan(next * static_cast<size_t>(config_.vocab), static_cast<size_t>(config_.vocab)));
        if (batch.best != nullptr) find_best(*batch.best, next, logits);
        ++next;
      }
    }
    return {};
  }

  /// Called at the start of each forward; may wait or fail.
  std::function<Result<>(const ForwardBatch&)> before_forward;
  std::atomic<int> rows_of_best = 0;  // whose logits were not wanted

 private:
  ModelConfig config_;
  const float copies_;
};

}  // namespace quern::testing
