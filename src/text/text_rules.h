// What is done to a text before it is cut, beyond what GGUF has keys for (tokenizer.quern.*, hf_tokenizer.h).
#pragma once

#include <string>
#include <string_view>

#include "core/metadata.h"
#include "core/result.h"
#include "text/tokenizer_vocabulary.h"

namespace quern {

enum class Normalization { none, nfc, nfd, nfkc, nfkd };

struct TextRules {
  enum class Prefix {
    unsaid,  // as tokenizer.ggml.add_space_prefix has it
    each,    // a space before each stretch of text between special tokens
    first,   // a space before the text's beginning alone
  };
  Normalization normalization = Normalization::none;
  Prefix prefix = Prefix::unsaid;  // each, first: not where a space is there already
  bool escaped = false;            // "▁" is a space, too

  /// An unknown word is left out, with a warning.
  static TextRules read(const Metadata& metadata, Warnings& warnings);

  /// Whether a space goes before this stretch of text; `adds_space`: the vocabulary's own rule.
  bool wants_space(std::string_view text, bool starts, bool adds_space) const;
};

/// The text in a normalization form of Unicode; ill-formed bytes stay as they are.
std::string normalize(std::string_view text, Normalization form);

}  // namespace quern
