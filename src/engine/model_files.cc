// From a model reference to an open file.
#include <algorithm>
#include <filesystem>
#include <optional>
#include <regex>
#include <vector>

#include "engine/embedded_guide.h"
#include "engine/served_model.h"
#include "formats/gguf.h"

namespace quern {
namespace {

namespace fs = std::filesystem;

/// The GGUF model of a folder; parts of one split file count once.
Result<fs::path> only_gguf(const fs::path& folder) {
  static const std::regex later_part(R"(.*-(\d{5})-of-\d{5}\.gguf)");
  std::vector<fs::path> found;
  bool checkpoint = false;
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(folder, error)) {
    const std::string name = entry.path().filename().string();
    checkpoint |= entry.path().extension() == ".safetensors";
    if (entry.path().extension() != ".gguf") continue;
    std::smatch match;
    if (std::regex_match(name, match, later_part) && match[1] != "00001") continue;
    found.push_back(entry.path());
  }
  if (error) return fail(ErrorCode::io, "{}: cannot list the folder: {}", folder.string(), error.message());
  if (found.size() == 1) return found.front();
  if (found.empty() && checkpoint)
    return fail(ErrorCode::unsupported,
                "{}: a safetensors checkpoint, which this version does not load: give a .gguf file",
                folder.string());
  if (found.empty()) return fail(ErrorCode::not_found, "{}: the folder has no .gguf file", folder.string());
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
  const fs::path below = fs::path(model_path) / reference;
  if (fs::exists(below, ignored)) return below;
  return std::nullopt;
}

constexpr std::string_view kBundled = "quern/guide";

}  // namespace

bool is_local_model(const std::string& reference, const std::string& model_path) {
  return reference == kBundled || existing_path(reference, model_path).has_value();
}

Result<std::unique_ptr<WeightSource>> open_model_source(const std::string& reference,
                                                        const std::string& model_path) {
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
    QUERN_TRY(const fs::path file, only_gguf(*path));
    return open_gguf(file);
  }
  if (reference.ends_with(".gguf") && reference.find(':') == std::string::npos)
    return fail(ErrorCode::not_found, "{}: no such file{}", reference,
                model_path.empty() ? "" : ", also not below " + model_path);
  return fail(ErrorCode::unsupported,
              "{}: no such file or folder, and this version cannot download from a hub: give the path of a "
              ".gguf file",
              reference);
}

}  // namespace quern
