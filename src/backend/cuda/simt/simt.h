// What kernels are written in: a GPU's threads, warps and tensor cores, by two means. nvcc compiles them for
// the device (device.cuh); the host's compiler compiles the same source for an emulator (emulator.h), where
// each thread is a fiber and each warp instruction is computed by its definition. So the kernels themselves,
// with all their index arithmetic, are tested on machines without a GPU; speed, and what the hardware does
// beyond its definition, are not.
//
// Half-precision pairs are uint32_t: the element with the lower index in the low 16 bits.
#pragma once

#include <cstdint>

#ifdef __CUDACC__
#include "backend/cuda/simt/device.cuh"
#else
#include "backend/cuda/simt/emulator.h"
#endif

namespace quern::cuda {

constexpr int kWarp = 32;

/// Four words that are loaded or stored together.
struct alignas(16) Words4 {
  uint32_t w[4];
};
struct alignas(8) Words2 {
  uint32_t w[2];
};

/// Sum, or maximum, over the warp; every lane gets the same value.
QUERN_DEVICE float warp_sum(float x) {
  for (int mask = kWarp / 2; mask > 0; mask /= 2) x += shfl_xor(x, mask);
  return x;
}
QUERN_DEVICE float warp_max(float x) {
  for (int mask = kWarp / 2; mask > 0; mask /= 2) x = fmaxf(x, shfl_xor(x, mask));
  return x;
}

/// Sum over a block of up to 1024 threads, whole warps. `shared` holds 32 floats and may be used again after
/// the next sync_block.
QUERN_DEVICE float block_sum(float x, float* shared) {
  x = warp_sum(x);
  if (thread_x() % kWarp == 0) shared[thread_x() / kWarp] = x;
  sync_block();
  float sum = 0;
  for (int i = 0; i < block_threads() / kWarp; ++i) sum += shared[i];
  return sum;
}
QUERN_DEVICE float block_max(float x, float* shared) {
  x = warp_max(x);
  if (thread_x() % kWarp == 0) shared[thread_x() / kWarp] = x;
  sync_block();
  float most = shared[0];
  for (int i = 1; i < block_threads() / kWarp; ++i) most = fmaxf(most, shared[i]);
  return most;
}

}  // namespace quern::cuda
