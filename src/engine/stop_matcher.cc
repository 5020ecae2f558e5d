#include "engine/stop_matcher.h"

#include <algorithm>
#include <utility>

namespace quern {

StopMatcher::StopMatcher(std::vector<std::string> stops) {
  for (std::string& text : stops) {
    if (text.empty()) continue;
    Stop stop{.text = std::move(text)};
    stop.fallback.assign(stop.text.size(), 0);
    for (size_t i = 1, border = 0; i < stop.text.size(); ++i) {
      while (border > 0 && stop.text[i] != stop.text[border]) border = stop.fallback[border - 1];
      if (stop.text[i] == stop.text[border]) ++border;
      stop.fallback[i] = static_cast<uint32_t>(border);
    }
    stops_.push_back(std::move(stop));
  }
}

/// True when the stop string is complete with this character.
bool StopMatcher::advance(Stop& stop, char c) {
  while (stop.progress > 0 && c != stop.text[stop.progress]) stop.progress = stop.fallback[stop.progress - 1];
  if (c == stop.text[stop.progress]) ++stop.progress;
  if (stop.progress < stop.text.size()) return false;
  stop.progress = stop.fallback[stop.progress - 1];
  return true;
}

/// Where the leftmost unfinished occurrence begins; the end of the text when there is none.
size_t StopMatcher::earliest_open() const {
  size_t longest = 0;
  for (const Stop& stop : stops_) longest = std::max(longest, stop.progress);
  return length_ - longest;
}

std::string StopMatcher::release(size_t end) {
  std::string text = held_.substr(0, end - released_);
  held_.erase(0, end - released_);
  released_ = end;
  return text;
}

std::string StopMatcher::push(std::string_view text) {
  if (matched_) return {};
  if (stops_.empty()) return std::string(text);
  for (const char c : text) {
    held_ += c;
    ++length_;
    for (size_t i = 0; i < stops_.size(); ++i) {
      if (!advance(stops_[i], c)) continue;
      const size_t begin = length_ - stops_[i].text.size();
      if (begin < start_) {
        start_ = begin;
        candidate_ = i;
      }
    }
    if (start_ != kNone && earliest_open() >= start_) {
      matched_ = true;
      return release(start_);
    }
  }
  return release(std::min(start_, earliest_open()));
}

std::string StopMatcher::finish() {
  if (matched_) return {};
  matched_ = start_ != kNone;
  return release(matched_ ? start_ : length_);
}

}  // namespace quern
