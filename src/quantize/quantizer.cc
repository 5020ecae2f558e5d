#include "quantize/quantizer.h"

#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <condition_variable>
#include <cstring>
#include <deque>
#include <functional>
#include <mutex>
#include <optional>
#include <thread>
#include <unordered_map>
#include <utility>

#include "core/system.h"
#include "core/thread_pool.h"
#include "formats/gguf.h"
#include "models/model.h"
#include "quant/encode.h"
#include "quant/quant.h"

namespace quern {
namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

/// Weights in one piece of work: large enough for a write, small enough for caches and for many pieces.
constexpr int64_t kPieceWeights = 1 << 20;
/// Every so many rows one is decoded again to see what quantizing changed.
constexpr int64_t kSampledRows = 64;

constexpr int kLowPriority = 19;

/// Rows [first, first + count) of one part of a tensor.
struct Piece {
  size_t tensor;
  size_t part;
  int64_t first, count;
};

/// Sums of squares: of the weights, and of what quantizing changed.
struct Change {
  double weights = 0, changes = 0;
};

class Quantizer {
 public:
  Quantizer(const WeightSource& source, const QuantizeOptions& options)
      : source_(source), options_(options) {}

  using CreateWriter =
      std::function<Result<std::unique_ptr<GgufWriter>>(const Metadata&, std::vector<GgufTensor>)>;
  Result<QuantizeReport> run(const CreateWriter& create);
  Result<> lay_out(const CreateWriter& create) {
    return prepare(create).map([](const auto&) {});
  }

 private:
  Result<std::unique_ptr<GgufWriter>> prepare(const CreateWriter& create);
  Result<> plan();
  Metadata metadata() const;
  Result<> read_importance();
  void work(GgufWriter& writer);
  std::optional<size_t> take();
  Result<> wait_for_arrivals();
  void stop_with(Result<> why);
  Result<> encode(const Piece& piece, std::vector<std::byte>& out, Change& change) const;
  Result<> done_with(const Piece& piece);
  void count_errors();

