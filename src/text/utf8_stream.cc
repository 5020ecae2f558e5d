#include "text/tokenizer.h"
#include "text/unicode.h"

namespace quern {

std::string Utf8Stream::push(std::string_view bytes) {
  std::string joined;
  std::string_view rest = bytes;
  if (!tail_.empty()) {
    joined = std::move(tail_);
    joined.append(bytes);
    rest = joined;
    tail_.clear();
  }
  std::string out;
  out.reserve(rest.size());
  while (!rest.empty()) {
    const Utf8Step step = decode_utf8(rest);
    if (step.truncated) {
      tail_.assign(rest);
      break;
    }
    if (step.valid) {
      out.append(rest.substr(0, step.length));
    } else {
      append_utf8(out, replacement_character);
    }
    rest.remove_prefix(step.length);
  }
  return out;
}

std::string Utf8Stream::finish() {
  std::string out;
  if (!tail_.empty()) append_utf8(out, replacement_character);
  tail_.clear();
  return out;
}

}  // namespace quern
