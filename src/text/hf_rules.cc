#include "text/hf_rules.h"

#include <algorithm>

#include "text/hf_json.h"
#include "text/tokenizer_base.h"

namespace quern {
namespace {

using nlohmann::json;
using Prefix = HfRules::Prefix;

constexpr size_t kMaxSteps = 64;
constexpr size_t kMaxPattern = size_t{1} << 16;

/// The steps of a normalizer or pre-tokenizer; a Sequence's one by one.
Result<> flatten(const json& step, const std::string& field, const char* members,
                 std::vector<const json*>& steps, int depth = 0) {
  const std::string* type = string_member(step, "type");
  if (type == nullptr) return fail(ErrorCode::corrupt, "{}.type: missing or not a text", field);
  if (*type != "Sequence") {
    if (steps.size() >= kMaxSteps)
      return fail(ErrorCode::corrupt, "{}: more than {} steps", field, kMaxSteps);
    steps.push_back(&step);
    return {};
  }
  const json* parts = member(step, members);
  if (parts == nullptr || !parts->is_array())
    return fail(ErrorCode::corrupt, "{}.{}: missing or not an array", field, members);
  if (depth > 4) return fail(ErrorCode::corrupt, "{}: sequences in sequences", field);
  for (const json& part : *parts) QUERN_TRY_VOID(flatten(part, field, members, steps, depth + 1));
  return {};
}

/// Text as a pattern that matches it.
std::string as_pattern(std::string_view text) {
  std::string out;
  for (const char c : text) {
    if (std::string_view("\\^$.[]|()?*+{}#-").find(c) != std::string_view::npos) out += '\\';
    out += c;
  }
  return out;
}

/// What PCRE2 would read in another way than Oniguruma, which Hugging Face's library matches with.
std::string_view misread(std::string_view pattern) {
  for (const std::string_view other : {"&&", "\\h", "\\H", "\\K", "\\R", "\\X", "\\Q", "(?{", "(*", "\\C"}) {
    if (pattern.find(other) != std::string_view::npos) return other;
  }
  return {};
}

/// `pattern` of Split and Replace: {"String": …} or {"Regex": …}.
Result<std::string> read_pattern(const json& step, const std::string& field) {
  const json* pattern = member(step, "pattern");
  if (pattern != nullptr) {
    if (const std::string* text = string_member(*pattern, "String")) return as_pattern(*text);
    if (const std::string* regex = string_member(*pattern, "Regex")) {
      if (regex->size() > kMaxPattern)
        return fail(ErrorCode::corrupt, "{}.pattern: {} bytes long", field, regex->size());
      if (const auto other = misread(*regex); !other.empty())
        return fail(ErrorCode::unsupported, "{}.pattern: '{}' in a pattern is not supported", field, other);
      return *regex;
    }
  }
  return fail(ErrorCode::corrupt, "{}.pattern: neither a String nor a Regex", field);
}

/// A normalizer's Replace: " " → "▁" and nothing else.
Result<> read_replace(const json& step, HfRules& rules) {
  const json* pattern = member(step, "pattern");
  const std::string* from = pattern == nullptr ? nullptr : string_member(*pattern, "String");
  const std::string* to = string_member(step, "content");
  if (from == nullptr || to == nullptr || *from != " " || *to != escaped_space)
    return fail(ErrorCode::unsupported, "normalizer: only a Replace of ' ' by '▁' is supported");
  rules.escaped = true;
  return {};
}

Result<> read_normalizer(const json& normalizer, HfRules& rules) {
  std::vector<const json*> steps;
  QUERN_TRY_VOID(flatten(normalizer, "normalizer", "normalizers", steps));
  for (const json* step : steps) {
    const std::string& type = *string_member(*step, "type");
    if (type == "Replace") {
      QUERN_TRY_VOID(read_replace(*step, rules));
    } else if (type == "Prepend") {
      const std::string* text = string_member(*step, "prepend");
      if (text == nullptr || *text != escaped_space || rules.prefix != Prefix::none)
        return fail(ErrorCode::unsupported, "normalizer: only one Prepend, of '▁', is supported");
      rules.prefix = Prefix::each;
    } else if (type == "NFC" || type == "NFD" || type == "NFKC" || type == "NFKD") {
      if (!rules.normalization.empty() || rules.escaped || rules.prefix != Prefix::none)
        return fail(ErrorCode::unsupported, "normalizer: {} after another step is not supported", type);
      for (const char c : type) rules.normalization += static_cast<char>(c - 'A' + 'a');
    } else {
      return fail(ErrorCode::unsupported, "normalizer.type: '{}' is not supported", shorten(type));
    }
  }
  if (rules.prefix != Prefix::none && !rules.escaped)
    return fail(ErrorCode::unsupported, "normalizer: Prepend without a Replace of ' ' by '▁'");
  return {};
}

Result<> read_split(const json& step, HfRules& rules) {
  QUERN_TRY(std::string pattern, read_pattern(step, "pre_tokenizer"));
  const std::string* behavior = string_member(step, "behavior");
  const std::string how = behavior == nullptr ? "Isolated" : *behavior;
  const bool invert = bool_member(step, "invert").value_or(false);
  // Removed with invert keeps the matches and drops what lies between: nothing, in the patterns that are
  // written so, which match every character.
  if (how == "Isolated" || (how == "Removed" && invert)) {
    rules.patterns.push_back(std::move(pattern));
  } else if (how == "Contiguous") {
    rules.patterns.push_back("(?:" + pattern + ")+");
  } else {
    return fail(ErrorCode::unsupported, "pre_tokenizer.behavior: '{}' is not supported for Split",
                shorten(how));
  }
  return {};
}

const std::string kGpt2 = R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";

Result<> read_byte_level(const json& step, HfRules& rules) {
  rules.byte_level = true;
  if (bool_member(step, "add_prefix_space").value_or(true)) {
    if (!rules.patterns.empty())
      return fail(
          ErrorCode::unsupported,
          "pre_tokenizer.add_prefix_space: a space before each word of an earlier step is not supported");
    rules.prefix = Prefix::each_once;
  }
  if (bool_member(step, "use_regex").value_or(true)) rules.patterns.push_back(kGpt2);
  return {};
}

Result<> read_metaspace(const json& step, HfRules& rules) {
  const std::string* replacement = string_member(step, "replacement");
  if (replacement != nullptr && *replacement != escaped_space)
    return fail(ErrorCode::unsupported, "pre_tokenizer.replacement: only '▁' is supported for Metaspace");
  if (!rules.patterns.empty())
    return fail(ErrorCode::unsupported, "pre_tokenizer: Metaspace after another step is not supported");
  rules.escaped = true;
  const std::string* scheme = string_member(step, "prepend_scheme");
  const std::string when = scheme != nullptr                                      ? *scheme
                           : bool_member(step, "add_prefix_space").value_or(true) ? "always"
                                                                                  : "never";
  if (when != "always" && when != "first" && when != "never")
    return fail(ErrorCode::unsupported, "pre_tokenizer.prepend_scheme: '{}' is not supported", shorten(when));
  // After a Prepend there is a space already.
  if (rules.prefix == Prefix::none && when != "never")
    rules.prefix = when == "first" ? Prefix::first : Prefix::each_once;
  if (bool_member(step, "split").value_or(true)) rules.patterns.push_back("▁[^▁]*|[^▁]+");
  return {};
}

Result<> read_pre_tokenizer(const json& pre_tokenizer, HfRules& rules) {
  std::vector<const json*> steps;
  QUERN_TRY_VOID(flatten(pre_tokenizer, "pre_tokenizer", "pretokenizers", steps));
  for (const json* step : steps) {
    const std::string& type = *string_member(*step, "type");
    if (type == "Split") {
      QUERN_TRY_VOID(read_split(*step, rules));
    } else if (type == "ByteLevel") {
      QUERN_TRY_VOID(read_byte_level(*step, rules));
    } else if (type == "Metaspace") {
      QUERN_TRY_VOID(read_metaspace(*step, rules));
    } else if (type == "Digits") {
      const bool single = bool_member(*step, "individual_digits").value_or(false);
      rules.patterns.emplace_back(single ? R"(\p{N})" : R"(\p{N}+)");
    } else if (type == "Punctuation") {
      const std::string* behavior = string_member(*step, "behavior");
      const bool contiguous = behavior != nullptr && *behavior == "Contiguous";
      if (behavior != nullptr && *behavior != "Isolated" && !contiguous)
        return fail(ErrorCode::unsupported, "pre_tokenizer.behavior: '{}' is not supported for Punctuation",
                    shorten(*behavior));
      rules.patterns.emplace_back(contiguous ? R"([\p{P}$+<=>^`|~]+)" : R"([\p{P}$+<=>^`|~])");
    } else {
      return fail(ErrorCode::unsupported, "pre_tokenizer.type: '{}' is not supported", shorten(type));
    }
  }
  return {};
}

struct KnownPatterns {
  std::string_view name;
  bool ignore_merges;
  bool exact;
  std::vector<std::string> patterns;  // the beginning of the last one is enough where it ends in "…"
};

const std::vector<KnownPatterns>& known_patterns() {
  const std::string words = R"([^\r\n\p{L}\p{N}]?\p{L}+|)";
  const std::string tail = R"(| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
  const std::string llama3 = R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|)" + words + R"(\p{N}{1,3})" + tail;
  const std::string llama3_short = R"('(?i:[sdmt]|ll|ve|re)|)" + words + R"(\p{N}{1,3})" + tail;
  const std::string qwen2 = R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|)" + words + R"(\p{N})" + tail;
  static const std::vector<KnownPatterns> all = {
      {"gpt-2", false, true, {kGpt2}},
      {"smollm", false, true, {R"(\p{N})", kGpt2}},
      {"llama-bpe", true, true, {llama3}},
      {"llama-bpe", true, true, {llama3_short}},
      {"dbrx", false, true, {llama3}},
      {"dbrx", false, true, {llama3_short}},
      {"qwen2", false, true, {qwen2}},
      // Letters without case, and capitals outside ASCII, are taken for both kinds there.
      {"tekken",
       true,
       false,
       {R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+)"}},
      {"gpt-4o",
       false,
       false,
       {R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|…)"}},
      {"deepseek-llm", false, false, {"[\r\n]", R"(\s?[A-Za-zµ…)"}},
      {"deepseek-coder", false, false, {"[\r\n]", R"(\s?\p{L}+)", R"(\s?\p{P}+…)"}},
      {"deepseek-v3", false, false, {R"(\p{N}{1,3})", R"([一-龥぀-ゟ゠-ヿ]+)", "…"}},
  };
  return all;
}

bool matches(const KnownPatterns& known, const std::vector<std::string>& patterns) {
  constexpr std::string_view more = "…";
  const size_t count = known.patterns.size();
  const std::string_view last = known.patterns.back();
  const bool open = last.ends_with(more);
  if (open ? patterns.size() < count : patterns.size() != count) return false;
  if (!std::equal(known.patterns.begin(), known.patterns.end() - 1, patterns.begin())) return false;
  const std::string& other = patterns[count - 1];
  return open ? other.starts_with(last.substr(0, last.size() - more.size())) : other == last;
}

}  // namespace

Result<HfRules> read_hf_rules(const json& tokenizer) {
  HfRules rules;
  if (const json* normalizer = member(tokenizer, "normalizer"))
    QUERN_TRY_VOID(read_normalizer(*normalizer, rules));
  if (const json* pre_tokenizer = member(tokenizer, "pre_tokenizer"))
    QUERN_TRY_VOID(read_pre_tokenizer(*pre_tokenizer, rules));
  if (rules.byte_level && rules.escaped)
    return fail(ErrorCode::unsupported, "pre_tokenizer: ByteLevel together with '▁' for spaces");
  return rules;
}

PreTokenizerName name_pre_tokenizer(const std::vector<std::string>& patterns, bool ignore_merges) {
  PreTokenizerName near;
  for (const KnownPatterns& known : known_patterns()) {
    if (!matches(known, patterns)) continue;
    if (known.ignore_merges == ignore_merges) return {known.name, known.exact};
    near = {known.name, false};
  }
  return near;
}

}  // namespace quern
