// simt.h on the device.
#pragma once

#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cstdint>

#include "backend/cuda/queue.h"

#define QUERN_DEVICE __device__ __forceinline__
#define QUERN_KERNEL(threads) __global__ void __launch_bounds__(threads)
/// `blocks`: that shall fit on a multiprocessor.
#define QUERN_KERNEL_OF(threads, blocks) __global__ void __launch_bounds__(threads, blocks)
/// `registers`: of a thread, at most.
#define QUERN_KERNEL_WITH_REGISTERS(registers) __global__ void __maxnreg__(registers)
#define QUERN_DYNAMIC_SHARED(name) extern __shared__ uint8_t name[]
#define QUERN_SHARED(type, name, count) __shared__ alignas(16) type name[count]
/// Arguments that stay in constant memory, also when they are indexed.
#define QUERN_ARGUMENT const __grid_constant__
#define QUERN_UNROLL _Pragma("unroll")
/// QUERN_LAUNCH(kernel, grid, threads, stream)(arguments): `grid` is a Grid, `kernel` a name or a pointer.
#define QUERN_LAUNCH(kernel, grid, threads, stream) \
  ::quern::cuda::Launch{{nullptr, grid, threads}, stream}.of(kernel)
/// With `bytes` of dynamic shared memory, in clusters of that many neighbours in x.
#define QUERN_LAUNCH_CLUSTERS(kernel, grid, threads, bytes, cluster, stream) \
  ::quern::cuda::Launch{{nullptr, grid, threads, bytes, cluster}, stream}.of(kernel)

namespace quern::cuda {

struct Launch {
  Call call;
  Stream stream;
  template <class... Parameters>
  auto of(void (*kernel)(Parameters...)) const {
    return [launch = *this, kernel](const Parameters&... arguments) {
      Call call = launch.call;
      call.kernel = reinterpret_cast<const void*>(kernel);
      call.arguments = sizeof...(Parameters);
      void* values[] = {const_cast<void*>(static_cast<const void*>(&arguments))...};
      const uint32_t sizes[] = {sizeof(Parameters)...};
      launch.stream->launch(call, values, sizes);
    };
  }
};

/// Everything that the kernels before have written is there from here on, and what they read may be
/// overwritten. Every kernel says it once, before it touches anything that another kernel writes or reads;
/// what comes before overlaps with the end of the kernel before (PTX ISA, griddepcontrol).
QUERN_DEVICE void wait_for_previous() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}
/// The next kernel may be set up on multiprocessors that have room.
QUERN_DEVICE void let_next_start() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

QUERN_DEVICE int thread_x() { return static_cast<int>(threadIdx.x); }
QUERN_DEVICE int block_threads() { return static_cast<int>(blockDim.x); }
QUERN_DEVICE int block_x() { return static_cast<int>(blockIdx.x); }
QUERN_DEVICE int block_y() { return static_cast<int>(blockIdx.y); }
QUERN_DEVICE int block_z() { return static_cast<int>(blockIdx.z); }

QUERN_DEVICE void sync_block() { __syncthreads(); }
/// Also orders what the warp's lanes have written to shared memory.
QUERN_DEVICE void sync_warp() { __syncwarp(); }
QUERN_DEVICE float shfl_xor(float x, int mask) { return __shfl_xor_sync(0xffffffffu, x, mask); }
/// Adds to a number in shared memory; returns what was there.
QUERN_DEVICE int32_t add_shared(int32_t* to, int32_t n) { return atomicAdd(to, n); }

