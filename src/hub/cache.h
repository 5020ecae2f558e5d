// The cache on disk, laid out byte for byte as huggingface_hub does, so that either uses what the other
// fetched:
//
//   models--owner--repo/blobs/{etag}                     the content, complete always
//   models--owner--repo/snapshots/{commit}/{file}        a relative link to its blob
//   models--owner--repo/refs/{branch or tag}             the commit it last stood for, 40 characters
//   .locks/models--owner--repo/{etag}.lock               held while a blob is fetched
//   models--owner--repo/.quern-absent/{commit}           ours: weights of a snapshot that are not kept here
//
// Names from the hub are checked (repo_listing.h) before they come here; below a snapshot no link is
// followed.
#pragma once

#include <filesystem>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "core/result.h"

namespace quern::hub {

/// A file of a repo, by what the hub said of it.
struct KnownFile {
  std::string name, etag;
  uint64_t size = 0;
};

class Cache {
 public:
  explicit Cache(std::filesystem::path root) : root_(std::move(root)) {}

  const std::filesystem::path& root() const { return root_; }
  std::filesystem::path repo_folder(std::string_view repo) const;
  std::filesystem::path snapshot(std::string_view repo, std::string_view commit) const;
  std::filesystem::path blob(std::string_view repo, std::string_view etag) const;
  std::filesystem::path lock_folder(std::string_view repo) const;
  std::filesystem::path lock(std::string_view repo, std::string_view etag) const;

  /// The commit that a branch or tag last stood for (a commit stands for itself); empty when it is not known.
  std::optional<std::string> commit_of(std::string_view repo, std::string_view revision) const;
  /// The files of a snapshot that are there in full, sorted; links to nothing don't count.
  std::vector<std::string> files(std::string_view repo, std::string_view commit) const;
  bool has(std::string_view repo, std::string_view commit, std::string_view file) const;

  /// Makes the folders of a repo and its locks.
  Result<> prepare(std::string_view repo) const;
  /// Shows a blob as a file of a snapshot; replaces a link that is there.
  Result<> link(std::string_view repo, std::string_view commit, std::string_view file,
                std::string_view etag) const;
  Result<> write_ref(std::string_view repo, std::string_view revision, std::string_view commit) const;

  /// Files of a snapshot that are known though they may not be here (weights that were quantized and
  /// dropped): what they were is still to be told when there is no network.
  std::vector<KnownFile> absent(std::string_view repo, std::string_view commit) const;
  Result<> write_absent(std::string_view repo, std::string_view commit,
                        std::span<const KnownFile> files) const;
  std::filesystem::path absent_file(std::string_view repo, std::string_view commit) const;

  /// Bytes that the disk of the cache has left; empty when the system does not say.
  std::optional<uint64_t> free_bytes() const;

 private:
  std::filesystem::path root_;
};

/// The name of the blob in `blobs` that a link of a snapshot leads to; empty when it is no such link.
std::optional<std::string> blob_behind(const std::filesystem::path& file, const std::filesystem::path& blobs);

/// The files below `folder` whose names pass check_file_name and that exist in full, sorted.
std::vector<std::string> files_below(const std::filesystem::path& folder);

}  // namespace quern::hub
