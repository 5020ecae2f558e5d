// How busy a GPU is, from the driver's management library (NVML), which is looked up at run time: it comes
// with the driver, and not everywhere.
#pragma once

#include <optional>
#include <string>

namespace quern::cuda {

class Nvml {
 public:
  /// `bus`: the GPU's PCI address, "0000:1b:00.0".
  explicit Nvml(const std::string& bus);

  /// The share of the last moments (by NVML up to a second) in which a kernel ran, anybody's. Empty when the
  /// library is missing, or cannot say (a part of a GPU in MIG mode).
  std::optional<double> utilization() const;

 private:
  struct Rates {
    unsigned int gpu = 0, memory = 0;  // percent
  };
  int (*rates_)(void* device, Rates* rates) = nullptr;
  void* device_ = nullptr;
};

}  // namespace quern::cuda
