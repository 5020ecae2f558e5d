// Which kernels this CPU can run.
#include <vector>

#include "backend/cpu/kernels.h"
#include "core/isa.h"

namespace quern::cpu {
namespace {

std::vector<const Kernels*> detect() {
  std::vector<const Kernels*> found;
  const Kernels* all[] = {
#if defined(__x86_64__)
    &kernels_avx512,
    &kernels_avx2_vnni,
    &kernels_avx2,
#elif defined(__aarch64__)
    &kernels_neon_dotprod,
    &kernels_neon,
#endif
    &kernels_scalar
  };
  for (const std::string_view isa : available_isas()) {
    for (const Kernels* kernels : all) {
      if (kernels->name == isa) found.push_back(kernels);
    }
  }
  return found;
}

}  // namespace

std::span<const Kernels* const> available_kernels() {
  static const std::vector<const Kernels*> found = detect();
  return found;
}

Result<const Kernels*> choose_kernels(std::string_view isa) {
  QUERN_TRY(const std::string_view name, choose_isa(isa));
  for (const Kernels* kernels : available_kernels()) {
    if (kernels->name == name) return kernels;
  }
  return available_kernels().back();
}

}  // namespace quern::cpu
