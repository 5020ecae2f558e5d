#include "scheduler/scheduler.h"

#include <algorithm>
#include <iterator>
#include <utility>

#include "core/check.h"

namespace quern {
namespace {

/// Below this a step's time is the weights', not the rows': fewer rows would save little, and tell little.
constexpr int64_t kLeastRows = 32;

}  // namespace

Scheduler::Scheduler(const SchedulerOptions& options, int64_t blocks, int64_t block_size, bool prefix_caching)
    : options_(options), blocks_(blocks, block_size, prefix_caching) {
  QUERN_CHECK(options.max_running >= 1 && options.chunk_rows >= 1 && options.logit_rows >= 1);
  QUERN_CHECK(options.context <= blocks * block_size && options.step_seconds > 0);
}

Result<> Scheduler::admissible(int64_t prompt_tokens) const {
  if (prompt_tokens == 0) return fail(ErrorCode::invalid_argument, "the prompt is empty: send some text");
  if (prompt_tokens >= options_.context)
    return fail(
        ErrorCode::invalid_argument,
        "the prompt has {} tokens, but the context holds {} and the answer needs at least one: shorten "
        "the prompt",
        prompt_tokens, options_.context);
  const int64_t most = int64_t{options_.max_running} + options_.max_queued;
  if (static_cast<int64_t>(running_.size() + waiting_.size()) >= most)
    return fail(ErrorCode::unavailable,
                "the queue is full: {} requests are running and {} waiting; try later", running_.size(),
                waiting_.size());
  return {};
}

Result<> Scheduler::submit(uint64_t id, std::vector<int32_t> prompt, bool all_logits, double now) {
  QUERN_TRY_VOID(admissible(static_cast<int64_t>(prompt.size())));
  QUERN_DCHECK(waiting_.empty() || id > waiting_.rbegin()->first);
  QUERN_DCHECK(running_.empty() || id > running_.rbegin()->first);
  Sequence& sequence = waiting_[id];
  sequence.tokens = std::move(prompt);
  sequence.arrived = now;
  sequence.all_logits = all_logits;
  return {};
}

void Scheduler::remove(uint64_t id) {
  waiting_.erase(id);  // holds no blocks
  if (const auto found = running_.find(id); found != running_.end()) {
    blocks_.release(found->second.table);
    running_.erase(found);
  }
}

const Scheduler::Sequence* Scheduler::find(uint64_t id) const {
  if (const auto found = running_.find(id); found != running_.end()) return &found->second;
  if (const auto found = waiting_.find(id); found != waiting_.end()) return &found->second;
  return nullptr;
}

std::span<const int32_t> Scheduler::tokens(uint64_t id) const {
  const Sequence* sequence = find(id);
  if (sequence == nullptr) return {};
  return sequence->tokens;
}

Plan Scheduler::plan(double now) {
  Plan plan;
  expire(now, plan);
  plan_decodes(plan);
  admit(plan);
  plan_prefills(plan);
  return plan;
}

void Scheduler::expire(double now, Plan& plan) {
  for (auto it = waiting_.begin(); it != waiting_.end();) {
    // A put-back sequence has been answering already: it is continued, however long that takes.
    if (!it->second.started && now - it->second.arrived > options_.queue_timeout) {
      plan.expired.push_back(it->first);
      it = waiting_.erase(it);
    } else {
      ++it;
    }
  }
}

void Scheduler::add_slice(Plan& plan, uint64_t id, const Sequence& sequence, int64_t rows) {
  const std::span<const int32_t> tokens = sequence.tokens;
  plan.slices.push_back(
      {.id = id,
       .start = sequence.computed,
       .tokens = tokens.subspan(static_cast<size_t>(sequence.computed), static_cast<size_t>(rows)),
       .blocks = sequence.table.blocks,
       .samples = rows == sequence.left(),
       .cached = sequence.cached});
}

void Scheduler::plan_decodes(Plan& plan) {
  for (auto it = running_.begin(); it != running_.end();) {
    auto& [id, sequence] = *it;
    if (sequence.left() > 1) {
      ++it;
      continue;
    }
    if (!secure_block(id, sequence, plan)) return;  // it was the youngest itself
    add_slice(plan, id, sequence, 1);
    ++it;  // only now: securing the block may have put the next one back
  }
}

/// False when the sequence itself had to be put back.
bool Scheduler::secure_block(uint64_t id, Sequence& sequence, Plan& plan) {
  while (!blocks_.grow(sequence.table, sequence.computed + 1)) {
    auto youngest = running_.extract(std::prev(running_.end()));
    Sequence& victim = youngest.mapped();
    blocks_.release(victim.table);
    victim.computed = 0;
    victim.put_back = true;
    const uint64_t victim_id = youngest.key();
    plan.put_back.push_back(victim_id);
    waiting_.insert(std::move(youngest));
    if (victim_id == id) return false;
  }
  return true;
}

void Scheduler::attach(Sequence& sequence) {
  if (sequence.all_logits) return;
  const int64_t covered = blocks_.attach(sequence.table, sequence.tokens);
  if (!sequence.put_back) sequence.cached += covered - sequence.computed;
  sequence.computed = covered;
}

void Scheduler::admit(Plan& plan) {
  while (!waiting_.empty() && running_.size() < static_cast<size_t>(options_.max_running)) {
    Sequence& next = waiting_.begin()->second;
    attach(next);
    const auto length = static_cast<int64_t>(next.tokens.size());
    const int64_t missing = blocks_.blocks_for(length) - static_cast<int64_t>(next.table.blocks.size());
    // One block to spare for each running sequence, else it would soon be put back again.
    if (missing + static_cast<int64_t>(running_.size()) > blocks_.free()) {
      blocks_.release(next.table);
      next.computed = 0;
      if (!next.started) next.cached = 0;
      return;
    }
    const bool grown = blocks_.grow(next.table, length);
    QUERN_DCHECK(grown);
    (void)grown;
    if (!std::exchange(next.started, true)) plan.admitted.push_back(waiting_.begin()->first);
    running_.insert(waiting_.extract(waiting_.begin()));
  }
}

/// Whether an older sequence computes, in this step, the very block that `sequence` needs next.
bool Scheduler::follows(const Sequence& sequence, std::span<const Prefill> older) const {
  const int64_t size = blocks_.block_size();
  if (!blocks_.prefix_caching() || sequence.all_logits) return false;
  // Only at a block's beginning, and only when the last token stays to be computed.
  if (sequence.computed != sequence.table.sealed * size || sequence.left() <= size) return false;
  const auto begin = static_cast<ptrdiff_t>(sequence.computed);
  const auto end = static_cast<ptrdiff_t>(sequence.computed + size);
  return std::ranges::any_of(older, [&](const Prefill& other) {
    const auto& tokens = other.sequence->tokens;
    return other.sequence->table.node == sequence.table.node &&
           static_cast<ptrdiff_t>(tokens.size()) >= end &&
           std::equal(tokens.begin() + begin, tokens.begin() + end, sequence.tokens.begin() + begin);
  });
}

/// The running sequences with more than a decode to compute, or just started, without those that follow.
std::vector<Scheduler::Prefill> Scheduler::prefills() {
  std::vector<Prefill> result;
  for (auto& [id, sequence] : running_) {
    // What an older sequence has sealed meanwhile need not be computed again.
    if (sequence.left() > 1 && sequence.computed == sequence.table.sealed * blocks_.block_size())
      attach(sequence);
    if (!follows(sequence, result)) result.push_back({id, &sequence});
  }
  return result;
}

int64_t Scheduler::chunk_rows(const Plan& plan) const {
  const int64_t least = std::min(kLeastRows, options_.chunk_rows);
  const double fit = options_.step_seconds / seconds_per_row_;  // infinite when nothing is known
  if (plan.slices.empty() || fit >= static_cast<double>(options_.chunk_rows)) return options_.chunk_rows;
  return std::max(least, static_cast<int64_t>(fit));
}

void Scheduler::measured(int64_t rows, double seconds) {
  if (rows < kLeastRows) return;
  const double one = seconds / static_cast<double>(rows);
  seconds_per_row_ = seconds_per_row_ == 0 ? one : 0.75 * seconds_per_row_ + 0.25 * one;
}

void Scheduler::plan_prefills(Plan& plan) {
  std::vector<Prefill> prompts = prefills();
  std::erase_if(prompts, [&](const Prefill& prompt) {
    return std::ranges::any_of(plan.slices, [&](const PlannedSlice& s) { return s.id == prompt.id; });
  });
  if (prompts.empty()) return;

  int64_t rows = chunk_rows(plan), logit_rows = options_.logit_rows;
  const auto give = [&](Prefill& prompt, int64_t most) {
    int64_t& budget = prompt.sequence->all_logits ? logit_rows : rows;
    most = std::min({most, prompt.sequence->left() - prompt.rows, rows, budget});
    prompt.rows += most;
    rows -= most;
    if (prompt.sequence->all_logits) logit_rows -= most;
  };
  const int64_t share = std::max<int64_t>(1, rows / static_cast<int64_t>(prompts.size()));
  for (Prefill& prompt : prompts) give(prompt, share);
  for (Prefill& prompt : prompts) give(prompt, rows);
  for (const Prefill& prompt : prompts)
    if (prompt.rows > 0) add_slice(plan, prompt.id, *prompt.sequence, prompt.rows);
}

void Scheduler::commit(const Plan& plan) {
  for (const PlannedSlice& slice : plan.slices) {
    const auto found = running_.find(slice.id);
    if (found == running_.end()) continue;
    Sequence& sequence = found->second;
    sequence.computed += static_cast<int64_t>(slice.tokens.size());
    blocks_.seal(sequence.table, sequence.tokens, sequence.computed);
  }
}

void Scheduler::append(uint64_t id, int32_t token) {
  const auto found = running_.find(id);
  QUERN_DCHECK(found != running_.end() && found->second.left() == 0);
  if (found != running_.end()) found->second.tokens.push_back(token);
}

}  // namespace quern
