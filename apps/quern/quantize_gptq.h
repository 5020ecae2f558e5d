// The part of quern quantize that writes GPTQ checkpoints.
#pragma once

#include <string>

#include "command.h"

namespace quern {

struct GptqFlags {
  std::string calibration;
  bool act_order = false, asymmetric = false, round_to_nearest = false;
  int64_t samples = 128, context = 512;

  void add_to(Arguments command);  // under a heading of their own
  /// The first that was given, to be refused where another type is asked for; empty: none.
  std::string given() const;
};

/// `type` is one of is_gptq_type's.
Result<> quantize_to_gptq(const CommonFlags& common, const GptqFlags& flags, const std::string& source,
                          const std::string& destination, const std::string& type, bool json);

}  // namespace quern
