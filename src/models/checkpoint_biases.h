// Which biases of a checkpoint count.
#pragma once

#include <span>
#include <string>

#include "formats/safetensors.h"
#include "models/hf_config.h"

namespace quern {

/// Biases are there exactly where config.json says so: which it is cannot be told from the weights alone, and
/// anything else is refused by name. Modules quantized by GPTQ may have more of them: some writers give one
/// to every module. Those that are zero wherever their kind occurs are left out; others are used.
Result<> settle_biases(safetensors::Checkpoint& files, const HfConfig& config,
                       std::span<const std::string> quantized_modules, const std::string& name);

}  // namespace quern
