// The CPU backend by instruction set, for tests over all that this CPU has.
#pragma once

#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <vector>

#include "backend/backend.h"
#include "backend/cpu/kernels.h"

namespace quern::testing {

inline std::unique_ptr<Backend> make(std::string_view isa, int threads = 1) {
  auto backend = make_cpu_backend({.threads = threads, .isa = isa});
  EXPECT_TRUE(backend.has_value()) << (backend ? "" : backend.error().message);
  return std::move(*backend);
}

inline std::vector<std::string> isas() {
  std::vector<std::string> names;
  for (const cpu::Kernels* k : cpu::available_kernels()) names.emplace_back(k->name);
  return names;
}

inline std::string isa_name(const ::testing::TestParamInfo<std::string>& info) {
  std::string name = info.param;
  std::erase(name, '-');
  return name;
}

class Isa : public ::testing::TestWithParam<std::string> {};

}  // namespace quern::testing
