// Decides what each step of an engine computes. No tensors, no threads, no clock: a state machine whose every
// answer follows from the calls made to it, times included. Not thread-safe.
#pragma once

#include <cstdint>
#include <map>
#include <span>
#include <vector>

#include "core/result.h"
#include "kv/block_manager.h"

namespace quern {

struct SchedulerOptions {
  int max_running = 10;
  int max_queued = 100;
  double queue_timeout = 30;  // seconds
  int64_t context = 0;        // longest sequence; at most what all blocks hold
  int64_t chunk_rows = 256;   // most prompt rows in a step
  int64_t logit_rows = 64;    // most rows in a step of sequences that want the logits of their prompt
  double step_seconds = 0.3;  // about how long a step may take while others wait for their next token
};

/// Rows of one sequence to run in this step.
struct PlannedSlice {
  uint64_t id = 0;
  int64_t start = 0;                // position of the first row
  std::span<const int32_t> tokens;  // one a row
  std::span<const int32_t> blocks;
  bool samples = false;  // the last row is the sequence's end: its logits give the next token
  int64_t cached = 0;    // prompt tokens that were in the prefix cache when the sequence first ran
};

/// Spans stay valid until the scheduler is next told to change one of these sequences.
struct Plan {
  std::vector<PlannedSlice> slices;  // decodes first, oldest first
  std::vector<uint64_t> admitted;    // started in this step (not those continued after a put-back)
  std::vector<uint64_t> put_back;    // lost their blocks; will be continued by recomputing
  std::vector<uint64_t> expired;     // waited too long; already removed
};

/// Sequences are identified by ascending ids: a lower id is older. Rules:
///  - Every running sequence whose tokens are computed but for the last decodes one row in every step.
///  - Prompts (and put-back sequences) share `chunk_rows` rows a step, fewer beside decodes where that many
///  would
///    take longer than `step_seconds`: in equal parts, what is left over to the oldest. A prompt whose next
///    block an older one is computing right now waits for that block.
///  - Waiting sequences start oldest first, so a put-back one always before one that has never run; none
///    overtakes. A sequence starts when blocks for all its tokens are free, and one more for each running
///    one.
///  - When a decode finds no block, the youngest running sequence is put back. The oldest is never put back
///    for another, and all blocks hold `context` tokens, so there is always progress.
class Scheduler {
 public:
  Scheduler(const SchedulerOptions& options, int64_t blocks, int64_t block_size, bool prefix_caching);

  /// `id` is higher than any before. `all_logits`: the logits of every prompt row are wanted, so no part of
  /// it comes from the prefix cache. invalid_argument: empty, or not shorter than the context (with both
  /// numbers); unavailable: the queue is full.
  Result<> submit(uint64_t id, std::vector<int32_t> prompt, bool all_logits, double now);
  /// What submit would say, without doing it.
  Result<> admissible(int64_t prompt_tokens) const;
  /// Ended or cancelled, in any state: gives its blocks back. Unknown ids are ignored.
  void remove(uint64_t id);

  Plan plan(double now);
  /// The slices of the last plan are in the KV cache (of those sequences that are still there).
  void commit(const Plan& plan);
  /// A step of so many rows took so long.
  void measured(int64_t rows, double seconds);
  /// The answer's next token, after a commit.
  void append(uint64_t id, int32_t token);

  bool idle() const { return running_.empty() && waiting_.empty(); }
  int running() const { return static_cast<int>(running_.size()); }
  /// Put-back ones included.
  int waiting() const { return static_cast<int>(waiting_.size()); }
  /// Prompt and answer so far; empty for an unknown id.
  std::span<const int32_t> tokens(uint64_t id) const;
  const BlockManager& blocks() const { return blocks_; }

 private:
  struct Sequence {
    std::vector<int32_t> tokens;  // prompt and answer
    int64_t computed = 0;         // leading tokens that are in the KV cache
    int64_t cached = 0;
    BlockTable table;
    double arrived = 0;
    bool all_logits = false;
    bool started = false;  // has run before
    bool put_back = false;

    int64_t left() const { return static_cast<int64_t>(tokens.size()) - computed; }
  };
  using Sequences = std::map<uint64_t, Sequence>;  // oldest first; nodes move between the two, never copied
  struct Prefill {
    uint64_t id;
    Sequence* sequence;
    int64_t rows = 0;
  };

  const Sequence* find(uint64_t id) const;
  void expire(double now, Plan& plan);
  void plan_decodes(Plan& plan);
  bool secure_block(uint64_t id, Sequence& sequence, Plan& plan);
  void admit(Plan& plan);
  void plan_prefills(Plan& plan);
  int64_t chunk_rows(const Plan& plan) const;
  std::vector<Prefill> prefills();
  bool follows(const Sequence& sequence, std::span<const Prefill> older) const;
  void attach(Sequence& sequence);
  static void add_slice(Plan& plan, uint64_t id, const Sequence& sequence, int64_t rows);

  const SchedulerOptions options_;
  BlockManager blocks_;
  Sequences running_, waiting_;
  double seconds_per_row_ = 0;  // of steps with many rows; 0: not measured yet
};

}  // namespace quern
