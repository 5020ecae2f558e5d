#include "backend/cuda/kernels/attention.h"

namespace quern::cuda {

void launch_attention_f8(const AttentionArgs& args, int jobs, bool own, Stream stream) {
  launch_kind<KvKind::f8>(args, jobs, own, stream);
}

}  // namespace quern::cuda
