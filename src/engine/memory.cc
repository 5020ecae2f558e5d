#include "engine/memory.h"

#include <malloc.h>

#include <algorithm>
#include <fstream>
#include <limits>
#include <optional>
#include <string>

namespace quern {
namespace {

constexpr uint64_t kUnlimited = std::numeric_limits<uint64_t>::max();

/// The number after `key` in a file of "key number" lines; `key` empty: the file's first word ("max":
/// unlimited).
std::optional<uint64_t> read_number(const char* path, const std::string& key = {}) {
  std::ifstream file(path);
  std::string word;
  while (file >> word) {
    if (!key.empty() && word != key) continue;
    if (!key.empty() && !(file >> word)) return std::nullopt;
    if (word == "max") return kUnlimited;
    try {
      return std::stoull(word);
    } catch (const std::exception&) {
      return std::nullopt;
    }
  }
  return std::nullopt;
}

/// What a control group leaves; pages of files that can be dropped count as free.
std::optional<uint64_t> group_memory(const char* limit_path, const char* usage_path, const char* stat_path,
                                     const char* droppable_key) {
  const auto limit = read_number(limit_path), usage = read_number(usage_path);
  if (!limit || !usage || *limit >= kUnlimited / 4) return std::nullopt;
  const uint64_t droppable = std::min(read_number(stat_path, droppable_key).value_or(0), *usage);
  const uint64_t used = *usage - droppable;
  return used < *limit ? *limit - used : 0;
}

}  // namespace

uint64_t available_memory() {
  uint64_t bytes = kUnlimited;
  if (const auto kib = read_number("/proc/meminfo", "MemAvailable:")) bytes = *kib * 1024;
  // Version 2 and version 1 of Linux control groups, as seen from inside a container.
  const auto v2 = group_memory("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current",
                               "/sys/fs/cgroup/memory.stat", "inactive_file");
  const auto v1 = group_memory("/sys/fs/cgroup/memory/memory.limit_in_bytes",
                               "/sys/fs/cgroup/memory/memory.usage_in_bytes",
                               "/sys/fs/cgroup/memory/memory.stat", "total_inactive_file");
  bytes = std::min({bytes, v2.value_or(kUnlimited), v1.value_or(kUnlimited)});
  return bytes == kUnlimited ? uint64_t{4} << 30 : bytes;  // nothing says: a careful guess
}

uint64_t available_memory(const Backend& backend) {
  const auto device = backend.memory();
  return device ? device->free : available_memory();
}

void release_heap() {
#ifdef __GLIBC__
  malloc_trim(0);
#endif
}

Result<KvPlan> plan_kv(const KvDemand& demand) {
  const int64_t each = (demand.context + demand.block_size - 1) / demand.block_size;
  const auto most = static_cast<uint64_t>(std::numeric_limits<int32_t>::max());  // block ids are 32 bits wide
  const uint64_t fit = std::min(demand.budget_bytes / std::max<uint64_t>(demand.block_bytes, 1), most);
  uint64_t wanted = 0;
  if (__builtin_mul_overflow(static_cast<uint64_t>(each), static_cast<uint64_t>(demand.sequences), &wanted))
    wanted = most;
  const auto blocks = static_cast<int64_t>(std::min(wanted, fit));
  const int64_t context = std::min(demand.context, blocks * demand.block_size);
  if (context < std::min<int64_t>(demand.context, 2))
    return fail(
        ErrorCode::resource_exhausted,
        "the KV cache needs {} bytes for one block of {} tokens, but {} bytes are left for it: use a smaller "
        "model or raise LLM_MEMORY_LIMIT",
        demand.block_bytes, demand.block_size, demand.budget_bytes);
  return KvPlan{blocks, context};
}

}  // namespace quern
