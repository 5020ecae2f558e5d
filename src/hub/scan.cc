#include "hub/scan.h"

#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <map>
#include <optional>
#include <set>

#include "core/file.h"
#include "core/file_lock.h"
#include "hub/hash.h"
#include "hub/local.h"
#include "hub/reference.h"
#include "hub/repo_listing.h"
#include "hub/select.h"

namespace quern {
namespace {

namespace fs = std::filesystem;
using namespace hub;

constexpr size_t kMaxModels = 10'000;

/// "models--owner--repo" → "owner/repo"; empty when it is not of that form.
std::string repo_of_folder(const std::string& name) {
  constexpr std::string_view kPrefix = "models--";
  if (!name.starts_with(kPrefix)) return {};
  const size_t separator = name.find("--", kPrefix.size());
  if (separator == std::string::npos) return {};
  std::string repo = name.substr(kPrefix.size(), separator - kPrefix.size());
  repo += '/';
  repo += name.substr(separator + 2);
  return is_repo_id(repo) ? repo : std::string();
}

std::vector<std::string> names_in(const fs::path& folder) {
  std::vector<std::string> names;
  std::error_code error;
  for (fs::directory_iterator it(folder, error), end; !error && it != end; it.increment(error))
    names.push_back(it->path().filename().string());
  std::ranges::sort(names);
  return names;
}

/// Commit → names that stand for it.
std::map<std::string, std::vector<std::string>> refs_of(const Cache& cache, const std::string& repo) {
  std::map<std::string, std::vector<std::string>> refs;
  for (const std::string& name : files_below(cache.repo_folder(repo) / "refs"))
    if (const auto commit = cache.commit_of(repo, name)) refs[*commit].push_back(name);
  return refs;
}

int64_t last_read(const std::vector<fs::path>& files) {
  int64_t latest = 0;
  struct stat info {};
  for (const fs::path& file : files)
    if (stat(file.c_str(), &info) == 0) latest = std::max<int64_t>(latest, info.st_atim.tv_sec);
  return latest;
}

std::string type_name(const LocalModel& model) {
  if (model.kind == LocalModel::Kind::gguf) return "GGUF";
  if (model.quantization.empty()) return "safetensors";
  std::string name = model.quantization;
  for (char& c : name) c = static_cast<char>(std::toupper(static_cast<unsigned char>(c)));
  return name;
}

ListedModel listed(std::string id, const LocalModel& model) {
  ListedModel entry;
  entry.id = std::move(id);
  entry.type = type_name(model);
  if (model.kind == LocalModel::Kind::gguf) entry.quantization = model.quantization;
  entry.bytes = model.bytes;
  entry.last_used = last_read(model.files);
  return entry;
}

/// The models of one snapshot.
void list_snapshot(const Cache& cache, const std::string& repo, const std::string& commit,
                   const std::vector<std::string>& refs, std::vector<ListedModel>& out) {
  const auto add = [&](const std::string& selector, Result<LocalModel> model) {
    if (!model) return;
    ListedModel entry = listed(selector.empty() ? repo : repo + ":" + selector, *model);
    entry.commit = commit;
    entry.refs = refs;
    out.push_back(std::move(entry));
  };
  ModelReference reference;
  reference.kind = ModelReference::Kind::hub;
  reference.repo = reference.text = repo;
  const fs::path folder = cache.snapshot(repo, commit);
  const auto models = gguf_models(cache.files(repo, commit));
  for (const GgufModel& model : models) {
    const auto same = std::ranges::count(models, model.quant, &GgufModel::quant);
    reference.file = model.files.front();
    add(same == 1 && !model.quant.empty() ? model.quant : model.files.front(),
        model_in_folder(reference, folder));
  }
  if (!models.empty()) return;
  const bool main = refs.empty() || std::ranges::find(refs, "main") != refs.end();
  reference.file.clear();
  add(refs.empty() ? commit : main ? "" : refs.front(), model_in_folder(reference, folder));
}

/// The lock of every blob that is being fetched can't be had.
Result<> check_idle(const Cache& cache, const std::string& repo, std::vector<FileLock>& held) {
  for (const std::string& name : names_in(cache.lock_folder(repo))) {
    if (!name.ends_with(".lock")) continue;
    QUERN_TRY(auto lock, FileLock::try_take(cache.lock_folder(repo) / name));
    if (!lock)
      return fail(ErrorCode::unavailable, "{}: another process is fetching from it: end that one first",
                  repo);
    held.push_back(*std::move(lock));
  }
  return {};
}

/// What an interrupted download left, to be continued.
bool is_unfinished(const std::string& name) {
  return name.ends_with(".incomplete") || name.find(".quern-") != std::string::npos;
}

/// Everything in a snapshot, links and what is no link, without following any.
std::vector<fs::path> entries_below(const fs::path& folder) {
  std::vector<fs::path> found;
  std::error_code error;
  fs::recursive_directory_iterator it(folder, error), end;
  for (; !error && it != end; it.increment(error))
    if (!it->is_directory() || it->is_symlink()) found.push_back(it->path());
  return found;
}

class Remover {
 public:
  Remover(const Cache& cache, std::string repo)
      : cache_(cache), repo_(std::move(repo)), folder_(cache.repo_folder(repo_)), blobs_(folder_ / "blobs") {}

