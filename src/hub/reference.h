// What users write to name a model: `owner/repo[:selector][@tokenizer-repo]`, a path, or `quern/guide`.
#pragma once

#include <string>
#include <string_view>

#include "core/result.h"

namespace quern {

struct ModelReference {
  enum class Kind { hub, path, guide };
  Kind kind = Kind::path;
  std::string text;  // as written
  // For Kind::hub:
  std::string repo;  // "owner/repo"
  // The selector is one of three things; at most one of these is not empty.
  std::string file;            // ends in .gguf
  std::string quant;           // in upper case: "Q4_K_M", "F16", "UD-Q4_K_XL"
  std::string revision;        // branch, tag or commit; empty: main
  std::string tokenizer_repo;  // "owner/repo", or empty
};

/// Pure: whether a path exists is the caller's question, to be asked first. A text that has not the form of a
/// hub reference is a path; one that almost has it (a bad character in the repo's name, an empty selector) is
/// an error that says what is wrong.
Result<ModelReference> parse_reference(std::string_view text);

/// 40 hexadecimal digits, lower case: what names a commit.
bool is_commit(std::string_view text);

/// "owner/repo" by the hub's rules.
bool is_repo_id(std::string_view text);

/// A value as it may stand in a message: one line, not too long.
std::string shown(std::string_view text);

}  // namespace quern
