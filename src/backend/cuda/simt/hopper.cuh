// What sm_90a has beyond simt.h: barriers in shared memory that copies complete, bulk copies, clusters of
// blocks, and the matrix product of a warpgroup (PTX ISA: mbarrier, cp.async.bulk, barrier.cluster, wgmma).
// On the host: hopper_emulator.h.
#pragma once

#include "backend/cuda/simt/simt.h"

#ifdef __CUDA_ARCH_FEAT_SM90_ALL

namespace quern::cuda::hopper {

QUERN_DEVICE uint32_t shared_address(const void* p) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(p));
}

// ---- barriers

using Barrier = uint64_t;

/// A phase ends when `arrivals` have arrived and all bytes that were announced have come.
QUERN_DEVICE void init(Barrier* barrier, int arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(barrier)), "r"(arrivals));
}
/// Makes initialized barriers known to the copy engine; then sync_block.
QUERN_DEVICE void fence_init() { asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory"); }
QUERN_DEVICE void arrive(Barrier* barrier) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_address(barrier)) : "memory");
}
QUERN_DEVICE void arrive_expecting(Barrier* barrier, int bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(barrier)),
               "r"(bytes)
               : "memory");
}
/// Arrives once this thread's copies (copy_async) up to here are done.
QUERN_DEVICE void arrive_after_copies(Barrier* barrier) {
  asm volatile("cp.async.mbarrier.arrive.noinc.shared::cta.b64 [%0];" ::"r"(shared_address(barrier))
               : "memory");
}
/// Waits for the end of the phase of that parity (the first phase has parity 0).
QUERN_DEVICE void wait(Barrier* barrier, int parity) {
  asm volatile(
      "{\n"
      ".reg .pred done;\n"
      "again:\n"
      "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
      "@done bra end;\n"
      "bra again;\n"
      "end:\n"
      "}\n" ::"r"(shared_address(barrier)),
      "r"(parity)
      : "memory");
}

/// Copies `bytes`, a multiple of 16, from global to shared memory, both on 16 bytes; the barrier is told.
QUERN_DEVICE void copy_bulk(void* shared, const void* global, int bytes, Barrier* barrier) {
  asm volatile(
      "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(
          shared_address(shared)),
      "l"(global), "r"(bytes), "r"(shared_address(barrier))
      : "memory");
}

/// True in one of the warp's lanes.
QUERN_DEVICE bool elected() {
  uint32_t yes;
  asm volatile(
      "{\n"
      ".reg .pred p;\n"
      "elect.sync _|p, 0xffffffff;\n"
      "selp.u32 %0, 1, 0, p;\n"
      "}\n"
      : "=r"(yes));
  return yes != 0;
}

// ---- clusters: blocks that run at the same time and reach each other's shared memory

/// All threads of the cluster's blocks, with what they have written. No block may end while another still
/// reaches into it.
QUERN_DEVICE void sync_cluster() {
  asm volatile("barrier.cluster.arrive.release;\nbarrier.cluster.wait.acquire;" ::: "memory");
}
/// Arrives at block `rank`'s barrier in the place of this one's. Says nothing of what this thread has written
/// (`release.cluster` would wait for all of its memory accesses, on the whole GPU).
QUERN_DEVICE void arrive_at(Barrier* barrier, int rank) {
  asm volatile(
      "{\n"
      ".reg .b32 there;\n"
      "mapa.shared::cluster.u32 there, %0, %1;\n"
      "mbarrier.arrive.shared::cluster.b64 _, [there];\n"
      "}\n" ::"r"(shared_address(barrier)),
      "r"(rank)
      : "memory");
}
/// copy_bulk to the same place in the first `blocks` blocks of the cluster; each one's barrier is told.
QUERN_DEVICE void copy_bulk_to_all(void* shared, const void* global, int bytes, Barrier* barrier,
                                   int blocks) {
  asm volatile(
      "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.multicast::cluster "
      "[%0], [%1], %2, [%3], %4;" ::"r"(shared_address(shared)),
      "l"(global), "r"(bytes), "r"(shared_address(barrier)), "h"(static_cast<uint16_t>((1 << blocks) - 1))
      : "memory");
}

/// Registers of every thread of a warpgroup, from here on; the kernel is launched with an even share.
template <int registers>
QUERN_DEVICE void give_up_registers() {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(registers));
}
template <int registers>
QUERN_DEVICE void take_registers() {
  asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(registers));
}

// ---- wgmma

QUERN_DEVICE void wgmma_fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
QUERN_DEVICE void wgmma_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
/// Waits for all but the last `n` groups.
template <int n>
QUERN_DEVICE void wgmma_wait() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(n) : "memory");
}
/// The compiler neither moves nor reads these across this point.
template <int n>
QUERN_DEVICE void keep(float (&d)[n]) {
  QUERN_UNROLL
  for (int i = 0; i < n; ++i) asm volatile("" : "+f"(d[i])::"memory");
}

