// What an ISA brings to encoding; encode.h is the interface.
//
// A tile is 16 groups side by side, a vector lane each, so that every lane sums in the order of the scalar
// reference (fit.h) and gives its bits, whatever the width of a vector.
#pragma once

#include <cstddef>
#include <span>
#include <string_view>

#include "core/result.h"
#include "quant/quant.h"

namespace quern {

struct Encoder {
  std::string_view name;
  /// n values, a multiple of 16, of F32, F16 or BF16 as f32. Whether all are finite.
  bool (*load_values)(DType dtype, const std::byte* bytes, size_t n, float* out);
  /// fit_block (fit.h) for tile_blocks(shape, block) blocks at once. With importance, all of the blocks have
  /// some that counts.
  void (*fit_tile)(const AffineShape& shape, size_t block, const float* x, const float* importance,
                   AffineBlock* out);
};

/// 16 groups' worth of blocks.
constexpr size_t tile_blocks(const AffineShape& shape, size_t block) {
  const size_t weights = 16 * static_cast<size_t>(shape.group);
  return weights / block < 1 || shape.group == 256 ? 1 : weights / block;
}
constexpr size_t kTileWeights = 512;  // at most

#if defined(__x86_64__)
extern const Encoder encoder_avx2, encoder_avx512;
#elif defined(__aarch64__)
extern const Encoder encoder_neon;
#endif
extern const Encoder encoder_scalar;

/// Those that this CPU can run, the fastest first; the last is scalar.
std::span<const Encoder* const> available_encoders();
/// The fastest, or the one that QUERN_FORCE_ISA names; as backend/cpu chooses its kernels.
Result<const Encoder*> choose_encoder();

}  // namespace quern
