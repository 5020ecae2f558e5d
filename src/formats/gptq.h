// The quantized modules of a GPTQ checkpoint as matrices: their tensors found, checked and put together.
#pragma once

#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "formats/gptq_config.h"
#include "formats/safetensors.h"
#include "quant/grouped.h"

namespace quern::gptq {

/// The configuration of a checkpoint folder: `quantization_config` in the config.json whose text is given,
/// else quantize_config.json, else quant_config.json. Empty when there is none of these. Fails as read_config
/// does.
Result<std::optional<Config>> find_config(const std::filesystem::path& folder, std::string_view config_json);

/// What `take_modules` made. Owns the matrices; they read the checkpoint's mapped files.
struct Modules {
  std::vector<std::unique_ptr<GroupedMatrix>> matrices;
  std::vector<std::string> names;  // of the modules: "model.layers.0.mlp.up_proj"
  std::vector<std::string> warnings;
};

/// Takes qweight, qzeros, scales and g_idx of every module that has a qweight out of `files`, wherever they
/// lie, and puts one tensor "<module>.weight" of DType::Grouped in for them. `name` is for messages. Fails,
/// by module and tensor, on what is missing or misshapen, on groups that do not divide the inputs, on a g_idx
/// beyond the groups, and on modules of which no configuration tells.
///
/// Where the configuration says symmetric and all zero points of a module are those of symmetric quantization
/// in the other format than `checkpoint_format` names, they are taken for what they are, with a warning.
Result<Modules> take_modules(safetensors::Checkpoint& files, const std::optional<Config>& config,
                             const std::string& name);

}  // namespace quern::gptq
