#include "backend/cuda/launch.h"
#include "backend/cuda/simt/simt.h"

namespace quern::cuda {
namespace {

constexpr int kThreads = 128;

/// The angle in double: at large positions an f32 angle has lost the digits that matter.
QUERN_KERNEL(kThreads)
turns(float* turn, const int32_t* positions, const float* frequency, int pairs, float magnitude) {
  let_next_start();
  wait_for_previous();
  const int i = block_x() * block_threads() + thread_x();
  if (i >= pairs) return;
  const double angle = positions[block_y()] / static_cast<double>(frequency[i]);
  double s, c;
  sincos(angle, &s, &c);
  float* to = turn + (int64_t{block_y()} * pairs + i) * 2;
  to[0] = static_cast<float>(c) * magnitude;
  to[1] = static_cast<float>(s) * magnitude;
}

/// x: (head, pair), y: row.
QUERN_KERNEL(kThreads) rope(QUERN_ARGUMENT RopeArgs args) {
  let_next_start();
  wait_for_previous();
  const int i = block_x() * block_threads() + thread_x();
  if (i >= args.x.cols / args.head_dim * args.pairs) return;
  const int pair = i % args.pairs;
  float* head = args.x.data + block_y() * args.x.stride + i / args.pairs * args.head_dim;
  const float* turn = args.turn + (int64_t{block_y()} * args.pairs + pair) * 2;
  float& a = head[args.interleaved ? 2 * pair : pair];
  float& b = head[args.interleaved ? 2 * pair + 1 : pair + args.pairs];
  const float rotated = a * turn[0] - b * turn[1];
  b = a * turn[1] + b * turn[0];
  a = rotated;
}

}  // namespace

void launch_turns(float* turn, const int32_t* positions, int rows, const float* frequency, int pairs,
                  float magnitude, Stream stream) {
  const Grid grid{(pairs + kThreads - 1) / kThreads, rows, 1};
  QUERN_LAUNCH(turns, grid, kThreads, stream)(turn, positions, frequency, pairs, magnitude);
}

void launch_rope(const RopeArgs& args, Stream stream) {
  const Grid grid{(args.x.cols / args.head_dim * args.pairs + kThreads - 1) / kThreads, args.x.rows, 1};
  QUERN_LAUNCH(rope, grid, kThreads, stream)(args);
}

}  // namespace quern::cuda
