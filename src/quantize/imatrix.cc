// Formats: github.com/ggml-org/llama.cpp, tools/imatrix.
#include "quantize/imatrix.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <optional>

#include "core/mapped_file.h"
#include "formats/gguf.h"

namespace quern {
namespace {

constexpr std::string_view kSquares = ".in_sum2", kCounts = ".counts";

tl::unexpected<Error> broken(const std::string& name, std::string_view what) {
  return fail(ErrorCode::corrupt, "{}: not an importance matrix: {}", name, what);
}

std::vector<float> floats_of(const RawTensor& tensor) {
  std::vector<float> values(tensor.data.size() / sizeof(float));
  std::memcpy(values.data(), tensor.data.data(), values.size() * sizeof(float));
  return values;
}

bool usable(const std::vector<float>& values) {
  return std::ranges::all_of(values, [](float v) { return std::isfinite(v) && v >= 0; });
}

Result<ImportanceMatrix> read_gguf(const WeightSource& source) {
  const std::string* type = source.metadata().string("general.type");
  if (type == nullptr || *type != "imatrix")
    return broken(source.name(), "a GGUF file whose general.type is not \"imatrix\"");
  ImportanceMatrix matrix;
  matrix.chunks = source.metadata().integer("imatrix.chunk_count").value_or(0);
  matrix.chunk_tokens = source.metadata().integer("imatrix.chunk_size").value_or(0);
  if (const auto* datasets = source.metadata().strings("imatrix.datasets")) matrix.datasets = *datasets;
  for (const RawTensor& tensor : source.tensors()) {
    if (!tensor.name.ends_with(kSquares)) continue;
    const std::string name = tensor.name.substr(0, tensor.name.size() - kSquares.size());
    const RawTensor* counts = source.find(name + std::string(kCounts));
    if (counts == nullptr || counts->dtype != DType::F32 || tensor.dtype != DType::F32 ||
        counts->elements() != tensor.rows())
      return broken(source.name(),
                    fmt::format("{}: its counts are missing or do not belong to it", tensor.name));
    ImportanceMatrix::Entry entry{floats_of(tensor), floats_of(*counts)};
    if (!usable(entry.squares) || !usable(entry.counts))
      return broken(source.name(), fmt::format("{}: values below zero or not finite", tensor.name));
    matrix.entries.emplace(name, std::move(entry));
  }
  return matrix;
}

/// Reads the older form: int32 and float32, little-endian, one after the other.
class OldReader {
 public:
  OldReader(std::span<const std::byte> bytes, const std::string& name) : bytes_(bytes), name_(name) {}

  Result<ImportanceMatrix> run() {
    ImportanceMatrix matrix;
    QUERN_TRY(const int32_t entries, number(1 << 20));
    for (int32_t i = 0; i < entries; ++i) QUERN_TRY_VOID(read_entry(matrix));
    if (at_ == bytes_.size()) return matrix;  // the oldest ones end here
    QUERN_TRY(matrix.chunks, number(INT32_MAX));
    QUERN_TRY(const int32_t length, number(1 << 16));
    QUERN_TRY(const auto text, take(static_cast<size_t>(length)));
    matrix.datasets.emplace_back(reinterpret_cast<const char*>(text.data()), text.size());
    return matrix;
  }

 private:
  Result<std::span<const std::byte>> take(size_t n) {
    if (n > bytes_.size() - at_) return broken(name_, "it ends too early");
    at_ += n;
    return bytes_.subspan(at_ - n, n);
  }
  Result<int32_t> number(int32_t most) {
    QUERN_TRY(const auto bytes, take(sizeof(int32_t)));
    int32_t value;
    std::memcpy(&value, bytes.data(), sizeof(value));
    if (value < 0 || value > most) return broken(name_, fmt::format("a count of {}", value));
    return value;
  }
  Result<> read_entry(ImportanceMatrix& matrix) {
    QUERN_TRY(const int32_t length, number(1 << 16));
    QUERN_TRY(const auto text, take(static_cast<size_t>(length)));
    QUERN_TRY(const int32_t calls, number(INT32_MAX));
    QUERN_TRY(const int32_t count, number(INT32_MAX));
    QUERN_TRY(const auto data, take(static_cast<size_t>(count) * sizeof(float)));
    ImportanceMatrix::Entry entry;
    entry.squares.resize(static_cast<size_t>(count));
    std::memcpy(entry.squares.data(), data.data(), data.size());
    entry.counts = {static_cast<float>(std::max(calls, 1))};
    const std::string name(reinterpret_cast<const char*>(text.data()), text.size());
    if (count == 0 || !usable(entry.squares)) return broken(name_, fmt::format("{}: unusable values", name));
    matrix.entries.emplace(name, std::move(entry));
    return {};
  }

  const std::span<const std::byte> bytes_;
  const std::string& name_;
  size_t at_ = 0;
};

}  // namespace

std::vector<float> ImportanceMatrix::Entry::mean(int64_t expert, int64_t columns) const {
  const auto n = static_cast<size_t>(columns), first = static_cast<size_t>(expert) * n;
  const float count = counts[std::min(static_cast<size_t>(expert), counts.size() - 1)];
  if (count <= 0) return std::vector<float>(n, 1.0f);
  std::vector<float> result(squares.begin() + static_cast<ptrdiff_t>(first),
                            squares.begin() + static_cast<ptrdiff_t>(first + n));
  for (float& value : result) value /= count;
  return result;
}

const ImportanceMatrix::Entry* ImportanceMatrix::find(std::string_view name) const {
  const auto found = entries.find(name);
  return found == entries.end() ? nullptr : &found->second;
}

Result<ImportanceMatrix> read_imatrix(const std::filesystem::path& path) {
  QUERN_TRY(const auto file, MappedFile::open(path));
  const auto bytes = file.bytes();
  const std::string name = path.string();
  if (bytes.size() >= 4 && std::memcmp(bytes.data(), "GGUF", 4) == 0) {
    QUERN_TRY(const auto source, open_gguf(path));
    return read_gguf(*source);
  }
  return OldReader(bytes, name).run();
}

Result<> write_imatrix(const ImportanceMatrix& matrix, const std::filesystem::path& path) {
  Metadata metadata;
  metadata.add("general.type", std::string("imatrix"));
  metadata.add("imatrix.datasets", Metadata::Array{matrix.datasets});
  metadata.add("imatrix.chunk_count", static_cast<uint64_t>(matrix.chunks));
  metadata.add("imatrix.chunk_size", static_cast<uint64_t>(matrix.chunk_tokens));
  std::vector<GgufTensor> tensors;
  for (const auto& [name, entry] : matrix.entries) {
    const auto experts = static_cast<int64_t>(entry.counts.size());
    const auto columns = static_cast<int64_t>(entry.squares.size()) / experts;
    tensors.push_back({name + std::string(kSquares), DType::F32, {experts, columns}});
    tensors.push_back({name + std::string(kCounts), DType::F32, {experts, 1}});
  }
  QUERN_TRY(const auto writer, GgufWriter::create(path, metadata, std::move(tensors)));
  for (const auto& [name, entry] : matrix.entries) {
    QUERN_TRY_VOID(writer->write(std::as_bytes(std::span(entry.squares))));
    QUERN_TRY_VOID(writer->write(std::as_bytes(std::span(entry.counts))));
  }
  return writer->finish();
}

}  // namespace quern
