// Text ↔ token ids.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "core/metadata.h"
#include "core/result.h"

namespace quern {

struct EncodeOptions {
  bool add_special = true;    // BOS / EOS where the model's rules say so
  bool parse_special = true;  // "<|im_end|>" in the text becomes the token; false: it is plain text
};

/// Immutable; any number of threads may use one.
class Tokenizer {
 public:
  /// From GGUF's `tokenizer.ggml.*` keys. Errors name the key. `warnings` (may be null) gets one line for
  /// each thing that was guessed, such as an unknown pre-tokenizer.
  static Result<std::unique_ptr<Tokenizer>> from_metadata(const Metadata& metadata,
                                                          std::vector<std::string>* warnings = nullptr);
  virtual ~Tokenizer() = default;

  /// Any bytes are accepted; invalid UTF-8 goes through byte tokens. Time is near-linear in the length.
  virtual std::vector<int32_t> encode(std::string_view text, const EncodeOptions& options = {}) const = 0;
  /// The bytes one token stands for: may be part of a UTF-8 character. Control and unknown tokens are empty
  /// unless `special`. A token outside the vocabulary is empty.
  virtual std::string piece(int32_t token, bool special = false) const = 0;
  /// Text of a whole sequence: the pieces, less the space that SentencePiece-style encoding put before the
  /// first word. Special tokens are dropped unless `special`; user-defined ones stay.
  virtual std::string decode(std::span<const int32_t> tokens, bool special = false) const = 0;

  virtual int32_t size() const = 0;
  virtual int32_t bos() const = 0;  // −1: none
  virtual int32_t eos() const = 0;  // −1: none
  virtual bool add_bos() const = 0;
  virtual bool add_eos() const = 0;
  /// End of generation: eos, eot, eom and the end-of-turn tokens that model families use.
  virtual bool is_eog(int32_t token) const = 0;
  virtual bool is_control(int32_t token) const = 0;
  /// The token whose text is exactly this, special ones included; −1: none.
  virtual int32_t find(std::string_view text) const = 0;
  /// The vocabulary's own spelling ("▁Hello", "<0x0A>", "Ġworld").
  virtual std::string_view raw(int32_t token) const = 0;
  /// Fill-in-the-middle tokens; −1: none.
  struct Infill {
    int32_t prefix = -1, suffix = -1, middle = -1;
  };
  virtual Infill infill() const = 0;
};

/// Joins token bytes into text that never splits a UTF-8 character: holds an incomplete tail back.
class Utf8Stream {
 public:
  /// Returns what is complete now. Bytes that can never become UTF-8 come out as U+FFFD.
  std::string push(std::string_view bytes);
  /// The rest; an incomplete tail becomes U+FFFD.
  std::string finish();
  bool pending() const { return !tail_.empty(); }

 private:
  std::string tail_;
};

}  // namespace quern
