#include "backend/cuda/launch.h"
#include "backend/cuda/simt/simt.h"

namespace quern::cuda {
namespace {

constexpr int kThreads = 256;

/// A block is one group of one row.
QUERN_KERNEL(kThreads)
rms_norm(Rows out, Rows in, const float* gain, int group, float eps) {
  let_next_start();
  wait_for_previous();
  QUERN_SHARED(float, shared, 32);
  const int groups = in.cols / group;
  const int64_t row = block_x() / groups;
  const int first = block_x() % groups * group;
  const float* from = in.data + row * in.stride + first;
  float* to = out.data + row * out.stride + first;
  float squares = 0;
  for (int i = thread_x(); i < group; i += block_threads()) squares += from[i] * from[i];
  const float mean = block_sum(squares, shared) / static_cast<float>(group);
  const float inverse = 1.0f / sqrtf(mean + eps);
  for (int i = thread_x(); i < group; i += block_threads()) to[i] = from[i] * inverse * gain[i];
}

/// y: rows, x: columns.
QUERN_DEVICE int column() { return block_x() * block_threads() + thread_x(); }

QUERN_KERNEL(kThreads) silu_mul(Rows out, Rows gate, Rows up) {
  let_next_start();
  wait_for_previous();
  const int c = column();
  if (c >= out.cols) return;
  const int64_t r = block_y();
  const float x = gate.data[r * gate.stride + c];
  out.data[r * out.stride + c] = x / (1.0f + expf(-x)) * up.data[r * up.stride + c];
}

QUERN_KERNEL(kThreads) add(Rows out, Rows in) {
  let_next_start();
  wait_for_previous();
  const int c = column();
  if (c < out.cols) out.data[block_y() * out.stride + c] += in.data[block_y() * in.stride + c];
}

QUERN_KERNEL(kThreads) gather(Rows out, Rows in, const int32_t* rows) {
  let_next_start();
  wait_for_previous();
  const int c = column();
  if (c < out.cols) out.data[block_y() * out.stride + c] = in.data[rows[block_y()] * in.stride + c];
}

QUERN_KERNEL(kThreads) scatter_add(QUERN_ARGUMENT ScatterArgs args) {
  let_next_start();
  wait_for_previous();
  const int c = column();
  if (c >= args.out.cols) return;
  float* to = args.out.data + args.target[block_y()] * args.out.stride + c;
  float sum = *to;
  for (int i = args.first[block_y()]; i < args.first[block_y() + 1]; ++i)
    sum = fmaf(args.weight[i], args.in.data[args.entry[i] * args.in.stride + c], sum);
  *to = sum;
}

Grid by_columns(int cols, int rows) { return {(cols + kThreads - 1) / kThreads, rows, 1}; }

}  // namespace

void launch_rms_norm(Rows out, Rows in, const float* gain, int group, float eps, Stream stream) {
  const Grid grid{in.rows * (in.cols / group)};
  const int threads = group <= 128 ? 64 : kThreads;
  QUERN_LAUNCH(rms_norm, grid, threads, stream)(out, in, gain, group, eps);
}

void launch_silu_mul(Rows out, Rows gate, Rows up, Stream stream) {
  QUERN_LAUNCH(silu_mul, by_columns(out.cols, out.rows), kThreads, stream)(out, gate, up);
}

void launch_add(Rows out, Rows in, Stream stream) {
  QUERN_LAUNCH(add, by_columns(out.cols, out.rows), kThreads, stream)(out, in);
}

void launch_gather(Rows out, Rows in, const int32_t* rows, Stream stream) {
  QUERN_LAUNCH(gather, by_columns(out.cols, out.rows), kThreads, stream)(out, in, rows);
}

void launch_scatter_add(const ScatterArgs& args, Stream stream) {
  QUERN_LAUNCH(scatter_add, by_columns(args.out.cols, args.targets), kThreads, stream)(args);
}

}  // namespace quern::cuda
