// Feeds the quantizer with the shards of a checkpoint as they come.
#pragma once

#include <condition_variable>
#include <deque>
#include <functional>
#include <mutex>
#include <string>
#include <thread>
#include <unordered_map>
#include <vector>

#include "models/checkpoint.h"
#include "quantize/quantizer.h"

namespace quern {

/// Tensors of a shard may be read once all of it has come; those of an expert stack that lie in other shards
/// are other pieces of the stack, so no order of shards is one to wait for.
class ShardArrivals final : public Arrivals {
 public:
  /// Gets the shards that were not here, in any order, and calls `arrived` with each (whose error ends it).
  /// Runs on a thread of its own, from the quantizer's first question on: the room for the result is taken by
  /// then. The token asks it to end.
  using Fetch = std::function<Result<>(const std::function<Result<>(const std::string& shard)>& arrived,
                                       const std::stop_token& stop)>;
  /// The shard was read for the last time, and its file is closed. From any thread.
  using Done = std::function<void(const std::string& shard)>;

  /// `here`: shards that need not be fetched.
  ShardArrivals(ArrivingCheckpoint& checkpoint, const std::vector<std::string>& here, Fetch fetch, Done done);
  /// Ends the fetching.
  ~ShardArrivals() override = default;

  Result<std::vector<const RawTensor*>> next() override;
  Result<> done(const RawTensor& tensor) override;
  void stop() override;

 private:
  void fetch(const std::stop_token& stop);
  /// Counts the shard's tensors and lets `next` name them.
  Result<> add(const std::string& shard);
  Result<> leave(const std::string& shard);

  ArrivingCheckpoint& checkpoint_;
  const Fetch fetch_;
  const Done done_;
  std::mutex mutex_;
  std::condition_variable changed_;
  // Guarded by mutex_:
  std::deque<std::vector<const RawTensor*>> named_;             // by shard; not empty
  std::unordered_map<const RawTensor*, std::string> shard_of_;  // of those that are not done
  std::unordered_map<std::string, size_t> left_;                // of a shard: tensors that are not done
  bool ended_ = false;                                          // no more will come
  bool stopped_ = false;
  Result<> problem_;
  std::jthread thread_;  // last: joins before all else goes
};

}  // namespace quern
