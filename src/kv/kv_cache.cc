#include "kv/kv_cache.h"

#include <limits>

namespace quern {

Result<std::unique_ptr<KvCache>> KvCache::create(Backend& backend, const KvShape& shape, int64_t layers,
                                                 int64_t blocks) {
  if (shape.kv_heads < 1 || shape.head_dim < 1 || shape.block_size < 1 || layers < 1 || blocks < 1) {
    return fail(
        ErrorCode::invalid_argument,
        "KV cache: {} layers × {} blocks of {} tokens × {} heads × {} values: each must be at least 1",
        layers, blocks, shape.block_size, shape.kv_heads, shape.head_dim);
  }
  QUERN_TRY_VOID(backend.supports(shape.type));
  const uint64_t block_bytes = backend.kv_block_bytes(shape);
  uint64_t layer_bytes = 0, total = 0;
  if (__builtin_mul_overflow(block_bytes, static_cast<uint64_t>(blocks), &layer_bytes) ||
      __builtin_mul_overflow(layer_bytes, static_cast<uint64_t>(layers), &total) ||
      total > static_cast<uint64_t>(std::numeric_limits<int64_t>::max())) {
    return fail(ErrorCode::resource_exhausted,
                "KV cache: {} layers × {} blocks of {} bytes is more than any memory", layers, blocks,
                block_bytes);
  }
  auto cache = std::make_unique<KvCache>();
  cache->shape_ = shape;
  cache->blocks_ = blocks;
  cache->bytes_ = total;
  for (int64_t i = 0; i < layers; ++i) {
    auto buffer = backend.alloc(layer_bytes);
    if (!buffer) {
      return fail(ErrorCode::resource_exhausted,
                  "KV cache: needs {} MiB for {} blocks, got {} MiB ({}): lower LLM_CONTEXT_SIZE or "
                  "LLM_MAX_CONCURRENT_REQUESTS",
                  total >> 20, blocks, (layer_bytes * static_cast<uint64_t>(i)) >> 20,
                  buffer.error().message);
    }
    cache->layers_.push_back({(*buffer)->data(), blocks});
    cache->buffers_.push_back(*std::move(buffer));
  }
  return cache;
}

}  // namespace quern
