// A vocabulary as GGUF's `tokenizer.ggml.*` keys describe it: spellings, types, and the tokens with a task.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "core/metadata.h"
#include "core/result.h"
#include "text/tokenizer.h"

namespace quern {

/// Where guesses are told; never null inside this folder.
using Warnings = std::vector<std::string>;

class Vocabulary {
 public:
  /// Several may hold: a token named like an end of turn is a control token whatever else the file says.
  enum Flag : uint8_t {
    normal = 1,
    unknown = 2,
    control = 4,
    user_defined = 8,
    unused = 16,
    byte = 32,
    strip_right = 64,  // white space after it belongs to it
    strip_left = 128,  // white space before it, too
  };

  /// What holds where the file is silent.
  struct Defaults {
    int32_t bos = -1, eos = -1, unknown = -1;
    bool add_bos = false;
    bool only_control = false;  // bos and eos hold only if the file's types call those tokens control tokens
  };

  /// Errors name the key.
  static Result<Vocabulary> read(const Metadata& metadata, const Defaults& defaults, Warnings& warnings);

  int32_t size() const { return static_cast<int32_t>(flags_.size()); }
  bool contains(int32_t id) const { return id >= 0 && id < size(); }
  /// `id` must be contained.
  std::string_view text(int32_t id) const {
    return std::string_view(letters_.data() + offsets_[id], offsets_[id + 1] - offsets_[id]);
  }
  bool has(int32_t id, int flags) const { return (flags_[id] & flags) != 0; }
  /// −1: no token is spelled so.
  int32_t find(std::string_view text) const;
  size_t longest() const { return longest_; }

  int32_t bos() const { return bos_; }
  int32_t eos() const { return eos_; }
  int32_t unknown_token() const { return unknown_; }
  bool add_bos() const { return add_bos_; }
  bool add_eos() const { return add_eos_; }
  bool is_end(int32_t id) const;
  const Tokenizer::Infill& infill() const { return infill_; }
  /// Tokens that are looked for in the text before anything else.
  const std::vector<int32_t>& special() const { return special_; }
  /// Of special tokens that overlap, the first in the text counts, not the longest.
  bool leftmost_special() const { return leftmost_special_; }

 private:
  Result<> read_tokens(const Metadata& metadata);
  Result<> read_types(const Metadata& metadata);
  void build_index(Warnings& warnings);
  void read_roles(const Metadata& metadata, const Defaults& defaults, Warnings& warnings);
  void read_added(const Metadata& metadata, const Defaults& defaults, Warnings& warnings);
  void find_ends(int32_t eot, int32_t eom, std::vector<int32_t> infill_ends);
  void apply_exceptions(const Metadata& metadata);
  void read_own_keys(const Metadata& metadata, Warnings& warnings);
  int32_t find_named(std::initializer_list<std::string_view> names);
  void remove_end(int32_t id);

  std::vector<char> letters_;  // all spellings, one after the other
  std::vector<uint64_t> offsets_;
  std::vector<uint8_t> flags_;
  std::vector<int32_t> slots_;  // open addressing; −1: free
  size_t longest_ = 0;
  int32_t bos_ = -1, eos_ = -1, unknown_ = -1;
  bool add_bos_ = false, add_eos_ = false, leftmost_special_ = false;
  Tokenizer::Infill infill_;
  std::vector<int32_t> ends_, special_;  // ascending
};

/// Whether tokens of this name end an answer in every family that has them.
bool names_an_end(std::string_view token);

/// A token, or text that is still to be cut into tokens.
struct Fragment {
  int32_t token = -1;
  std::string_view text;
};

/// Cuts special tokens out of a text: the longest first as llama.cpp does, or from left to right where
/// Vocabulary::leftmost_special() says so. Time is near-linear in the text.
class SpecialTokens {
 public:
  explicit SpecialTokens(const Vocabulary& vocabulary);
  /// User-defined tokens are always taken, control and unknown ones only if `parse_special`.
  std::vector<Fragment> partition(const Vocabulary& vocabulary, std::string_view text,
                                  bool parse_special) const;

 private:
  class Found;
  int32_t longest_at_start(const Vocabulary& vocabulary, std::string_view text, bool parse_special) const;
  void find_leftmost(const Vocabulary& vocabulary, std::string_view text, bool parse_special,
                     Found& found) const;
  void find_longest(const Vocabulary& vocabulary, std::string_view text, bool parse_special,
                    Found& found) const;

  std::vector<int32_t> by_text_;    // special tokens, ascending by spelling
  std::vector<int32_t> prefix_;     // for each place there, that of the longest other that begins it, or −1
  std::array<bool, 256> starts_{};  // bytes that they begin with
};

}  // namespace quern
