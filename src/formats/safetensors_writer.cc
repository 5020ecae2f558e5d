#include "formats/safetensors_writer.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <nlohmann/json.hpp>
#include <numeric>
#include <unordered_set>

#include "core/file.h"
#include "core/shard_name.h"
#include "formats/printable.h"
#include "formats/safetensors.h"

namespace quern::safetensors {
namespace {

namespace fs = std::filesystem;
using nlohmann::ordered_json;

constexpr uint64_t kMaxBytes = uint64_t{1} << 62;  // beyond any file system's limit

struct TypeWidth {
  std::string_view name;
  uint64_t bytes;
};
constexpr TypeWidth kTypes[] = {{"F64", 8},     {"I64", 8},     {"U64", 8},  {"F32", 4}, {"I32", 4},
                                {"U32", 4},     {"F16", 2},     {"BF16", 2}, {"I16", 2}, {"U16", 2},
                                {"F8_E4M3", 1}, {"F8_E5M2", 1}, {"I8", 1},   {"U8", 1},  {"BOOL", 1}};

uint64_t width_of(std::string_view dtype) {
  const auto* found = std::ranges::find(kTypes, dtype, &TypeWidth::name);
  return found == std::end(kTypes) ? 0 : found->bytes;
}

/// One file of weights.
struct Shard {
  Descriptor file;
  fs::path path;
  uint64_t data_at = 0, bytes = 0;
  std::vector<size_t> tensors;  // in the order of their data
};

/// Where a tensor's data lies, and how much of it is there.
struct Slot {
  size_t shard = 0;
  uint64_t at = 0, bytes = 0;  // of the shard's data
  std::atomic<uint64_t> written{0};
};

Result<> check_target(const fs::path& folder) {
  std::error_code error;
  const auto status = fs::symlink_status(folder, error);
  if (!fs::exists(status)) return {};
  if (fs::is_directory(status) && fs::is_empty(folder, error) && !error) return {};
  return fail(ErrorCode::invalid_argument,
              "{}: it is there already: remove it, or give the name of a new folder", folder.string());
}

class FolderWriter final : public CheckpointWriter {
 public:
  FolderWriter(fs::path folder, std::vector<NewTensor> tensors)
      : folder_(std::move(folder)), tensors_(std::move(tensors)) {}
  FolderWriter(const FolderWriter&) = delete;
  FolderWriter& operator=(const FolderWriter&) = delete;
  ~FolderWriter() override {
    std::error_code ignored;
    if (!temporary_.empty()) fs::remove_all(temporary_, ignored);
  }

  Result<> start(const WriterOptions& options);
  Result<> write_at(size_t tensor, uint64_t offset, std::span<const std::byte> data) override;
  Result<> add_file(const std::string& name, std::string_view content) override;
  const std::vector<std::string>& shards() const override { return names_; }
  Result<> finish() override;

 private:
  Result<> place(const WriterOptions& options);
  Result<std::string> header(const Shard& shard) const;
  Result<> open_shard(size_t index, const std::string& header);
  Result<> write_index();

