#include "backend/cuda/nvml.h"

#include <dlfcn.h>

namespace quern::cuda {

Nvml::Nvml(const std::string& bus) {
  // It stays loaded, as the driver does.
  void* library = dlopen("libnvidia-ml.so.1", RTLD_NOW | RTLD_LOCAL);
  if (library == nullptr) return;
  auto* init = reinterpret_cast<int (*)()>(dlsym(library, "nvmlInit_v2"));
  auto* find =
      reinterpret_cast<int (*)(const char*, void**)>(dlsym(library, "nvmlDeviceGetHandleByPciBusId_v2"));
  auto* rates = reinterpret_cast<decltype(rates_)>(dlsym(library, "nvmlDeviceGetUtilizationRates"));
  if (init == nullptr || find == nullptr || rates == nullptr) return;
  if (init() == 0 && find(bus.c_str(), &device_) == 0) rates_ = rates;
}

std::optional<double> Nvml::utilization() const {
  Rates rates;
  if (rates_ == nullptr || rates_(device_, &rates) != 0) return std::nullopt;
  return rates.gpu / 100.0;
}

}  // namespace quern::cuda
