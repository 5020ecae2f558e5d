// Owned, aligned host memory.
#pragma once

#include <cstddef>
#include <memory>
#include <span>

#include "core/result.h"

namespace quern {

/// Zero-filled bytes, aligned to 64; 2 MiB or more of them to 2 MiB, with huge pages advised. Move-only;
/// views don't own.
class Buffer {
 public:
  Buffer() = default;
  /// resource_exhausted when the system has no such memory.
  static Result<Buffer> allocate(size_t bytes);

  std::byte* data() { return data_.get(); }
  const std::byte* data() const { return data_.get(); }
  size_t size() const { return size_; }
  template <class T>
  T* as() {
    return reinterpret_cast<T*>(data_.get());
  }
  template <class T>
  const T* as() const {
    return reinterpret_cast<const T*>(data_.get());
  }

 private:
  struct Unmap {
    size_t bytes;
    Unmap() : bytes(0) {}
    explicit Unmap(size_t mapped) : bytes(mapped) {}
    void operator()(std::byte* p) const;
  };
  Buffer(std::byte* data, size_t size, size_t mapped) : data_(data, Unmap{mapped}), size_(size) {}
  std::unique_ptr<std::byte, Unmap> data_;
  size_t size_ = 0;
};

}  // namespace quern
