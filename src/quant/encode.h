// Encoding rows of a tensor with the vectors of this CPU: the bits of QuantInfo::encode, many times faster.
#pragma once

#include <span>

#include "core/result.h"
#include "quant/quant.h"

namespace quern {

/// Rows [first, first + count) of `source`, of any type that can be decoded, as type `to`, into `out`
/// (tensor_bytes(to, count, cols)). `importance` is empty or one weight ≥ 0 per column. Needs source.cols()
/// to be a multiple of to.block and source.data to hold the rows. A value that is not finite (corrupt) or
/// too large for F16 or a block's F16 scale (unsupported) is an error that names tensor and row; what was
/// written by then means nothing. Any number of threads may call it at once, each for its own rows; it does
/// not allocate.
Result<void> encode_rows(const QuantInfo& to, const RawTensor& source, int64_t first, int64_t count,
                         std::byte* out, std::span<const float> importance = {});

}  // namespace quern