  void remove_link(const fs::path& file) {
    struct stat info {};
    // A cache without links (made on another system) has the file itself here.
    if (lstat(file.c_str(), &info) == 0 && S_ISREG(info.st_mode))
      removed_.bytes += static_cast<uint64_t>(info.st_size);
    if (unlink(file.c_str()) == 0) ++removed_.files;
  }

  void remove_snapshot(const std::string& commit) {
    for (const fs::path& file : entries_below(cache_.snapshot(repo_, commit))) remove_link(file);
    std::error_code ignored;
    fs::remove_all(cache_.snapshot(repo_, commit), ignored);
    fs::remove_all(folder_ / ".no_exist" / commit, ignored);
    fs::remove(cache_.absent_file(repo_, commit), ignored);
  }

  void remove_refs_to(const std::string& commit) {
    std::error_code ignored;
    for (const std::string& name : files_below(folder_ / "refs"))
      if (cache_.commit_of(repo_, name) == commit) fs::remove(folder_ / "refs" / name, ignored);
  }

  /// Removes blobs without a link, snapshots without a file, refs without a snapshot, a repo without either.
  Removed finish() {
    std::set<std::string> used;
    bool anything = false;
    std::error_code ignored;
    for (const std::string& commit : names_in(folder_ / "snapshots")) {
      const auto entries = entries_below(folder_ / "snapshots" / commit);
      if (entries.empty()) {
        fs::remove_all(folder_ / "snapshots" / commit, ignored);
        remove_refs_to(commit);
      }
      anything |= !entries.empty();
      for (const fs::path& file : entries)
        if (const auto blob = blob_behind(file, blobs_)) used.insert(*blob);
    }
    for (const std::string& name : names_in(blobs_)) {
      if (used.contains(name) || (anything && is_unfinished(name))) continue;
      struct stat info {};
      const fs::path blob = blobs_ / name;
      if (lstat(blob.c_str(), &info) != 0 || unlink(blob.c_str()) != 0 || !S_ISREG(info.st_mode)) continue;
      // A partial file occupies less than its length.
      removed_.bytes +=
          std::min(static_cast<uint64_t>(info.st_blocks) * 512, static_cast<uint64_t>(info.st_size));
    }
    if (!anything) {
      fs::remove_all(folder_, ignored);
      fs::remove_all(cache_.lock_folder(repo_), ignored);
    }
    return removed_;
  }

