// Which kernels this CPU can run.
#include <cstdlib>
#include <string>
#include <vector>

#include "backend/cpu/kernels.h"

#if defined(__aarch64__)
#include <sys/auxv.h>
#endif

namespace quern::cpu {
namespace {

std::vector<const Kernels*> detect() {
  std::vector<const Kernels*> found;
#if defined(__x86_64__)
  const bool avx2 =
      __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
  if (avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
      __builtin_cpu_supports("avx512vnni"))
    found.push_back(&kernels_avx512);
  if (avx2) found.push_back(&kernels_avx2);
#elif defined(__aarch64__)
  constexpr unsigned long kDotProduct = 1ul << 20;  // HWCAP_ASIMDDP
  if ((getauxval(AT_HWCAP) & kDotProduct) != 0) found.push_back(&kernels_neon_dotprod);
  found.push_back(&kernels_neon);
#endif
  found.push_back(&kernels_scalar);
  return found;
}

}  // namespace

std::span<const Kernels* const> available_kernels() {
  static const std::vector<const Kernels*> found = detect();
  return found;
}

Result<const Kernels*> choose_kernels(std::string_view isa) {
  const char* forced = std::getenv("QUERN_FORCE_ISA");
  const bool by_environment = isa.empty() && forced != nullptr && *forced != '\0';
  if (by_environment) isa = forced;
  const auto have = available_kernels();
  if (isa.empty()) return have.front();
  std::string names;
  for (const Kernels* kernels : have) {
    // "neon" is the best of its kind: with dot products where the CPU has them.
    if (kernels->name == isa || (isa == "neon" && kernels->name.starts_with("neon"))) return kernels;
    names += (names.empty() ? "" : ", ") + std::string(kernels->name);
  }
  return fail(ErrorCode::invalid_argument, "{}: \"{}\": unknown, or this CPU does not have it; here are: {}",
              by_environment ? "QUERN_FORCE_ISA" : "isa", isa, names);
}

}  // namespace quern::cpu
