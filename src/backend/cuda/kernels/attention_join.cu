#include "backend/cuda/kernels/attention.h"

namespace quern::cuda {
namespace {

/// x: jobs, y: KV heads. The parts of a pair are added in order.
QUERN_KERNEL(128) join_splits(QUERN_ARGUMENT AttentionArgs args) {
  let_next_start();
  wait_for_previous();
  const AttentionJob job = args.jobs[block_x()];
  const Slice slice = args.slices[job.slice];
  const int left = slice.count * args.group - job.first;
  const int count = left < kPairsShared ? left : kPairsShared, dim = args.form.dim;
  for (int i = thread_x(); i < count * dim; i += block_threads()) {
    const int pair = i / dim, d = i % dim;
    if (d >= args.form.head_dim) continue;
    const auto at = [&](int split) {
      return int64_t{job.partial + split * kPairsShared + pair} * args.form.heads + block_y();
    };
    float most = -INFINITY, sum = 0, out = 0;
    for (int s = 0; s < job.splits; ++s) most = fmaxf(most, args.partial_stats[2 * at(s)]);
    for (int s = 0; s < job.splits; ++s) {
      const float own = args.partial_stats[2 * at(s)];
      if (!(own > -INFINITY)) continue;
      const float part = exp2f(own - most);
      sum += part * args.partial_stats[2 * at(s) + 1];
      out += part * args.partial_out[at(s) * dim + d];
    }
    result_of(args, slice, job.first + pair)[d] = out / sum;
  }
}

}  // namespace

void launch_attention(const AttentionArgs& args, int jobs, bool own, Stream stream) {
  (args.form.kind == KvKind::f16 ? launch_attention_f16 : launch_attention_f8)(args, jobs, own, stream);
}

void launch_join_splits(const AttentionArgs& args, int jobs, Stream stream) {
  const Grid grid{jobs, args.form.heads, 1};
  QUERN_LAUNCH(join_splits, grid, 128, stream)(args);
}

}  // namespace quern::cuda
