#include "hub/cache.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>

#include "core/file.h"
#include "hub/hash.h"
#include "hub/reference.h"
#include "hub/repo_listing.h"

namespace quern::hub {
namespace {

namespace fs = std::filesystem;

constexpr int kMaxDepth = 16;
constexpr size_t kMaxFiles = 200'000;

std::string folder_name(std::string_view repo) {
  std::string name = "models--";
  for (const char c : repo) name += c == '/' ? "--" : std::string(1, c);
  return name;
}

/// Opens (and makes) the folder of `file` below `top`, part by part, following no link.
Result<Descriptor> open_parent(const fs::path& top, std::string_view file) {
  Descriptor folder(open(top.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  if (!folder) return io_error(top, "open the folder", errno);
  for (size_t begin = 0;;) {
    const size_t end = file.find('/', begin);
    if (end == std::string_view::npos) return folder;
    const std::string part(file.substr(begin, end - begin));
    if (mkdirat(folder.get(), part.c_str(), 0777) != 0 && errno != EEXIST)
      return io_error(top / part, "make the folder", errno);
    Descriptor next(openat(folder.get(), part.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW));
    if (!next) return io_error(top / part, "open the folder", errno);
    folder = std::move(next);
    begin = end + 1;
  }
}

/// Where a link in a snapshot points: one "../" for each folder between it and the repo's.
std::string link_target(std::string_view file, std::string_view etag) {
  std::string target = "../../";
  for (const char c : file)
    if (c == '/') target += "../";
  return target + "blobs/" + std::string(etag);
}

}  // namespace

fs::path Cache::repo_folder(std::string_view repo) const { return root_ / folder_name(repo); }
fs::path Cache::snapshot(std::string_view repo, std::string_view commit) const {
  return repo_folder(repo) / "snapshots" / commit;
}
fs::path Cache::blob(std::string_view repo, std::string_view etag) const {
  return repo_folder(repo) / "blobs" / etag;
}
fs::path Cache::lock_folder(std::string_view repo) const { return root_ / ".locks" / folder_name(repo); }
fs::path Cache::lock(std::string_view repo, std::string_view etag) const {
  return lock_folder(repo) / (std::string(etag) + ".lock");
}

std::optional<std::string> Cache::commit_of(std::string_view repo, std::string_view revision) const {
  if (is_commit(revision)) return std::string(revision);
  if (!check_file_name(revision)) return std::nullopt;
  auto text = read_small_file(repo_folder(repo) / "refs" / revision, 256);
  while (text && !text->empty() && (text->back() == '\n' || text->back() == ' ')) text->pop_back();
  if (!text || !is_commit(*text)) return std::nullopt;
  return text;
}

bool Cache::has(std::string_view repo, std::string_view commit, std::string_view file) const {
  std::error_code ignored;
  return fs::is_regular_file(snapshot(repo, commit) / file, ignored);
}

std::vector<std::string> Cache::files(std::string_view repo, std::string_view commit) const {
  return files_below(snapshot(repo, commit));
}

std::vector<std::string> files_below(const fs::path& folder) {
  std::vector<std::string> found;
  std::error_code error;
  fs::recursive_directory_iterator it(folder, fs::directory_options::skip_permission_denied, error), end;
  for (; !error && it != end && found.size() < kMaxFiles; it.increment(error)) {
    if (it.depth() > kMaxDepth) it.disable_recursion_pending();
    std::error_code ignored;
    if (!it->is_regular_file(ignored)) continue;  // follows the link
    std::string name = it->path().lexically_relative(folder).generic_string();
    if (check_file_name(name)) found.push_back(std::move(name));
  }
  std::ranges::sort(found);
  return found;
}

Result<> Cache::prepare(std::string_view repo) const {
  // huggingface_hub's scan wants refs/, also where only commits were asked for.
  for (const char* part : {"blobs", "refs", "snapshots"})
    QUERN_TRY_VOID(make_folders(repo_folder(repo) / part));
  return make_folders(lock_folder(repo));
}

Result<> Cache::link(std::string_view repo, std::string_view commit, std::string_view file,
                     std::string_view etag) const {
  const fs::path top = snapshot(repo, commit);
  QUERN_TRY_VOID(make_folders(top));
  QUERN_TRY(const Descriptor folder, open_parent(top, file));
  const std::string name(file.substr(file.rfind('/') + 1));
  // Made outside the snapshot, whose every entry is a file to those who scan the cache.
  const fs::path temporary = repo_folder(repo) / unique_name(".quern-link");
  if (symlink(link_target(file, etag).c_str(), temporary.c_str()) != 0)
    return io_error(temporary, "link", errno);
  if (renameat(AT_FDCWD, temporary.c_str(), folder.get(), name.c_str()) != 0) {
    const int error = errno;
    unlink(temporary.c_str());
    return io_error(top / file, "link", error);
  }
  fsync(folder.get());
  return {};
}

Result<> Cache::write_ref(std::string_view repo, std::string_view revision, std::string_view commit) const {
  if (is_commit(revision)) return {};
  QUERN_TRY_VOID(check_file_name(revision));
  const fs::path path = repo_folder(repo) / "refs" / revision;
  if (commit_of(repo, revision) == commit) return {};
  QUERN_TRY_VOID(make_folders(path.parent_path()));
  // Not beside it: whatever lies in refs/ is a ref to those who scan the cache.
  return write_whole_file(path, repo_folder(repo) / unique_name(".quern-ref"), commit);
}

fs::path Cache::absent_file(std::string_view repo, std::string_view commit) const {
  return repo_folder(repo) / ".quern-absent" / commit;
}

/// A line a file: "ETAG SIZE NAME".
std::vector<KnownFile> Cache::absent(std::string_view repo, std::string_view commit) const {
  std::vector<KnownFile> files;
  const auto text = read_small_file(absent_file(repo, commit), 16 << 20);
  for (size_t begin = 0; text && begin < text->size();) {
    const size_t end = std::min(text->find('\n', begin), text->size());
    const std::string_view line = std::string_view(*text).substr(begin, end - begin);
    begin = end + 1;
    const size_t first = line.find(' '), second = line.find(' ', first + 1);
    if (second == std::string_view::npos) return {};
    KnownFile file{std::string(line.substr(second + 1)), std::string(line.substr(0, first))};
    const std::string_view size = line.substr(first + 1, second - first - 1);
    const auto [rest, error] = std::from_chars(size.data(), size.data() + size.size(), file.size);
    if (error != std::errc() || rest != size.data() + size.size() || !check_file_name(file.name) ||
        normalize_etag(file.etag) != file.etag || file.etag.empty())
      return {};
    files.push_back(std::move(file));
  }
  return files;
}

Result<> Cache::write_absent(std::string_view repo, std::string_view commit,
                             std::span<const KnownFile> files) const {
  const fs::path path = absent_file(repo, commit);
  std::error_code ignored;
  if (files.empty()) {
    fs::remove(path, ignored);
    return {};
  }
  std::string text;
  for (const KnownFile& file : files) text += fmt::format("{} {} {}\n", file.etag, file.size, file.name);
  if (read_small_file(path, 16 << 20) == text) return {};
  QUERN_TRY_VOID(make_folders(path.parent_path()));
  return write_whole_file(path, repo_folder(repo) / unique_name(".quern-absent-new"), text);
}

std::optional<std::string> blob_behind(const fs::path& file, const fs::path& blobs) {
  std::error_code error;
  const fs::path target = fs::read_symlink(file, error);
  if (error) return std::nullopt;
  const fs::path whole = file.parent_path() / target;
  if (!fs::equivalent(whole.parent_path(), blobs, error) || error) return std::nullopt;
  return whole.filename().string();
}

std::optional<uint64_t> Cache::free_bytes() const {
  fs::path at = root_;
  struct statvfs info {};
  // The nearest folder that is there: the cache may not have been made yet.
  while (statvfs(at.c_str(), &info) != 0) {
    if (!at.has_parent_path() || at == at.parent_path()) return std::nullopt;
    at = at.parent_path();
  }
  return static_cast<uint64_t>(info.f_bavail) * info.f_frsize;
}

}  // namespace quern::hub
