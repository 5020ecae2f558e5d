#include "backend/backend.h"

namespace quern {

Result<std::unique_ptr<Backend>> make_backend(std::string_view spec, const CpuOptions& options) {
  if (spec.empty() || spec == "auto" || spec == "cpu") return make_cpu_backend(options);
  if (spec == "cuda" || spec.starts_with("cuda:") || spec == "vulkan")
    return fail(ErrorCode::unsupported, "LLM_DEVICE: {}: this build has no such backend; use cpu or auto",
                spec);
  return fail(ErrorCode::invalid_argument,
              "LLM_DEVICE: \"{}\": unknown; allowed: auto, cpu, cuda, cuda:N, vulkan", spec);
}

}  // namespace quern