  const WeightSource& source_;
  const QuantizeOptions& options_;
  std::vector<GgufTensorPlan> plans_;
  std::vector<std::vector<std::vector<float>>> importance_;  // [tensor][part or expert]; empty: none
  std::vector<Piece> pieces_;
  std::vector<Change> changes_;  // of the pieces
  /// The pieces that a tensor of the source is cut into lie one after the other.
  struct Cut {
    size_t first = 0, left = 0;
  };
  QuantizeReport report_;
  std::atomic<int64_t> encode_nanoseconds_{0};
  std::mutex mutex_;
  std::condition_variable changed_;
  // guarded by mutex_:
  std::unordered_map<const RawTensor*, Cut> cuts_;  // `left`: pieces that are not done
  std::deque<size_t> ready_;                        // pieces that may be read
  bool asking_ = false;                             // a thread waits for arrivals
  bool all_ready_ = false;
  bool failed_ = false;
  uint64_t done_ = 0;
  Result<> failure_;
};

Result<> check_finite(const RawTensor& tensor, int64_t row, std::span<const float> values) {
  if (std::ranges::all_of(values, [](float x) { return std::isfinite(x); })) return {};
  return fail(ErrorCode::corrupt, "tensor {}: row {} has a value that is not finite", tensor.name, row);
}

Result<> Quantizer::plan() {
  QUERN_TRY(plans_, gguf_tensors(source_));
  QUERN_TRY(const ModelConfig config, read_model_config(source_));
  const RecipeModel model{
      .layers = config.layers,
      .heads = config.heads,
      .kv_heads = config.kv_heads,
      .experts = config.experts,
      .tied = std::ranges::none_of(plans_, [](const auto& plan) { return plan.role == Role::output; }),
      .importance = options_.importance != nullptr};
  for (size_t t = 0; t < plans_.size(); ++t) {
    const GgufTensorPlan& plan = plans_[t];
    QuantizedTensor& entry = report_.tensors.emplace_back();
    entry.name = plan.name;
    entry.shape = plan.shape;
    entry.type = choose_type(options_.recipe, model, plan.name, plan.shape);
    const int64_t cols = plan.parts.front()->cols();
    const QuantInfo* info = find_quant(entry.type.used);
    const int64_t rows = std::max<int64_t>(1, kPieceWeights / cols);
    for (size_t part = 0; part < plan.parts.size(); ++part) {
      const RawTensor& tensor = *plan.parts[part];
      report_.source_bytes += tensor.data.size();
      entry.bytes += static_cast<uint64_t>(tensor.rows() * (cols / info->block) * info->bytes);
      const size_t first_piece = pieces_.size();
      for (int64_t first = 0; first < tensor.rows(); first += rows)
        pieces_.push_back({t, part, first, std::min(rows, tensor.rows() - first)});
      cuts_[&tensor] = {first_piece, pieces_.size() - first_piece};
    }
    report_.bytes += entry.bytes;
  }
  changes_.resize(pieces_.size());
  return {};
}

/// The source's own, less what belongs to its old form.
Metadata Quantizer::metadata() const {
  Metadata result;
  for (const auto& [key, value] : options_.extra.entries()) result.add(key, value);
  for (const auto& [key, value] : source_.metadata().entries())
    if (!key.starts_with("split.") && !key.starts_with("quern.quantization.") && key != "general.file_type")
      result.add(key, value);
  result.add("general.file_type", static_cast<uint64_t>(options_.recipe.file_type));
  result.add("general.quantization_version", uint64_t{2});
  add_quantization_report(result, report_.tensors);
  return result;
}

Result<> Quantizer::read_importance() {
  importance_.resize(plans_.size());
  if (options_.importance == nullptr) return {};
  for (size_t t = 0; t < plans_.size(); ++t) {
    const GgufTensorPlan& plan = plans_[t];
    const ImportanceMatrix::Entry* entry = options_.importance->find(plan.name);
    if (entry == nullptr) continue;
    const int64_t experts = plan.shape.size() == 3 ? plan.shape.front() : 1, cols = plan.shape.back();
    if (static_cast<int64_t>(entry->squares.size()) != experts * cols)
      return fail(
          ErrorCode::invalid_argument,
          "{}: the importance matrix has {} values for it, but {} are needed: it was made for another model",
          plan.name, entry->squares.size(), experts * cols);
    for (int64_t e = 0; e < experts; ++e) importance_[t].push_back(entry->mean(e, cols));
  }
  return {};
}

/// A norm or a bias: not many values, and those of one row.
Result<> encode_vector(const GgufTensorPlan& plan, const QuantInfo& info, std::byte* out) {
  const RawTensor& tensor = *plan.parts.front();
  std::vector<float> stored(static_cast<size_t>(tensor.elements())), values(stored.size());
  decode_rows(tensor, 0, 1, stored.data());
  for (size_t i = 0; i < values.size(); ++i)
    values[i] = stored[static_cast<size_t>(plan.source_row(static_cast<int64_t>(i)))];
  QUERN_TRY_VOID(check_finite(tensor, 0, values));
  info.encode(values.data(), out, values.size(), nullptr);
  return {};
}

Result<> Quantizer::encode(const Piece& piece, std::vector<std::byte>& out, Change& change) const {
  const GgufTensorPlan& plan = plans_[piece.tensor];
  const RawTensor& tensor = *plan.parts[piece.part];
  const QuantInfo& info = *find_quant(report_.tensors[piece.tensor].type.used);
  const auto cols = static_cast<size_t>(tensor.cols());
  const size_t row_bytes = cols / info.block * info.bytes;
  out.resize(static_cast<size_t>(piece.count) * row_bytes);
  if (plan.shape.size() == 1) return encode_vector(plan, info, out.data());
  const size_t from_bytes = tensor.data.size() / static_cast<size_t>(tensor.rows());
  const auto& importance = importance_[piece.tensor];
  // A stack in one part has its experts one after the other; else each is a part.
  const int64_t expert_rows = plan.shape[plan.shape.size() - 2];
  std::vector<float> row(cols), again(cols);
  for (int64_t i = 0; i < piece.count; ++i) {
    const int64_t from = plan.source_row(piece.first + i);
    std::byte* to = out.data() + static_cast<size_t>(i) * row_bytes;
    // Floats go the long way even to their own type: what is not finite is to be told.
    if (tensor.dtype == info.dtype && info.family != Family::floating) {
      std::memcpy(to, tensor.data.data() + static_cast<size_t>(from) * from_bytes, row_bytes);
      continue;
    }
    const size_t expert = plan.parts.size() > 1 ? piece.part : static_cast<size_t>(from / expert_rows);
    const auto weights = importance.empty() ? std::span<const float>{} : std::span(importance[expert]);
    QUERN_TRY_VOID(encode_rows(info, tensor, from, 1, to, weights));
    if ((piece.first + i) % kSampledRows != 0) continue;
    decode_rows(tensor, from, 1, row.data());
    info.decode(to, again.data(), cols);
    for (size_t k = 0; k < cols; ++k) {
      const double x = row[k], difference = again[k] - x;
      change.weights += x * x;
      change.changes += difference * difference;
    }
  }
  return {};
}

Result<> Quantizer::done_with(const Piece& piece) {
  const GgufTensorPlan& plan = plans_[piece.tensor];
  const RawTensor& tensor = *plan.parts[piece.part];
  const size_t row_bytes = tensor.data.size() / static_cast<size_t>(tensor.rows());
  const auto bytes = tensor.data.subspan(static_cast<size_t>(piece.first) * row_bytes,
                                         static_cast<size_t>(piece.count) * row_bytes);
  if (tensor.grouped == nullptr) source_.let_go(bytes);  // there, a row's codes lie apart
  bool last = false;
  {
    const std::lock_guard lock(mutex_);
    done_ += bytes.size();
    if (options_.progress && !options_.progress(done_, report_.source_bytes))
      return fail(ErrorCode::cancelled, "quantizing was cancelled");
    last = --cuts_[&tensor].left == 0;
  }
  return last && options_.arrivals != nullptr ? options_.arrivals->done(tensor) : Result<>{};
}

Result<> Quantizer::wait_for_arrivals() {
  QUERN_TRY(const std::vector<const RawTensor*> arrived, options_.arrivals->next());
  std::vector<const RawTensor*> unwanted;
  {
    const std::lock_guard lock(mutex_);
    all_ready_ = arrived.empty();
    for (const RawTensor* tensor : arrived) {
      const auto it = cuts_.find(tensor);
      if (it == cuts_.end() || it->second.left == 0) {
        unwanted.push_back(tensor);
        continue;
      }
      for (size_t i = 0; i < it->second.left; ++i) ready_.push_back(it->second.first + i);
    }
  }
  for (const RawTensor* tensor : unwanted) QUERN_TRY_VOID(options_.arrivals->done(*tensor));
  return {};
}

/// The next piece to encode; waits where none has arrived. Empty: there is none left, or it is over.
std::optional<size_t> Quantizer::take() {
  std::unique_lock lock(mutex_);
  while (!failed_) {
    if (!ready_.empty()) {
      const size_t piece = ready_.front();
      ready_.pop_front();
      return piece;
    }
    if (all_ready_) return std::nullopt;
    if (asking_) {  // one thread asks for all
      changed_.wait(lock);
      continue;
    }
    asking_ = true;
    lock.unlock();
    auto arrived = wait_for_arrivals();
    if (!arrived) stop_with(std::move(arrived));
    lock.lock();
    asking_ = false;
    changed_.notify_all();
  }
  return std::nullopt;
}

void Quantizer::stop_with(Result<> why) {
  {
    const std::lock_guard lock(mutex_);
    if (!std::exchange(failed_, true)) failure_ = std::move(why);
    changed_.notify_all();
  }
  if (options_.arrivals != nullptr) options_.arrivals->stop();
}

void Quantizer::work(GgufWriter& writer) {
  // On Linux this is the thread's priority alone.
  if (options_.background) setpriority(PRIO_PROCESS, static_cast<id_t>(syscall(SYS_gettid)), kLowPriority);
  std::vector<std::byte> out;
  while (const auto next = take()) {
    const Piece& piece = pieces_[*next];
    const auto start = Clock::now();
    Result<> done = encode(piece, out, changes_[*next]);
    encode_nanoseconds_ += std::chrono::duration_cast<std::chrono::nanoseconds>(Clock::now() - start).count();
    if (done) {
      const int64_t row =
          static_cast<int64_t>(piece.part) * plans_[piece.tensor].parts.front()->rows() + piece.first;
      const uint64_t row_bytes = out.size() / static_cast<uint64_t>(piece.count);
      done = writer.write_at(piece.tensor, static_cast<uint64_t>(row) * row_bytes, out);
    }
    if (done) done = done_with(piece);
    if (!done) stop_with(std::move(done));
  }
}

void Quantizer::count_errors() {
  std::vector<Change> sums(plans_.size());
  for (size_t i = 0; i < pieces_.size(); ++i) {
    sums[pieces_[i].tensor].weights += changes_[i].weights;
    sums[pieces_[i].tensor].changes += changes_[i].changes;
  }
  for (size_t t = 0; t < sums.size(); ++t)
    report_.tensors[t].error = sums[t].changes > 0 ? std::sqrt(sums[t].changes / sums[t].weights) : 0;
}

Result<std::unique_ptr<GgufWriter>> Quantizer::prepare(const CreateWriter& create) {
  QUERN_TRY_VOID(plan());
  QUERN_TRY_VOID(read_importance());
  std::vector<GgufTensor> tensors;
  for (const QuantizedTensor& tensor : report_.tensors)
    tensors.push_back({tensor.name, tensor.type.used, tensor.shape});
  return create(metadata(), std::move(tensors));
}

Result<QuantizeReport> Quantizer::run(const CreateWriter& create) {
  const auto start = Clock::now();
  QUERN_TRY(const auto writer, prepare(create));
  if (options_.arrivals == nullptr) {
    for (size_t i = 0; i < pieces_.size(); ++i) ready_.push_back(i);
    all_ready_ = true;
  }
  const int threads = options_.threads > 0 ? options_.threads : physical_cores();
  {
    std::vector<std::jthread> workers;
    for (int i = 0; i < threads; ++i) workers.emplace_back([&] { work(*writer); });
  }
  QUERN_TRY_VOID(failure_);
  QUERN_TRY_VOID(source_.check());
  count_errors();
  QUERN_TRY_VOID(writer->replace_metadata(metadata()));
  QUERN_TRY_VOID(writer->finish());
  report_.encode_seconds = static_cast<double>(encode_nanoseconds_) * 1e-9 / threads;
  report_.total_seconds = seconds_since(start);
  return std::move(report_);
}

}  // namespace

Result<QuantizeReport> quantize(const WeightSource& source, const std::filesystem::path& destination,
                                const QuantizeOptions& options) {
  return Quantizer(source, options).run([&](const Metadata& metadata, std::vector<GgufTensor> tensors) {
    return GgufWriter::create(destination, metadata, std::move(tensors));
  });
}

Result<QuantizeReport> quantize_into(const WeightSource& source, int file, const QuantizeOptions& options) {
  return Quantizer(source, options).run([&](const Metadata& metadata, std::vector<GgufTensor> tensors) {
    return GgufWriter::create_in(file, metadata, std::move(tensors));
  });
}

Result<> write_layout(const WeightSource& source, int file, const QuantizeOptions& options) {
  return Quantizer(source, options).lay_out([&](const Metadata& metadata, std::vector<GgufTensor> tensors) {
    return GgufWriter::create_in(file, metadata, std::move(tensors));
  });
}

}  // namespace quern
