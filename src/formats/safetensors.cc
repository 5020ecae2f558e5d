// The weights of a checkpoint folder: which files, and all their tensors together.
#include "formats/safetensors.h"

#include <algorithm>
#include <map>
#include <optional>
#include <unordered_map>
#include <unordered_set>

#include "core/shard_name.h"
#include "formats/json_walk.h"
#include "formats/printable.h"

namespace quern::safetensors {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kIndexSuffix = ".safetensors.index.json";

/// {"metadata": {…}, "weight_map": {"tensor": "shard"}}
class IndexWalk final : public JsonWalk {
 public:
  IndexWalk() : JsonWalk(16) {}

  std::vector<std::string> shards;  // each once
  std::unordered_map<std::string, size_t> shard_of;
  bool found = false;

  bool key(std::string& name) override {
    if (depth() == 1) in_map_ = name == "weight_map";
    if (in_map_ && depth() == 2) tensor_ = std::move(name);
    return true;
  }
  bool string(std::string& file) override {
    if (!in_map_) return true;
    if (depth() != 2) return other();
    const auto [known, is_new] = number_.emplace(file, shards.size());
    if (is_new) {
      if (const std::string why = bad_name(file); !why.empty())
        return refuse(fmt::format("\"{}\" is no name of a shard: {}", printable(file), why));
      if (shards.size() == kMaxShards) return refuse(fmt::format("it names more than {} shards", kMaxShards));
      shards.push_back(file);
    }
    if (!shard_of.emplace(std::move(tensor_), known->second).second) return refuse("it names a tensor twice");
    if (shard_of.size() > kMaxTensors)
      return refuse(fmt::format("it names more than {} tensors", kMaxTensors));
    return true;
  }

 private:
  static std::string bad_name(const std::string& file) {
    if (file.empty() || file.front() == '.') return "it is empty or begins with a dot";
    if (file.find_first_of(std::string_view("/\\\0", 3)) != std::string::npos)
      return "it must lie in the checkpoint's own folder";
    if (!file.ends_with(".safetensors")) return "it does not end in .safetensors";
    return {};
  }
  bool opened(bool array) override {
    if (depth() == 0) return array ? refuse("not a JSON object") : true;
    if (!in_map_) return true;
    if (depth() > 1 || array) return other();
    return std::exchange(found, true) ? refuse("it has two weight_maps") : true;
  }
  bool other() override { return in_map_ ? refuse("weight_map is no map of names") : true; }

  bool in_map_ = false;
  std::string tensor_;
  std::unordered_map<std::string, size_t> number_;
};

Result<std::vector<std::string>> files_in(const fs::path& folder) {
  std::vector<std::string> names;
  std::error_code error;
  for (fs::directory_iterator it(folder, error), end; !error && it != end; it.increment(error)) {
    const std::string name = it->path().filename().string();
    if (name.ends_with(".safetensors") || name.ends_with(kIndexSuffix)) names.push_back(name);
  }
  if (error)
    return fail(error == std::errc::no_such_file_or_directory ? ErrorCode::not_found : ErrorCode::io,
                "{}: cannot list the folder: {}", folder.string(), error.message());
  std::ranges::sort(names);
  return names;
}

Result<std::vector<std::string>> shards_without_index(const fs::path& folder,
                                                      std::vector<std::string> files) {
  if (std::ranges::find(files, "model.safetensors") != files.end())
    return std::vector<std::string>{"model.safetensors"};
  std::vector<std::string> numbered;
  ShardName first;
  for (const std::string& file : files) {
    auto shard = parse_shard_name(file, ".safetensors");
    if (!shard || shard->prefix != "model") continue;
    if (numbered.empty()) first = std::move(*shard);
    numbered.push_back(file);
  }
  if (numbered.empty()) return files;
  for (unsigned i = 1; i <= first.count; ++i) {
    const std::string name = first.of(i);
    if (std::ranges::find(numbered, name) == numbered.end())
      return fail(ErrorCode::not_found, "{}: {} is missing: download it into the same folder",
                  folder.string(), name);
  }
  if (numbered.size() > first.count)
    return fail(ErrorCode::invalid_argument, "{}: the shards of more than one model lie there",
                folder.string());
  return numbered;
}

Result<IndexWalk> read_index(const fs::path& path) {
  QUERN_TRY(const MappedFile file, MappedFile::open(path));
  if (file.bytes().size() > kMaxIndexBytes)
    return fail(ErrorCode::corrupt, "{}: larger than {} MiB", path.string(), kMaxIndexBytes >> 20);
  IndexWalk walk;
  const bool walked = walk.walk({reinterpret_cast<const char*>(file.bytes().data()), file.bytes().size()});
  QUERN_TRY_VOID(file.check());
  if (!walked) return fail(ErrorCode::corrupt, "{}: {}", path.string(), walk.problem());
  if (!walk.found) return fail(ErrorCode::corrupt, "{}: it has no weight_map", path.string());
  return walk;
}

/// Which shard each tensor came from; a tensor in two is an error.
class Gathering {
 public:
  Gathering(const fs::path& folder, std::span<const AbsentShard> absent) : folder_(folder), absent_(absent) {}

