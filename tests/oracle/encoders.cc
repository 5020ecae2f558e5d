// The errors of Quern's encoders beside those of ggml's, on the same rows.
//
// usage: quern_encoder_errors LIBGGML-BASE.so MODEL [IMATRIX]
//
// Rows: normal numbers, and the matrices of MODEL (best in full precision). Each type encodes them here and
// there; the error is the root of the mean square of what changed, weighted by importance where that is given
// (random for the normal numbers; IMATRIX for the model). Prints a table; exits with 1 where an error is more
// than 1.001 times ggml's.
#include <dlfcn.h>
#include <fmt/format.h>

#include <cmath>
#include <cstdio>
#include <random>

#include "engine/served_model.h"
#include "models/gguf_tensors.h"
#include "quant/encode.h"
#include "quantize/imatrix.h"

namespace quern {
namespace {

constexpr double kLimit = 1.001;

/// Rows of one width, with the importance of their columns.
struct Rows {
  int64_t cols;
  std::vector<float> values, importance;  // importance may be empty
};

/// ggml's encoders, by ggml's own numbers of types, which are DType's.
class Ggml {
 public:
  static Result<Ggml> open(const char* path) {
    Ggml ggml;
    void* library = dlopen(path, RTLD_NOW);
    if (library == nullptr) return fail(ErrorCode::io, "{}", dlerror());
    ggml.chunk_ = reinterpret_cast<Chunk>(dlsym(library, "ggml_quantize_chunk"));
    ggml.q8_1_ = reinterpret_cast<Row>(dlsym(library, "quantize_row_q8_1_ref"));
    ggml.q8_k_ = reinterpret_cast<Row>(dlsym(library, "quantize_row_q8_K_ref"));
    if (ggml.chunk_ == nullptr || ggml.q8_1_ == nullptr || ggml.q8_k_ == nullptr)
      return fail(ErrorCode::io, "{}: not the library that has ggml's encoders", path);
    return ggml;
  }

  void encode(const QuantInfo& to, const Rows& rows, const float* importance, std::byte* out) const {
    const auto n = static_cast<int64_t>(rows.values.size());
    if (to.dtype == DType::Q8_1 || to.dtype == DType::Q8_K)  // for activations there: no chunks
      (to.dtype == DType::Q8_1 ? q8_1_ : q8_k_)(rows.values.data(), out, n);
    else
      chunk_(static_cast<int>(to.dtype), rows.values.data(), out, 0, n / rows.cols, rows.cols, importance);
  }

