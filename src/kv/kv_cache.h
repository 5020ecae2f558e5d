// Device memory of the key/value cache: one pool of blocks for all sequences of a model. Which block belongs
// to whom is bookkeeping on the host (block_manager.h) and knows no tensors.
#pragma once

#include <memory>
#include <vector>

#include "backend/backend.h"

namespace quern {

class KvCache {
 public:
  /// Allocates `blocks` blocks for each of `layers` layers. resource_exhausted says both numbers.
  static Result<std::unique_ptr<KvCache>> create(Backend& backend, const KvShape& shape, int64_t layers,
                                                 int64_t blocks);

  const KvShape& shape() const { return shape_; }
  int64_t blocks() const { return blocks_; }
  size_t bytes() const { return bytes_; }
  KvLayer layer(int64_t index) const { return layers_[static_cast<size_t>(index)]; }

 private:
  KvShape shape_;
  int64_t blocks_ = 0;
  size_t bytes_ = 0;
  std::vector<KvLayer> layers_;
  std::vector<std::unique_ptr<DeviceBuffer>> buffers_;
};

}  // namespace quern
