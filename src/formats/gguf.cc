#include "formats/gguf.h"

#include <optional>
#include <unordered_map>

#include "core/mapped_file.h"
#include "core/shard_name.h"
#include "formats/gguf_parse.h"
#include "formats/printable.h"

namespace quern {
namespace {

class GgufSource : public WeightSource {
 public:
  GgufSource(std::string name, std::vector<MappedFile> files, Metadata metadata,
             std::vector<RawTensor> tensors)
      : name_(std::move(name)),
        files_(std::move(files)),
        metadata_(std::move(metadata)),
        tensors_(std::move(tensors)) {
    for (const RawTensor& tensor : tensors_) {
      index_.emplace(tensor.name, &tensor);
      bytes_ += tensor.data.size();
    }
  }

  const Metadata& metadata() const override { return metadata_; }
  std::span<const RawTensor> tensors() const override { return tensors_; }
  const RawTensor* find(std::string_view name) const override {
    const auto it = index_.find(name);
    return it == index_.end() ? nullptr : it->second;
  }
  const std::string& name() const override { return name_; }
  uint64_t bytes() const override { return bytes_; }
  Result<> check() const override {
    for (const MappedFile& file : files_) QUERN_TRY_VOID(file.check());
    return {};
  }
  void let_go(std::span<const std::byte> data) const override {
    for (const MappedFile& file : files_) file.let_go(data);
  }

 private:
  std::string name_;
  std::vector<MappedFile> files_;
  Metadata metadata_;
  std::vector<RawTensor> tensors_;
  std::unordered_map<std::string_view, const RawTensor*> index_;
  uint64_t bytes_ = 0;
};

Result<> check_not_split(const gguf::File& file, const std::string& name) {
  const auto count = file.split.uint("split.count");
  if (count.value_or(1) <= 1) return {};
  return fail(ErrorCode::invalid_argument,
              "{}: part {} of a model in {} files: name the parts like model-00001-of-{:05}.gguf", name,
              file.split.uint("split.no").value_or(0) + 1, *count, *count);
}

Result<> check_parts_exist(const std::filesystem::path& folder, const ShardName& shard) {
  std::string missing;
  unsigned count = 0;
  for (unsigned i = 1; i <= shard.count; ++i) {
    std::error_code ignored;
    if (std::filesystem::exists(folder / shard.of(i), ignored)) continue;
    if (++count <= 3) missing += fmt::format("{}{}", missing.empty() ? "" : ", ", shard.of(i));
  }
  if (count == 0) return {};
  return fail(
      ErrorCode::not_found, "{}: {} of {} parts are missing: {}{}: download them into the same folder",
      (folder / shard.of(shard.number)).string(), count, shard.count, missing, count > 3 ? ", ..." : "");
}

/// Part `index` (from 0) says the same about the model as the first one.
Result<> check_part(const gguf::File& file, const gguf::File& first, unsigned index, unsigned count,
                    const std::string& name) {
  if (const auto says = file.split.uint("split.count"); says != count)
    return fail(ErrorCode::corrupt, "{}: split.count is {}, but its name says {} parts", name,
                says ? fmt::format("{}", *says) : "absent", count);
  if (const auto says = file.split.uint("split.no"); says != index)
    return fail(ErrorCode::corrupt,
                "{}: split.no is {}, but its name says {} (counted from 0): was it renamed?", name,
                says ? fmt::format("{}", *says) : "absent", index);
  const auto total = [](const gguf::File& f) { return f.split.uint("split.tensors.count"); };
  const auto architecture = [](const gguf::File& f) { return f.metadata.string("general.architecture"); };
  const bool other_model = architecture(file) != nullptr && architecture(first) != nullptr &&
                           *architecture(file) != *architecture(first);
  if (total(file) != total(first) || other_model)
    return fail(ErrorCode::corrupt, "{}: a part of another model than the first part", name);
  return {};
}

Result<std::unique_ptr<WeightSource>> open_split(const std::filesystem::path& folder,
                                                 const ShardName& shard) {
  QUERN_TRY_VOID(check_parts_exist(folder, shard));
  std::vector<MappedFile> files;
  std::vector<RawTensor> tensors;
  std::unordered_map<std::string, unsigned> owner;
  std::vector<gguf::File> parts;
  for (unsigned i = 0; i < shard.count; ++i) {
    const std::string name = (folder / shard.of(i + 1)).string();
    QUERN_TRY(MappedFile mapped, MappedFile::open(name));
    auto parsed = gguf::parse(mapped.bytes(), name);
    QUERN_TRY_VOID(mapped.check());
    QUERN_TRY(gguf::File file, std::move(parsed));
    parts.push_back(std::move(file));
    QUERN_TRY_VOID(check_part(parts.back(), parts.front(), i, shard.count, name));
    for (RawTensor& tensor : parts.back().tensors) {
      const auto [other, is_new] = owner.emplace(tensor.name, i + 1);
      if (!is_new)
        return fail(ErrorCode::corrupt, "{}: tensor {} is in part {}, too", name, printable(tensor.name),
                    other->second);
      tensors.push_back(std::move(tensor));
    }
    files.push_back(std::move(mapped));
  }
  const std::string name = (folder / shard.of(1)).string();
  gguf::File& first = parts.front();
  if (const auto total = first.split.uint("split.tensors.count"); total && *total != tensors.size())
    return fail(ErrorCode::corrupt, "{}: the parts hold {} tensors, but split.tensors.count is {}", name,
                tensors.size(), *total);
  return std::make_unique<GgufSource>(name, std::move(files), std::move(first.metadata), std::move(tensors));
}

}  // namespace

Result<std::unique_ptr<WeightSource>> open_gguf(const std::filesystem::path& path) {
  const auto shard = parse_shard_name(path.filename().string(), ".gguf");
  if (shard && shard->count > 1) return open_split(path.parent_path(), *shard);
  const std::string name = path.string();
  QUERN_TRY(MappedFile mapped, MappedFile::open(path));
  auto parsed = gguf::parse(mapped.bytes(), name);
  QUERN_TRY_VOID(mapped.check());  // first: it explains whatever parsing found
  QUERN_TRY(gguf::File file, std::move(parsed));
  QUERN_TRY_VOID(check_not_split(file, name));
  std::vector<MappedFile> files;
  files.push_back(std::move(mapped));
  return std::make_unique<GgufSource>(name, std::move(files), std::move(file.metadata),
                                      std::move(file.tensors));
}

Result<std::unique_ptr<WeightSource>> open_gguf(std::span<const std::byte> bytes, std::string name) {
  QUERN_TRY(gguf::File file, gguf::parse(bytes, name));
  QUERN_TRY_VOID(check_not_split(file, name));
  return std::make_unique<GgufSource>(std::move(name), std::vector<MappedFile>(), std::move(file.metadata),
                                      std::move(file.tensors));
}

}  // namespace quern
