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

/// `text` came out of utf8_; `open`: a part of a character is still in it.
void AnswerText::add(std::string_view text, bool open) {
  if (with_tokens_) {
    // Tokens that ended inside a character end with that character, the first of the new text.
    const size_t character = decoded_ + first_character(text);
    const size_t all = waiting_.size();
    for (size_t i = 0; i < all; ++i) {
      Waiting& waiting = waiting_[i];
      if (waiting.whole) continue;
      const bool newest = i + 1 == all;
      if (newest && !open) {
        waiting.end = decoded_ + text.size();
        waiting.whole = true;
      } else if (!newest && !text.empty()) {
        waiting.end = character;
        waiting.whole = true;
      }
    }
  }
  decoded_ += text.size();
  const std::string released = stops_.push(text);
  released_ += released.size();
  next_.text += released;
}

bool AnswerText::push(TokenInfo token) {
  ++next_.count;
  const std::string bytes = token.bytes;
  if (with_tokens_) waiting_.push_back({.token = std::move(token), .begin = decoded_});
  const std::string text = utf8_.push(bytes);
  add(text, utf8_.pending());
  release_tokens();
  return stops_.matched();
}

void AnswerText::finish() {
  if (!stops_.matched()) {
    add(utf8_.finish(), false);
    const std::string rest = stops_.finish();
    released_ += rest.size();
    next_.text += rest;
  }
  release_tokens();
}

void AnswerText::release_tokens() {
  while (!waiting_.empty()) {
    Waiting& first = waiting_.front();
    const bool emitted = first.whole && first.end <= released_;
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
