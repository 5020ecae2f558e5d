// simt.h on the host: a block's threads are fibers of one thread of the machine. A fiber runs until it meets
// a barrier or a warp instruction, where it waits for the others; the order in which fibers take their turns
// changes from launch to launch, so that a missing barrier shows. Asynchronous copies happen as late as they
// may. The blocks of a cluster run side by side; static shared memory is one block's, so their kernels have
// none.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>
#include <utility>

#include "core/half.h"

#define QUERN_DEVICE inline
#define QUERN_KERNEL(threads) void
#define QUERN_KERNEL_OF(threads, blocks) void
#define QUERN_KERNEL_WITH_REGISTERS(registers) void
#define QUERN_SHARED(type, name, count) alignas(16) static thread_local type name[count]
#define QUERN_DYNAMIC_SHARED(name) uint8_t* const name = ::quern::cuda::simt::dynamic_shared()
#define QUERN_ARGUMENT const
#define QUERN_UNROLL
#define QUERN_LAUNCH(kernel, grid, threads, stream) \
  ::quern::cuda::simt::Launch{{(grid).x, (grid).y, (grid).z}, {threads}}.of(kernel)
#define QUERN_LAUNCH_CLUSTERS(kernel, grid, threads, bytes, cluster, stream) \
  ::quern::cuda::simt::Launch{{(grid).x, (grid).y, (grid).z}, {threads, bytes, cluster}}.of(kernel)

namespace quern::cuda {
namespace simt {

struct Place {
  int x = 0, y = 0, z = 0;
};

/// Where the running fiber is.
struct Thread {
  int index = 0;  // in its block
  int threads = 0;
  Place block, grid;
};
const Thread& self();

struct BlockShape {
  int threads = 0;
  int shared = 0;   // bytes of dynamic shared memory
  int cluster = 1;  // blocks, neighbours in x
};

/// Runs `body` once for every thread of every block, cluster after cluster.
void run(Place grid, const BlockShape& shape, const std::function<void()>& body);

struct Launch {
  Place grid;
  BlockShape shape;
  template <class... Parameters>
  auto of(void (*kernel)(Parameters...)) const {
    return [launch = *this, kernel](const auto&... arguments) {
      run(launch.grid, launch.shape, [&] { kernel(arguments...); });
    };
  }
};

uint8_t* dynamic_shared();
void wait_for_block();
/// Puts `bytes` (≤ 32) of this lane beside those of the warp's other lanes and returns when all are there:
/// lane l's begin at 32 · l. They stay until the next call.
const std::byte* exchange(const void* mine, size_t bytes);

void copy_later(void* to, const void* from, int bytes);
void close_copies();
void finish_copies(int but_last);

/// f16_to_f32 by a table.
float half_value(uint16_t h);

}  // namespace simt

inline int thread_x() { return simt::self().index; }
inline int block_threads() { return simt::self().threads; }
inline int block_x() { return simt::self().block.x; }
inline int block_y() { return simt::self().block.y; }
inline int block_z() { return simt::self().block.z; }

// Kernels run one after another here.
inline void wait_for_previous() {}
inline void let_next_start() {}

inline void sync_block() { simt::wait_for_block(); }
inline void sync_warp() { simt::exchange("", 1); }
inline float shfl_xor(float x, int mask) {
  const std::byte* all = simt::exchange(&x, sizeof(x));
  float out;
  std::memcpy(&out, all + 32 * (thread_x() % 32 ^ mask), sizeof(out));
  return out;
}
inline int32_t add_shared(int32_t* to, int32_t n) { return std::exchange(*to, *to + n); }

void mma(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1);
inline void mma_first(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  for (float& x : d) x = 0;
  mma(d, a, b0, b1);
}

template <int bytes = 16>
void copy_async(void* shared, const void* global) {
  simt::copy_later(shared, global, bytes);
}
using SharedPlace = std::byte*;
inline SharedPlace shared_place(void* shared) { return static_cast<std::byte*>(shared); }
template <int bytes, int to_offset, int offset>
void copy_async_at(SharedPlace to, const void* global) {
  simt::copy_later(to + to_offset, static_cast<const std::byte*>(global) + offset, bytes);
}
template <int words, int offset>
void load_at(uint32_t* out, const void* p) {
  std::memcpy(out, static_cast<const std::byte*>(p) + offset, 4 * words);
}
inline void copy_commit() { simt::close_copies(); }
template <int n>
void copy_wait() {
  simt::finish_copies(n);
}
template <class T>
T load_once(const T* p) {
  return *p;
}

template <class Op>
uint32_t each_half(const Op& op) {
  return static_cast<uint32_t>(f32_to_f16(op(0))) | static_cast<uint32_t>(f32_to_f16(op(16))) << 16;
}
inline float half_at(uint32_t pair, int shift) {
  return simt::half_value(static_cast<uint16_t>(pair >> shift));
}
// f32 holds sums and products of two halves exactly, or rounds them so that rounding again changes nothing.
inline uint32_t h2_mul(uint32_t a, uint32_t b) {
  return each_half([&](int s) { return half_at(a, s) * half_at(b, s); });
}
inline uint32_t h2_fma(uint32_t a, uint32_t b, uint32_t c) {
  return each_half([&](int s) { return std::fma(half_at(a, s), half_at(b, s), half_at(c, s)); });
}
inline uint32_t h2_of(float low, float high) {
  return static_cast<uint32_t>(f32_to_f16(low)) | static_cast<uint32_t>(f32_to_f16(high)) << 16;
}
inline float float_of_half(uint16_t h) { return simt::half_value(h); }
inline uint32_t twice(uint32_t word, int half) {
  return half == 0 ? (word & 0xffffu) | word << 16 : word >> 16 | (word & 0xffff0000u);
}
inline uint32_t and_or(uint32_t a, uint32_t mask, uint32_t bits) { return (a & mask) | bits; }
inline float float_of_bits(uint32_t bits) { return std::bit_cast<float>(bits); }
inline uint32_t bits_of_float(float x) { return std::bit_cast<uint32_t>(x); }
// -ffp-contract=off holds the compiler to it.
inline float mul_rounded(float a, float b) { return a * b; }
inline float sub_rounded(float a, float b) { return a - b; }

}  // namespace quern::cuda
