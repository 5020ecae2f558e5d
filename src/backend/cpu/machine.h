// What this machine can do at most, measured: what `quern bench` compares with.
#pragma once

#include <memory>
#include <string>

#include "core/result.h"

namespace quern {

struct MachineLimits {
  std::string cpu;  // as the system names it; "unknown" where it does not
  std::string isa;  // the kernels in use: "avx512"
  int threads = 0;
  double read_gb_s = 0;  // memory read by all threads at once, 10^9 bytes a second
  double int8_gops = 0;  // int8 products and sums in registers (2 per product), 10^9 a second
};

/// The higher of each: what slows the machine down for a moment makes limits too low, never too high.
MachineLimits higher(const MachineLimits& a, const MachineLimits& b);

/// Measures again whenever asked: on a shared machine a limit holds for seconds, not for minutes.
class Machine {
 public:
  /// With `threads` threads (0: physical cores). Fails when QUERN_FORCE_ISA asks for what is not there, or
  /// there is no memory to read.
  static Result<Machine> open(int threads = 0);
  Machine(Machine&&) noexcept;
  ~Machine();

  /// The best of a few tries, which take some 0.2 s together.
  MachineLimits measure();

 private:
  struct Parts;
  explicit Machine(std::unique_ptr<Parts> parts);
  std::unique_ptr<Parts> parts_;
};

}  // namespace quern
