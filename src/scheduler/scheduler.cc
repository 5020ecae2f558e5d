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
    : options_(options), blocks_(blocks, block_size, prefix_caching), cost_(options.draft_cost) {
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

Result<> Scheduler::submit(uint64_t id, std::vector<int32_t> prompt, const SequenceOptions& options,
                           double now) {
  QUERN_TRY_VOID(admissible(static_cast<int64_t>(prompt.size())));
  QUERN_DCHECK(waiting_.empty() || id > waiting_.rbegin()->first);
  QUERN_DCHECK(running_.empty() || id > running_.rbegin()->first);
  Sequence& sequence = waiting_[id];
  sequence.tokens = std::move(prompt);
  sequence.arrived = now;
  sequence.options = options;
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
  return sequence->text();
}

Plan Scheduler::plan(double now) {
  Plan plan;
  for (auto& [id, sequence] : running_) sequence.drop_drafts();  // of a step that failed
  expire(now, plan);
  plan_decodes(plan);
  admit(plan);
  plan_prefills(plan);
  plan_drafts(plan);
  return plan;
}

void Scheduler::expire(double now, Plan& plan) {
  for (auto it = waiting_.begin(); it != waiting_.end();) {
    // A sequence whose answer has begun is continued, however long that takes.
    if (it->second.expires() && now - it->second.arrived > options_.queue_timeout) {
      plan.expired.push_back(it->first);
      it = waiting_.erase(it);
    } else {
      ++it;
    }
  }
}

/// The next `rows` rows, and the guesses after them.
PlannedSlice Scheduler::slice_of(uint64_t id, const Sequence& sequence, int64_t rows) {
  const std::span<const int32_t> tokens = sequence.tokens;
  return {.id = id,
          .start = sequence.computed,
          .tokens = tokens.subspan(static_cast<size_t>(sequence.computed),
                                   static_cast<size_t>(rows + sequence.drafted)),
          .blocks = sequence.table.blocks,
          .samples = rows == sequence.left(),
          .drafted = sequence.drafted,
          .cached = sequence.cached};
}

void Scheduler::plan_decodes(Plan& plan) {
  for (auto it = running_.begin(); it != running_.end();) {
    auto& [id, sequence] = *it;
    if (sequence.left() > 1) {
      ++it;
      continue;
    }
    if (!secure_block(id, sequence, plan)) return;  // it was the youngest itself
    plan.slices.push_back(slice_of(id, sequence, 1));
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
  if (sequence.options.all_logits) return;
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
    if (next.options.begun != nullptr) *next.options.begun = true;
    running_.insert(waiting_.extract(waiting_.begin()));
  }
}

/// Whether an older sequence computes, in this step, the very block that `sequence` needs next.
bool Scheduler::follows(const Sequence& sequence, std::span<const Sequence* const> older) const {
  const int64_t size = blocks_.block_size();
  if (!blocks_.prefix_caching() || sequence.options.all_logits) return false;
  // Only at a block's beginning, and only when the last token stays to be computed.
  if (sequence.computed != sequence.table.sealed * size || sequence.left() <= size) return false;
  const auto begin = static_cast<ptrdiff_t>(sequence.computed);
  const auto end = static_cast<ptrdiff_t>(sequence.computed + size);
  return std::ranges::any_of(older, [&](const Sequence* other) {
    const auto& tokens = other->tokens;
    return other->table.node == sequence.table.node && static_cast<ptrdiff_t>(tokens.size()) >= end &&
           std::equal(tokens.begin() + begin, tokens.begin() + end, sequence.tokens.begin() + begin);
  });
}

/// The running sequences that the plan has no decode of, without those that follow another.
std::vector<Scheduler::Prefill> Scheduler::prefills(const Plan& decodes) {
  std::vector<Prefill> result;
  std::vector<const Sequence*> older;  // that have rows in this step
  for (auto& [id, sequence] : running_) {
    const auto is_this = [id = id](const PlannedSlice& slice) { return slice.id == id; };
    if (std::ranges::none_of(decodes.slices, is_this)) {
      // What an older sequence has sealed meanwhile need not be computed again.
      if (sequence.left() > 1 && sequence.computed == sequence.table.sealed * blocks_.block_size())
        attach(sequence);
      if (follows(sequence, older)) continue;
      result.push_back({id, &sequence});
    }
    older.push_back(&sequence);
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
  cost_.measured(rows, seconds);
  if (rows < kLeastRows) return;
  const double one = seconds / static_cast<double>(rows);
  seconds_per_row_ = seconds_per_row_ == 0 ? one : 0.75 * seconds_per_row_ + 0.25 * one;
}

void Scheduler::plan_prefills(Plan& plan) {
  std::vector<Prefill> prompts = prefills(plan);
  if (prompts.empty()) return;

  int64_t rows = chunk_rows(plan), logit_rows = options_.logit_rows;
  const auto give = [&](Prefill& prompt, int64_t most) {
    int64_t& budget = prompt.sequence->options.all_logits ? logit_rows : rows;
    most = std::min({most, prompt.sequence->left() - prompt.rows, rows, budget});
    prompt.rows += most;
    rows -= most;
    if (prompt.sequence->options.all_logits) logit_rows -= most;
  };
  const int64_t share = std::max<int64_t>(1, rows / static_cast<int64_t>(prompts.size()));
  for (Prefill& prompt : prompts) give(prompt, share);
  for (Prefill& prompt : prompts) give(prompt, rows);
  for (const Prefill& prompt : prompts)
    if (prompt.rows > 0) plan.slices.push_back(slice_of(prompt.id, *prompt.sequence, prompt.rows));
}

/// How many guesses the sequence could use: the token after the last of them must still be wanted.
int64_t Scheduler::most_drafts(const Sequence& sequence) const {
  return std::min({options_.draft_rows, options_.context - sequence.length() - 1,
                   sequence.options.longest - sequence.length() - 1});
}

/// Decodes are given guesses to go on with, as far as that pays.
void Scheduler::plan_drafts(Plan& plan) {
  std::vector<DraftChoice> choices;
  std::vector<std::pair<PlannedSlice*, Sequence*>> places;
  int64_t rows = 0;
  for (PlannedSlice& slice : plan.slices) {
    rows += static_cast<int64_t>(slice.tokens.size());
    if (!slice.samples || slice.tokens.size() > 1) continue;
    Sequence& sequence = running_.at(slice.id);
    const int64_t most = most_drafts(sequence);
    if (most < 1) continue;
    sequence.match = sequence.lookup.find(sequence.text());
    if (sequence.match.length == 0) continue;
    choices.push_back({.history = &sequence.history, .match = sequence.match.length, .most = most});
    places.emplace_back(&slice, &sequence);
  }
  const int64_t most = std::min(options_.draft_rows, options_.max_running + options_.chunk_rows - rows);
  choose_drafts(choices, cost_, rows, static_cast<int64_t>(plan.slices.size()), most);
  for (size_t i = 0; i < choices.size(); ++i) {
    auto& [slice, sequence] = places[i];
    if (draft(*sequence, choices[i])) *slice = slice_of(slice->id, *sequence, 1);
  }
}

/// Puts the guesses behind the sequence, as many as there are blocks for.
bool Scheduler::draft(Sequence& sequence, const DraftChoice& choice) {
  int64_t rows = choice.rows;
  while (rows > 0 && !blocks_.grow(sequence.table, sequence.length() + rows)) --rows;
  if (rows == 0) return false;
  const int64_t length = sequence.length();
  for (int64_t i = 0; i < rows; ++i)
    sequence.tokens.push_back(PromptLookup::guess(
        std::span(sequence.tokens).first(static_cast<size_t>(length)), sequence.match, i));
  sequence.drafted = rows;
  sequence.draft_cost = choice.cost * static_cast<double>(rows) / static_cast<double>(choice.rows);
  drafts_.proposed += static_cast<uint64_t>(rows);
  return true;
}

void Scheduler::Sequence::drop_drafts() {
  tokens.resize(static_cast<size_t>(length()));
  drafted = 0;
  draft_cost = 0;
}

void Scheduler::commit(const Plan& plan) {
  for (const PlannedSlice& slice : plan.slices) {
    const auto found = running_.find(slice.id);
    if (found == running_.end()) continue;
    Sequence& sequence = found->second;
    sequence.computed += static_cast<int64_t>(slice.tokens.size()) - slice.drafted;
    blocks_.seal(sequence.table, sequence.text(), sequence.computed);
  }
}

void Scheduler::append(uint64_t id, std::span<const int32_t> tokens) {
  const auto found = running_.find(id);
  QUERN_DCHECK(found != running_.end() && found->second.left() == 0);
  if (found == running_.end()) return;
  Sequence& sequence = found->second;
  const auto guesses = std::span(sequence.tokens).last(static_cast<size_t>(sequence.drafted));
  const auto accepted = std::ranges::mismatch(guesses, tokens).in1 - guesses.begin();
  QUERN_DCHECK(std::ssize(tokens) <= accepted + 1);
  sequence.history.step(sequence.match.length, sequence.drafted, accepted, sequence.draft_cost);
  drafts_.accepted += static_cast<uint64_t>(accepted);
  const bool drafted = sequence.drafted > 0;
  sequence.drop_drafts();
  sequence.tokens.insert(sequence.tokens.end(), tokens.begin(), tokens.end());
  if (!drafted) return;
  sequence.computed += accepted;
  blocks_.seal(sequence.table, sequence.tokens, sequence.computed);
  blocks_.shrink(sequence.table, sequence.computed);
}

}  // namespace quern
