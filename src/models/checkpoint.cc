#include "models/checkpoint.h"

#include <algorithm>
#include <charconv>
#include <optional>
#include <unordered_map>

#include "core/log.h"
#include "formats/gptq.h"
#include "formats/printable.h"
#include "formats/safetensors.h"
#include "models/checkpoint_biases.h"
#include "models/hf_config.h"
#include "quant/quant.h"

namespace quern {
namespace {

namespace fs = std::filesystem;

class CheckpointSource final : public ArrivingCheckpoint {
 public:
  CheckpointSource(std::string name, safetensors::Checkpoint files, gptq::Modules modules,
                   const HfConfig& config, Metadata metadata)
      : name_(std::move(name)),
        files_(std::move(files)),
        modules_(std::move(modules)),
        metadata_(std::move(metadata)) {
    for (const HfConfig::RopeFactors& factors : config.rope_factors) factors_.push_back(factors.divisors);
    size_t next = 0;
    for (const HfConfig::RopeFactors& factors : config.rope_factors) {
      const std::vector<float>& values = factors_[next++];
      files_.tensors.push_back({std::string(find_name(*config.arch, factors.role)->gguf),
                                DType::F32,
                                {static_cast<int64_t>(values.size())},
                                std::as_bytes(std::span(values))});
    }
    for (const RawTensor& tensor : files_.tensors) {
      index_.emplace(tensor.name, &tensor);
      bytes_ += stored_bytes(tensor);
    }
  }

  const Metadata& metadata() const override { return metadata_; }
  std::span<const RawTensor> tensors() const override { return files_.tensors; }
  const RawTensor* find(std::string_view name) const override {
    const auto it = index_.find(name);
    return it == index_.end() ? nullptr : it->second;
  }
  const std::string& name() const override { return name_; }
  uint64_t bytes() const override { return bytes_; }
  Result<> check() const override { return files_.check(); }
  void let_go(std::span<const std::byte> data) const override {
    for (const MappedFile& file : files_.files) file.let_go(data);
  }

  std::vector<const RawTensor*> tensors_of(std::string_view shard) const override {
    std::vector<const RawTensor*> found;
    for (const RawTensor& tensor : files_.tensors) {
      const auto holder = std::ranges::find_if(
          files_.files, [&](const MappedFile& file) { return contains(file.bytes(), tensor.data); });
      const auto number = static_cast<size_t>(holder - files_.files.begin());
      if (holder == files_.files.end() ? shard.empty() : files_.names[number] == shard)
        found.push_back(&tensor);
    }
    return found;
  }
  Result<> arrive(std::string_view shard) override {
    QUERN_TRY(MappedFile* const file, file_of(shard));
    return file->fill(std::filesystem::path(name_) / shard);
  }
  Result<> leave(std::string_view shard) override {
    QUERN_TRY(MappedFile* const file, file_of(shard));
    return file->vacate();
  }

 private:
  static bool contains(std::span<const std::byte> all, std::span<const std::byte> part) {
    return part.data() >= all.data() && part.data() + part.size() <= all.data() + all.size();
  }
  Result<MappedFile*> file_of(std::string_view shard) {
    const auto it = std::ranges::find(files_.names, shard);
    if (it == files_.names.end()) return fail(ErrorCode::internal, "{}: no shard {}", name_, shard);
    return &files_.files[static_cast<size_t>(it - files_.names.begin())];
  }

  std::string name_;
  safetensors::Checkpoint files_;
  gptq::Modules modules_;  // the tensors' matrices
  Metadata metadata_;
  std::vector<std::vector<float>> factors_;
  std::unordered_map<std::string_view, const RawTensor*> index_;
  uint64_t bytes_ = 0;
};

/// Where a tensor belongs, by its name.
struct Place {
  const TensorName* names = nullptr;
  int64_t layer = -1, expert = -1;
};

/// Whether `name` is `pattern` with decimal numbers, written as we write them, for its {}.
bool match(std::string_view pattern, std::string_view name, Place& place) {
  for (int64_t* number : {&place.layer, &place.expert}) {
    const size_t at = pattern.find("{}");
    if (at == std::string_view::npos) break;
    if (name.substr(0, at) != pattern.substr(0, at)) return false;
    name.remove_prefix(at);
    pattern.remove_prefix(at + 2);
    const auto [end, error] = std::from_chars(name.data(), name.data() + name.size(), *number);
    const auto length = static_cast<size_t>(end - name.data());
    if (error != std::errc() || *number < 0 || (length > 1 && name.front() == '0')) return false;
    name.remove_prefix(length);
  }
  return name == pattern;
}

std::optional<Place> find_place(const ArchSpec& arch, std::string_view name) {
  for (const TensorName& names : arch.tensors) {
    Place place{&names};
    if (!names.hf.empty() && match(names.hf, name, place)) return place;
  }
  return std::nullopt;
}

/// What a checkpoint may hold and no model reads.
bool is_buffer(std::string_view name) { return name.ends_with("rotary_emb.inv_freq"); }

/// Takes out what the model does not use; refuses what it would wrongly not use.
class Sorting {
 public:
  Sorting(const HfConfig& config, const std::string& name) : config_(config), name_(name) {}

