// What this machine can do at most, measured: what `quern bench` compares with.
#pragma once

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

/// Runs for about half a second with `threads` threads (0: physical cores) and takes the best of several
/// tries. Fails when QUERN_FORCE_ISA asks for what is not there, or there is no memory to read.
Result<MachineLimits> measure_machine(int threads = 0);

}  // namespace quern
