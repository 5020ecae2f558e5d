// Configurations of GPTQ checkpoints over arbitrary bytes: refused in one line, or settings that are
// supported.
#include <cstdlib>

#include "formats/gptq_config.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace quern::gptq;
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  for (const Place place : {Place::nested, Place::whole}) {
    const auto config = read_config(text, "fuzz", place);
    if (config && !*config) continue;
    int64_t steps = 100'000;
    std::string problem = config ? "" : config.error().message;
    for (const char* module : {"model.layers.10.self_attn.q_proj", "lm_head", ""}) {
      if (!config) break;
      const auto settings = (*config)->settings_of(module, steps);
      if (!settings) problem = settings.error().message;
      if (!settings || !*settings) continue;
      const Settings& s = **settings;
      if (!known_bits(s.bits) || s.group_size == 0 || s.group_size < -1 || s.group_size > kMaxGroupSize)
        std::abort();
      if (quantization_name(s.bits, s.group_size).empty()) std::abort();
    }
    if (problem.size() > 1000) std::abort();
    for (const char c : problem)
      if (static_cast<unsigned char>(c) < 0x20) std::abort();
  }
  return 0;
}
