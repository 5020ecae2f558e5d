// What `quern bench` takes for the machine's limits, beside a read test and loops of int8 products written
// here for nothing else: a limit that is too low would flatter every share of it.
#include <fmt/format.h>
#include <sys/mman.h>

#include <algorithm>
#include <barrier>
#include <chrono>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <span>
#include <thread>
#include <vector>

#include "backend/cpu/machine.h"
#include "core/system.h"

#if defined(__x86_64__)
#include <immintrin.h>
#define QUERN_TARGET(isa) __attribute__((target(isa)))
#define QUERN_WITH_AVX2 __attribute__((target_clones("avx2", "default")))
#else
#define QUERN_WITH_AVX2
#endif

namespace quern {
namespace {

/// The best of five: `work(thread)` returns what it got done; all threads begin together. In units a second.
double best_rate(int threads, const std::function<double(int)>& work) {
  using Clock = std::chrono::steady_clock;
  struct Done {
    double units = 0;
    Clock::time_point begin, end;
  };
  double best = 0;
  for (int i = 0; i < 5; ++i) {
    std::vector<Done> done(static_cast<size_t>(threads));
    std::barrier ready(threads);
    std::vector<std::jthread> running;
    for (int t = 0; t < threads; ++t)
      running.emplace_back([&, t] {
        Done& mine = done[static_cast<size_t>(t)];
        ready.arrive_and_wait();
        mine.begin = Clock::now();  // here: another thread may wake after the work has begun
        mine.units = work(t);
        mine.end = Clock::now();
      });
    running.clear();
    Done all = done[0];
    for (const Done& d : std::span(done).subspan(1)) {
      all.units += d.units;
      all.begin = std::min(all.begin, d.begin);
      all.end = std::max(all.end, d.end);
    }
    best = std::max(best, all.units / std::chrono::duration<double>(all.end - all.begin).count());
  }
  return best;
}

using Wide = uint64_t __attribute__((vector_size(32)));

QUERN_WITH_AVX2 uint64_t read_once(const Wide* data, size_t count) {
  Wide sum[4] = {};
  for (size_t i = 0; i < count; i += 4)
#pragma GCC unroll 4
    for (size_t j = 0; j < 4; ++j) sum[j] ^= data[i + j];
  const Wide all = sum[0] ^ sum[1] ^ sum[2] ^ sum[3];
  return all[0] ^ all[1] ^ all[2] ^ all[3];
}

/// Bytes a second.
double read_rate(int threads) {
  // Beyond any cache, and no more than half of what there is.
  const size_t bytes =
      std::min<size_t>(size_t{512} << 20, available_memory() / 2 / static_cast<size_t>(threads)) / 4096 *
      4096;
  std::vector<void*> memory;
  for (int t = 0; t < threads; ++t) {
    memory.push_back(mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    if (memory.back() == MAP_FAILED) {
      fmt::print(stderr, "error: no {} bytes of memory\n", bytes);
      std::exit(1);
    }
    madvise(memory.back(), bytes, MADV_HUGEPAGE);
    std::memset(memory.back(), t + 1, bytes);
  }
  const double rate = best_rate(threads, [&](int t) {
    const volatile uint64_t keep =
        read_once(static_cast<const Wide*>(memory[static_cast<size_t>(t)]), bytes / sizeof(Wide));
    static_cast<void>(keep);
    return static_cast<double>(bytes);
  });
  for (void* m : memory) munmap(m, bytes);
  return rate;
}

#if defined(__x86_64__)
constexpr int64_t kRounds = 40'000'000;

/// Products of codes of 4 bits, whose pairs fit into 16 bits eight times over.
QUERN_TARGET("avx2") double products_avx2() {
  __m256i code = _mm256_set1_epi8(7), x = _mm256_set1_epi8(3);
  const __m256i ones = _mm256_set1_epi16(1);
  __m256i wide[4] = {};
  for (int64_t r = 0; r < kRounds / 8; ++r) {
    __m256i narrow[4] = {};
#pragma GCC unroll 8
    for (int i = 0; i < 8; ++i)
#pragma GCC unroll 4
      for (__m256i& sum : narrow) {
        asm volatile("" : "+x"(code), "+x"(x));  // or one product would do for all
        sum = _mm256_add_epi16(sum, _mm256_maddubs_epi16(code, x));
        asm volatile("" : "+x"(sum));  // or all products would wait for each other
      }
#pragma GCC unroll 4
    for (int c = 0; c < 4; ++c) wide[c] = _mm256_add_epi32(wide[c], _mm256_madd_epi16(narrow[c], ones));
  }
  for (__m256i& sum : wide) asm volatile("" : "+x"(sum));
  return 2.0 * 32 * 4 * kRounds;
}

QUERN_TARGET("avx2,avxvnni") double products_avx2_vnni() {
  __m256i code = _mm256_set1_epi8(7), x = _mm256_set1_epi8(3);
  __m256i sums[12] = {};
  for (int64_t r = 0; r < kRounds / 3; ++r)
#pragma GCC unroll 12
    for (__m256i& sum : sums) {
      asm volatile("" : "+x"(code), "+x"(x));
      sum = _mm256_dpbusd_avx_epi32(sum, code, x);
    }
  for (__m256i& sum : sums) asm volatile("" : "+x"(sum));
  return 2.0 * 32 * 4 * static_cast<double>(kRounds / 3 * 3);
}

QUERN_TARGET("avx512f,avx512vnni") double products_avx512() {
  __m512i code = _mm512_set1_epi8(7), x = _mm512_set1_epi8(3);
  __m512i sums[16] = {};
  for (int64_t r = 0; r < kRounds / 4; ++r)
#pragma GCC unroll 16
    for (__m512i& sum : sums) {
      asm volatile("" : "+v"(code), "+v"(x));
      sum = _mm512_dpbusd_epi32(sum, code, x);
    }
  for (__m512i& sum : sums) asm volatile("" : "+v"(sum));
  return 2.0 * 64 * 4 * kRounds;
}
#endif

/// Operations a second; 0 where there is no loop for this ISA.
double int8_rate(const std::string& isa, int threads) {
#if defined(__x86_64__)
  if (isa == "avx2") return best_rate(threads, [](int) { return products_avx2(); });
  if (isa == "avx2-vnni") return best_rate(threads, [](int) { return products_avx2_vnni(); });
  if (isa == "avx512") return best_rate(threads, [](int) { return products_avx512(); });
#endif
  return 0;
}

int run(int threads) {
  auto machine = Machine::open(threads);
  if (!machine) {
    fmt::print(stderr, "error: {}\n", machine.error().message);
    return 1;
  }
  MachineLimits limits;
  double read = 0, int8 = 0;
  for (int i = 0; i < 3; ++i) {  // turn by turn: other work on the machine hits both
    limits = higher(limits, machine->measure());
    read = std::max(read, read_rate(limits.threads) / 1e9);
    int8 = std::max(int8, int8_rate(limits.isa, limits.threads) / 1e9);
  }
  fmt::print("{}, {} threads, {}\n", limits.cpu, limits.threads, limits.isa);
  fmt::print("read  {:7.1f} GB/s as bench has it, {:7.1f} by another loop: {:.3f}\n", limits.read_gb_s, read,
             limits.read_gb_s / read);
  if (int8 > 0)
    fmt::print("int8  {:7.1f} GOPS as bench has it, {:7.1f} by another loop: {:.3f}\n", limits.int8_gops,
               int8, limits.int8_gops / int8);
  else
    fmt::print("int8  {:7.1f} GOPS as bench has it; no other loop for this ISA\n", limits.int8_gops);
  return 0;
}

}  // namespace
}  // namespace quern

int main(int argc, char** argv) { return quern::run(argc > 1 ? std::atoi(argv[1]) : 0); }
