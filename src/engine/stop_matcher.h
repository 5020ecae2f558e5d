// Finds stop strings in a text that arrives in pieces.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace quern {

/// The leftmost occurrence of any stop string wins; of two that begin at the same place, the shorter. The
/// result does not depend on how the text is cut into pieces: what may yet become part of a stop string is
/// held back, and a match is final once nothing that began before it can still become one.
class StopMatcher {
 public:
  /// Empty strings are ignored.
  explicit StopMatcher(std::vector<std::string> stops);

  /// Adds text and returns what is certain to lie before any stop string. Nothing more comes after a match.
  std::string push(std::string_view text);
  /// No more text comes: returns the rest, up to a stop string where there is one.
  std::string finish();

  /// A stop string was found, and the text before it has been returned.
  bool matched() const { return matched_; }
  /// The one that was found.
  const std::string& match() const { return stops_[candidate_].text; }

 private:
  struct Stop {
    std::string text;
    std::vector<uint32_t> fallback;  // Knuth-Morris-Pratt: length of the longest border of each prefix
    size_t progress = 0;             // length of the longest prefix that the text so far ends with
  };
  bool advance(Stop& stop, char c);
  size_t earliest_open() const;
  std::string release(size_t end);

  static constexpr size_t kNone = SIZE_MAX;
  std::vector<Stop> stops_;
  std::string held_;      // text from position released_ on
  size_t released_ = 0;   // bytes returned
  size_t length_ = 0;     // bytes seen
  size_t candidate_ = 0;  // the stop that begins at start_
  size_t start_ = kNone;  // where the leftmost complete occurrence begins
  bool matched_ = false;
};

}  // namespace quern
