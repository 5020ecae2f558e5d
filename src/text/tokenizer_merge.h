// The loop that SentencePiece's and GPT-2's tokenizers share: join the best pair of neighbours until none is
// left.
#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>
#include <vector>

namespace quern {

/// A run of bytes of the text that is one token so far.
struct MergeSymbol {
  static constexpr uint32_t no_rank = std::numeric_limits<uint32_t>::max();

  uint32_t begin = 0, length = 0;  // length 0: joined to its left neighbour
  int32_t id = -1;
  int32_t prev = -1, next = -1;  // −1: none
  uint32_t rank = no_rank;       // of joining this with `next`; the lowest goes first
  int32_t merged = -1;           // the id that gives
};

/// Reused from word to word, so that its memory is.
class PairMerger {
 public:
  void clear() { symbols_.clear(); }
  void add(uint32_t begin, uint32_t length, int32_t id) {
    const auto index = static_cast<int32_t>(symbols_.size());
    if (index > 0) symbols_.back().next = index;
    symbols_.push_back({begin, length, id, index - 1, -1, MergeSymbol::no_rank, -1});
  }

  /// `rank(left, right, merged)` is the rank of joining two neighbours and sets the id; no_rank: they do not
  /// join. The lowest rank goes first, of equals the leftmost. O(n log n) in the number of symbols.
  template <class Rank>
  void run(const Rank& rank) {
    for (MergeSymbol& symbol : symbols_) update(symbol, rank);
    if (symbols_.size() <= scan_limit) {
      scan(rank);
    } else {
      drain_heap(rank);
    }
  }

  /// What is left, from left to right.
  template <class Visit>
  void each(const Visit& visit) const {
    for (int32_t i = symbols_.empty() ? -1 : 0; i >= 0; i = symbols_[i].next) visit(symbols_[i]);
  }

 private:
  static constexpr size_t scan_limit = 40;  // below it a scan costs less than a heap

  struct Candidate {
    uint32_t rank;
    int32_t left;
    uint32_t length;  // of both: tells whether the pair is still the one that was pushed
    bool operator<(const Candidate& other) const {  // a heap's top is its largest
      return rank != other.rank ? rank > other.rank : left > other.left;
    }
  };

  template <class Rank>
  void update(MergeSymbol& symbol, const Rank& rank) {
    symbol.rank = symbol.next < 0 ? MergeSymbol::no_rank : rank(symbol, symbols_[symbol.next], symbol.merged);
  }

  template <class Rank>
  void join(MergeSymbol& left, const Rank& rank) {
    MergeSymbol& right = symbols_[left.next];
    left.length += right.length;
    left.id = left.merged;
    left.next = right.next;
    right.length = 0;
    if (left.next >= 0) symbols_[left.next].prev = right.prev;
    update(left, rank);
    if (left.prev >= 0) update(symbols_[left.prev], rank);
  }

  template <class Rank>
  void scan(const Rank& rank) {
    if (symbols_.empty()) return;
    while (true) {
      MergeSymbol* best = &symbols_[0];
      for (int32_t i = symbols_[0].next; i >= 0; i = symbols_[i].next) {
        if (symbols_[i].rank < best->rank) best = &symbols_[i];
      }
      if (best->rank == MergeSymbol::no_rank) return;
      join(*best, rank);
    }
  }

  template <class Rank>
  void drain_heap(const Rank& rank) {
    heap_.clear();
    for (size_t i = 0; i < symbols_.size(); ++i) append(static_cast<int32_t>(i));
    std::make_heap(heap_.begin(), heap_.end());
    while (!heap_.empty()) {
      std::pop_heap(heap_.begin(), heap_.end());
      const Candidate top = heap_.back();
      heap_.pop_back();
      MergeSymbol& left = symbols_[top.left];
      if (left.length == 0 || left.rank != top.rank || pair_length(left) != top.length) continue;
      join(left, rank);
      push(top.left);
      push(left.prev);
    }
  }

  uint32_t pair_length(const MergeSymbol& left) const { return left.length + symbols_[left.next].length; }
  bool append(int32_t left) {
    if (left < 0 || symbols_[left].rank == MergeSymbol::no_rank) return false;
    heap_.push_back({symbols_[left].rank, left, pair_length(symbols_[left])});
    return true;
  }
  void push(int32_t left) {
    if (append(left)) std::push_heap(heap_.begin(), heap_.end());
  }

  std::vector<MergeSymbol> symbols_;
  std::vector<Candidate> heap_;
};

}  // namespace quern
