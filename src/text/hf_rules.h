// What a tokenizer.json does to a text before BPE sees it: `normalizer` and `pre_tokenizer`.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "core/result.h"

namespace quern {

struct HfRules {
  /// The space that is put before a text.
  enum class Prefix {
    none,
    each,       // before every stretch of text between special tokens
    each_once,  // the same, but not where a space is there already
    first,      // before the text's beginning alone, not where a space is there already
  };

  bool byte_level = false;  // bytes in GPT-2's alphabet
  bool escaped = false;     // " " → "▁"
  Prefix prefix = Prefix::none;
  std::string normalization;          // "nfc", "nfd", "nfkc", "nfkd" or none
  std::vector<std::string> patterns;  // one split after the other, matches and gaps both stay
};

/// Errors name the field that nothing here can do.
Result<HfRules> read_hf_rules(const nlohmann::json& tokenizer);

/// llama.cpp's name (`tokenizer.ggml.pre`) for splitting by these patterns.
struct PreTokenizerName {
  std::string_view name;
  bool exact = false;  // false: our rules of that name (and llama.cpp's) only come near
};
/// Empty name: there is none.
PreTokenizerName name_pre_tokenizer(const std::vector<std::string>& patterns, bool ignore_merges);

}  // namespace quern
