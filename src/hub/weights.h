// The weights of a checkpoint of the hub, file by file: for who works on each as it comes, and may drop it
// then.
#pragma once

#include <stop_token>

#include "hub/api.h"
#include "hub/cache.h"
#include "hub/fetch.h"
#include "hub/hub.h"

namespace quern {

/// One at a time; not thread-safe, apart from what the cache guards against other processes.
class WeightsFetcher {
 public:
  /// `checkpoint` must outlive it.
  WeightsFetcher(HubOptions options, const HubCheckpoint& checkpoint, HubProgressSink progress,
                 std::stop_token stop);

  /// Up to `count` first bytes of a file that is not here, from the hub.
  Result<std::string> head(size_t file, uint64_t count);
  /// resource_exhausted, with both numbers, when the disk has no room for all files that are not here.
  Result<> check_space() const;
  /// Whether it has room for this one; else what `check_space` says of it.
  Result<> check_space(size_t file) const;
  /// Gets a file, verified, into the cache; nothing when it is there.
  Result<> fetch(size_t file);

 private:
  const HubOptions options_;
  const HubCheckpoint& checkpoint_;
  const hub::Cache cache_;
  hub::Api api_;
  hub::Meter meter_;
  const std::stop_token stop_;
  hub::Fetcher fetcher_;
  std::vector<hub::RemoteFile> files_;
};

/// To be called when all is here, or was put to use: the revision's name is remembered. With
/// `without_weights` also what these are, so that `Hub::checkpoint` can tell without a network when they are
/// gone.
Result<> remember_checkpoint(const HubOptions& options, const HubCheckpoint& checkpoint,
                             bool without_weights);

/// Drops the weights from the cache (drop_file; remember_checkpoint first); bytes freed.
uint64_t drop_weights(const HubOptions& options, const HubCheckpoint& checkpoint, size_t file);

}  // namespace quern
