// A file on its way: the bytes that have arrived, in any order, and a journal of which they are.
//
// Beside a blob `E` lie, until it is whole, `E.quern-part` (the bytes) and `E.quern-ranges` (the journal).
// huggingface_hub's own `E.incomplete` holds a prefix and nothing else, so ranges never go there; a prefix
// that lies there is taken over.
//
// The journal is text: a head line, then one line per finished range, `BEGIN END`, and `sync` where all above
// is known to be on the disk. What a killed process wrote is still in the page cache, so all lines count as
// long as the machine was not started anew (its boot id stands in the head); after that only those above the
// last `sync`.
#pragma once

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <mutex>
#include <span>
#include <stop_token>
#include <string>

#include "core/file.h"
#include "core/result.h"
#include "hub/ranges.h"

namespace quern::hub {

class PartialFile {
 public:
  /// For the blob at `blob` (its name is the etag), `size` bytes. The caller holds the blob's lock. Continues
  /// what is there, when it is of that size. resource_exhausted: the disk has no room for the rest.
  static Result<PartialFile> open(const std::filesystem::path& blob, uint64_t size);
  PartialFile(PartialFile&&) = default;

  std::vector<ByteRange> missing() const { return done_.missing(size_); }
  uint64_t bytes_done() const { return done_.total(); }
  /// Whether there was something to continue.
  bool continued() const { return continued_; }

  /// Writes bytes and remembers them. Thread-safe.
  Result<> write(uint64_t offset, std::span<const std::byte> data);
  /// Forgets everything: the next try starts from nothing.
  Result<> start_over();
  /// Everything has arrived: checks the hash, syncs, and renames into place. corrupt: it was not what the
  /// etag says; nothing of it is kept.
  Result<> finish(const std::stop_token& stop, const std::function<void(uint64_t)>& progress);

  /// Bytes of the disk that a partial file of this blob occupies already.
  static uint64_t bytes_on_disk(const std::filesystem::path& blob);
  /// Removes what a partial file of this blob left.
  static void discard(const std::filesystem::path& blob);

 private:
  PartialFile(std::filesystem::path blob, uint64_t size);
  Result<> adopt_prefix();
  Result<> open_files();
  RangeSet read_journal() const;
  Result<> write_journal();
  Result<> flush_pending();

  std::filesystem::path blob_, part_, journal_path_;
  uint64_t size_ = 0;
  bool continued_ = false;
  Descriptor data_, journal_;
  std::unique_ptr<std::mutex> mutex_ = std::make_unique<std::mutex>();
  RangeSet done_;                                    // guarded by mutex_
  RangeSet pending_;                                 // written, not yet in the journal; guarded by mutex_
  uint64_t unsynced_ = 0;                            // guarded by mutex_
  std::chrono::steady_clock::time_point last_sync_;  // guarded by mutex_
};

}  // namespace quern::hub
