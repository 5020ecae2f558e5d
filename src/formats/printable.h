// Names from files in messages.
#pragma once

#include <string>
#include <string_view>

namespace quern {

/// At most 96 bytes of `text`, with everything that could break a line or a terminal replaced by '?'.
inline std::string printable(std::string_view text) {
  constexpr size_t kMax = 96;
  std::string out(text.substr(0, kMax));
  for (char& c : out) {
    if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) c = '?';
  }
  if (text.size() > kMax) out += "...";
  return out;
}

}  // namespace quern
