// Seconds that mapping a file and reading a byte of every cache line of it takes, by a number of threads:
// what no start from this file can be without. Usage: quern_touch_file FILE THREADS
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <thread>
#include <vector>

#include "core/mapped_file.h"

int main(int argc, char** argv) {
  const int threads = argc == 3 ? std::atoi(argv[2]) : 0;
  if (threads < 1) {
    std::fputs("usage: quern_touch_file FILE THREADS\n", stderr);
    return 2;
  }
  const auto begin = std::chrono::steady_clock::now();
  const auto file = quern::MappedFile::open(argv[1]);
  if (!file) {
    std::fprintf(stderr, "error: %s\n", file.error().message.c_str());
    return 1;
  }
  const auto bytes = file->bytes();
  std::vector<int> sums(static_cast<size_t>(threads) * 16);  // 16: a cache line each
  {
    std::vector<std::jthread> workers;
    for (size_t t = 0; t < static_cast<size_t>(threads); ++t) {
      workers.emplace_back([&, t] {
        const size_t first = bytes.size() / threads * t / 64 * 64, last = bytes.size() / threads * (t + 1);
        int sum = 0;
        for (size_t i = first; i < last; i += 64) sum += static_cast<int>(bytes[i]);
        sums[t * 16] = sum;
      });
    }
  }
  const std::chrono::duration<double> seconds = std::chrono::steady_clock::now() - begin;
  std::printf("%.3f\n", seconds.count());
  return sums[0] == -1 ? 1 : 0;  // so that the sums are needed
}
