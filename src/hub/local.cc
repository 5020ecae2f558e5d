#include "hub/local.h"

#include <algorithm>

#include "core/file.h"
#include "hub/cache.h"
#include "hub/repo_listing.h"
#include "hub/select.h"

namespace quern::hub {
namespace {

namespace fs = std::filesystem;

constexpr size_t kMaxIndexBytes = kMaxListingBytes;

uint64_t bytes_of(const std::vector<fs::path>& files) {
  uint64_t bytes = 0;
  for (const fs::path& file : files) {
    std::error_code error;
    const auto size = fs::file_size(file, error);
    if (!error) bytes += size;
  }
  return bytes;
}

}  // namespace

Result<std::string> quantization_of_folder(const fs::path& folder) {
  const auto text = read_small_file(folder / "config.json", 16 << 20);
  if (!text) return fail(ErrorCode::corrupt, "{}: cannot be read", (folder / "config.json").string());
  auto method = quantization_method(*text);
  if (!method)
    return fail(ErrorCode::corrupt, "{}: {}", (folder / "config.json").string(), method.error().message);
  std::error_code ignored;
  const bool beside = fs::is_regular_file(folder / "quantize_config.json", ignored) ||
                      fs::is_regular_file(folder / "quant_config.json", ignored);
  return method->empty() && beside ? "gptq" : *method;
}

namespace {

Result<LocalModel> checkpoint_of(const Selection& selection, const fs::path& folder) {
  LocalModel model;
  model.kind = LocalModel::Kind::checkpoint;
  model.folder = folder;
  QUERN_TRY(model.quantization, quantization_of_folder(folder));
  std::vector<std::string> weights;
  if (selection.index.empty()) {
    weights = selection.weights;
  } else {
    const auto text = read_small_file(folder / selection.index, kMaxIndexBytes);
    if (!text) return fail(ErrorCode::corrupt, "{}: cannot be read", (folder / selection.index).string());
    auto shards = parse_shards(*text);
    if (!shards)
      return fail(ErrorCode::corrupt, "{}: {}", (folder / selection.index).string(), shards.error().message);
    weights = *std::move(shards);
  }
  for (const std::string& name : weights) {
    std::error_code ignored;
    model.files.push_back(folder / name);
    if (!fs::is_regular_file(model.files.back(), ignored))
      return fail(ErrorCode::not_found, "{}: a shard of the model is missing", model.files.back().string());
  }
  model.bytes = bytes_of(model.files);
  return model;
}

LocalModel gguf_of(const std::vector<std::string>& files, const std::string& quant, const fs::path& folder) {
  LocalModel model;
  model.kind = LocalModel::Kind::gguf;
  for (const std::string& file : files) model.files.push_back(folder / file);
  model.folder = model.files.front().parent_path();
  model.quantization = quant;
  model.bytes = bytes_of(model.files);
  return model;
}

std::vector<std::string> files_in(const fs::path& folder) {
  std::vector<std::string> names;
  std::error_code error, ignored;
  for (fs::directory_iterator it(folder, error), end; !error && it != end; it.increment(error))
    if (it->is_regular_file(ignored)) names.push_back(it->path().filename().string());
  std::ranges::sort(names);
  return names;
}

Result<LocalModel> open_folder(const std::string& reference, const fs::path& folder) {
  const auto files = files_in(folder);
  const auto models = gguf_models(files);
  if (models.size() > 1) {
    std::string names;
    for (const GgufModel& model : models) names += (names.empty() ? "" : ", ") + model.files.front();
    return fail(ErrorCode::invalid_argument, "{}: the folder has {} models, name one of them: {}",
                folder.string(), models.size(), names);
  }
  ModelReference plain;
  plain.text = reference;
  plain.repo = "the folder";
  return model_in_folder(plain, folder);
}

}  // namespace

std::optional<fs::path> existing_path(const std::string& reference, const std::string& model_path) {
  if (reference.empty() || reference.find('\0') != std::string::npos) return std::nullopt;
  std::error_code ignored;
  if (fs::exists(reference, ignored)) return reference;
  if (model_path.empty()) return std::nullopt;
  fs::path below = fs::path(model_path) / reference;
  if (fs::exists(below, ignored)) return below;
  return std::nullopt;
}

Result<LocalModel> open_local(const std::string& reference, const fs::path& path) {
  std::error_code ignored;
  Result<LocalModel> model;
  if (fs::is_directory(path, ignored)) {
    model = open_folder(reference, path);
  } else {
    const fs::path folder = path.parent_path();
    const std::string name = path.filename().string();
    model = gguf_of({name}, "", folder);
    for (const GgufModel& found : gguf_models(files_in(folder.empty() ? "." : folder)))
      if (std::ranges::find(found.files, name) != found.files.end())
        model = gguf_of(found.files, found.quant, folder);
  }
  if (model) model->id = reference;
  return model;
}

Result<LocalModel> model_in_folder(const ModelReference& reference, const fs::path& folder,
                                   bool* by_default) {
  const auto files = reference.kind == ModelReference::Kind::hub ? files_below(folder) : files_in(folder);
  QUERN_TRY(const Selection selection, select_files(reference, files));
  if (by_default != nullptr) *by_default = selection.by_default && selection.chosen != "Q4_K_M";
  if (selection.kind == Selection::Kind::checkpoint) return checkpoint_of(selection, folder);
  const std::string quant = selection.chosen == selection.files.front() ? "" : selection.chosen;
  return gguf_of(selection.files, quant, folder);
}

}  // namespace quern::hub
