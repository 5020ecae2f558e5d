#include "backend/cuda/launch.h"
#include "backend/cuda/simt/simt.h"

namespace quern::cuda {
namespace {

constexpr int kThreads = 1024;
constexpr int kTogether = 4;  // threads whose largest value is one
constexpr int kGroups = kThreads / kTogether;
constexpr int kAtOnce = 8;  // loads of a thread
constexpr int kList = 1024;

QUERN_DEVICE bool possible(float x) { return fabsf(x) <= 3.40282347e38f; }

/// The thread's values of the row; what is beyond its end is impossible.
QUERN_DEVICE void load(float (&x)[kAtOnce], const float* row, int first, int cols) {
  QUERN_UNROLL
  for (int j = 0; j < kAtOnce; ++j) {
    const int at = first + j * kThreads;
    x[j] = at < cols ? row[at] : INFINITY;
  }
}

/// A block is a row. The kMost-th largest of its groups' largest values is a bound that at least kMost values
/// reach, and few more: these are listed, and each finds its place by comparing itself with all others.
QUERN_KERNEL(kThreads) best_of_rows(BestOfRow* out, Rows in, const float* scale) {
  let_next_start();
  wait_for_previous();
  constexpr int kMost = BestOfRow::kMost;
  QUERN_SHARED(float, largest, kGroups);
  QUERN_SHARED(float, value, kList);
  QUERN_SHARED(int32_t, column, kList);
  QUERN_SHARED(float, sums, 32);
  QUERN_SHARED(float, bound, 1);
  QUERN_SHARED(int32_t, listed, 1);
  const float* row = in.data + int64_t{block_x()} * in.stride;
  float most = -INFINITY;
  for (int i = thread_x(); i < in.cols; i += kAtOnce * kThreads) {
    float x[kAtOnce];
    load(x, row, i, in.cols);
    QUERN_UNROLL
    for (int j = 0; j < kAtOnce; ++j) most = possible(x[j]) ? fmaxf(most, x[j]) : most;
  }
  for (int mask = 1; mask < kTogether; mask *= 2) most = fmaxf(most, shfl_xor(most, mask));
  if (thread_x() % kTogether == 0) largest[thread_x() / kTogether] = most;
  if (thread_x() == 0) listed[0] = 0;
  sync_block();

  float top = -INFINITY;
  int better = 0;
  const float own = largest[thread_x() % kGroups];
  for (int i = 0; i < kGroups; ++i) {
    top = fmaxf(top, largest[i]);
    better += largest[i] > own || (largest[i] == own && i < thread_x());
  }
  if (thread_x() < kGroups && better == kMost - 1) bound[0] = own;
  sync_block();

  const float least = bound[0], factor = scale[block_x()];
  float weights = 0;
  for (int i = thread_x(); i < in.cols; i += kAtOnce * kThreads) {
    float x[kAtOnce];
    load(x, row, i, in.cols);
    QUERN_UNROLL
    for (int j = 0; j < kAtOnce; ++j) {
      if (!possible(x[j])) continue;
      weights += expf((x[j] - top) * factor);
      if (x[j] < least) continue;
      const int at = add_shared(listed, 1);
      if (at < kList) value[at] = x[j], column[at] = i + j * kThreads;
    }
  }
  weights = block_sum(weights, sums);  // all are listed
  const int count = listed[0];
  BestOfRow& to = out[block_x()];
  // More equals than the list holds: whoever asked must look for himself.
  if (thread_x() == 0) to.count = count > kList ? 0 : count < kMost ? count : kMost, to.total = weights;
  if (count > kList) return;
  for (int i = thread_x(); i < count; i += kThreads) {
    int place = 0;
    for (int j = 0; j < count; ++j)
      place += value[j] > value[i] || (value[j] == value[i] && column[j] < column[i]);
    if (place < kMost) to.value[place] = value[i], to.column[place] = column[i];
  }
}

}  // namespace

void launch_best_of_rows(BestOfRow* out, Rows in, const float* scale, Stream stream) {
  QUERN_LAUNCH(best_of_rows, Grid{in.rows}, kThreads, stream)(out, in, scale);
}

}  // namespace quern::cuda
