// Chat templates for files that carry none: families of models, and how to tell them.
#pragma once

#include <span>
#include <string_view>

namespace quern {

struct KnownTemplate {
  std::string_view family;  // "llama-2"
  std::string_view source;  // Jinja
};

/// All of them, each family once.
std::span<const KnownTemplate> known_templates();

/// Empty where there is no such family.
std::string_view known_template(std::string_view family);

}  // namespace quern
