#include "engine/memory.h"

#include <malloc.h>

#include <algorithm>
#include <limits>

#include "core/system.h"

namespace quern {
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
