#include "quantize/shard_arrivals.h"

#include <utility>

namespace quern {

ShardArrivals::ShardArrivals(ArrivingCheckpoint& checkpoint, const std::vector<std::string>& here,
                             Fetch fetch, Done done)
    : checkpoint_(checkpoint), fetch_(std::move(fetch)), done_(std::move(done)) {
  if (auto own = checkpoint_.tensors_of(""); !own.empty()) named_.push_back(std::move(own));
  for (const std::string& shard : here) {
    problem_ = add(shard);
    if (!problem_) break;
  }
}

Result<> ShardArrivals::add(const std::string& shard) {
  std::vector<const RawTensor*> tensors = checkpoint_.tensors_of(shard);
  if (tensors.empty()) return leave(shard);
  const std::lock_guard lock(mutex_);
  for (const RawTensor* tensor : tensors) shard_of_[tensor] = shard;
  left_[shard] = tensors.size();
  named_.push_back(std::move(tensors));
  changed_.notify_all();
  return {};
}

Result<> ShardArrivals::leave(const std::string& shard) {
  QUERN_TRY_VOID(checkpoint_.leave(shard));
  done_(shard);
  return {};
}

void ShardArrivals::fetch(const std::stop_token& stop) {
  Result<> ended = fetch_(
      [this](const std::string& shard) -> Result<> {
        QUERN_TRY_VOID(checkpoint_.arrive(shard));
        return add(shard);
      },
      stop);
  const std::lock_guard lock(mutex_);
  ended_ = true;
  problem_ = std::move(ended);
  changed_.notify_all();
}

Result<std::vector<const RawTensor*>> ShardArrivals::next() {
  std::unique_lock lock(mutex_);
  if (!problem_) return fail(problem_.error());
  if (!thread_.joinable() && !stopped_)
    thread_ = std::jthread([this](const std::stop_token& stop) { fetch(stop); });
  changed_.wait(lock, [&] { return !named_.empty() || ended_ || stopped_; });
  if (stopped_) return fail(ErrorCode::cancelled, "{}: stopped", checkpoint_.name());
  if (!problem_) return fail(problem_.error());
  std::vector<const RawTensor*> tensors;
  if (named_.empty()) return tensors;
  tensors = std::move(named_.front());
  named_.pop_front();
  return tensors;
}

Result<> ShardArrivals::done(const RawTensor& tensor) {
  std::string shard;
  {
    const std::lock_guard lock(mutex_);
    const auto it = shard_of_.find(&tensor);
    if (it == shard_of_.end()) return {};  // of no shard
    if (--left_[it->second] == 0) shard = it->second;
    shard_of_.erase(it);
  }
  return shard.empty() ? Result<>{} : leave(shard);
}

void ShardArrivals::stop() {
  const std::lock_guard lock(mutex_);
  stopped_ = true;
  thread_.request_stop();
  changed_.notify_all();
}

}  // namespace quern
