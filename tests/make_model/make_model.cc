#include "make_model/make_model.h"

#include <cmath>
#include <cstdio>
#include <map>
#include <memory>
#include <numbers>

#include "core/system.h"
#include "core/thread_pool.h"
#include "formats/gguf.h"
#include "make_model/vocabulary.h"

namespace quern::make_model {
namespace {

uint64_t mix(uint64_t x) {
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
  return x ^ (x >> 31);
}

uint64_t hash(std::string_view text) {
  uint64_t h = 0xcbf29ce484222325u;
  for (const char c : text) h = (h ^ static_cast<unsigned char>(c)) * 0x100000001b3u;
  return h;
}

/// Fills with standard normal values (splitmix64 and Box–Muller).
void fill_normal(uint64_t seed, float* out, int64_t n) {
  uint64_t state = mix(seed);
  for (int64_t i = 0; i < n; i += 2) {
    const uint64_t bits = mix(state += 0x9e3779b97f4a7c15u);
    const float u = (static_cast<float>(bits >> 40) + 0.5f) * 0x1p-24f;  // in (0, 1)
    const float angle = static_cast<float>(bits & 0xffffff) * (0x1p-24f * 2 * std::numbers::pi_v<float>);
    const float radius = std::sqrt(-2 * std::log(u));
    out[i] = radius * std::cos(angle);
    if (i + 1 < n) out[i + 1] = radius * std::sin(angle);
  }
}

/// Makes and encodes tensors; keeps what other layers will need again.
class Tensors {
 public:
  Tensors(const Options& options) : options_(options), pool_(physical_cores()) {}

  /// Valid until the next call.
  const std::vector<std::byte>& encoded(const Tensor& tensor, DType type) {
    const std::string key = fmt::format("{}/{}/{}", tensor.stream, tensor.first_row, dtype_name(type));
    const bool reused = !options_.distinct && tensor.name.starts_with("blk.");
    if (reused) {
      if (const auto it = kept_.find(key); it != kept_.end()) return it->second;
    }
    std::vector<std::byte>& out = reused ? kept_[key] : current_;
    encode(tensor, type, out);
    return out;
  }

 private:
  void encode(const Tensor& tensor, DType type, std::vector<std::byte>& out) {
    const int64_t cols = tensor.shape.back();
    int64_t rows = 1;
    for (size_t i = 0; i + 1 < tensor.shape.size(); ++i) rows *= tensor.shape[i];
    const QuantInfo& info = *find_quant(type);
    const size_t row_bytes = static_cast<size_t>(cols) / info.block * info.bytes;
    out.resize(row_bytes * static_cast<size_t>(rows));
    pool_.parallel_for(rows, 1, [&](int64_t begin, int64_t end) {
      std::vector<float> row(static_cast<size_t>(cols));
      for (int64_t r = begin; r < end; ++r) {
        fill_row(tensor, tensor.first_row + r, row);
        info.encode(row.data(), out.data() + static_cast<size_t>(r) * row_bytes, row.size(), nullptr);
      }
    });
  }

  void fill_row(const Tensor& tensor, int64_t index, std::vector<float>& row) const {
    if (tensor.values == Values::given) {
      row = tensor.given;
      return;
    }
    const auto n = static_cast<int64_t>(row.size());
    fill_normal(mix(options_.seed) ^ hash(tensor.stream) ^ mix(static_cast<uint64_t>(index)), row.data(), n);
    const bool matrix = tensor.values == Values::matrix || tensor.values == Values::router;
    const auto factor = static_cast<float>(matrix ? options_.scale / std::sqrt(static_cast<double>(n)) : 0.1);
    const float offset = tensor.values == Values::norm ? 1.0f : 0.0f;
    for (float& x : row) x = x * factor + offset;
  }