/// A right operand in shared memory, on 1024 bytes: rows (columns of the product) of 64 halves along K, 128
/// bytes each, the 16-byte part p of row r at place p ^ (r % 8).
QUERN_DEVICE uint64_t descriptor(const void* shared) {
  constexpr uint64_t kSwizzle128 = uint64_t{1} << 62, kStride = uint64_t{1024 / 16} << 32,
                     kLeading = uint64_t{1} << 16;
  return (shared_address(shared) >> 4 & 0x3fff) | kLeading | kStride | kSwizzle128;
}
/// The same rows from 16 · `steps` halves on, within the 64. The address, in its low bits, does not overflow.
QUERN_DEVICE uint64_t further(uint64_t descriptor, int steps) {
  return (descriptor & ~uint64_t{0xffffffff}) | (static_cast<uint32_t>(descriptor) + 2 * steps);
}

// Registers by number, for the instruction's text.
#define QUERN_R8(a, b, c, d, e, f, g, h) "%" #a ",%" #b ",%" #c ",%" #d ",%" #e ",%" #f ",%" #g ",%" #h
#define QUERN_R0 QUERN_R8(0, 1, 2, 3, 4, 5, 6, 7)
#define QUERN_R16 QUERN_R0 "," QUERN_R8(8, 9, 10, 11, 12, 13, 14, 15)
#define QUERN_R32 \
  QUERN_R16 "," QUERN_R8(16, 17, 18, 19, 20, 21, 22, 23) "," QUERN_R8(24, 25, 26, 27, 28, 29, 30, 31)
#define QUERN_R64                                                              \
  QUERN_R32 "," QUERN_R8(32, 33, 34, 35, 36, 37, 38, 39) "," QUERN_R8(         \
      40, 41, 42, 43, 44, 45, 46, 47) "," QUERN_R8(48, 49, 50, 51, 52, 53, 54, \
                                                   55) "," QUERN_R8(56, 57, 58, 59, 60, 61, 62, 63)
#define QUERN_R128                                                                                           \
  QUERN_R64                                                                                                  \
  "," QUERN_R8(64, 65, 66, 67, 68, 69, 70, 71) "," QUERN_R8(72, 73, 74, 75, 76, 77, 78, 79) "," QUERN_R8(    \
      80, 81, 82, 83, 84, 85, 86,                                                                            \
      87) "," QUERN_R8(88, 89, 90, 91, 92, 93, 94,                                                           \
                       95) "," QUERN_R8(96, 97, 98, 99, 100, 101, 102,                                       \
                                        103) "," QUERN_R8(104, 105, 106, 107, 108, 109, 110,                 \
                                                          111) "," QUERN_R8(112, 113, 114, 115, 116, 117,    \
                                                                            118, 119) "," QUERN_R8(120, 121, \
                                                                                                   122, 123, \
                                                                                                   124, 125, \
                                                                                                   126, 127)
#define QUERN_D4(i) "+f"(d[i]), "+f"(d[(i) + 1]), "+f"(d[(i) + 2]), "+f"(d[(i) + 3])
#define QUERN_D8(i) QUERN_D4(i), QUERN_D4((i) + 4)
#define QUERN_D16(i) QUERN_D8(i), QUERN_D8((i) + 8)
#define QUERN_D32(i) QUERN_D16(i), QUERN_D16((i) + 16)
#define QUERN_D64(i) QUERN_D32(i), QUERN_D32((i) + 32)
#define QUERN_D128(i) QUERN_D64(i), QUERN_D64((i) + 64)
#define QUERN_WGMMA(n, registers, a0, a1, a2, a3, b, outputs)                                 \
  asm volatile("{\n.reg .pred p;\nsetp.eq.u32 p, 0, 0;\nwgmma.mma_async.sync.aligned.m64n" #n \
               "k16.f32.f16.f16 {" registers "}, {%" #a0 ",%" #a1 ",%" #a2 ",%" #a3 "}, %" #b \
               ", p, 1, 1, 0;\n}\n"                                                           \
               : outputs                                                                      \
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "l"(right))

/// d += a · b of a 64×16 by a 16×cols matrix of halves, by the four warps of a warpgroup: of rows 16w … of
/// warp w a lane holds what mma (device.cuh) says, for each 8 columns four of d. Asynchronous: fence, wgmma,
/// commit, wait.
template <int cols>
QUERN_DEVICE void wgmma(float (&d)[cols / 2], const uint32_t (&a)[4], uint64_t right) {
  static_assert(cols == 16 || cols == 32 || cols == 64 || cols == 128 || cols == 256);
  if constexpr (cols == 16) QUERN_WGMMA(16, QUERN_R0, 8, 9, 10, 11, 12, QUERN_D8(0));
  if constexpr (cols == 32) QUERN_WGMMA(32, QUERN_R16, 16, 17, 18, 19, 20, QUERN_D16(0));
  if constexpr (cols == 64) QUERN_WGMMA(64, QUERN_R32, 32, 33, 34, 35, 36, QUERN_D32(0));
  if constexpr (cols == 128) QUERN_WGMMA(128, QUERN_R64, 64, 65, 66, 67, 68, QUERN_D64(0));
  if constexpr (cols == 256) QUERN_WGMMA(256, QUERN_R128, 128, 129, 130, 131, 132, QUERN_D128(0));
}

}  // namespace quern::cuda::hopper

#endif  // __CUDA_ARCH_FEAT_SM90_ALL
