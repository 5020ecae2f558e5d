// Decides what each step of an engine computes. No tensors, no threads, no clock: a state machine whose every
// answer follows from the calls made to it, times included. Not thread-safe.
#pragma once

#include <cstdint>
#include <limits>
#include <map>
#include <memory>
#include <span>
#include <vector>

#include "core/result.h"
#include "kv/block_manager.h"
#include "scheduler/draft.h"
#include "scheduler/prompt_lookup.h"
#include "scheduler/step_cost.h"

namespace quern {

struct SchedulerOptions {
  int max_running = 10;
  int max_queued = 100;
  double queue_timeout = 30;  // seconds
  int64_t context = 0;        // longest sequence; at most what all blocks hold
  int64_t chunk_rows = 256;   // most prompt rows in a step
  int64_t logit_rows = 64;    // most rows in a step of sequences that want the logits of their prompt
  double step_seconds = 0.3;  // about how long a step may take while others wait for their next token
  int64_t draft_rows = 32;    // most guessed tokens in a step; 0: none
  double draft_cost = 0;      // of a row, as a part of a step of one; 0: as measured (else for tests)
};

struct SequenceOptions {
  /// The logits of every prompt row are wanted, so no part of it comes from the prefix cache.
  bool all_logits = false;
  /// Prompt and answer together will not get longer; nothing beyond is guessed.
  int64_t longest = std::numeric_limits<int64_t>::max();
  /// Shared by sequences that make one answer: set when the first of them starts. From then on the others do
  /// not expire, however long they wait for each other. May be null.
  std::shared_ptr<bool> begun;
};

/// Rows of one sequence to run in this step.
struct PlannedSlice {
  uint64_t id = 0;
  int64_t start = 0;                // position of the first row
  std::span<const int32_t> tokens;  // one a row
  std::span<const int32_t> blocks;
  bool samples = false;  // the row before the guesses is the sequence's end: its logits give the next token
  int64_t drafted = 0;   // that many last tokens are guesses: each row's logits count if its token came true
  int64_t cached = 0;    // prompt tokens that were in the prefix cache when the sequence first ran
};

/// Guessed tokens, of all sequences so far.
struct DraftTotals {
  uint64_t proposed = 0, accepted = 0;
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
///  - A decode may be followed by guesses of the tokens after it, taken from the sequence's own text, as far
///    as that is expected to be faster in all (draft.h). Guesses take only rows and blocks that are left
///    over: nobody waits or is put back for them. They are not part of the sequence until `append` says so.
///  - When a decode finds no block, the youngest running sequence is put back. The oldest is never put back
///    for another, and all blocks hold `context` tokens, so there is always progress.
class Scheduler {
 public:
  Scheduler(const SchedulerOptions& options, int64_t blocks, int64_t block_size, bool prefix_caching);

  /// `id` is higher than any before. invalid_argument: empty, or not shorter than the context (with both
  /// numbers); unavailable: the queue is full.
  Result<> submit(uint64_t id, std::vector<int32_t> prompt, const SequenceOptions& options, double now);
  /// What submit would say, without doing it.
  Result<> admissible(int64_t prompt_tokens) const;
  /// Ended or cancelled, in any state: gives its blocks back. Unknown ids are ignored.
  void remove(uint64_t id);

  Plan plan(double now);
  /// The slices of the last plan are in the KV cache (of those sequences that are still there).
  void commit(const Plan& plan);
  /// A step of so many rows took so long.
  void measured(int64_t rows, double seconds);
  /// The answer's next tokens, after a commit: one, and one more for each guess that came true. All but the
  /// last equal the guesses.
  void append(uint64_t id, std::span<const int32_t> tokens);
  void append(uint64_t id, int32_t token) { append(id, std::span(&token, 1)); }

  bool idle() const { return running_.empty() && waiting_.empty(); }
  int running() const { return static_cast<int>(running_.size()); }
  /// Put-back ones included.
  int waiting() const { return static_cast<int>(waiting_.size()); }
  /// Prompt and answer so far; empty for an unknown id.
  std::span<const int32_t> tokens(uint64_t id) const;
  const BlockManager& blocks() const { return blocks_; }
  const DraftTotals& drafts() const { return drafts_; }

 private:
  struct Sequence {
    std::vector<int32_t> tokens;  // prompt and answer, then `drafted` guesses while a step runs
    int64_t drafted = 0;
    int64_t computed = 0;  // leading tokens that are in the KV cache
    int64_t cached = 0;
    BlockTable table;
    double arrived = 0;
    SequenceOptions options;
    bool started = false;  // has run before
    bool put_back = false;
    PromptLookup lookup;
    PromptLookup::Match match;  // that the guesses come from
    DraftHistory history;
    double draft_cost = 0;

    int64_t length() const { return static_cast<int64_t>(tokens.size()) - drafted; }
    int64_t left() const { return length() - computed; }
    bool expires() const { return !started && (options.begun == nullptr || !*options.begun); }
    std::span<const int32_t> text() const { return std::span(tokens).first(static_cast<size_t>(length())); }
    void drop_drafts();
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
  std::vector<Prefill> prefills(const Plan& decodes);
  bool follows(const Sequence& sequence, std::span<const Sequence* const> older) const;
  void attach(Sequence& sequence);
  void plan_drafts(Plan& plan);
  int64_t most_drafts(const Sequence& sequence) const;
  bool draft(Sequence& sequence, const DraftChoice& choice);
  static PlannedSlice slice_of(uint64_t id, const Sequence& sequence, int64_t rows);

  const SchedulerOptions options_;
  BlockManager blocks_;
  Sequences running_, waiting_;
  double seconds_per_row_ = 0;  // of steps with many rows; 0: not measured yet
  StepCost cost_;
  DraftTotals drafts_;
};

}  // namespace quern