 private:
  using Chunk = size_t (*)(int, const float*, void*, int64_t, int64_t, int64_t, const float*);
  using Row = void (*)(const float*, void*, int64_t);
  Chunk chunk_ = nullptr;
  Row q8_1_ = nullptr, q8_k_ = nullptr;
};

Rows normal_rows() {
  std::mt19937_64 random(42);
  std::normal_distribution<float> normal;
  Rows rows{4096, std::vector<float>(size_t{256} * 4096), std::vector<float>(4096)};
  for (float& v : rows.values) v = normal(random);
  for (float& v : rows.importance) v = std::exp(normal(random));
  return rows;
}

Result<std::vector<Rows>> rows_of_model(const char* path, const char* imatrix) {
  QUERN_TRY(const auto source, open_model_source(path, ""));
  ImportanceMatrix matrix;
  if (imatrix != nullptr) {
    QUERN_TRY(matrix, read_imatrix(imatrix));
  }
  QUERN_TRY(const auto plans, gguf_tensors(*source));
  std::vector<Rows> all;
  for (const GgufTensorPlan& plan : plans) {
    if (plan.shape.size() < 2) continue;
    const ImportanceMatrix::Entry* entry = matrix.find(plan.name);
    for (size_t part = 0; part < plan.parts.size(); ++part) {
      const RawTensor& tensor = *plan.parts[part];
      Rows& rows = all.emplace_back(
          Rows{tensor.cols(), std::vector<float>(static_cast<size_t>(tensor.elements())), {}});
      decode_rows(tensor, 0, tensor.rows(), rows.values.data());
      if (entry != nullptr) rows.importance = entry->mean(static_cast<int64_t>(part), tensor.cols());
    }
  }
  return all;
}

struct Errors {
  double ours = 0, theirs = 0;
  double ratio() const { return ours == theirs ? 1 : ours / theirs; }
};

double square_error(const QuantInfo& info, const Rows& rows, const std::byte* blocks,
                    const float* importance) {
  std::vector<float> decoded(rows.values.size());
  info.decode(blocks, decoded.data(), decoded.size());
  double sum = 0;
  for (size_t i = 0; i < decoded.size(); ++i) {
    const double change = static_cast<double>(rows.values[i]) - decoded[i];
    sum += (importance == nullptr ? 1 : importance[i % static_cast<size_t>(rows.cols)]) * change * change;
  }
  return sum;
}

/// Of all rows whose width the type takes.
Result<Errors> errors_of(const QuantInfo& info, const Ggml& ggml, std::span<const Rows> all, bool weighted) {
  Errors sums;
  double weights = 0;
  for (const Rows& rows : all) {
    if (rows.cols % info.block != 0 || (weighted && rows.importance.empty())) continue;
    const std::span<const float> importance =
        weighted ? std::span(rows.importance) : std::span<const float>{};
    const float* weight = weighted ? rows.importance.data() : nullptr;
    const int64_t count = static_cast<int64_t>(rows.values.size()) / rows.cols;
    std::vector<std::byte> blocks(rows.values.size() / info.block * info.bytes);
    const RawTensor source{"rows", DType::F32, {count, rows.cols}, std::as_bytes(std::span(rows.values))};
    QUERN_TRY_VOID(encode_rows(info, source, 0, count, blocks.data(), importance));
    sums.ours += square_error(info, rows, blocks.data(), weight);
    ggml.encode(info, rows, weight, blocks.data());
    sums.theirs += square_error(info, rows, blocks.data(), weight);
    for (int64_t i = 0; i < rows.cols; ++i)
      weights += static_cast<double>(count) * (weighted ? rows.importance[static_cast<size_t>(i)] : 1);
  }
  return Errors{std::sqrt(sums.ours / weights), std::sqrt(sums.theirs / weights)};
}

Result<bool> compare(const char* library, const char* model, const char* imatrix) {
  QUERN_TRY(const Ggml ggml, Ggml::open(library));
  QUERN_TRY(const std::vector<Rows> real, rows_of_model(model, imatrix));
  const std::vector<Rows> normal = {normal_rows()};
  const struct {
    const char* name;
    std::span<const Rows> rows;
    bool weighted;
  } cases[] = {{"normal", normal, false},
               {"normal, importance", normal, true},
               {"model", real, false},
               {"model, importance", real, true}};
  bool good = true;
  fmt::print("{:<6} {:<20} {:>12} {:>12} {:>8}\n", "type", "rows", "ours", "ggml's", "ratio");
  for (const QuantInfo* info : all_quants()) {
    if (info->family != Family::affine) continue;
    for (const auto& [name, rows, weighted] : cases) {
      if (weighted && rows.front().importance.empty()) continue;
      QUERN_TRY(const Errors errors, errors_of(*info, ggml, rows, weighted));
      const bool holds = errors.ratio() <= kLimit;
      good = good && holds;
      fmt::print("{:<6} {:<20} {:>12.4e} {:>12.4e} {:>8.4f}{}\n", info->name, name, errors.ours,
                 errors.theirs, errors.ratio(), holds ? "" : "  FAILED");
    }
  }
  return good;
}

}  // namespace
}  // namespace quern

int main(int argc, char** argv) {
  if (argc != 3 && argc != 4) {
    fmt::print(stderr, "usage: quern_encoder_errors LIBGGML-BASE.so MODEL [IMATRIX]\n");
    return 2;
  }
  const auto good = quern::compare(argv[1], argv[2], argc == 4 ? argv[3] : nullptr);
  if (!good) fmt::print(stderr, "error: {}\n", good.error().message);
  return good && *good ? 0 : 1;
}
