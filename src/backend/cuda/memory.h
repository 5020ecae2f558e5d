// Device memory with one owner, and the small things that ops upload.
#pragma once

#include <cstring>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "backend/cuda/device.h"

namespace quern::cuda {

class Allocation {
 public:
  Allocation() = default;
  /// resource_exhausted, with both numbers.
  static Result<Allocation> of(std::shared_ptr<Device> device, size_t bytes) {
    void* memory = device->alloc(bytes > 0 ? bytes : 1);
    if (memory == nullptr)
      return fail(ErrorCode::resource_exhausted, "the GPU has no {} bytes left: {} of {} are free", bytes,
                  device->memory().free, device->memory().total);
    Allocation a;
    a.device_ = std::move(device);
    a.memory_ = memory;
    a.bytes_ = bytes;
    return a;
  }
  Allocation(Allocation&& other) noexcept { *this = std::move(other); }
  Allocation& operator=(Allocation&& other) noexcept {
    std::swap(device_, other.device_);
    std::swap(memory_, other.memory_);
    std::swap(bytes_, other.bytes_);
    return *this;
  }
  ~Allocation() {
    if (memory_ != nullptr) device_->free(memory_);
  }

  template <class T = void>
  T* as() const {
    return static_cast<T*>(memory_);
  }
  size_t bytes() const { return bytes_; }

 private:
  std::shared_ptr<Device> device_;
  void* memory_ = nullptr;
  size_t bytes_ = 0;
};

/// Memory that grows to the largest use there was. What it held is lost when it grows.
class Workspace {
 public:
  explicit Workspace(std::shared_ptr<Device> device) : device_(std::move(device)) {}
  template <class T>
  Result<T*> take(size_t count) {
    const size_t bytes = count * sizeof(T);
    if (bytes > memory_.bytes()) {
      QUERN_TRY_VOID(device_->wait());  // kernels may still use the old one
      memory_ = {};
      QUERN_TRY(memory_, Allocation::of(device_, bytes));
    }
    return memory_.as<T>();
  }
  void drop() { memory_ = {}; }

 private:
  std::shared_ptr<Device> device_;
  Allocation memory_;
};

/// Small arrays on their way to the device. They stay until `reset`, which must only be called when the
/// device's stream is empty.
class Uploads {
 public:
  explicit Uploads(std::shared_ptr<Device> device) : device_(std::move(device)) {}
  ~Uploads() { drop(); }
  Uploads(const Uploads&) = delete;
  Uploads& operator=(const Uploads&) = delete;

  /// Where `values` will be on the device once `flush` was called.
  template <class T>
  Result<const T*> add(std::span<const T> values) {
    QUERN_TRY(const size_t at, room(values.size_bytes()));
    Piece& piece = pieces_[current_];
    if (!values.empty()) std::memcpy(piece.host + at, values.data(), values.size_bytes());
    return reinterpret_cast<const T*>(piece.device.template as<std::byte>() + at);
  }
  void flush() {
    if (pieces_.empty() || used_ == sent_) return;
    Piece& piece = pieces_[current_];
    device_->copy_in(piece.device.as<std::byte>() + sent_, piece.host + sent_, used_ - sent_);
    sent_ = used_;
  }
  void reset() { current_ = used_ = sent_ = 0; }
  void drop() {
    for (Piece& piece : pieces_) device_->free_host(piece.host);
    pieces_.clear();
    reset();
  }

 private:
  static constexpr size_t kPiece = 1 << 20, kAlign = 256;
  struct Piece {
    Allocation device;
    std::byte* host = nullptr;
  };
  Result<size_t> room(size_t bytes) {
    const size_t rounded = (bytes + kAlign - 1) / kAlign * kAlign;
    if (pieces_.empty() || used_ + rounded > pieces_[current_].device.bytes())
      QUERN_TRY_VOID(next_piece(rounded));
    const size_t at = used_;
    used_ += rounded;
    return at;
  }
  /// Goes on in a later piece with room for `bytes`. When there is no such memory, all stays as it was.
  Result<> next_piece(size_t bytes) {
    size_t next = pieces_.empty() ? 0 : current_ + 1;
    while (next < pieces_.size() && pieces_[next].device.bytes() < bytes) ++next;
    if (next == pieces_.size()) {
      Piece piece;
      const size_t size = bytes > kPiece ? bytes : kPiece;
      QUERN_TRY(piece.device, Allocation::of(device_, size));
      piece.host = static_cast<std::byte*>(device_->alloc_host(size));
      if (piece.host == nullptr)
        return fail(ErrorCode::resource_exhausted, "cuda: no {} bytes of host memory for uploads", size);
      pieces_.push_back(std::move(piece));
    }
    flush();
    current_ = next;
    used_ = sent_ = 0;
    return {};
  }

  std::shared_ptr<Device> device_;
  std::vector<Piece> pieces_;
  size_t current_ = 0, used_ = 0, sent_ = 0;
};

}  // namespace quern::cuda