  Result<> sort(safetensors::Checkpoint& files) {
    std::vector<RawTensor> kept;
    for (RawTensor& tensor : files.tensors) {
      QUERN_TRY(const bool used, is_used(tensor.name, ""));
      if (used) kept.push_back(std::move(tensor));
    }
    for (const auto& tensor : files.foreign) {
      QUERN_TRY(const bool used, is_used(tensor.name, tensor.dtype));
      if (used)
        return fail(ErrorCode::unsupported,
                    "{}: tensor {} has type {}; weights that are not quantized must be F32, F16 or BF16",
                    name_, printable(tensor.name), printable(tensor.dtype));
    }
    files.tensors = std::move(kept);
    if (beyond_ > 0)
      log::warn("layers beyond num_hidden_layers are left out", {{"model", name_}, {"tensors", beyond_}});
    return {};
  }

 private:
  Result<bool> is_used(const std::string& tensor, const std::string& foreign_type) {
    if (is_buffer(tensor)) return false;
    const auto place = find_place(*config_.arch, tensor);
    if (!place)
      return fail(ErrorCode::unsupported,
                  "{}: tensor {}{} is not known of {}, and leaving it out would change the answers", name_,
                  printable(tensor), foreign_type.empty() ? "" : " of type " + printable(foreign_type),
                  config_.hf_class->name);
    if (place->layer >= config_.layers) {
      ++beyond_;
      return false;
    }
    return place->names->role != Role::output || config_.tied != true;
  }

