// Models that are files already: the user's own, and what a folder of the cache holds.
#pragma once

#include <optional>
#include <string>

#include "hub/hub.h"

namespace quern::hub {

/// The reference as a path, where there is such a file or folder: as it stands, else below `model_path`.
std::optional<std::filesystem::path> existing_path(const std::string& reference,
                                                   const std::string& model_path);

/// The model that a file (any part of a split one) or a folder is. Errors name what is missing, or the models
/// to choose from.
Result<LocalModel> open_local(const std::string& reference, const std::filesystem::path& path);

/// The model that a reference means among the files below `folder`, when it is whole; `by_default` is set
/// where the reference names none of several.
Result<LocalModel> model_in_folder(const ModelReference& reference, const std::filesystem::path& folder,
                                   bool* by_default = nullptr);

/// "gptq" and its kin, by the folder's config.json or a quantize_config.json beside it; empty for none.
Result<std::string> quantization_of_folder(const std::filesystem::path& folder);

}  // namespace quern::hub
