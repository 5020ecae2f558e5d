// One file of the hub into one blob of the cache.
#pragma once

#include <filesystem>
#include <stop_token>
#include <string>

#include "hub/http.h"
#include "hub/progress.h"

namespace quern::hub {

/// What the hub says of a file before it is fetched.
struct RemoteFile {
  std::string name;  // for messages
  std::string url;   // at the hub; redirects are followed anew for every range, because their targets expire
  std::string etag;  // normalized: the blob's name
  uint64_t size = 0;
};

struct DownloadOptions {
  std::string user_agent, token;
  std::chrono::seconds timeout{10};
  int connections = 8;
};

/// Fetches `file` to `blob`, in ranges over several connections where it is large, continuing what lies
/// there. Gives up after kMaxAttempts tries in a row without a byte of progress. The caller holds the blob's
/// lock.
Result<> download_file(const RemoteFile& file, const std::filesystem::path& blob,
                       const DownloadOptions& options, Meter& meter, const std::stop_token& stop);

}  // namespace quern::hub
