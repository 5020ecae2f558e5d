// From a model reference to an open file or checkpoint.
#include <algorithm>
#include <filesystem>
#include <optional>
#include <vector>

#include "core/log.h"
#include "core/shard_name.h"
#include "engine/embedded_guide.h"
#include "engine/other_tokenizer.h"
#include "engine/served_model.h"
#include "formats/gguf.h"
#include "models/checkpoint.h"
#include "text/hf_tokenizer.h"

namespace quern {
namespace {

namespace fs = std::filesystem;

/// `tokenizer_needed`: false where another one takes its place, whatever this one may be.
Result<std::unique_ptr<ArrivingCheckpoint>> open_checkpoint_with_text(
    const fs::path& folder, bool tokenizer_needed, std::span<const safetensors::AbsentShard> absent = {}) {
  std::vector<std::string> warnings;
  auto text = read_hf_text(folder, &warnings);
  if (!tokenizer_needed) return open_arriving_checkpoint(folder, text ? *text : Metadata(), absent);
  if (!text) return fail(text.error());
  for (const std::string& warning : warnings) log::warn(warning, {{"model", folder.string()}});
  return open_arriving_checkpoint(folder, *text, absent);
}

/// The model of a folder: its GGUF file (parts of a split one count once), or the checkpoint that it is.
Result<std::unique_ptr<WeightSource>> open_folder(const fs::path& folder, bool tokenizer_needed) {
  std::vector<fs::path> found;
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(folder, error)) {
    const std::string name = entry.path().filename().string();
    if (entry.path().extension() != ".gguf") continue;
    const auto shard = parse_shard_name(name, ".gguf");
    if (shard && shard->number > 1) continue;
    found.push_back(entry.path());
  }
  if (error) return fail(ErrorCode::io, "{}: cannot list the folder: {}", folder.string(), error.message());
  if (found.size() == 1) return open_gguf(found.front());
  if (found.empty() && is_checkpoint(folder)) return open_checkpoint_with_text(folder, tokenizer_needed);
  if (found.empty())
    return fail(ErrorCode::not_found,
                "{}: the folder has no .gguf file, and no checkpoint (config.json and .safetensors)",
                folder.string());
  std::ranges::sort(found);
  std::string names;
  for (const fs::path& path : found) names += (names.empty() ? "" : ", ") + path.filename().string();
  return fail(ErrorCode::invalid_argument, "{}: the folder has {} models, name one of them: {}",
              folder.string(), found.size(), names);
}

/// The reference as a path, where there is such a file or folder: as it stands, else below model_path.
std::optional<fs::path> existing_path(const std::string& reference, const std::string& model_path) {
  std::error_code ignored;
  if (fs::exists(reference, ignored)) return reference;
  if (model_path.empty()) return std::nullopt;
  fs::path below = fs::path(model_path) / reference;
  if (fs::exists(below, ignored)) return below;
  return std::nullopt;
}

constexpr std::string_view kBundled = "quern/guide";

/// The model as its own files have it.
Result<std::unique_ptr<WeightSource>> open_own(const std::string& reference, const std::string& model_path,
                                               bool tokenizer_needed) {
  if (reference.empty()) return fail(ErrorCode::invalid_argument, "the model reference is empty");
  if (reference == kBundled) {
    if (embedded_guide().empty())
      return fail(ErrorCode::not_found,
                  "quern/guide: this binary was built without the bundled model "
                  "(models/guide/guide-q8_0.gguf was not "
                  "there): give the path of a .gguf file");
    return open_gguf(embedded_guide(), reference);
  }
  if (const auto path = existing_path(reference, model_path)) {
    std::error_code ignored;
    if (!fs::is_directory(*path, ignored)) return open_gguf(*path);
    return open_folder(*path, tokenizer_needed);
  }
  if (reference.ends_with(".gguf") && reference.find(':') == std::string::npos)
    return fail(ErrorCode::not_found, "{}: no such file{}", reference,
                model_path.empty() ? "" : ", also not below " + model_path);
  return fail(
      ErrorCode::not_found,
      "{}: no such file or folder: give the path of a .gguf file or a checkpoint folder, or owner/repo",
      reference);
}

}  // namespace

bool is_local_model(const std::string& reference, const std::string& model_path) {
  return reference == kBundled || existing_path(reference, model_path).has_value();
}

Result<std::unique_ptr<WeightSource>> open_model_source(const ModelFiles& files,
                                                        const std::string& model_path) {
  if (files.tokenizer_folder.empty()) return open_own(files.reference, model_path, true);
  QUERN_TRY(auto model, open_own(files.reference, model_path, false));
  return with_tokenizer(std::move(model), files.tokenizer_folder);
}

Result<ArrivingModel> open_arriving_model(const ModelFiles& files,
                                          std::span<const safetensors::AbsentShard> absent) {
  const bool other = !files.tokenizer_folder.empty();
  QUERN_TRY(std::unique_ptr<ArrivingCheckpoint> checkpoint,
            open_checkpoint_with_text(files.reference, !other, absent));
  ArrivingModel model{nullptr, checkpoint.get()};
  model.source = std::move(checkpoint);
  if (other) {
    QUERN_TRY(model.source, with_tokenizer(std::move(model.source), files.tokenizer_folder));
  }
  return model;
}

}  // namespace quern
