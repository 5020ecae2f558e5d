#include "core/isa.h"

#include <cstdlib>
#include <string>
#include <vector>

#if defined(__x86_64__)
#include <cpuid.h>
#elif defined(__aarch64__)
#include <sys/auxv.h>
#endif

namespace quern {
namespace {

#if defined(__x86_64__)
/// Asked of the CPU itself: not every compiler has a name for it.
bool has_avx_vnni() {
  unsigned a = 0, b = 0, c = 0, d = 0;
  return __get_cpuid_count(7, 0, &a, &b, &c, &d) != 0 && a >= 1 &&
         __get_cpuid_count(7, 1, &a, &b, &c, &d) != 0 && (a & (1u << 4)) != 0;
}
#endif

std::vector<std::string_view> detect() {
  std::vector<std::string_view> found;
#if defined(__x86_64__)
  const bool avx2 =
      __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
  if (avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
      __builtin_cpu_supports("avx512vnni"))
    found.emplace_back("avx512");
  if (avx2 && has_avx_vnni()) found.emplace_back("avx2-vnni");
  if (avx2) found.emplace_back("avx2");
#elif defined(__aarch64__)
  constexpr unsigned long kDotProduct = 1ul << 20;  // HWCAP_ASIMDDP
  if ((getauxval(AT_HWCAP) & kDotProduct) != 0) found.emplace_back("neon-dotprod");
  found.emplace_back("neon");
#endif
  found.emplace_back("scalar");
  return found;
}

}  // namespace

std::span<const std::string_view> available_isas() {
  static const std::vector<std::string_view> found = detect();
  return found;
}

Result<std::string_view> choose_isa(std::string_view isa) {
  const char* forced = std::getenv("QUERN_FORCE_ISA");
  const bool by_environment = isa.empty() && forced != nullptr && *forced != '\0';
  if (by_environment) isa = forced;
  const auto have = available_isas();
  if (isa.empty()) return have.front();
  std::string names;
  for (const std::string_view name : have) {
    // "neon" is the best of its kind: with dot products where the CPU has them.
    if (name == isa || (isa == "neon" && name.starts_with("neon"))) return name;
    names += (names.empty() ? "" : ", ") + std::string(name);
  }
  return fail(ErrorCode::invalid_argument, "{}: \"{}\": unknown, or this CPU does not have it; here are: {}",
              by_environment ? "QUERN_FORCE_ISA" : "isa", isa, names);
}

}  // namespace quern
