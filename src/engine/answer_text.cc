#include "engine/answer_text.h"

#include <algorithm>
#include <utility>

namespace quern {
namespace {

/// Bytes of the first character of well-formed text.
size_t first_character(std::string_view text) {
  size_t length = 1;
  while (length < text.size() && (static_cast<unsigned char>(text[length]) & 0xc0) == 0x80) ++length;
  return std::min(length, text.size());
}

}  // namespace

AnswerText::AnswerText(std::vector<std::string> stops, bool with_tokens)
    : stops_(std::move(stops)), with_tokens_(with_tokens) {}

bool AnswerText::push(TokenInfo token) {
  ++next_.count;
  const std::string text = utf8_.push(token.bytes);
  if (with_tokens_) {
    // Tokens that ended inside a character end with that character, the first of the new text.
    if (!text.empty()) end_open_tokens(decoded_ + first_character(text));
    waiting_.push_back({.token = std::move(token), .begin = decoded_});
    if (!utf8_.pending()) end_open_tokens(decoded_ + text.size());
  }
  add(text);
  release_tokens();
  return stops_.matched();
}

void AnswerText::finish() {
  if (!stops_.matched()) {
    const std::string text = utf8_.finish();
    end_open_tokens(decoded_ + text.size());
    add(text);
    const std::string rest = stops_.finish();
    released_ += rest.size();
    next_.text += rest;
  }
  release_tokens();
}

/// `text` came out of utf8_.
void AnswerText::add(std::string_view text) {
  decoded_ += text.size();
  const std::string released = stops_.push(text);
  released_ += released.size();
  next_.text += released;
}

void AnswerText::end_open_tokens(size_t end) {
  for (Waiting& waiting : waiting_)
    if (!waiting.end) waiting.end = end;
}

void AnswerText::release_tokens() {
  while (!waiting_.empty()) {
    Waiting& first = waiting_.front();
    const bool emitted = first.end && *first.end <= released_;
    const bool cut = stops_.matched() && first.begin < released_;
    if (!emitted && !cut) return;
    next_.tokens.push_back(std::move(first.token));
    waiting_.pop_front();
  }
}

std::optional<Delta> AnswerText::take() {
  if (next_.text.empty() && next_.tokens.empty()) return std::nullopt;
  return std::exchange(next_, {});
}

}  // namespace quern
