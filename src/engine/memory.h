// How much memory there is, and how much of it a KV cache gets.
#pragma once

#include <cstdint>

#include "backend/backend.h"
#include "core/result.h"

namespace quern {

/// What is free where a backend's weights and caches go: on the device, or, when it has no memory of its own,
/// on the machine (core/system.h).
uint64_t available_memory(const Backend& backend);

/// Gives back to the system what was freed but is kept by the allocator for later.
void release_heap();

struct KvDemand {
  uint64_t block_bytes = 0;   // of one block in all layers
  int64_t block_size = 32;    // tokens
  int64_t context = 0;        // wanted, tokens
  int64_t sequences = 1;      // at once
  uint64_t budget_bytes = 0;  // what there is
};
struct KvPlan {
  int64_t blocks = 0;
  int64_t context = 0;  // at most what was wanted, and at most what all blocks hold
};

/// As many blocks as all sequences need at full length, or as fit. resource_exhausted, with both numbers,
/// when not even a few tokens do.
Result<KvPlan> plan_kv(const KvDemand& demand);

}  // namespace quern