/// d += a · b of a 16×16 by a 16×8 matrix of halves, summed in f32 (PTX ISA, mma.m16n8k16). With
/// g = lane / 4, t = lane % 4:
///   a[r]  row g + 8 · (r & 1), columns 2t + 8 · (r >> 1) and the next
///   b[r]  column g, rows 2t + 8r and the next
///   d[i]  row g + 8 · (i >> 1), column 2t + (i & 1)
QUERN_DEVICE void mma(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
      "{%0,%1,%2,%3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
/// d = a · b.
QUERN_DEVICE void mma_first(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
      "{%10,%10,%10,%10};"
      : "=f"(d[0]), "=f"(d[1]), "=f"(d[2]), "=f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1), "f"(0.0f));
}

/// Copies 4, 8 or 16 bytes from global to shared memory, done once the group it is committed with has been
/// waited for.
template <int bytes = 16>
QUERN_DEVICE void copy_async(void* shared, const void* global) {
  const auto to = static_cast<uint32_t>(__cvta_generic_to_shared(shared));
  if constexpr (bytes == 16)
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(to), "l"(global) : "memory");
  else
    asm volatile("cp.async.ca.shared.global [%0], [%1], %2;" ::"r"(to), "l"(global), "n"(bytes) : "memory");
}
/// Places in shared memory, and loads and copies at constant distances from a pointer: the compiler would
/// work out each address anew.
using SharedPlace = uint32_t;
QUERN_DEVICE SharedPlace shared_place(const void* shared) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(shared));
}
template <int bytes, int to_offset, int offset>
QUERN_DEVICE void copy_async_at(SharedPlace to, const void* global) {
  if constexpr (bytes == 16)
    asm volatile("cp.async.cg.shared.global [%0+%2], [%1+%3], 16;" ::"r"(to), "l"(global), "n"(to_offset),
                 "n"(offset)
                 : "memory");
  else
    asm volatile("cp.async.ca.shared.global [%0+%2], [%1+%3], %4;" ::"r"(to), "l"(global), "n"(to_offset),
                 "n"(offset), "n"(bytes)
                 : "memory");
}
template <int words, int offset>
QUERN_DEVICE void load_at(uint32_t* out, const void* p) {
  if constexpr (words == 4)
    asm volatile("ld.global.v4.u32 {%0,%1,%2,%3}, [%4+%5];"
                 : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3])
                 : "l"(p), "n"(offset));
  else
    asm volatile("ld.global.v2.u32 {%0,%1}, [%2+%3];" : "=r"(out[0]), "=r"(out[1]) : "l"(p), "n"(offset));
}
QUERN_DEVICE void copy_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
/// Waits for all but the last `n` groups of this thread.
template <int n>
QUERN_DEVICE void copy_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(n) : "memory");
}

/// Loads what is read once: past the first cache, read-only.
template <class T>
QUERN_DEVICE T load_once(const T* p) {
  static_assert(sizeof(T) == 4 || sizeof(T) == 8 || sizeof(T) == 16);
  T out;
  auto* w = reinterpret_cast<uint32_t*>(&out);
  if constexpr (sizeof(T) == 16) {
    asm("ld.global.nc.L1::no_allocate.v4.u32 {%0,%1,%2,%3}, [%4];"
        : "=r"(w[0]), "=r"(w[1]), "=r"(w[2]), "=r"(w[3])
        : "l"(p));
  } else if constexpr (sizeof(T) == 8) {
    asm("ld.global.nc.L1::no_allocate.v2.u32 {%0,%1}, [%2];" : "=r"(w[0]), "=r"(w[1]) : "l"(p));
  } else {
    asm("ld.global.nc.L1::no_allocate.u32 %0, [%1];" : "=r"(w[0]) : "l"(p));
  }
  return out;
}

// ---- halves
QUERN_DEVICE uint32_t h2_mul(uint32_t a, uint32_t b) {
  uint32_t d;
  asm("mul.rn.f16x2 %0, %1, %2;" : "=r"(d) : "r"(a), "r"(b));
  return d;
}
QUERN_DEVICE uint32_t h2_fma(uint32_t a, uint32_t b, uint32_t c) {
  uint32_t d;
  asm("fma.rn.f16x2 %0, %1, %2, %3;" : "=r"(d) : "r"(a), "r"(b), "r"(c));
  return d;
}
/// To the nearest halves, ties to even; beyond 65504 infinity.
QUERN_DEVICE uint32_t h2_of(float low, float high) {
  uint32_t d;
  asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(d) : "f"(high), "f"(low));
  return d;
}
QUERN_DEVICE float float_of_half(uint16_t h) { return __half2float(__ushort_as_half(h)); }

/// Half `half` of a word, twice.
QUERN_DEVICE uint32_t twice(uint32_t word, int half) {
  return __byte_perm(word, 0, half == 0 ? 0x1010 : 0x3232);
}
/// (a & mask) | bits in one instruction; the compiler makes it two.
QUERN_DEVICE uint32_t and_or(uint32_t a, uint32_t mask, uint32_t bits) {
  uint32_t d;
  asm("lop3.b32 %0, %1, %2, %3, 0xea;" : "=r"(d) : "r"(a), "r"(mask), "r"(bits));
  return d;
}
QUERN_DEVICE float float_of_bits(uint32_t bits) { return __uint_as_float(bits); }
QUERN_DEVICE uint32_t bits_of_float(float x) { return __float_as_uint(x); }
/// Products and sums that are rounded one by one, never fused.
QUERN_DEVICE float mul_rounded(float a, float b) { return __fmul_rn(a, b); }
QUERN_DEVICE float sub_rounded(float a, float b) { return __fsub_rn(a, b); }

}  // namespace quern::cuda
