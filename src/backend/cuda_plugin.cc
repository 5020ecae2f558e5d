#include "backend/cuda_plugin.h"

#include <dlfcn.h>

#include <filesystem>
#include <string_view>
#include <system_error>

#include "backend/cuda_build.h"

namespace quern {
namespace {

namespace fs = std::filesystem;

fs::path plugin_path() {
  std::error_code error;
  return fs::read_symlink("/proc/self/exe", error).parent_path() / "libquern_cuda.so";
}

}  // namespace

bool has_cuda_plugin() {
  std::error_code error;
  return fs::exists(plugin_path(), error);
}

Result<std::unique_ptr<Backend>> open_cuda(int index, const GpuOptions& options) {
  const fs::path path = plugin_path();
  if (!has_cuda_plugin())
    return fail(
        ErrorCode::unsupported,
        "cuda: this build has no CUDA backend ({} is not there): build where the CUDA toolkit 12.4 or "
        "newer is installed, or use LLM_DEVICE=cpu",
        path.string());
  // It stays loaded: what it has made may live as long as the process.
  void* library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr)
    return fail(ErrorCode::unsupported, "cuda: {} cannot be loaded: {}", path.string(), dlerror());
  auto* build = reinterpret_cast<const char* (*)()>(dlsym(library, "quern_cuda_build"));
  auto* open =
      reinterpret_cast<Backend* (*)(int, const GpuOptions*, Error*)>(dlsym(library, "quern_cuda_open"));
  if (build == nullptr || open == nullptr || std::string_view(build()) != QUERN_CUDA_BUILD)
    return fail(ErrorCode::unsupported, "cuda: {} is not of this build: install both together",
                path.string());
  Error error;
  std::unique_ptr<Backend> backend(open(index, &options, &error));
  if (backend == nullptr) return fail(std::move(error));
  return backend;
}

}  // namespace quern
