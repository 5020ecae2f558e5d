#include "text/hf_vocabulary.h"

#include "text/hf_json.h"
#include "text/tokenizer_base.h"

namespace quern {

Result<> HfVocabulary::resize(size_t size, size_t tokens, const std::string& what) {
  // Models pad their embedding to a round number, and ids have gaps where tokens were taken away.
  if (size > kMaxVocabulary || size > 2 * tokens + 65536)
    return fail(ErrorCode::corrupt, "{}: ids up to {} for {} tokens", what, size - 1, tokens);
  if (size <= tokens_.size()) return {};
  index_.clear();
  tokens_.resize(size);
  types_.resize(size, static_cast<int64_t>(TokenType::unused));
  return {};
}

Result<> HfVocabulary::set(int64_t id, std::string text, TokenType type, const std::string& what) {
  if (id < 0 || static_cast<size_t>(id) >= tokens_.size())
    return fail(ErrorCode::corrupt, "{}: the id of '{}' is {}: there are {} tokens", what, shorten(text), id,
                tokens_.size());
  if (taken(id) && tokens_[id] != text)
    return fail(ErrorCode::corrupt, "{}: '{}' and '{}' have the same id {}", what, shorten(tokens_[id]),
                shorten(text), id);
  index_.clear();
  tokens_[id] = std::move(text);
  set_type(id, type);
  return {};
}

void HfVocabulary::spell_user_defined() {
  index_.clear();
  for (size_t id = 0; id < tokens_.size(); ++id) {
    if (type(static_cast<int64_t>(id)) == TokenType::user_defined) tokens_[id] = unescape(tokens_[id]);
  }
}

int64_t HfVocabulary::find(std::string_view text) const {
  if (index_.empty()) {
    index_.reserve(tokens_.size());
    for (size_t id = 0; id < tokens_.size(); ++id) {
      if (!tokens_[id].empty()) index_.emplace(tokens_[id], static_cast<int64_t>(id));
    }
  }
  const auto found = index_.find(text);
  return found == index_.end() ? -1 : found->second;
}

void HfVocabulary::move_to(Metadata& metadata) {
  index_.clear();
  for (size_t id = 0; id < tokens_.size(); ++id) {
    if (!taken(static_cast<int64_t>(id))) tokens_[id] = fmt::format("[PAD{}]", id);
  }
  metadata.add("tokenizer.ggml.tokens", Metadata::Array{std::move(tokens_)});
  metadata.add("tokenizer.ggml.token_type", Metadata::Array{std::move(types_)});
}

bool looks_special(std::string_view token) {
  const auto within = [&](std::string_view first, std::string_view last) {
    return token.size() >= first.size() + last.size() && token.starts_with(first) && token.ends_with(last);
  };
  return token == "<pad>" || token == "<mask>" || token == "<2mass>" || token == "[@BOS@]" ||
         within("<|", "|>") || within("<｜", "｜>") || within("<unused", ">");
}

}  // namespace quern
