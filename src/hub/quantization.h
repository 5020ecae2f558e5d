// The names of quantizations, as users write them and as GGUF files carry them.
#pragma once

#include <string>
#include <string_view>

namespace quern {

/// "q4_k_m" → "Q4_K_M", "fp16" → "F16", "ud-q4_k_xl" → "UD-Q4_K_XL"; empty when it is not the name of a
/// quantization.
std::string quantization_name(std::string_view text);

/// "mistral-7b-instruct-v0.2.Q4_K_M.gguf" → "Q4_K_M"; also by the folder (Q8_0/model-00001-of-00002.gguf).
/// Empty when the name says nothing.
std::string quantization_of_file(std::string_view path);

}  // namespace quern
