#include "hub/ranges.h"

#include <algorithm>

namespace quern::hub {

void RangeSet::add(ByteRange range) {
  if (range.begin >= range.end) return;
  auto it = ends_.upper_bound(range.begin);
  if (it != ends_.begin() && std::prev(it)->second >= range.begin) --it;
  while (it != ends_.end() && it->first <= range.end) {
    range.begin = std::min(range.begin, it->first);
    range.end = std::max(range.end, it->second);
    it = ends_.erase(it);
  }
  ends_[range.begin] = range.end;
}

uint64_t RangeSet::total() const {
  uint64_t bytes = 0;
  for (const auto& [begin, end] : ends_) bytes += end - begin;
  return bytes;
}

std::vector<ByteRange> RangeSet::missing(uint64_t size) const {
  std::vector<ByteRange> gaps;
  uint64_t at = 0;
  for (const auto& [begin, end] : ends_) {
    if (begin >= size) break;
    if (begin > at) gaps.push_back({at, begin});
    at = end;
  }
  if (at < size) gaps.push_back({at, size});
  return gaps;
}

std::vector<ByteRange> RangeSet::ranges() const {
  std::vector<ByteRange> all;
  for (const auto& [begin, end] : ends_) all.push_back({begin, end});
  return all;
}

WorkSharing::WorkSharing(std::vector<ByteRange> missing, uint64_t least)
    : waiting_(std::move(missing)), least_(std::max<uint64_t>(least, 1)) {
  std::ranges::reverse(waiting_);  // taken from the back: the front of the file first
}

std::optional<WorkSharing::Work> WorkSharing::take() {
  const std::scoped_lock lock(mutex_);
  ByteRange range;
  if (!waiting_.empty()) {
    range = waiting_.back();
    waiting_.pop_back();
  } else {
    Active* busiest = nullptr;
    for (Active& active : active_)
      if (active.busy && (busiest == nullptr || active.left.size() > busiest->left.size())) busiest = &active;
    if (busiest == nullptr || busiest->left.size() < 2 * least_) return std::nullopt;
    const uint64_t middle = busiest->left.begin + busiest->left.size() / 2;
    range = {middle, busiest->left.end};
    busiest->left.end = middle;
  }
  const auto free = std::ranges::find(active_, false, &Active::busy);
  const Ticket ticket = static_cast<Ticket>(free - active_.begin());
  if (free == active_.end()) active_.emplace_back();
  active_[ticket] = {range, true};
  return Work{ticket, range};
}

uint64_t WorkSharing::advance(Ticket ticket, uint64_t count) {
  const std::scoped_lock lock(mutex_);
  ByteRange& left = active_[ticket].left;
  const uint64_t own = std::min(count, left.size());
  left.begin += own;
  return own;
}

void WorkSharing::put_back(Ticket ticket) {
  const std::scoped_lock lock(mutex_);
  Active& active = active_[ticket];
  if (active.busy && active.left.size() > 0) waiting_.push_back(active.left);
  active.busy = false;
}

}  // namespace quern::hub
