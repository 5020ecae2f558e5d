// Cutting special tokens out of a text.
#include <algorithm>
#include <array>

#include "text/tokenizer_vocabulary.h"
#include "text/unicode.h"

namespace quern {
namespace {

std::string_view strip_begin(std::string_view text) {
  while (!text.empty()) {
    const Utf8Step step = decode_utf8(text);
    if (char_class(step.code_point) != CharClass::space) break;
    text.remove_prefix(step.length);
  }
  return text;
}

std::string_view strip_end(std::string_view text) {
  while (!text.empty()) {
    size_t last = text.size() - 1;
    while (last > 0 && text.size() - last < 4 && (static_cast<uint8_t>(text[last]) & 0xC0) == 0x80) --last;
    if (char_class(decode_utf8(text.substr(last)).code_point) != CharClass::space) break;
    text.remove_suffix(text.size() - last);
  }
  return text;
}

/// Cuts every occurrence of one token out of the text fragments.
void cut(const Vocabulary& vocabulary, int32_t token, std::vector<Fragment>& fragments) {
  const std::string_view spelling = vocabulary.text(token);
  std::vector<Fragment> out;
  out.reserve(fragments.size() + 2);
  for (const Fragment& fragment : fragments) {
    std::string_view rest = fragment.text;
    if (fragment.token >= 0) {
      out.push_back(fragment);
      continue;
    }
    for (size_t at; (at = rest.find(spelling)) != std::string_view::npos;) {
      std::string_view before = rest.substr(0, at);
      if (vocabulary.has(token, Vocabulary::strip_left)) before = strip_end(before);
      if (!before.empty()) out.push_back({-1, before});
      out.push_back({token, {}});
      rest.remove_prefix(at + spelling.size());
      if (vocabulary.has(token, Vocabulary::strip_right)) rest = strip_begin(rest);
    }
    if (!rest.empty()) out.push_back({-1, rest});
  }
  fragments.swap(out);
}

}  // namespace

SpecialTokens::SpecialTokens(const Vocabulary& vocabulary) : by_text_(vocabulary.special()) {
  std::sort(by_text_.begin(), by_text_.end(),
            [&](int32_t a, int32_t b) { return vocabulary.text(a) < vocabulary.text(b); });
}

/// The special tokens that stand anywhere in the text, longest first. One walk over the text: at each byte
/// the sorted list is narrowed to the spellings that go on like the text does.
std::vector<int32_t> SpecialTokens::occurring(const Vocabulary& vocabulary, std::string_view text,
                                              bool parse_special) const {
  std::vector<bool> seen(by_text_.size());
  std::vector<int32_t> found;
  std::array<bool, 256> starts{};
  for (const int32_t id : by_text_) starts[static_cast<uint8_t>(vocabulary.text(id)[0])] = true;
  for (size_t at = 0; at < text.size(); ++at) {
    if (!starts[static_cast<uint8_t>(text[at])]) continue;
    auto low = by_text_.begin(), high = by_text_.end();
    for (size_t depth = 0; low != high && at + depth < text.size(); ++depth) {
      const auto next = static_cast<uint8_t>(text[at + depth]);
      const auto byte_at = [&](int32_t id) -> int {
        const std::string_view spelling = vocabulary.text(id);
        return depth < spelling.size() ? static_cast<uint8_t>(spelling[depth]) : -1;
      };
      low = std::lower_bound(low, high, next, [&](int32_t id, int byte) { return byte_at(id) < byte; });
      high = std::upper_bound(low, high, next, [&](int byte, int32_t id) { return byte < byte_at(id); });
      // The shortest of those left comes first: does it end here?
      if (low == high || vocabulary.text(*low).size() != depth + 1 || seen[low - by_text_.begin()]) continue;
      seen[low - by_text_.begin()] = true;
      const bool taken = parse_special || !vocabulary.has(*low, Vocabulary::control | Vocabulary::unknown);
      if (taken) found.push_back(*low);
    }
  }
  std::sort(found.begin(), found.end(), [&](int32_t a, int32_t b) {
    const size_t x = vocabulary.text(a).size(), y = vocabulary.text(b).size();
    return x != y ? x > y : a < b;
  });
  return found;
}

std::vector<Fragment> SpecialTokens::partition(const Vocabulary& vocabulary, std::string_view text,
                                               bool parse_special) const {
  if (text.empty()) return {};
  std::vector<Fragment> fragments{{-1, text}};
  for (const int32_t token : occurring(vocabulary, text, parse_special)) cut(vocabulary, token, fragments);
  return fragments;
}

}  // namespace quern
