// Cutting special tokens out of a text.
#include <algorithm>
#include <map>
#include <queue>
#include <tuple>

#include "text/tokenizer_vocabulary.h"
#include "text/unicode.h"

namespace quern {
namespace {

std::string_view strip_begin(std::string_view text) {
  while (!text.empty()) {
    const Utf8Step step = decode_utf8(text);
    if (char_class(step.code_point) != CharClass::space) break;
    text.remove_prefix(step.length);
  }
  return text;
}

std::string_view strip_end(std::string_view text) {
  while (!text.empty()) {
    size_t last = text.size() - 1;
    while (last > 0 && text.size() - last < 4 && (static_cast<uint8_t>(text[last]) & 0xC0) == 0x80) --last;
    if (char_class(decode_utf8(text.substr(last)).code_point) != CharClass::space) break;
    text.remove_suffix(text.size() - last);
  }
  return text;
}

}  // namespace

/// Where tokens have been found, in the order of the text.
class SpecialTokens::Found {
 public:
  Found(const Vocabulary& vocabulary, std::string_view text) : vocabulary_(vocabulary), text_(text) {}

  /// How many bytes from `at` on are still text; 0: `at` belongs to a token.
  size_t room(size_t at) const {
    const auto next = places_.upper_bound(at);
    if (next != places_.begin() && std::prev(next)->second.end > at) return 0;
    return (next == places_.end() ? text_.size() : next->first) - at;
  }

  /// There must be room. Returns where text goes on.
  size_t take(size_t at, int32_t token) {
    const auto next = places_.upper_bound(at);
    size_t begin = at, end = at + vocabulary_.text(token).size();
    if (vocabulary_.has(token, Vocabulary::strip_left)) {
      const size_t from = next == places_.begin() ? 0 : std::prev(next)->second.end;
      begin = from + strip_end(text_.substr(from, at - from)).size();
    }
    if (vocabulary_.has(token, Vocabulary::strip_right)) {
      const size_t to = next == places_.end() ? text_.size() : next->first;
      end = to - strip_begin(text_.substr(end, to - end)).size();
    }
    places_.emplace_hint(next, begin, Place{end, token});
    return end;
  }

  std::vector<Fragment> fragments() const {
    std::vector<Fragment> out;
    out.reserve(2 * places_.size() + 1);
    size_t at = 0;
    for (const auto& [begin, place] : places_) {
      if (begin > at) out.push_back({-1, text_.substr(at, begin - at)});
      out.push_back({place.token, {}});
      at = place.end;
    }
    if (at < text_.size()) out.push_back({-1, text_.substr(at)});
    return out;
  }

 private:
  struct Place {
    size_t end;  // white space that it swallows included
    int32_t token;
  };
  const Vocabulary& vocabulary_;
  std::string_view text_;
  std::map<size_t, Place> places_;  // by where they begin
};

SpecialTokens::SpecialTokens(const Vocabulary& vocabulary) : by_text_(vocabulary.special()) {
  const auto text = [&](int32_t id) { return vocabulary.text(id); };
  std::sort(by_text_.begin(), by_text_.end(),
            [&](int32_t a, int32_t b) { return std::pair(text(a), a) < std::pair(text(b), b); });
  const auto same = [&](int32_t a, int32_t b) { return text(a) == text(b); };
  by_text_.erase(std::unique(by_text_.begin(), by_text_.end(), same), by_text_.end());
  for (size_t i = 0; i < by_text_.size(); ++i) {
    const std::string_view spelling = text(by_text_[i]);
    starts_[static_cast<uint8_t>(spelling[0])] = true;
    // What begins it stands before it, and so do those that begin with the same.
    int32_t shorter = static_cast<int32_t>(i) - 1;
    while (shorter >= 0 && !spelling.starts_with(text(by_text_[shorter]))) shorter = prefix_[shorter];
    prefix_.push_back(shorter);
  }
}

/// The longest special token that `text` begins with; −1: none.
int32_t SpecialTokens::longest_at_start(const Vocabulary& vocabulary, std::string_view text,
                                        bool parse_special) const {
  if (text.empty() || !starts_[static_cast<uint8_t>(text[0])]) return -1;
  const auto after =
      std::upper_bound(by_text_.begin(), by_text_.end(), text,
                       [&](std::string_view t, int32_t id) { return t < vocabulary.text(id); });
  // The last that is not greater than the text, or the longest that begins it.
  for (auto i = static_cast<int32_t>(after - by_text_.begin()) - 1; i >= 0; i = prefix_[i]) {
    const int32_t token = by_text_[i];
    const bool taken = parse_special || !vocabulary.has(token, Vocabulary::control | Vocabulary::unknown);
    if (taken && text.starts_with(vocabulary.text(token))) return token;
  }
  return -1;
}

/// As Hugging Face's tokenizers do: from left to right, the longest at each place.
void SpecialTokens::find_leftmost(const Vocabulary& vocabulary, std::string_view text, bool parse_special,
                                  Found& found) const {
  for (size_t at = 0; at < text.size();) {
    const int32_t token = longest_at_start(vocabulary, text.substr(at), parse_special);
    at = token >= 0 ? found.take(at, token) : at + 1;
  }
}

/// As llama.cpp does: the longest of the whole text first, equal ones by their ids. A place that overlaps one
/// that was taken is tried again with the longest token that fits before it, which is less than half as long
/// as what fitted before.
void SpecialTokens::find_longest(const Vocabulary& vocabulary, std::string_view text, bool parse_special,
                                 Found& found) const {
  struct Hit {
    size_t at;
    int32_t token;
  };
  const auto size = [&](const Hit& hit) { return vocabulary.text(hit.token).size(); };
  const auto later = [&](const Hit& a, const Hit& b) {
    return std::tuple(size(b), a.token, a.at) > std::tuple(size(a), b.token, b.at);
  };
  std::vector<Hit> hits;
  for (size_t at = 0; at < text.size(); ++at) {
    const int32_t token = longest_at_start(vocabulary, text.substr(at), parse_special);
    if (token >= 0) hits.push_back({at, token});
  }
  std::priority_queue queue(later, std::move(hits));
  while (!queue.empty()) {
    Hit hit = queue.top();
    queue.pop();
    const size_t room = found.room(hit.at);
    if (size(hit) <= room) {
      found.take(hit.at, hit.token);
      continue;
    }
    hit.token = longest_at_start(vocabulary, text.substr(hit.at, room), parse_special);
    if (hit.token >= 0) queue.push(hit);
  }
}

std::vector<Fragment> SpecialTokens::partition(const Vocabulary& vocabulary, std::string_view text,
                                               bool parse_special) const {
  Found found(vocabulary, text);
  if (vocabulary.leftmost_special()) {
    find_leftmost(vocabulary, text, parse_special, found);
  } else {
    find_longest(vocabulary, text, parse_special, found);
  }
  return found.fragments();
}

}  // namespace quern
