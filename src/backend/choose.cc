#include "backend/choose.h"

#include <charconv>

#include "backend/cuda_plugin.h"

namespace quern {
namespace {

/// The number behind "cuda:", 0 for "cuda"; empty when it is none.
std::optional<int> cuda_index(std::string_view spec) {
  if (spec == "cuda") return 0;
  constexpr std::string_view kPrefix = "cuda:";
  if (!spec.starts_with(kPrefix)) return std::nullopt;
  const std::string_view digits = spec.substr(kPrefix.size());
  int index = -1;
  const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), index);
  if (error != std::errc() || end != digits.data() + digits.size() || index < 0) return std::nullopt;
  return index;
}

}  // namespace

Result<std::unique_ptr<Backend>> choose_backend(std::string_view spec, const BackendOptions& options,
                                                std::string& note) {
  if (spec == "cpu") return make_cpu_backend(options.cpu);
  if (spec.empty() || spec == "auto") {
    if (!has_cuda_plugin()) return make_cpu_backend(options.cpu);
    auto cuda = open_cuda(0, options.gpu);
    if (cuda) return cuda;
    note = cuda.error().message;
    return make_cpu_backend(options.cpu);
  }
  if (const auto index = cuda_index(spec)) {
    auto cuda = open_cuda(*index, options.gpu);
    if (!cuda) return fail(cuda.error().code, "LLM_DEVICE: {}", cuda.error().message);
    return cuda;
  }
  if (spec == "vulkan" || spec.starts_with("vulkan:"))
    return fail(ErrorCode::unsupported, "LLM_DEVICE: {}: this build has no such backend; use cpu or auto",
                spec);
  return fail(ErrorCode::invalid_argument,
              "LLM_DEVICE: \"{}\": unknown; allowed: auto, cpu, cuda, cuda:N, vulkan", spec);
}

Result<std::unique_ptr<Backend>> make_backend(std::string_view spec, const BackendOptions& options) {
  std::string note;
  return choose_backend(spec, options, note);
}

}  // namespace quern
