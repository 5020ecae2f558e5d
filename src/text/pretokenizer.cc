#include "text/pretokenizer.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <optional>

#include "core/log.h"
#include "text/unicode.h"

namespace quern {
namespace {

// Patterns run over one byte for each character, which tells all that a pattern can ask: ASCII is itself,
// other white space is a vertical tab, the rest are these. So matching costs the same in any script, and
// knows the Unicode version of char_class() and no other.
constexpr uint8_t class_other = 0xD0, class_number = 0xD1, class_letter = 0xD2, class_punctuation = 0xD3,
                  class_mark = 0xD4, class_symbol = 0xD5, first_set = 0xE0;

uint8_t class_byte(char32_t c) {
  switch (char_class(c)) {
    case CharClass::space:
      return '\v';
    case CharClass::number:
      return class_number;
    case CharClass::letter:
      return class_letter;
    case CharClass::punctuation:
      return class_punctuation;
    case CharClass::mark:
      return class_mark;
    case CharClass::symbol:
      return class_symbol;
    case CharClass::other:
      break;
  }
  return class_other;
}

/// What stands inside [ ] for a property; the ASCII part is spelled out because ASCII stays itself.
std::string_view property_members(std::string_view name) {
  if (name == "L") return "A-Za-z\\xD2";
  if (name == "Lu") return "A-Z\\xD2";
  if (name == "Ll") return "a-z\\xD2";
  if (name == "N") return "0-9\\xD1";
  if (name == "M") return "\\xD4";
  if (name == "P") return "!-#%-*,-/:;?@\\[-\\]_{}\\xD3";
  if (name == "S") return "$+<=>\\^`|~\\xD5";
  if (name == "A") return "\\xE0";
  if (name == "B") return "\\xE1";
  if (name == "C") return "\\xE2";
  return "\\xE3";
}

/// Rewrites \p{…} for the class bytes.
std::string translate(std::string_view pattern) {
  std::string out;
  bool inside = false;  // [ ]
  for (size_t i = 0; i < pattern.size(); ++i) {
    const char c = pattern[i];
    if (c == '\\' && pattern.substr(i + 1, 2) == "p{") {
      const size_t close = pattern.find('}', i);
      const std::string_view members = property_members(pattern.substr(i + 3, close - i - 3));
      out += inside ? std::string(members) : fmt::format("[{}]", members);
      i = close;
      continue;
    }
    if (c == '\\') {
      out += c, out += pattern[++i];
      continue;
    }
    if (c == '[') inside = true;
    if (c == ']') inside = false;
    out += c;
  }
  return out;
}

struct FreeCode {
  void operator()(pcre2_code* code) const { pcre2_code_free(code); }
};
struct FreeMatchData {
  void operator()(pcre2_match_data* data) const { pcre2_match_data_free(data); }
};
struct FreeMatchContext {
  void operator()(pcre2_match_context* context) const { pcre2_match_context_free(context); }
};
using MatchData = std::unique_ptr<pcre2_match_data, FreeMatchData>;

/// The patterns are ours and need no backtracking that grows faster than the text, so nothing but the text's
/// length can reach PCRE2's default limits: they are lifted.
const pcre2_match_context* unlimited() {
  static const std::unique_ptr<pcre2_match_context, FreeMatchContext> context = [] {
    std::unique_ptr<pcre2_match_context, FreeMatchContext> c(pcre2_match_context_create(nullptr));
    pcre2_set_match_limit(c.get(), UINT32_MAX);
    pcre2_set_depth_limit(c.get(), UINT32_MAX);
    pcre2_set_heap_limit(c.get(), 4u << 20);  // KiB
    return c;
  }();
  return context.get();
}

bool continues_character(char c) { return (static_cast<uint8_t>(c) & 0xC0) == 0x80; }

/// PCRE2's result for the first match at or after `from`.
int search(const pcre2_code* code, std::string_view text, size_t from, pcre2_match_data* data,
           const pcre2_match_context* limits) {
  auto* context = const_cast<pcre2_match_context*>(limits);  // PCRE2 only reads it
  const auto* subject = reinterpret_cast<PCRE2_SPTR>(text.data());
  constexpr uint32_t checked = PCRE2_NO_UTF_CHECK;  // see well_formed
  const int rc = pcre2_match(code, subject, text.size(), from, checked, data, context);
  if (rc != PCRE2_ERROR_JIT_STACKLIMIT) return rc;
  return pcre2_match(code, subject, text.size(), from, checked | PCRE2_NO_JIT, data, context);
}

/// For patterns that are not ours: all matches in one text together take steps in proportion to its length.
/// PCRE2 has a limit for each place where a match may begin, but does not say how many steps were taken. So
/// every place gets a few, which is linear; one that needs more tries again with ever more, which are
/// counted.
class BoundedSearch {
 public:
  explicit BoundedSearch(size_t text_size)
      : context_(pcre2_match_context_create(nullptr)),
        steps_(10'000 + 1000 * static_cast<int64_t>(text_size)) {
    pcre2_set_heap_limit(context_.get(), 64u << 10);  // KiB
  }

