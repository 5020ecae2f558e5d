// For tests: GGUF vocabularies in the form of Hugging Face's files, and folders to put them into.
#pragma once

#include <algorithm>
#include <nlohmann/json.hpp>

#include "text/tokenizer_test_data.h"
#include "text/unicode.h"

namespace quern::test {

class CheckpointFolder {
 public:
  CheckpointFolder() {
    std::string pattern = (std::filesystem::temp_directory_path() / "quern-hf-XXXXXX").string();
    if (mkdtemp(pattern.data()) == nullptr) std::abort();
    path = pattern;
  }
  ~CheckpointFolder() {
    std::error_code ignored;
    std::filesystem::remove_all(path, ignored);
  }
  CheckpointFolder(const CheckpointFolder&) = delete;
  CheckpointFolder& operator=(const CheckpointFolder&) = delete;

  CheckpointFolder& write(const std::string& name, const std::string& text) {
    std::ofstream(path / name, std::ios::binary) << text;
    return *this;
  }
  CheckpointFolder& write(const std::string& name, const nlohmann::json& json) {
    return write(name, json.dump());
  }

  std::filesystem::path path;
};

enum : int64_t { normal_type = 1, unknown_type, control_type, user_type, unused_type, byte_type };

/// "added_tokens" for the special tokens of a vocabulary.
inline nlohmann::json added_tokens(const Metadata& metadata) {
  auto added = nlohmann::json::array();
  const auto& tokens = *metadata.strings("tokenizer.ggml.tokens");
  const auto types = *metadata.integers("tokenizer.ggml.token_type");
  for (size_t id = 0; id < tokens.size(); ++id) {
    const bool special = types[id] == control_type || types[id] == unknown_type;
    if (!special && types[id] != user_type) continue;
    added.push_back({{"id", id},
                     {"content", tokens[id]},
                     {"single_word", false},
                     {"lstrip", false},
                     {"rstrip", false},
                     {"normalized", false},
                     {"special", special}});
  }
  return added;
}

inline nlohmann::json byte_level(bool use_regex) {
  return {
      {"type", "ByteLevel"}, {"add_prefix_space", false}, {"trim_offsets", true}, {"use_regex", use_regex}};
}
inline nlohmann::json split(const std::string& regex) {
  return {{"type", "Split"}, {"pattern", {{"Regex", regex}}}, {"behavior", "Isolated"}, {"invert", false}};
}

/// tokenizer.json of a vocabulary whose model is "gpt2".
inline nlohmann::json byte_level_json(const Metadata& metadata, const nlohmann::json& pre_tokenizer) {
  const auto& tokens = *metadata.strings("tokenizer.ggml.tokens");
  const auto types = *metadata.integers("tokenizer.ggml.token_type");
  auto vocab = nlohmann::json::object();
  for (size_t id = 0; id < tokens.size(); ++id) {
    if (types[id] == normal_type) vocab[tokens[id]] = id;
  }
  return {{"version", "1.0"},
          {"added_tokens", added_tokens(metadata)},
          {"normalizer", nullptr},
          {"pre_tokenizer", pre_tokenizer},
          {"post_processor", nullptr},
          {"decoder", byte_level(true)},
          {"model",
           {{"type", "BPE"},
            {"byte_fallback", false},
            {"vocab", vocab},
            {"merges", *metadata.strings("tokenizer.ggml.merges")}}}};
}

/// Every way to make a piece of two others, in the order of the scores: what Hugging Face's converter makes
/// of a SentencePiece model.
inline std::vector<std::pair<std::string, std::string>> merges_of(const Metadata& metadata) {
  const auto& tokens = *metadata.strings("tokenizer.ggml.tokens");
  const auto types = *metadata.integers("tokenizer.ggml.token_type");
  const auto scores = *metadata.numbers("tokenizer.ggml.scores");
  std::unordered_map<std::string_view, size_t> ids;
  for (size_t id = 0; id < tokens.size(); ++id) {
    if (types[id] == normal_type) ids.emplace(tokens[id], id);
  }
  struct Merge {
    double score;
    std::string left, right;
  };
  std::vector<Merge> merges;
  for (const auto& [text, id] : ids) {
    for (size_t at = decode_utf8(text).length; at < text.size(); at += decode_utf8(text.substr(at)).length) {
      if (ids.contains(text.substr(0, at)) && ids.contains(text.substr(at)))
        merges.push_back({scores[id], std::string(text.substr(0, at)), std::string(text.substr(at))});
    }
  }
  std::sort(merges.begin(), merges.end(), [](const Merge& a, const Merge& b) {
    return std::tuple(-a.score, a.left + a.right, a.left.size()) <
           std::tuple(-b.score, b.left + b.right, b.left.size());
  });
  std::vector<std::pair<std::string, std::string>> pairs;
  for (Merge& merge : merges) pairs.emplace_back(std::move(merge.left), std::move(merge.right));
  return pairs;
}

/// The normalizer of Llama 2: "▁" in front and for each space.
inline nlohmann::json prepend_and_replace() {
  return {{"type", "Sequence"},
          {"normalizers",
           {{{"type", "Prepend"}, {"prepend", "▁"}},
            {{"type", "Replace"}, {"pattern", {{"String", " "}}}, {"content", "▁"}}}}};
}
inline nlohmann::json metaspace(const std::string& scheme, bool split) {
  return {{"type", "Metaspace"}, {"replacement", "▁"}, {"prepend_scheme", scheme}, {"split", split}};
}

/// tokenizer.json of a vocabulary whose model is "llama".
inline nlohmann::json byte_fallback_json(const Metadata& metadata) {
  const auto& tokens = *metadata.strings("tokenizer.ggml.tokens");
  auto vocab = nlohmann::json::object();
  for (size_t id = 0; id < tokens.size(); ++id) vocab[tokens[id]] = id;
  return {{"version", "1.0"},
          {"added_tokens", added_tokens(metadata)},
          {"normalizer", prepend_and_replace()},
          {"pre_tokenizer", nullptr},
          {"post_processor", nullptr},
          {"decoder", nullptr},
          {"model",
           {{"type", "BPE"},
            {"unk_token", "<unk>"},
            {"fuse_unk", true},
            {"byte_fallback", true},
            {"vocab", vocab},
            {"merges", merges_of(metadata)}}}};
}

}  // namespace quern::test