  const HfConfig& config_;
  const std::string& name_;
  size_t beyond_ = 0;
};

const RawTensor* find_tensor(const safetensors::Checkpoint& files, std::string_view name) {
  const auto it = std::ranges::find(files.tensors, name, &RawTensor::name);
  return it == files.tensors.end() ? nullptr : &*it;
}

Result<> check_head(const safetensors::Checkpoint& files, const HfConfig& config, const std::string& name) {
  const TensorName* head = find_name(*config.arch, Role::output);
  if (config.tied != false || head == nullptr || find_tensor(files, head->hf) != nullptr) return {};
  return fail(ErrorCode::not_found,
              "{}: tensor {} is missing, and config.json says tie_word_embeddings false", name, head->hf);
}

constexpr int64_t kControl = 3, kUserDefined = 4, kUnused = 5;  // llama.cpp's token types

/// How many tokens the tokenizer lists beyond the embedding's rows, when all of them were added later (a
/// <pad>, mostly): text never needs them. Else 0.
size_t added_beyond(const Metadata& text, size_t rows) {
  const auto types = text.integers("tokenizer.ggml.token_type").value_or(std::vector<int64_t>());
  if (types.size() <= rows) return 0;
  const bool all_added =
      std::all_of(types.begin() + static_cast<ptrdiff_t>(rows), types.end(),
                  [](int64_t t) { return t == kControl || t == kUserDefined || t == kUnused; });
  return all_added ? types.size() - rows : 0;
}

/// Whether a key names a token that is not among the first `count`.
bool names_beyond(std::string_view key, const Metadata& text, size_t count) {
  const auto id = key.ends_with("_token_id") ? text.uint(key) : std::nullopt;
  return id && *id >= count;
}

/// As many tokens as the embedding has rows.
Metadata fit_tokens(const Metadata& text, size_t rows, const std::string& name) {
  const auto* tokens = text.strings("tokenizer.ggml.tokens");
  const size_t listed = tokens == nullptr ? 0 : tokens->size();
  const size_t beyond = added_beyond(text, rows);
  const size_t count = beyond > 0 ? rows : std::max(rows, listed);
  if (beyond > 0 && listed > rows)
    log::warn("added tokens have no row in the embedding: left out",
              {{"model", name}, {"tokens", beyond}, {"first", (*tokens)[rows]}});
  Metadata padded;
  for (const auto& [key, value] : text.entries()) {
    if (beyond > 0 && names_beyond(key, text, count)) continue;
    Metadata::Value copy = value;
    if (auto* array = std::get_if<Metadata::Array>(&copy);
        array != nullptr && listed > 0 && array->size() == listed) {
      if (key == "tokenizer.ggml.tokens") {
        auto& items = std::get<std::vector<std::string>>(array->items);
        items.resize(std::min(items.size(), count));
        while (items.size() < count) items.push_back(fmt::format("[PAD{}]", items.size()));
      } else if (key == "tokenizer.ggml.token_type") {
        if (auto* items = std::get_if<std::vector<int64_t>>(&array->items)) items->resize(count, kUnused);
        if (auto* items = std::get_if<std::vector<uint64_t>>(&array->items)) items->resize(count, kUnused);
      } else if (key == "tokenizer.ggml.scores") {
        if (auto* items = std::get_if<std::vector<double>>(&array->items)) items->resize(count, -1000.0);
      }
    }
    padded.add(key, std::move(copy));
  }
  return padded;
}

/// "Mistral-7B-v0.1" for a folder of that name and for a snapshot in the hub's cache
/// (models--mistralai--Mistral-7B-v0.1/snapshots/<commit>).
std::string model_name(const fs::path& folder) {
  std::error_code error;
  fs::path path = fs::weakly_canonical(folder, error);
  if (error) path = folder;
  if (path.filename().empty()) path = path.parent_path();
  if (path.parent_path().filename() != "snapshots") return path.filename().string();
  const std::string repo = path.parent_path().parent_path().filename().string();
  const size_t at = repo.rfind("--");
  return at == std::string::npos ? repo : repo.substr(at + 2);
}

Result<std::string> read_config_text(const fs::path& path) {
  QUERN_TRY(const MappedFile file, MappedFile::open(path));
  if (file.bytes().size() > kMaxHfConfigBytes)
    return fail(ErrorCode::corrupt, "{}: larger than {} bytes", path.string(), kMaxHfConfigBytes);
  std::string text(reinterpret_cast<const char*>(file.bytes().data()), file.bytes().size());
  QUERN_TRY_VOID(file.check());
  return text;
}

}  // namespace

bool is_checkpoint(const fs::path& folder) {
  std::error_code error;
  if (!fs::is_regular_file(folder / "config.json", error)) return false;
  for (fs::directory_iterator it(folder, error), end; !error && it != end; it.increment(error)) {
    if (it->path().extension() == ".safetensors") return true;
  }
  return false;
}

Result<std::unique_ptr<WeightSource>> open_checkpoint(const fs::path& folder, const Metadata& text) {
  return open_arriving_checkpoint(folder, text, {});
}

Result<std::unique_ptr<ArrivingCheckpoint>> open_arriving_checkpoint(
    const fs::path& folder, const Metadata& text, std::span<const safetensors::AbsentShard> absent) {
  const std::string name = folder.string();
  const std::string config_name = (folder / "config.json").string();
  QUERN_TRY(const std::string config_text, read_config_text(config_name));
  QUERN_TRY(HfConfig config, read_hf_config(config_text, config_name));
  QUERN_TRY(const auto quantization, gptq::find_config(folder, config_text));
  // What its zero points and groups are is read here, and a shard that is absent cannot be read.
  if (quantization && !absent.empty())
    return fail(ErrorCode::unsupported, "{}: a quantized checkpoint opens once all its shards are there",
                name);
  QUERN_TRY(safetensors::Checkpoint files, safetensors::open(folder, absent));
  QUERN_TRY(gptq::Modules modules, gptq::take_modules(files, quantization, name));
  for (const std::string& warning : modules.warnings) log::warn(warning, {{"model", name}});
  QUERN_TRY_VOID(settle_biases(files, config, modules.names, name));
  QUERN_TRY_VOID(Sorting(config, name).sort(files));
  QUERN_TRY_VOID(check_head(files, config, name));
  const TensorName* embedding = find_name(*config.arch, Role::token_embd);
  const RawTensor* table = find_tensor(files, embedding->hf);
  if (table == nullptr || table->data.empty())
    return fail(ErrorCode::not_found, "{}: tensor {} is missing or empty", name, embedding->hf);
  if (config.vocab > 0 && table->rows() != config.vocab)
    return fail(ErrorCode::corrupt, "{}: tensor {} has {} rows, but vocab_size in config.json is {}", name,
                table->name, table->rows(), config.vocab);
  Metadata metadata = std::move(config.metadata);
  metadata.add("general.name", model_name(folder));
  const Metadata padded = fit_tokens(text, static_cast<size_t>(table->rows()), name);
  for (const auto& [key, value] : padded.entries()) metadata.add(key, value);
  return std::make_unique<CheckpointSource>(name, std::move(files), std::move(modules), config,
                                            std::move(metadata));
}

}  // namespace quern
