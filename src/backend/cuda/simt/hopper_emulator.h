// hopper.cuh on the host, by its definitions (in emulator.cc, which has the threads that wait). Of the bulk
// copies every second one happens at once, the others as late as they may; products read their operands when
// they are waited for.
#pragma once

#include <atomic>

#include "backend/cuda/simt/simt.h"

namespace quern::cuda::hopper {

/// While it is set, products add nothing: a fault, for tests of what is done about one.
inline std::atomic<bool> products_are_lost = false;

inline uintptr_t shared_address(const void* p) { return reinterpret_cast<uintptr_t>(p); }

struct alignas(8) Barrier {
  int32_t bytes;  // that are still to come, in this phase; below 0 when they came before they were announced
  uint16_t pending;
  uint8_t arrivals, phase;
};
static_assert(sizeof(Barrier) == 8);  // as on the device

void init(Barrier* barrier, int arrivals);
inline void fence_init() {}
void arrive(Barrier* barrier);
void arrive_expecting(Barrier* barrier, int bytes);
inline void arrive_after_copies(Barrier* barrier) {
  simt::close_copies();
  simt::finish_copies(0);
  arrive(barrier);
}
void wait(Barrier* barrier, int parity);
void copy_bulk(void* shared, const void* global, int bytes, Barrier* barrier);

inline bool elected() { return thread_x() % kWarp == 0; }

void sync_cluster();
void arrive_at(Barrier* barrier, int rank);
void copy_bulk_to_all(void* shared, const void* global, int bytes, Barrier* barrier, int blocks);

template <int registers>
void give_up_registers() {}
template <int registers>
void take_registers() {}

void product_later(float* d, const uint32_t* a, uint64_t right, int cols);
void finish_products(int but_last);

inline void wgmma_fence() {}
void wgmma_commit();
template <int n>
void wgmma_wait() {
  finish_products(n);
}
template <int n>
void keep(float (&)[n]) {}
inline uint64_t descriptor(const void* shared) { return shared_address(shared) / 16; }
inline uint64_t further(uint64_t descriptor, int steps) {
  return descriptor + 2 * static_cast<uint64_t>(steps);
}
template <int cols>
void wgmma(float (&d)[cols / 2], const uint32_t (&a)[4], uint64_t right) {
  product_later(d, a, right, cols);
}

}  // namespace quern::cuda::hopper
