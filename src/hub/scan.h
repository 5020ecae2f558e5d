// What models there are on this machine, and the removal of those in the cache.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "core/result.h"
#include "hub/cache.h"

namespace quern {

struct ListedModel {
  std::string id;            // usable as a reference: "owner/repo:Q8_0", or a path below LLM_MODEL_PATH
  std::string type;          // "GGUF", "GPTQ", "safetensors"
  std::string quantization;  // "Q8_0"; may be empty
  uint64_t bytes = 0;
  std::string commit;             // empty for local models
  std::vector<std::string> refs;  // branches and tags that stand for the commit
  int64_t last_used = 0;          // seconds since 1970; 0: not known
};

/// The models in the hub's cache that are whole, of all revisions. What is no language model is left out.
std::vector<ListedModel> list_cache(const hub::Cache& cache);

/// GGUF files and checkpoint folders below `folder`; links to folders are not followed.
std::vector<ListedModel> list_folder(const std::filesystem::path& folder);

struct Removed {
  uint64_t bytes = 0;  // freed
  size_t files = 0;
};

/// Removes from the cache what a reference names: a whole repo, a revision of it, or a GGUF model in all its
/// revisions. A blob goes when nothing refers to it any more. Only inside the cache: a link that leads
/// elsewhere is removed, not what it leads to. unavailable: another process is fetching from this repo.
Result<Removed> remove_cached(const hub::Cache& cache, const std::string& reference);

/// Takes one file out of a snapshot, and its blob with it when no other snapshot has that; bytes freed. What
/// is no link to a blob stays, and so does what another process is fetching.
uint64_t drop_file(const hub::Cache& cache, const std::string& repo, const std::string& commit,
                   const std::string& name);

}  // namespace quern
