// What both tokenizers share: special tokens, BOS and EOS, decoding of whole sequences.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "text/text_rules.h"
#include "text/tokenizer.h"
#include "text/tokenizer_vocabulary.h"

namespace quern {

class TokenizerBase : public Tokenizer {
 public:
  TokenizerBase(Vocabulary vocabulary, const TextRules& rules)
      : vocabulary_(std::move(vocabulary)), special_tokens_(vocabulary_), rules_(rules) {}

  std::vector<int32_t> encode(std::string_view text, const EncodeOptions& options) const final;
  std::string piece(int32_t token, bool special) const final;
  std::string decode(std::span<const int32_t> tokens, bool special) const final;

  int32_t size() const final { return vocabulary_.size(); }
  int32_t bos() const final { return vocabulary_.bos(); }
  int32_t eos() const final { return vocabulary_.eos(); }
  bool add_bos() const final { return vocabulary_.add_bos(); }
  bool add_eos() const final { return vocabulary_.add_eos(); }
  bool is_eog(int32_t token) const final { return vocabulary_.is_end(token); }
  bool is_control(int32_t token) const final {
    return vocabulary_.contains(token) && vocabulary_.has(token, Vocabulary::control);
  }
  int32_t find(std::string_view text) const final { return vocabulary_.find(text); }
  std::string_view raw(int32_t token) const final {
    return vocabulary_.contains(token) ? vocabulary_.text(token) : std::string_view();
  }
  Infill infill() const final { return vocabulary_.infill(); }

 protected:
  /// Text without special tokens, shorter than 4 GiB. `spaced`: a space goes before it.
  virtual void encode_text(std::string_view text, bool spaced, std::vector<int32_t>& out) const = 0;
  /// The bytes of a token of type `normal`.
  virtual std::string normal_piece(std::string_view spelling) const = 0;
  /// A space goes before text that begins the input or follows a special token; decode takes it away again.
  virtual bool adds_space() const { return false; }

  const Vocabulary& vocabulary() const { return vocabulary_; }

 private:
  Vocabulary vocabulary_;
  SpecialTokens special_tokens_;
  TextRules rules_;
};

/// "<0x0A>" → 10; −1: not of this form.
int parse_byte_token(std::string_view spelling);
/// The reverse, in the vocabulary; −1: it has none.
int32_t find_byte_token(const Vocabulary& vocabulary, uint8_t byte);

inline constexpr std::string_view escaped_space = "\xE2\x96\x81";  // "▁", U+2581
/// " " → "▁", appended.
void append_escaped(std::string& out, std::string_view text);
/// "▁" → " ".
std::string unescape(std::string_view text);

}  // namespace quern
