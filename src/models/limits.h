// Bounds on what a model's configuration may say: far above any model that exists, far below where products
// overflow.
#pragma once

#include <cstdint>

namespace quern::limits {

constexpr int64_t max_layers = 4096, max_dim = 1 << 22, max_heads = 1 << 14, max_head_dim = 1 << 14,
                  max_experts = 4096, max_context = int64_t{1} << 30;

}  // namespace quern::limits
