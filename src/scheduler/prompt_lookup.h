// Where the end of a text has stood in it before: what followed there is a good guess at what follows now.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace quern {

/// An index of one growing sequence of tokens by pairs of neighbours. Answers depend on the tokens alone.
/// 12 bytes a token or fewer; a look-up compares with a bounded number of places.
class PromptLookup {
 public:
  /// Shorter matches than this say too little.
  static constexpr int64_t kLeastMatch = 2;
  /// Longer ones are not told apart.
  static constexpr int64_t kMostMatch = 32;

  struct Match {
    int64_t next = 0;    // index of the token that followed there
    int64_t length = 0;  // how many tokens before it are those at the end of the text; 0: no match
  };

  /// The longest match among the latest places, of equals the latest. `tokens` begins with the tokens of the
  /// call before.
  Match find(std::span<const int32_t> tokens);

  /// The i-th guess after a match: what followed it, over and over where the text ends inside that.
  static int32_t guess(std::span<const int32_t> tokens, const Match& match, int64_t i) {
    const int64_t period = static_cast<int64_t>(tokens.size()) - match.next;
    return tokens[static_cast<size_t>(match.next + i % period)];
  }

 private:
  size_t slot(std::span<const int32_t> tokens, int64_t end) const;
  void index(std::span<const int32_t> tokens);

  // Places are indices of the token after a pair, so 0 says none. Pairs of one slot are chained; two pairs
  // that share a slot cost time, never a wrong match.
  std::vector<int32_t> latest_;   // by slot; a power of two of them
  std::vector<int32_t> earlier_;  // by place: the one before it in its slot
};

}  // namespace quern