  const Options& options_;
  ThreadPool pool_;
  std::map<std::string, std::vector<std::byte>> kept_;
  std::vector<std::byte> current_;
};

void add_hyperparameters(Metadata& m, const Shape& s, int64_t vocabulary, bool old) {
  const std::string a = std::string(s.architecture) + ".";
  const auto count = [&](const char* key, int64_t value) { m.add(a + key, static_cast<uint64_t>(value)); };
  count("context_length", s.context);
  count("embedding_length", s.dim);
  count("block_count", s.layers);
  count("feed_forward_length", s.ffn);
  count("attention.head_count", s.heads);
  if (!old || s.kv_heads != s.heads) count("attention.head_count_kv", s.kv_heads);
  count("rope.dimension_count", s.head_dim);
  if (!old) count("vocab_size", vocabulary);
  if (s.head_dim * s.heads != s.dim) {
    count("attention.key_length", s.head_dim);
    count("attention.value_length", s.head_dim);
  }
  m.add(a + "attention.layer_norm_rms_epsilon", s.eps);
  if (!old || s.rope_base != 1e4) m.add(a + "rope.freq_base", s.rope_base);
  if (s.extras.experts != 0) {
    count("expert_count", s.extras.experts);
    count("expert_used_count", 2);
  }
  if (s.extras.sliding_window != 0) count("attention.sliding_window", s.extras.sliding_window);
  if (s.architecture == "phi3") {
    const int64_t original = s.extras.original_context != 0 ? s.extras.original_context : s.context;
    count("rope.scaling.original_context_length", original);
    if (s.extras.original_context != 0) {
      const double longer = static_cast<double>(s.context) / static_cast<double>(original);
      m.add(a + "rope.scaling.attn_factor",
            std::sqrt(1 + std::log(longer) / std::log(static_cast<double>(original))));
    }
  }
}

Result<int64_t> add_vocabulary(Metadata& metadata, const Options& options, const Shape& shape) {
  if (!options.vocabulary.empty()) return add_vocabulary_of(metadata, options.vocabulary, options.old);
  const int64_t size = options.vocabulary_size.value_or(shape.vocabulary_size);
  const std::string_view pre = shape.architecture == "llama" ? "llama-bpe" : "qwen2";
  QUERN_TRY_VOID(add_made_up_vocabulary(metadata, shape.vocabulary, size, pre, options.old));
  return size;
}

/// Version 2 has the same layout as version 3, which only made room for big-endian files.
Result<> mark_as_version_2(const std::string& path) {
  const std::unique_ptr<std::FILE, int (*)(std::FILE*)> file(std::fopen(path.c_str(), "r+b"), std::fclose);
  const unsigned char version[4] = {2, 0, 0, 0};
  if (file == nullptr || std::fseek(file.get(), 4, SEEK_SET) != 0 ||
      std::fwrite(version, 4, 1, file.get()) != 1)
    return fail(ErrorCode::io, "{}: cannot set the version", path);
  return {};
}

}  // namespace

Result<Summary> make_model(const Options& options) {
  const Shape* known = find_shape(options.shape);
  if (known == nullptr) {
    std::string names;
    for (const Shape& shape : shapes()) names += fmt::format("{}{}", names.empty() ? "" : ", ", shape.name);
    return fail(ErrorCode::invalid_argument, "{}: no such shape; there are {}", options.shape, names);
  }
  Shape shape = *known;
  if (options.layers) shape.layers = *options.layers;
  if (shape.layers < 1) return fail(ErrorCode::invalid_argument, "--layers {}: at least 1", shape.layers);
  QUERN_TRY(const Recipe recipe, Recipe::parse(options.type));

  Metadata metadata;
  metadata.add("general.architecture", std::string(shape.architecture));
  metadata.add("general.name", std::string(shape.name));
  metadata.add("general.file_type", static_cast<uint64_t>(recipe.file_type));
  metadata.add("general.quantization_version", uint64_t{2});
  Metadata tokenizer;
  QUERN_TRY(const int64_t vocabulary, add_vocabulary(tokenizer, options, shape));
  add_hyperparameters(metadata, shape, vocabulary, options.old);
  for (const auto& [key, value] : tokenizer.entries()) metadata.add(key, value);

  const std::vector<Tensor> tensors =
      tensors_of(shape, {.vocabulary = vocabulary, .tied = options.tied, .distinct = options.distinct});
  const std::vector<DType> types = recipe.types(shape, tensors);
  std::vector<GgufTensor> table;
  Summary summary{tensors.size(), 0, 0};
  for (size_t i = 0; i < tensors.size(); ++i) {
    table.push_back({tensors[i].name, types[i], tensors[i].shape});
    int64_t elements = 1;
    for (const int64_t d : tensors[i].shape) elements *= d;
    summary.parameters += elements;
  }
  QUERN_TRY(const auto writer, GgufWriter::create(options.out, metadata, std::move(table)));
  Tensors source(options);
  for (size_t i = 0; i < tensors.size(); ++i) {
    const std::vector<std::byte>& data = source.encoded(tensors[i], types[i]);
    summary.bytes += data.size();
    QUERN_TRY_VOID(writer->write(data));
  }
  QUERN_TRY_VOID(writer->finish());
  if (options.old) QUERN_TRY_VOID(mark_as_version_2(options.out));
  return summary;
}

}  // namespace quern::make_model