  Result<> add(const std::string& shard) {
    const std::string path = (folder_ / shard).string();
    QUERN_TRY(MappedFile mapped, map(shard, path));
    auto parsed = parse(mapped.bytes(), path);
    QUERN_TRY_VOID(mapped.check());  // first: it explains whatever parsing found
    QUERN_TRY(Tensors tensors, std::move(parsed));
    for (auto& tensor : tensors.tensors) {
      QUERN_TRY_VOID(claim(tensor.name, shard));
      result.tensors.push_back(std::move(tensor));
    }
    for (auto& tensor : tensors.foreign) {
      QUERN_TRY_VOID(claim(tensor.name, shard));
      result.foreign.push_back(std::move(tensor));
    }
    result.files.push_back(std::move(mapped));
    result.names.push_back(shard);
    return {};
  }

  Result<> check_index(const IndexWalk& index) const {
    for (const auto& [tensor, number] : index.shard_of) {
      const auto it = owner_.find(tensor);
      if (it != owner_.end() && it->second == index.shards[number]) continue;
      return fail(ErrorCode::corrupt, "{}: tensor {} is not in {}, where the index has it", folder_.string(),
                  printable(tensor), printable(index.shards[number]));
    }
    return {};
  }

  Checkpoint result;

 private:
  Result<MappedFile> map(const std::string& shard, const std::string& path) const {
    const auto it = std::ranges::find(absent_, shard, &AbsentShard::name);
    if (it == absent_.end()) return MappedFile::open(path);
    QUERN_TRY(const uint64_t head, head_bytes(it->head, path));
    if (it->head.size() < head || it->size < head)
      return fail(ErrorCode::corrupt,
                  "{}: the header has {} bytes, but only {} are there: is the file whole?", path, head,
                  it->head.size());
    return MappedFile::reserve(it->size, std::as_bytes(std::span(it->head)), path);
  }
  Result<> claim(const std::string& tensor, const std::string& shard) {
    const auto [other, is_new] = owner_.emplace(tensor, shard);
    if (is_new) return {};
    return fail(ErrorCode::corrupt, "{}: tensor {} is in {} and in {}", folder_.string(), printable(tensor),
                printable(other->second), printable(shard));
  }

  const fs::path& folder_;
  const std::span<const AbsentShard> absent_;
  std::unordered_map<std::string, std::string> owner_;
};

/// Which files make the checkpoint; `index` is set where one says so.
struct Choice {
  std::vector<std::string> shards;
  std::optional<IndexWalk> index;
};

Result<Choice> choose_shards(const fs::path& folder, std::span<const AbsentShard> absent) {
  QUERN_TRY(std::vector<std::string> files, files_in(folder));
  std::vector<std::string> indices;
  std::erase_if(files, [&](const std::string& name) {
    if (!name.ends_with(kIndexSuffix)) return false;
    indices.push_back(name);
    return true;
  });
  for (const AbsentShard& shard : absent) files.push_back(shard.name);
  if (indices.empty()) {
    if (files.empty())
      return fail(ErrorCode::not_found, "{}: the folder has no .safetensors file", folder.string());
    QUERN_TRY(auto shards, shards_without_index(folder, std::move(files)));
    return Choice{std::move(shards), {}};
  }
  const bool usual = std::ranges::find(indices, "model.safetensors.index.json") != indices.end();
  QUERN_TRY(IndexWalk index, read_index(folder / (usual ? "model.safetensors.index.json" : indices.front())));
  // All at once, so that one message tells what to fetch.
  std::unordered_set<std::string> there(files.begin(), files.end());
  std::string missing;
  size_t count = 0;
  for (const std::string& shard : index.shards) {
    if (there.contains(shard)) continue;
    if (++count <= 3) missing += (missing.empty() ? "" : ", ") + printable(shard);
  }
  if (count > 0)
    return fail(ErrorCode::not_found,
                "{}: {} of {} shards are missing: {}{}: download them into the same folder", folder.string(),
                count, index.shards.size(), missing, count > 3 ? ", ..." : "");
  return Choice{index.shards, std::move(index)};
}

}  // namespace

Result<> Checkpoint::check() const {
  for (const MappedFile& file : files) QUERN_TRY_VOID(file.check());
  return {};
}

Result<std::vector<std::string>> weight_files(const fs::path& folder) {
  QUERN_TRY(Choice choice, choose_shards(folder, {}));
  return std::move(choice.shards);
}

Result<Checkpoint> open(const fs::path& folder, std::span<const AbsentShard> absent) {
  QUERN_TRY(const Choice choice, choose_shards(folder, absent));
  Gathering gathering(folder, absent);
  for (const std::string& shard : choice.shards) QUERN_TRY_VOID(gathering.add(shard));
  if (choice.index) QUERN_TRY_VOID(gathering.check_index(*choice.index));
  return std::move(gathering.result);
}

}  // namespace quern::safetensors