  int operator()(const pcre2_code* code, std::string_view text, size_t from, pcre2_match_data* data) {
    int rc = limited(code, text, from, data, few, PCRE2_UNSET);
    if (rc != PCRE2_ERROR_MATCHLIMIT) return rc;
    for (size_t at = from; at < text.size(); ++at) {  // one place after the other
      if (at > from && continues_character(text[at])) continue;
      for (uint32_t limit = few;; limit *= 4) {
        steps_ -= limit;
        if (steps_ < 0) return PCRE2_ERROR_MATCHLIMIT;
        rc = limited(code, text, at, data, limit, at);
        if (rc != PCRE2_ERROR_MATCHLIMIT) break;
      }
      if (rc != PCRE2_ERROR_NOMATCH) return rc;
    }
    return PCRE2_ERROR_NOMATCH;
  }

 private:
  static constexpr uint32_t few = 100;

  /// A match that begins at `last` at the latest.
  int limited(const pcre2_code* code, std::string_view text, size_t from, pcre2_match_data* data,
              uint32_t limit, size_t last) {
    pcre2_set_match_limit(context_.get(), limit);
    pcre2_set_offset_limit(context_.get(), last);
    return search(code, text, from, data, context_.get());
  }

  std::unique_ptr<pcre2_match_context, FreeMatchContext> context_;
  int64_t steps_;  // what is left
};

/// One match at or after `from`; false: none. `bounded` is null for patterns that are ours.
bool match(const pcre2_code* code, std::string_view text, size_t from, pcre2_match_data* data,
           BoundedSearch* bounded) {
  const int rc =
      bounded != nullptr ? (*bounded)(code, text, from, data) : search(code, text, from, data, unlimited());
  if (rc >= 0) return true;
  if (rc != PCRE2_ERROR_NOMATCH) {
    static std::atomic<bool> told = false;
    if (!told.exchange(true)) {
      log::warn("pre-tokenizer pattern gave up; the rest of the text is one word", {{"pcre2_error", rc}});
    }
  }
  return false;
}

std::string describe(int pcre2_error) {
  std::array<PCRE2_UCHAR, 128> text{};
  pcre2_get_error_message(pcre2_error, text.data(), text.size());
  return reinterpret_cast<const char*>(text.data());
}

bool is_number(char c) { return (c >= '0' && c <= '9') || static_cast<uint8_t>(c) == class_number; }
bool is_ascii_digit(char c) { return c >= '0' && c <= '9'; }

/// Collects the pieces of one text as it is cut from left to right.
struct Cutter {
  std::vector<uint32_t>& lengths;
  size_t start = 0;
  void cut(size_t end) {
    if (end > start) lengths.push_back(static_cast<uint32_t>(end - start));
    start = end;
  }
};

void cut_matches(const pcre2_code* code, std::string_view piece, pcre2_match_data* data,
                 BoundedSearch* bounded, Cutter cutter, size_t base) {
  const PCRE2_SIZE* bounds = pcre2_get_ovector_pointer(data);
  size_t from = 0;
  while (from < piece.size() && match(code, piece, from, data, bounded)) {
    cutter.cut(base + bounds[0]);
    cutter.cut(base + bounds[1]);
    if (bounds[1] > from) {
      from = bounds[1];
      continue;
    }
    // A pattern of a model's own may match the empty string. Class bytes are characters each, and none of
    // those that such a pattern sees begins so.
    do ++from;
    while (from < piece.size() && continues_character(piece[from]));
  }
  cutter.cut(base + piece.size());
}

void cut_digit_triples(std::string_view piece, Cutter cutter, size_t base) {
  for (size_t i = 0; i < piece.size();) {
    if (!is_number(piece[i])) {
      ++i;
      continue;
    }
    size_t end = i;
    while (end < piece.size() && is_number(piece[end])) ++end;
    if ((end - i) % 3 != 0) cutter.cut(base + i + (end - i) % 3);
    for (i += (end - i) % 3; i < end; i += 3) cutter.cut(base + i + 3);
  }
  cutter.cut(base + piece.size());
}

void cut_before_triples(std::string_view piece, Cutter cutter, size_t base) {
  for (size_t i = 0; i < piece.size();) {
    if (!is_ascii_digit(piece[i])) {
      ++i;
      continue;
    }
    size_t end = i;
    while (end < piece.size() && is_ascii_digit(piece[end])) ++end;
    for (size_t at = i + (end - i) % 3; at < end; at += 3) cutter.cut(base + at);
    i = end;
  }
  cutter.cut(base + piece.size());
}

/// The text with ill-formed bytes replaced by a control character, byte for byte.
std::string well_formed(std::string_view text) {
  std::string out(text);
  for (size_t at = 0; at < text.size();) {
    const Utf8Step step = decode_utf8(text.substr(at));
    if (!step.valid) std::fill_n(out.begin() + static_cast<ptrdiff_t>(at), step.length, '\x1A');
    at += step.length;
  }
  return out;
}

/// One class byte for each character of `text`; characters of a set become that set's byte.
void classify(std::string_view text, const std::vector<std::vector<CodeRange>>& sets, std::string& classes) {
  const auto in_set = [&](char32_t c) -> uint8_t {
    for (size_t s = 0; s < sets.size(); ++s) {
      const auto after = std::upper_bound(sets[s].begin(), sets[s].end(), c,
                                          [](char32_t x, const CodeRange& range) { return x < range.first; });
      if (after != sets[s].begin() && c <= std::prev(after)->last) return static_cast<uint8_t>(first_set + s);
    }
    return 0;
  };
  classes.clear();
  classes.reserve(text.size());
  for (size_t i = 0; i < text.size();) {
    const auto byte = static_cast<uint8_t>(text[i]);
    if (byte < 0x80 && sets.empty()) {
      classes.push_back(text[i++]);
      continue;
    }
    const Utf8Step step = decode_utf8(text.substr(i));
    i += step.length;
    uint8_t value = byte < 0x80 ? byte : class_byte(step.code_point);
    // White space stays white space, even where a set's range runs over it.
    const bool space = value == ' ' || (value >= '\t' && value <= '\r');
    if (!space && !sets.empty()) {
      if (const uint8_t set = in_set(step.code_point)) value = set;
    }
    classes.push_back(static_cast<char>(value));
  }
}

}  // namespace

struct PreTokenizer::Rule {
  SplitRule rule;
  std::unique_ptr<pcre2_code, FreeCode> code;

