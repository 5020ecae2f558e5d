// JSON files of Hugging Face checkpoints, read within bounds.
#pragma once

#include <cstdint>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "core/result.h"

namespace quern {

/// tokenizer.json. What is large stands apart from the tree: `model.vocab` and `model.merges`.
struct TokenizerJson {
  nlohmann::json rest;
  std::vector<std::pair<std::string, int64_t>> vocab;  // in the file's order
  std::vector<std::string> merges;                     // "left right", neither empty nor with a space in it
};

/// Limits that no honest file comes near; they bound what a hostile one can make us do.
inline constexpr size_t kMaxTokenizerBytes = size_t{64} << 20;  // tokenizer.json, tokenizer.model
inline constexpr size_t kMaxSideFileBytes = size_t{8} << 20;    // the other files
inline constexpr size_t kMaxVocabulary = size_t{1} << 22;

/// One pass, nesting and the number of values bounded. Errors name the field; `name` comes first.
Result<TokenizerJson> parse_tokenizer_json(std::string_view text, const std::string& name);

/// A small file as a tree whose root is an object.
Result<nlohmann::json> parse_side_json(std::string_view text, const std::string& name);

/// A file's bytes; empty: there is none. More than `limit` bytes is an error.
Result<std::optional<std::string>> read_if_there(const std::filesystem::path& path, size_t limit);

/// A text from a file as it may stand in a message: one line, not too long.
std::string shorten(std::string_view text);

/// Object members that may be missing; null counts as missing.
const nlohmann::json* member(const nlohmann::json& object, const char* key);
const std::string* string_member(const nlohmann::json& object, const char* key);
std::optional<bool> bool_member(const nlohmann::json& object, const char* key);
std::optional<int64_t> int_member(const nlohmann::json& object, const char* key);

}  // namespace quern