  fs::path folder_, temporary_;  // the latter is empty: there is none
  std::vector<NewTensor> tensors_;
  std::unique_ptr<Slot[]> slots_;
  std::vector<Shard> shards_;
  std::vector<std::string> names_;
};

/// Shares the tensors among shards and lays out each.
Result<> FolderWriter::place(const WriterOptions& options) {
  std::unordered_set<std::string_view> names;
  slots_ = std::make_unique<Slot[]>(tensors_.size());
  shards_.emplace_back();
  for (size_t i = 0; i < tensors_.size(); ++i) {
    const NewTensor& tensor = tensors_[i];
    if (tensor.name.empty() || tensor.name == "__metadata__" || !names.insert(tensor.name).second)
      return fail(ErrorCode::invalid_argument, "{}: a tensor named {}, or there are two of them",
                  folder_.string(), printable(tensor.name));
    QUERN_TRY(slots_[i].bytes, tensor.bytes());
    if (slots_[i].bytes > kMaxBytes - shards_.back().bytes)
      return fail(ErrorCode::invalid_argument, "{}: the tensors are too large for a file", folder_.string());
    if (!shards_.back().tensors.empty() && shards_.back().bytes + slots_[i].bytes > options.shard_bytes)
      shards_.emplace_back();
    slots_[i].shard = shards_.size() - 1;
    shards_.back().bytes += slots_[i].bytes;
    shards_.back().tensors.push_back(i);
  }
  for (Shard& shard : shards_) {
    std::ranges::stable_sort(shard.tensors, std::greater<>(),
                             [&](size_t i) { return width_of(tensors_[i].dtype); });
    uint64_t at = 0;
    for (const size_t i : shard.tensors) slots_[i].at = std::exchange(at, at + slots_[i].bytes);
  }
  return {};
}

Result<std::string> FolderWriter::header(const Shard& shard) const {
  ordered_json json;
  json["__metadata__"] = {{"format", "pt"}};
  for (const size_t i : shard.tensors)
    json[tensors_[i].name] = {{"dtype", tensors_[i].dtype},
                              {"shape", tensors_[i].shape},
                              {"data_offsets", {slots_[i].at, slots_[i].at + slots_[i].bytes}}};
  std::string text;
  try {
    text = json.dump();
  } catch (const nlohmann::json::exception&) {
    return fail(ErrorCode::invalid_argument, "{}: a tensor's name is not UTF-8", folder_.string());
  }
  text.append((8 - text.size() % 8) % 8, ' ');
  if (text.size() > kMaxHeaderBytes)
    return fail(ErrorCode::invalid_argument, "{}: too many tensors for a file's header", folder_.string());
  const uint64_t length = text.size();
  std::string out(sizeof length, '\0');
  std::memcpy(out.data(), &length, sizeof length);
  return out + text;
}

Result<> FolderWriter::open_shard(size_t index, const std::string& header) {
  Shard& shard = shards_[index];
  shard.path = temporary_ / names_[index];
  shard.data_at = header.size();
  shard.file = Descriptor(::open(shard.path.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666));
  if (!shard.file) return io_error(shard.path, "create", errno);
  if (ftruncate(shard.file.get(), static_cast<off_t>(shard.data_at + shard.bytes)) != 0)
    return io_error(shard.path, "write", errno);
  return pwrite_all(shard.file.get(), shard.path, 0, std::as_bytes(std::span(header)));
}

Result<> FolderWriter::start(const WriterOptions& options) {
  if (folder_.filename().empty()) folder_ = folder_.parent_path();  // "name/"
  QUERN_TRY_VOID(check_target(folder_));
  QUERN_TRY_VOID(place(options));
  std::vector<std::string> headers;
  const ShardName name{"model", 1, static_cast<unsigned>(shards_.size()), ".safetensors"};
  for (const Shard& shard : shards_) {
    QUERN_TRY(headers.emplace_back(), header(shard));
    names_.push_back(name.count == 1 ? "model.safetensors"
                                     : name.of(static_cast<unsigned>(names_.size()) + 1));
  }
  const std::string temporary = unique_name(folder_.string());
  std::error_code error;
  if (!fs::create_directory(temporary, error)) return io_error(folder_, "make the folder", error.value());
  temporary_ = temporary;
  for (size_t i = 0; i < shards_.size(); ++i) QUERN_TRY_VOID(open_shard(i, headers[i]));
  return {};
}

Result<> FolderWriter::write_at(size_t tensor, uint64_t offset, std::span<const std::byte> data) {
  if (tensor >= tensors_.size() || offset > slots_[tensor].bytes ||
      data.size() > slots_[tensor].bytes - offset)
    return fail(ErrorCode::internal, "{}: {} bytes more than the tensors hold", folder_.string(),
                data.size());
  Slot& slot = slots_[tensor];
  const Shard& shard = shards_[slot.shard];
  QUERN_TRY_VOID(pwrite_all_and_flush(shard.file.get(), shard.path, shard.data_at + slot.at + offset, data));
  slot.written.fetch_add(data.size(), std::memory_order_relaxed);
  return {};
}

Result<> FolderWriter::add_file(const std::string& name, std::string_view content) {
  const fs::path path = temporary_ / name;
  return write_whole_file(path, unique_name(path.string()), content);
}

Result<> FolderWriter::write_index() {
  if (shards_.size() == 1) return {};
  uint64_t total = 0;
  ordered_json map = ordered_json::object();
  for (size_t i = 0; i < tensors_.size(); ++i) {
    map[tensors_[i].name] = names_[slots_[i].shard];
    total += slots_[i].bytes;
  }
  const ordered_json index = {{"metadata", {{"total_size", total}}}, {"weight_map", std::move(map)}};
  return add_file("model.safetensors.index.json", index.dump(2) + "\n");
}

Result<> FolderWriter::finish() {
  for (size_t i = 0; i < tensors_.size(); ++i)
    if (slots_[i].written.load(std::memory_order_relaxed) != slots_[i].bytes)
      return fail(ErrorCode::internal, "{}: tensor {} was not written in full", folder_.string(),
                  printable(tensors_[i].name));
  QUERN_TRY_VOID(write_index());
  for (Shard& shard : shards_) {
    if (!shard.file) continue;  // synced by an earlier call, which could not rename
    if (fsync(shard.file.get()) != 0) return io_error(shard.path, "sync", errno);
    shard.file = Descriptor();
  }
  sync_folder(temporary_);
  QUERN_TRY_VOID(check_target(folder_));  // somebody may have made it meanwhile
  // Renaming replaces an empty folder, and nothing else.
  if (std::rename(temporary_.c_str(), folder_.c_str()) != 0)
    return io_error(folder_, "rename into place", errno);
  temporary_.clear();
  sync_folder(folder_.has_parent_path() ? folder_.parent_path() : fs::path("."));
  return {};
}

}  // namespace

Result<uint64_t> NewTensor::bytes() const {
  uint64_t bytes = width_of(dtype);
  if (bytes == 0)
    return fail(ErrorCode::invalid_argument, "tensor {}: type {} cannot be written", printable(name),
                printable(dtype));
  bool fits = shape.size() <= kMaxDimensions;
  for (const int64_t n : shape)
    fits = fits && n >= 0 && !__builtin_mul_overflow(bytes, static_cast<uint64_t>(n), &bytes);
  if (!fits || bytes > kMaxBytes)
    return fail(ErrorCode::invalid_argument, "tensor {}: impossible dimensions", printable(name));
  return bytes;
}

Result<std::unique_ptr<CheckpointWriter>> CheckpointWriter::create(const fs::path& folder,
                                                                   std::vector<NewTensor> tensors,
                                                                   const WriterOptions& options) {
  auto writer = std::make_unique<FolderWriter>(folder, std::move(tensors));
  QUERN_TRY_VOID(writer->start(options));
  return writer;
}

}  // namespace quern::safetensors
