#include "models/arch.h"

#include <algorithm>

namespace quern {

std::span<const ArchSpec* const> all_archs() {
#define QUERN_ARCH(name) &arch_##name,
  static const ArchSpec* const table[] = {
#include "models/archs.inc"
  };
#undef QUERN_ARCH
  return table;
}

const ArchSpec* find_arch(std::string_view name) {
  for (const ArchSpec* arch : all_archs()) {
    if (arch->name == name) return arch;
  }
  return nullptr;
}

const ArchSpec* find_arch_of_hf_class(std::string_view name) {
  for (const ArchSpec* arch : all_archs()) {
    if (find_hf_class(*arch, name) != nullptr) return arch;
  }
  return nullptr;
}

const HfClass* find_hf_class(const ArchSpec& arch, std::string_view name) {
  const auto it = std::ranges::find(arch.hf_classes, name, &HfClass::name);
  return it == arch.hf_classes.end() ? nullptr : &*it;
}

std::string arch_names() {
  std::string names;
  for (const ArchSpec* arch : all_archs()) names.append(names.empty() ? "" : ", ").append(arch->name);
  return names;
}

std::string hf_class_names() {
  std::string names;
  for (const ArchSpec* arch : all_archs()) {
    for (const HfClass& hf : arch->hf_classes) names.append(names.empty() ? "" : ", ").append(hf.name);
  }
  return names;
}

const TensorName* find_name(const ArchSpec& arch, Role role) {
  const auto it = std::ranges::find(arch.tensors, role, &TensorName::role);
  return it == arch.tensors.end() ? nullptr : &*it;
}

std::string expand_name(std::string_view pattern, int64_t layer, int64_t expert) {
  std::string name(pattern);
  for (const int64_t number : {layer, expert}) {
    if (const size_t at = name.find("{}"); at != std::string::npos)
      name.replace(at, 2, std::to_string(number));
  }
  return name;
}

}  // namespace quern
