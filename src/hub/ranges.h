// Sets of byte ranges, and the sharing out of what is missing among connections.
#pragma once

#include <cstdint>
#include <map>
#include <mutex>
#include <optional>
#include <vector>

namespace quern::hub {

/// Bytes begin … end − 1.
struct ByteRange {
  uint64_t begin = 0, end = 0;
  uint64_t size() const { return end - begin; }
  bool operator==(const ByteRange&) const = default;
};

/// Disjoint, sorted, merged where they touch.
class RangeSet {
 public:
  void add(ByteRange range);
  uint64_t total() const;
  /// What lies between them in 0 … size − 1.
  std::vector<ByteRange> missing(uint64_t size) const;
  bool covers(uint64_t size) const { return missing(size).empty(); }
  std::vector<ByteRange> ranges() const;

 private:
  std::map<uint64_t, uint64_t> ends_;  // begin → end
};

/// Shares missing ranges among connections. An idle one takes half of what the busiest still has to do, so
/// that a slow connection holds nobody up. Thread-safe.
class WorkSharing {
 public:
  /// Nobody gets less than `least` bytes by sharing.
  WorkSharing(std::vector<ByteRange> missing, uint64_t least);

  using Ticket = size_t;
  struct Work {
    Ticket ticket;
    ByteRange range;
  };
  /// Empty when there is nothing left to take.
  std::optional<Work> take();
  /// `count` more bytes of the ticket are done; answers how many of them were still the ticket's own (fewer
  /// when another took its end).
  uint64_t advance(Ticket ticket, uint64_t count);
  /// Gives back what the ticket has not done.
  void put_back(Ticket ticket);

 private:
  struct Active {
    ByteRange left;
    bool busy = false;
  };
  std::mutex mutex_;
  std::vector<ByteRange> waiting_;  // guarded by mutex_
  std::vector<Active> active_;      // guarded by mutex_
  const uint64_t least_;
};

}  // namespace quern::hub
