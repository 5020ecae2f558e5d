// The text side of one answer: token bytes → whole characters → text without stop strings, with the tokens
// that belong to each piece.
#pragma once

#include <deque>
#include <optional>
#include <string>
#include <string_view>

#include "engine/request.h"
#include "engine/stop_matcher.h"
#include "text/tokenizer.h"

namespace quern {

/// An answer continues its prompt, so its pieces keep their leading space, also the first (as in llama.cpp
/// and vLLM): SentencePiece's rule that the text's first space is dropped holds for whole texts, not for
/// continuations.
///
/// A token belongs to the piece of text in which its last character is. The token that a stop string cuts in
/// two is the last one reported; those that lie in the stop string are not.
class AnswerText {
 public:
  /// `with_tokens`: report tokens beside the text.
  AnswerText(std::vector<std::string> stops, bool with_tokens);

  /// Adds the next token; true when a stop string is complete (nothing may be pushed after it).
  bool push(TokenInfo token);
  /// The answer ends here: what was held back is text after all (unless it is a stop string).
  void finish();
  /// The new text and tokens since the last call; empty when there are none.
  std::optional<Delta> take();
  /// The stop string that ended the answer; null: none did.
  const std::string* stop() const { return stops_.matched() ? &stops_.match() : nullptr; }

 private:
  struct Waiting {
    TokenInfo token;
    size_t begin = 0;           // in the text
    std::optional<size_t> end;  // known once its last character is whole
  };
  void add(std::string_view text);
  void end_open_tokens(size_t end);
  void release_tokens();

  Utf8Stream utf8_;
  StopMatcher stops_;
  const bool with_tokens_;
  size_t decoded_ = 0;   // bytes of text that came out of utf8_
  size_t released_ = 0;  // bytes of text that came out of stops_
  std::deque<Waiting> waiting_;
  Delta next_;
};

}  // namespace quern
