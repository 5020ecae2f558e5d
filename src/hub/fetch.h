// Gets files of one repo into the cache.
#pragma once

#include <span>
#include <stop_token>
#include <string>
#include <vector>

#include "hub/api.h"
#include "hub/cache.h"
#include "hub/progress.h"
#include "hub/reference.h"
#include "hub/repo_listing.h"
#include "hub/select.h"

namespace quern::hub {

class Fetcher {
 public:
  Fetcher(Api& api, const Cache& cache, Meter& meter, std::stop_token stop)
      : api_(api), cache_(cache), meter_(meter), stop_(std::move(stop)) {}

  /// All files of the choice, shards included; a revision's name is remembered once everything is there.
  Result<> fetch_model(const std::string& repo, const std::string& revision, const RepoListing& listing,
                       const Selection& selection);
  /// Those of `files` that the snapshot has not: asks for their sizes, checks the disk's space, fetches them.
  Result<> fetch_files(const std::string& repo, const RepoListing& listing,
                       std::span<const std::string> files);

  /// Of a checkpoint everything but its weights, so that the rest can be judged before it is fetched; their
  /// names.
  Result<std::vector<std::string>> fetch_small_files(const std::string& repo, const RepoListing& listing,
                                                     const Selection& selection);
  /// One file; nothing when the cache has it.
  Result<> fetch_one(const std::string& repo, const std::string& commit, const std::string& name,
                     const RemoteFile& file);
  Result<> check_space(const std::string& repo, std::span<const RemoteFile> files) const;

 private:
  Result<> refuse_unknown_method(const std::string& repo, const std::string& commit) const;

  Api& api_;
  const Cache& cache_;
  Meter& meter_;
  const std::stop_token stop_;
};

}  // namespace quern::hub
