// Internal to hf_*.cc: the vocabulary of a checkpoint on its way to GGUF's keys.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "core/metadata.h"
#include "core/result.h"
#include "text/tokenizer_vocabulary.h"

namespace quern {

/// tokenizer.ggml.token_type
enum class TokenType : int64_t { normal = 1, unknown, control, user_defined, unused, byte };

/// Tokens by id. An id that nothing takes is "[PAD7]", unused.
class HfVocabulary {
 public:
  HfVocabulary() = default;
  HfVocabulary(HfVocabulary&&) = default;
  HfVocabulary& operator=(HfVocabulary&&) = default;

  /// Room for `size` ids; corrupt when that is far more than the `tokens` that there are. `what` names the
  /// field that asks for it.
  Result<> resize(size_t size, size_t tokens, const std::string& what);
  /// corrupt when the id is taken by another text.
  Result<> set(int64_t id, std::string text, TokenType type, const std::string& what);
  /// User-defined tokens are looked for in the text itself: their "▁" becomes a space.
  void spell_user_defined();
  void set_type(int64_t id, TokenType type) { types_[id] = static_cast<int64_t>(type); }

  /// The id becomes free.
  void forget(int64_t id) {
    tokens_[id].clear();
    set_type(id, TokenType::unused);
    index_.clear();
  }

  size_t size() const { return tokens_.size(); }
  const std::string& text(int64_t id) const { return tokens_[id]; }
  TokenType type(int64_t id) const { return static_cast<TokenType>(types_[id]); }
  bool taken(int64_t id) const { return type(id) != TokenType::unused || !is_padding(id); }
  /// −1: no token is spelled so. Look-ups end with the next `set`.
  int64_t find(std::string_view text) const;

  /// Adds tokenizer.ggml.tokens and .token_type; the vocabulary is empty afterwards.
  void move_to(Metadata& metadata);

 private:
  bool is_padding(int64_t id) const { return tokens_[id].empty(); }

  std::vector<std::string> tokens_;
  std::vector<int64_t> types_;
  mutable std::unordered_map<std::string_view, int64_t> index_;
};

/// By the names that llama.cpp's conversion takes for control tokens whatever a file says.
bool looks_special(std::string_view token);

/// A vocabulary from a file, its keys for how text is cut, and the texts that post-processing puts around.
struct HfTokenizer {
  HfVocabulary vocabulary;
  Metadata metadata;
  std::string unknown;                     // the model's own unknown token
  int64_t bos = -1, eos = -1;              // the model's own, where no other file says
  std::optional<std::string> first, last;  // special tokens that a text gets; empty: none
  bool template_known = false;             // first and last are told
};

/// tokenizer.json. `name` is for messages; `vocab_size` is config.json's, 0 when that does not say.
Result<HfTokenizer> read_tokenizer_json(std::string_view text, const std::string& name, int64_t vocab_size,
                                        Warnings& warnings);
/// tokenizer.model. `added_tokens`: added_tokens.json, `config`: tokenizer_config.json; empty objects where
/// there is none.
Result<HfTokenizer> read_sentencepiece_model(std::string_view bytes, const std::string& name,
                                             const nlohmann::json& added_tokens, const nlohmann::json& config,
                                             int64_t vocab_size, Warnings& warnings);

/// The other files of the folder; empty objects where there is none.
struct HfSideFiles {
  nlohmann::json tokenizer_config, special_tokens_map, config, generation_config;
  std::optional<std::string> template_file;  // chat_template.jinja
  nlohmann::json template_json;              // chat_template.json
  /// additional_chat_templates/NAME.jinja, by name.
  std::vector<std::pair<std::string, std::string>> more_templates;
};
/// bos, eos, unknown, padding; what is added to a text.
void add_special_tokens(const HfSideFiles& files, HfTokenizer& tokenizer, Warnings& warnings);
void add_chat_template(const HfSideFiles& files, Metadata& metadata, Warnings& warnings);
/// Sampling defaults and ids that end an answer.
void add_generation(const HfSideFiles& files, HfTokenizer& tokenizer, Warnings& warnings);

}  // namespace quern
