// The model that ships inside the binary.
#pragma once

#include <cstddef>
#include <span>

namespace quern {

/// models/guide/guide-q8_0.gguf as it was when the binary was built (CMake's QUERN_GUIDE names another file);
/// empty when there was none.
std::span<const std::byte> embedded_guide();

}  // namespace quern
