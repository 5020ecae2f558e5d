// config.json over arbitrary bytes: refused in one line, or metadata with sane numbers.
#include <sys/stat.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "models/hf_config.h"

/// Puts seeds into the corpus, the first folder named.
extern "C" int LLVMFuzzerInitialize(int* argc, char*** argv) {
  for (int i = 1; i < *argc; ++i) {
    struct stat info {};
    if (stat((*argv)[i], &info) != 0 || !S_ISDIR(info.st_mode)) continue;
    const std::filesystem::path folder = (*argv)[i];
    const std::string shape =
        R"("hidden_size":64,"intermediate_size":96,"num_hidden_layers":2,"num_attention_heads":4,)"
        R"("num_key_value_heads":2,"max_position_embeddings":512,"vocab_size":50,"rms_norm_eps":1e-5)";
    std::ofstream(folder / "llama")
        << R"({"architectures":["LlamaForCausalLM"],"hidden_act":"silu",)" << shape
        << R"(,"rope_scaling":{"rope_type":"llama3","factor":8,"low_freq_factor":1,)"
        << R"("high_freq_factor":4,"original_max_position_embeddings":64}})";
    std::ofstream(folder / "phi3")
        << R"({"architectures":["Phi3ForCausalLM"],"sliding_window":9,)" << shape
        << R"(,"original_max_position_embeddings":128,"rope_scaling":{"type":"su",)"
        << R"("long_factor":[1,1,1,1,1,1,1,2],"short_factor":[1,1,1,1,1,1,1,1]}})";
    std::ofstream(folder / "qwen")
        << R"({"architectures":["Qwen2ForCausalLM"],"use_sliding_window":true,)" << shape
        << R"(,"max_window_layers":0,"layer_types":["a"],"rope_parameters":{"type":"yarn",)"
        << R"("factor":4,"attention_factor":1.5,"partial_rotary_factor":0.5}})";
    std::ofstream(folder / "mixtral") << R"({"architectures":["MixtralForCausalLM"],"num_local_experts":3,)"
                                      << shape << R"(,"num_experts_per_tok":2,"tie_word_embeddings":null}})";
    break;
  }
  return 0;
}

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const auto config = quern::read_hf_config({reinterpret_cast<const char*>(data), size}, "fuzz");
  if (!config) {
    for (const char c : config.error().message) {
      if (static_cast<unsigned char>(c) < 0x20) std::abort();
    }
    return 0;
  }
  if (config->arch == nullptr || config->hf_class == nullptr || config->layers < 1) std::abort();
  for (const auto& factors : config->rope_factors) {
    for (const float f : factors.divisors) {
      if (!(f > 0)) std::abort();
    }
  }
  return 0;
}
