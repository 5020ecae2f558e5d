// Splits text into the words that byte-level BPE merges within, by the rules that `tokenizer.ggml.pre` names.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "core/result.h"

namespace quern {

/// Code points `first` … `last`, both included.
struct CodeRange {
  char32_t first, last;
};

/// One rule. Rules run one after the other, each over the pieces that the one before left: matches become
/// pieces, and so does what lies between two matches.
struct SplitRule {
  enum class Kind {
    pattern,
    /// Groups of three digits counted from a number's end; what stands before the number stays with its first
    /// group.
    digit_triples,
    /// A cut wherever the ASCII digits that follow are a multiple of three.
    digit_cuts,
  };
  Kind kind = Kind::pattern;
  /// PCRE2 over character classes (see pretokenizer.cc): \p{L} \p{N} \p{P} \p{M} \p{S}; \p{Lu} and \p{Ll}
  /// hold the letters of other alphabets both; \p{A} … \p{D} are the characters of `sets`. Never matches the
  /// empty string.
  std::string pattern;
  std::vector<std::vector<CodeRange>> sets;  // each ascending
};

struct PreTokenizerSpec {
  std::vector<std::string_view> names;
  std::vector<SplitRule> rules;
  bool ignore_merges = false;      // a word that is a token is taken whole
  bool add_bos = false;            // default of tokenizer.ggml.add_bos_token
  bool no_default_bos = false;     // no BOS unless the file names one
  bool byte_encode = true;         // false: the vocabulary holds plain UTF-8 and <0xNN> for other bytes
  bool escape_spaces = false;      // ' ' is "▁" in the vocabulary
  bool space_prefix = false;       // a space goes before text, as SentencePiece puts it
  bool whole_line_breaks = false;  // a run of line breaks that is a token is taken whole
  /// Patterns that came with a model: PCRE2 over the text itself with all of Unicode's properties, and a
  /// bound on the work, in proportion to the text: beyond it the rest is one word.
  bool on_text = false;
};

/// The rules known by llama.cpp's name for them; nullptr: none.
const PreTokenizerSpec* find_pre_tokenizer(std::string_view name);
/// All of them.
const std::vector<PreTokenizerSpec>& pre_tokenizers();

/// Compiled rules; immutable, any number of threads may use one.
class PreTokenizer {
 public:
  static Result<PreTokenizer> compile(const PreTokenizerSpec& spec);
  PreTokenizer(PreTokenizer&&) noexcept;
  PreTokenizer& operator=(PreTokenizer&&) noexcept;
  ~PreTokenizer();

  /// Appends the words' lengths in bytes; they sum to text.size(). Ill-formed UTF-8 counts as a symbol.
  /// `text` must be shorter than 4 GiB.
  void split(std::string_view text, std::vector<uint32_t>& lengths) const;

 private:
  struct Rule;
  PreTokenizer();
  std::vector<Rule> rules_;
  bool on_text_ = false;
};

}  // namespace quern
