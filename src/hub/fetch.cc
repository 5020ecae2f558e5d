#include "hub/fetch.h"

#include <algorithm>

#include "core/file.h"
#include "core/file_lock.h"
#include "core/log.h"
#include "hub/partial_file.h"

namespace quern::hub {
namespace {

namespace fs = std::filesystem;

/// A blob is there when it has the size that the hub says: a name is given to complete files only, but who
/// knows who has been at the folder.
bool has_blob(const fs::path& blob, uint64_t size) {
  std::error_code error;
  return fs::is_regular_file(blob, error) && fs::file_size(blob, error) == size && !error;
}

std::string in_units(uint64_t bytes) {
  return bytes < (10 << 20) ? fmt::format("{} bytes", bytes)
                            : fmt::format("{:.1f} GiB", static_cast<double>(bytes) / (1 << 30));
}

}  // namespace

Result<> Fetcher::check_space(const std::string& repo, std::span<const RemoteFile> files) const {
  uint64_t needed = 0;
  for (const RemoteFile& file : files) {
    const fs::path blob = cache_.blob(repo, file.etag);
    const uint64_t have = has_blob(blob, file.size) ? file.size : PartialFile::bytes_on_disk(blob);
    needed += file.size - std::min(have, file.size);
  }
  const auto free = cache_.free_bytes();
  if (!free || needed <= *free) return {};
  return fail(
      ErrorCode::resource_exhausted,
      "{}: needs {} on the disk of {}, which has {} left: free some space (quern list, quern rm), or set "
      "HF_HUB_CACHE to a folder on a larger disk",
      repo, in_units(needed), cache_.root().string(), in_units(*free));
}

Result<> Fetcher::fetch_one(const std::string& repo, const std::string& commit, const std::string& name,
                            const RemoteFile& file) {
  const fs::path blob = cache_.blob(repo, file.etag);
  if (has_blob(blob, file.size)) {
    meter_.add_found(file.size);
    return cache_.link(repo, commit, name, file.etag);
  }
  QUERN_TRY(const FileLock lock, FileLock::take(cache_.lock(repo, file.etag), stop_, [&] {
              meter_.phase(HubProgress::Phase::waiting, name);
              log::info("another process is fetching this file: waiting for it", {{"file", file.name}});
            }));
  if (has_blob(blob, file.size)) {
    meter_.add_found(file.size);
    PartialFile::discard(blob);
  } else {
    QUERN_TRY_VOID(download_file(file, blob, api_.download_options(), meter_, stop_));
  }
  return cache_.link(repo, commit, name, file.etag);
}

Result<> Fetcher::fetch_files(const std::string& repo, const RepoListing& listing,
                              std::span<const std::string> files) {
  std::vector<std::string> names;
  std::vector<RemoteFile> remote;
  uint64_t total = 0;
  for (const std::string& name : files) {
    if (cache_.has(repo, listing.commit, name)) continue;
    QUERN_TRY(RemoteFile file, api_.file(repo, listing.commit, name, stop_));
    total += file.size;
    names.push_back(name);
    remote.push_back(std::move(file));
  }
  if (names.empty()) return {};
  QUERN_TRY_VOID(check_space(repo, remote));
  QUERN_TRY_VOID(cache_.prepare(repo));
  meter_.add_total(total);
  for (size_t i = 0; i < names.size(); ++i) {
    if (stop_.stop_requested()) return fail(ErrorCode::cancelled, "{}: stopped", repo);
    QUERN_TRY_VOID(fetch_one(repo, listing.commit, names[i], remote[i]));
  }
  return {};
}

Result<> Fetcher::refuse_unknown_method(const std::string& repo, const std::string& commit) const {
  const auto config = read_small_file(cache_.snapshot(repo, commit) / "config.json", 16 << 20);
  if (!config) return fail(ErrorCode::corrupt, "{}: its config.json is too large", repo);
  auto method = quantization_method(*config);
  if (!method) return fail(ErrorCode::corrupt, "{}: {}", repo, method.error().message);
  if (method->empty() || *method == "gptq") return {};
  return fail(
      ErrorCode::unsupported,
      "{}: quantized by {}, which quern does not load: take a GGUF, GPTQ or unquantized repo of this model",
      repo, *method);
}

Result<std::vector<std::string>> Fetcher::fetch_small_files(const std::string& repo,
                                                            const RepoListing& listing,
                                                            const Selection& selection) {
  // What tells whether the rest is worth its size comes first.
  const std::string config = "config.json";
  QUERN_TRY_VOID(fetch_files(repo, listing, {&config, 1}));
  QUERN_TRY_VOID(refuse_unknown_method(repo, listing.commit));
  std::vector<std::string> small = selection.files;
  small.resize(small.size() - selection.weights.size());  // they are the last
  QUERN_TRY_VOID(fetch_files(repo, listing, small));
  if (selection.index.empty()) return selection.weights;
  const auto index =
      read_small_file(cache_.snapshot(repo, listing.commit) / selection.index, kMaxListingBytes);
  if (!index) return fail(ErrorCode::corrupt, "{}: {} is too large", repo, selection.index);
  auto shards = parse_shards(*index);
  if (!shards) return fail(ErrorCode::corrupt, "{}: {}", repo, shards.error().message);
  for (const std::string& shard : *shards)
    if (!std::ranges::binary_search(listing.files, shard))
      return fail(ErrorCode::not_found, "{}: {} names {}, which is not in the repo", repo, selection.index,
                  shard);
  return shards;
}

Result<> Fetcher::fetch_model(const std::string& repo, const std::string& revision,
                              const RepoListing& listing, const Selection& selection) {
  std::vector<std::string> files = selection.files;
  if (selection.kind == Selection::Kind::checkpoint) {
    QUERN_TRY(files, fetch_small_files(repo, listing, selection));
  }
  QUERN_TRY_VOID(fetch_files(repo, listing, files));
  return cache_.write_ref(repo, revision, listing.commit);
}

}  // namespace quern::hub