  void split(std::string_view piece, pcre2_match_data* data, BoundedSearch* bounded, size_t base,
             std::vector<uint32_t>& out) const {
    const Cutter cutter{out, base};
    switch (rule.kind) {
      case SplitRule::Kind::pattern:
        return cut_matches(code.get(), piece, data, bounded, cutter, base);
      case SplitRule::Kind::digit_triples:
        return cut_digit_triples(piece, cutter, base);
      case SplitRule::Kind::digit_cuts:
        return cut_before_triples(piece, cutter, base);
    }
  }
};

PreTokenizer::PreTokenizer() = default;
PreTokenizer::PreTokenizer(PreTokenizer&&) noexcept = default;
PreTokenizer& PreTokenizer::operator=(PreTokenizer&&) noexcept = default;
PreTokenizer::~PreTokenizer() = default;

Result<PreTokenizer> PreTokenizer::compile(const PreTokenizerSpec& spec) {
  PreTokenizer result;
  result.on_text_ = spec.on_text;
  for (const SplitRule& rule : spec.rules) {
    Rule compiled{rule, nullptr};
    if (rule.kind == SplitRule::Kind::pattern) {
      const std::string pattern = spec.on_text ? rule.pattern : translate(rule.pattern);
      // Oniguruma's ^ and $ are those of lines.
      const uint32_t options = spec.on_text ? PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE |
                                                  PCRE2_NEVER_BACKSLASH_C | PCRE2_USE_OFFSET_LIMIT
                                            : PCRE2_DOLLAR_ENDONLY | PCRE2_NEVER_UTF | PCRE2_NEVER_UCP;
      int error = 0;
      PCRE2_SIZE at = 0;
      compiled.code.reset(pcre2_compile(reinterpret_cast<PCRE2_SPTR>(pattern.data()), pattern.size(), options,
                                        &error, &at, nullptr));
      if (compiled.code == nullptr) {
        return fail(spec.on_text ? ErrorCode::corrupt : ErrorCode::internal,
                    "{}: pattern does not compile at {}: {}", spec.names.front(), at, describe(error));
      }
      // Without JIT (not there for this CPU, or memory may not be made executable) matching is only slower.
      pcre2_jit_compile(compiled.code.get(), PCRE2_JIT_COMPLETE);
    }
    result.rules_.push_back(std::move(compiled));
  }
  return result;
}

void PreTokenizer::split(std::string_view text, std::vector<uint32_t>& lengths) const {
  if (text.empty()) return;
  const MatchData data(pcre2_match_data_create(1, nullptr));
  std::optional<BoundedSearch> bounded;
  if (on_text_) bounded.emplace(text.size());
  std::string classes, with_sets;
  if (on_text_) {
    classes = well_formed(text);
  } else {
    classify(text, {}, classes);
  }
  std::vector<uint32_t> pieces{static_cast<uint32_t>(classes.size())}, next;
  for (const Rule& rule : rules_) {
    const bool own_classes = !rule.rule.sets.empty();
    if (own_classes) classify(text, rule.rule.sets, with_sets);
    const std::string_view subject = own_classes ? with_sets : classes;
    next.clear();
    size_t start = 0;
    for (const uint32_t length : pieces) {
      rule.split(subject.substr(start, length), data.get(), bounded ? &*bounded : nullptr, start, next);
      start += length;
    }
    pieces.swap(next);
  }
  if (classes.size() == text.size()) {
    lengths.insert(lengths.end(), pieces.begin(), pieces.end());
    return;
  }
  size_t at = 0;
  for (const uint32_t characters : pieces) {
    const size_t start = at;
    for (uint32_t i = 0; i < characters; ++i) {
      at += static_cast<uint8_t>(text[at]) < 0x80 ? 1 : decode_utf8(text.substr(at)).length;
    }
    lengths.push_back(static_cast<uint32_t>(at - start));
  }
}

}  // namespace quern