 private:
  const Cache& cache_;
  const std::string repo_;
  const fs::path folder_, blobs_;
  Removed removed_;
};

tl::unexpected<Error> not_cached(const Cache& cache, const std::string& reference) {
  std::vector<std::string> ids;
  for (const ListedModel& model : list_cache(cache)) ids.push_back(model.id);
  const auto near = nearest_names(reference, ids, 1);
  return fail(ErrorCode::not_found, "{}: not in the cache{}: quern list shows what is", shown(reference),
              near.empty() ? "" : ": did you mean " + near.front() + "?");
}

}  // namespace

std::vector<ListedModel> list_cache(const Cache& cache) {
  std::vector<ListedModel> models;
  for (const std::string& folder : names_in(cache.root())) {
    const std::string repo = repo_of_folder(folder);
    if (repo.empty()) continue;
    const auto refs = refs_of(cache, repo);
    for (const std::string& commit : names_in(cache.root() / folder / "snapshots")) {
      if (!is_commit(commit) || models.size() >= kMaxModels) continue;
      const auto it = refs.find(commit);
      list_snapshot(cache, repo, commit, it == refs.end() ? std::vector<std::string>() : it->second, models);
    }
  }
  return models;
}

std::vector<ListedModel> list_folder(const fs::path& folder) {
  std::vector<ListedModel> models;
  const auto files = files_below(folder);
  for (const GgufModel& model : gguf_models(files)) {
    if (models.size() >= kMaxModels) break;
    if (!model.complete) continue;
    if (auto local = open_local(model.files.front(), folder / model.files.front()))
      models.push_back(listed(model.files.front(), *local));
  }
  for (const std::string& file : files) {
    const fs::path path = file;
    if (path.filename() != "config.json" || models.size() >= kMaxModels) continue;
    const std::string id = path.has_parent_path() ? path.parent_path().string() : ".";
    const auto local = open_local(id, folder / id);
    if (local && local->kind == LocalModel::Kind::checkpoint) models.push_back(listed(id, *local));
  }
  std::ranges::sort(models, {}, &ListedModel::id);
  return models;
}

Result<Removed> remove_cached(const Cache& cache, const std::string& text) {
  QUERN_TRY(const ModelReference reference, parse_reference(text));
  if (reference.kind == ModelReference::Kind::guide)
    return fail(ErrorCode::invalid_argument, "{}: part of the program: it takes no room in the cache", text);
  if (reference.kind == ModelReference::Kind::path)
    return fail(ErrorCode::invalid_argument,
                "{}: rm removes models of the hub's cache: delete your own files yourself", shown(text));
  const std::string& repo = reference.repo;
  std::error_code ignored;
  if (!fs::is_directory(cache.repo_folder(repo), ignored)) return not_cached(cache, text);
  std::vector<FileLock> held;
  QUERN_TRY_VOID(check_idle(cache, repo, held));
  Remover remover(cache, repo);
  const auto commits = names_in(cache.repo_folder(repo) / "snapshots");
  if (!reference.revision.empty()) {
    const auto commit = cache.commit_of(repo, reference.revision);
    if (!commit || std::ranges::find(commits, *commit) == commits.end()) return not_cached(cache, text);
    const fs::path ref = cache.repo_folder(repo) / "refs" / reference.revision;
    fs::remove(ref, ignored);
    // Another branch may stand for the same commit: then its files stay.
    if (is_commit(reference.revision) || !refs_of(cache, repo).contains(*commit)) {
      remover.remove_snapshot(*commit);
      remover.remove_refs_to(*commit);
    }
    return remover.finish();
  }
  bool found = false;
  for (const std::string& commit : commits) {
    if (reference.file.empty() && reference.quant.empty()) {
      remover.remove_snapshot(commit);
      remover.remove_refs_to(commit);
      found = true;
      continue;
    }
    const auto selection = select_files(reference, cache.files(repo, commit));
    if (!selection) continue;
    for (const std::string& file : selection->files) remover.remove_link(cache.snapshot(repo, commit) / file);
    found = true;
  }
  if (!found && !(reference.file.empty() && reference.quant.empty())) return not_cached(cache, text);
  return remover.finish();
}

uint64_t drop_file(const Cache& cache, const std::string& repo, const std::string& commit,
                   const std::string& name) {
  const fs::path link = cache.snapshot(repo, commit) / name, blobs = cache.repo_folder(repo) / "blobs";
  const auto etag = blob_behind(link, blobs);
  if (!etag) return 0;
  if (!cache.prepare(repo)) return 0;  // other tools may have made no folder for locks
  const auto lock = FileLock::try_take(cache.lock(repo, *etag));
  if (!lock || !*lock || unlink(link.c_str()) != 0) return 0;
  for (const std::string& other : names_in(cache.repo_folder(repo) / "snapshots"))
    for (const fs::path& file : entries_below(cache.snapshot(repo, other)))
      if (blob_behind(file, blobs) == etag) return 0;
  struct stat info {};
  const fs::path blob = blobs / *etag;
  if (lstat(blob.c_str(), &info) != 0 || !S_ISREG(info.st_mode) || unlink(blob.c_str()) != 0) return 0;
  return static_cast<uint64_t>(info.st_size);
}

}  // namespace quern
