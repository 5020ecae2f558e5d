// The hub's API: what a repo holds, and what the hub says of a file.
#pragma once

#include <stop_token>
#include <string>
#include <vector>

#include "hub/download.h"
#include "hub/http.h"
#include "hub/options.h"
#include "hub/repo_listing.h"

namespace quern::hub {

std::string user_agent();

/// Errors say what to do. Their codes: unavailable (no network, time-outs, 429 and 5xx to the end: what is in
/// the cache may serve instead), not_found (repo, revision or file), invalid_argument (401, 403: a token is
/// missing, wrong, or lacks the right), corrupt (an answer that is no hub's), cancelled.
class Api {
 public:
  /// `reference` is what the user wrote, for the commands in messages.
  Api(const HubOptions& options, std::string reference);

  /// `attempts`: 1 where something else can serve when the network does not.
  Result<RepoListing> listing(const std::string& repo, const std::string& revision, int attempts,
                              const std::stop_token& stop);
  /// Branches and tags; empty when the hub does not tell.
  std::vector<std::string> refs(const std::string& repo, const std::stop_token& stop);
  Result<RemoteFile> file(const std::string& repo, const std::string& commit, const std::string& file,
                          const std::stop_token& stop);
  /// Bytes `first` … `first + count − 1` of a file; fewer at its end.
  Result<std::string> read(const RemoteFile& file, uint64_t first, uint64_t count,
                           const std::stop_token& stop);

  /// unavailable where HF_HUB_OFFLINE forbids to ask the hub, which callers look at before they do.
  Result<> allowed() const;
  DownloadOptions download_options() const;
  /// Where a file's bytes are asked for.
  std::string url_of(const std::string& repo, const std::string& commit, const std::string& file) const;

 private:
  std::optional<uint64_t> size_by_range(HttpRequest request, const std::stop_token& stop);
  HttpReply send(const HttpRequest& request, int attempts, const std::stop_token& stop);
  tl::unexpected<Error> refusal(const HttpReply& reply, const std::string& repo,
                                const std::string& what) const;

  const HubOptions& options_;
  const std::string reference_;
  HttpClient client_;
};

}  // namespace quern::hub
