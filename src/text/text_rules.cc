#include "text/text_rules.h"

#include <utf8proc.h>

#include <algorithm>
#include <cstdlib>
#include <memory>

#include "text/tokenizer_base.h"
#include "text/unicode.h"

namespace quern {
namespace {

utf8proc_option_t options_of(Normalization form) {
  const int composed = UTF8PROC_STABLE | UTF8PROC_COMPOSE, apart = UTF8PROC_STABLE | UTF8PROC_DECOMPOSE;
  switch (form) {
    case Normalization::nfc:
      return static_cast<utf8proc_option_t>(composed);
    case Normalization::nfd:
      return static_cast<utf8proc_option_t>(apart);
    case Normalization::nfkc:
      return static_cast<utf8proc_option_t>(composed | UTF8PROC_COMPAT);
    default:
      return static_cast<utf8proc_option_t>(apart | UTF8PROC_COMPAT);
  }
}

void append_normalized(std::string& out, std::string_view text, Normalization form) {
  utf8proc_uint8_t* raw = nullptr;
  const auto length = utf8proc_map(reinterpret_cast<const utf8proc_uint8_t*>(text.data()),
                                   static_cast<utf8proc_ssize_t>(text.size()), &raw, options_of(form));
  const std::unique_ptr<utf8proc_uint8_t, decltype(&std::free)> owned(raw, &std::free);
  if (length < 0) {
    out += text;
  } else {
    out.append(reinterpret_cast<const char*>(raw), static_cast<size_t>(length));
  }
}

}  // namespace

TextRules TextRules::read(const Metadata& metadata, Warnings& warnings) {
  TextRules rules;
  const auto word = [&](std::string_view key) -> std::string {
    const std::string* text = metadata.string(key);
    return text == nullptr ? "" : *text;
  };
  const auto unknown = [&](std::string_view key) {
    warnings.push_back(fmt::format("{}: '{}' is not known: left out", key, word(key)));
  };
  constexpr std::string_view normalization = "tokenizer.quern.normalization",
                             prefix = "tokenizer.quern.space_prefix";
  rules.escaped = word("tokenizer.ggml.model") == "llama";
  const std::string form = word(normalization);
  if (form == "nfc") {
    rules.normalization = Normalization::nfc;
  } else if (form == "nfd") {
    rules.normalization = Normalization::nfd;
  } else if (form == "nfkc") {
    rules.normalization = Normalization::nfkc;
  } else if (form == "nfkd") {
    rules.normalization = Normalization::nfkd;
  } else if (metadata.contains(normalization)) {
    unknown(normalization);
  }
  const std::string when = word(prefix);
  if (when == "each") {
    rules.prefix = Prefix::each;
  } else if (when == "first") {
    rules.prefix = Prefix::first;
  } else if (metadata.contains(prefix)) {
    unknown(prefix);
  }
  return rules;
}

bool TextRules::wants_space(std::string_view text, bool starts, bool adds_space) const {
  if (!starts) return false;
  if (prefix == Prefix::unsaid) return adds_space;
  return !text.starts_with(' ') && !(escaped && text.starts_with(escaped_space));
}

std::string normalize(std::string_view text, Normalization form) {
  // Nothing in ASCII changes, whatever the form.
  if (std::all_of(text.begin(), text.end(), [](char c) { return static_cast<uint8_t>(c) < 0x80; }))
    return std::string(text);
  std::string out;
  out.reserve(text.size() + text.size() / 8);
  for (size_t at = 0, begin = 0; at <= text.size();) {
    const bool end = at == text.size();
    const Utf8Step step = end ? Utf8Step{} : decode_utf8(text.substr(at));
    if (!end && step.valid) {
      at += step.length;
      continue;
    }
    if (at > begin) append_normalized(out, text.substr(begin, at - begin), form);
    if (end) break;
    out += text.substr(at, step.length);
    begin = at += step.length;
  }
  return out;
}

}  // namespace quern
