// The paged cache: its form, and who computes which part of attention.
#include <algorithm>

#include "backend/cuda/cuda_backend.h"
#include "core/check.h"

namespace quern::cuda {
namespace {

constexpr int kDims[] = {64, 96, 128, 256};  // that kernels are made for
constexpr int kKeysOfSplit = 128;            // fewer are not worth a block of their own
constexpr int kMostSplits = 32;

/// Empty when no kernel holds heads of that size.
std::optional<KvForm> kv_form(const KvShape& shape) {
  const auto* dim = std::ranges::find_if(kDims, [&](int d) { return d >= shape.head_dim; });
  if (dim == std::end(kDims)) return std::nullopt;
  KvForm form;
  form.kind = shape.type == KvType::f16 ? KvKind::f16 : KvKind::f8;
  form.heads = static_cast<int>(shape.kv_heads);
  form.head_dim = static_cast<int>(shape.head_dim);
  form.dim = *dim;
  form.block_size = static_cast<int>(shape.block_size);
  form.tokens = static_cast<int>((shape.block_size + 7) / 8 * 8);
  return form;
}

tl::unexpected<Error> no_such_head(int64_t head_dim) {
  return fail(ErrorCode::unsupported, "cuda: attention heads of {} values; at most {} are supported",
              head_dim, kDims[std::size(kDims) - 1]);
}

}  // namespace

Result<> CudaBackend::supports(KvType type) const {
  if (type == KvType::q8_0)
    return fail(ErrorCode::unsupported, "KV type q8_0: the CUDA backend has none; use f16 or f8e4m3");
  return {};
}

size_t CudaBackend::kv_block_bytes(const KvShape& shape) const {
  const auto form = kv_form(shape);
  // Heads that are too large are refused where they are first used; the size only has to be one.
  if (!form) return static_cast<size_t>(shape.kv_heads * shape.head_dim * shape.block_size * 4);
  return static_cast<size_t>(form->block_bytes());
}

void CudaBackend::kv_write(KvLayer layer, const KvShape& shape, Tensor k, Tensor v,
                           std::span<const SequenceSlice> sequences) {
  QUERN_DCHECK(k.cols == shape.kv_heads * shape.head_dim && v.cols == k.cols && v.rows == k.rows);
  if (k.rows > 0) note(run_kv_write(layer, shape, k, v, sequences));
}

Result<> CudaBackend::run_kv_write(KvLayer layer, const KvShape& shape, Tensor k, Tensor v,
                                   std::span<const SequenceSlice> of) {
  const auto form = kv_form(shape);
  if (!form) return no_such_head(shape.head_dim);
  QUERN_TRY(const Sequences on_device, sequences(of));
  const KvWriteArgs args{static_cast<uint8_t*>(layer.data),
                         *form,
                         rows_of(k),
                         rows_of(v),
                         on_device.slice_of_row,
                         on_device.slices,
                         on_device.blocks};
  const auto& rope = waiting_rope_;
  if (rope && rope->x.rows == k.rows && rope->x.stride == k.stride && rope->head_dim == shape.head_dim &&
      k.data >= rope->x.data && k.data + k.cols <= rope->x.data + rope->x.cols) {
    launch_rope_kv_write(*rope, args, device_->stream());
    waiting_rope_.reset();
    return {};
  }
  begin_op();
  launch_kv_write(args, device_->stream());
  return {};
}

void CudaBackend::kv_copy_block(KvLayer layer, const KvShape& shape, int32_t from, int32_t to) {
  begin_op();
  const size_t bytes = kv_block_bytes(shape);
  auto* data = static_cast<std::byte*>(layer.data);
  device_->copy(data + static_cast<size_t>(to) * bytes, data + static_cast<size_t>(from) * bytes, bytes);
}

Result<const CudaBackend::AttentionPlan*> CudaBackend::plan_attention(const KvForm& form,
                                                                      const AttentionShape& shape, int group,
                                                                      std::span<const SequenceSlice> of) {
  if (step_ && attention_ && attention_->sequences.data() == of.data() &&
      attention_->sequences.size() == of.size() && attention_->block_size == form.block_size &&
      attention_->group == group && attention_->window == shape.window && attention_->heads == form.heads)
    return &*attention_;
  // One way for all queries where their results may not depend on what else is in the step: `shared`, whose
  // warps have the same keys in every job, unsplit.
  AttentionPlan plan{of, form.block_size, group, shape.window, form.heads};
  std::vector<AttentionJob> own, shared, joins;
  int64_t few = 0;
  for (const SequenceSlice& s : of) few += s.count * group <= kPairsShared ? 1 : 0;
  // One query has little work: its keys are split until there are two blocks for every multiprocessor.
  const int64_t wanted = 2 * device_->multiprocessors() / std::max<int64_t>(few * form.heads, 1);
  for (size_t i = 0; i < of.size(); ++i) {
    const SequenceSlice& s = of[i];
    const int pairs = s.count * group;
    if (invariant_) {
      for (int first = 0; first < pairs; first += kPairsShared)
        shared.push_back({.slice = static_cast<int32_t>(i), .first = first});
      continue;
    }
    if (pairs > kPairsShared) {
      for (int first = 0; first < pairs; first += kPairsOwn)
        own.push_back({.slice = static_cast<int32_t>(i), .first = first});
      continue;
    }
    const int64_t length = int64_t{s.start} + s.count;
    const int64_t keys = shape.window > 0 ? std::min(length, shape.window + s.count) : length;
    const auto splits =
        static_cast<int>(std::clamp<int64_t>(std::min(wanted, keys / kKeysOfSplit), 1, kMostSplits));
    AttentionJob job{.slice = static_cast<int32_t>(i), .splits = splits, .partial = plan.partials};
    if (splits > 1) {
      joins.push_back(job);
      plan.partials += splits * kPairsShared;
    }
    for (int split = 0; split < splits; ++split) {
      shared.push_back(job);
      shared.back().split = split;
      shared.back().partial += split * kPairsShared;
    }
  }
  plan.own = static_cast<int>(own.size());
  plan.shared = static_cast<int>(shared.size());
  plan.joins = static_cast<int>(joins.size());
  QUERN_TRY(plan.own_jobs, uploads_.add(std::span<const AttentionJob>(own)));
  QUERN_TRY(plan.shared_jobs, uploads_.add(std::span<const AttentionJob>(shared)));
  QUERN_TRY(plan.join_jobs, upload(std::span<const AttentionJob>(joins)));
  attention_ = plan;
  return &*attention_;
}

void CudaBackend::attention(Tensor out, Tensor q, KvLayer layer, const KvShape& kv,
                            const AttentionShape& shape, std::span<const SequenceSlice> sequences) {
  QUERN_DCHECK(shape.heads % kv.kv_heads == 0 && q.cols == shape.heads * kv.head_dim && out.cols == q.cols);
  begin_op();
  if (q.rows > 0) note(run_attention(out, q, layer, kv, shape, sequences));
}

Result<> CudaBackend::run_attention(Tensor out, Tensor q, KvLayer layer, const KvShape& kv,
                                    const AttentionShape& shape, std::span<const SequenceSlice> of) {
  const auto form = kv_form(kv);
  if (!form) return no_such_head(kv.head_dim);
  const auto group = static_cast<int>(shape.heads / kv.kv_heads);
  QUERN_TRY(const Sequences on_device, sequences(of));
  QUERN_TRY(const AttentionPlan* plan, plan_attention(*form, shape, group, of));
  AttentionArgs args;
  args.cache = static_cast<const uint8_t*>(layer.data);
  args.form = *form;
  args.q = rows_of(q);
  args.out = rows_of(out);
  args.group = group;
  args.scale = shape.scale;
  args.window = static_cast<int>(shape.window);
  args.slices = on_device.slices;
  args.blocks = on_device.blocks;
  if (plan->partials > 0) {
    const size_t results = static_cast<size_t>(plan->partials) * static_cast<size_t>(form->heads);
    QUERN_TRY(args.partial_out, partial_out_.take<float>(results * static_cast<size_t>(form->dim)));
    QUERN_TRY(args.partial_stats, partial_stats_.take<float>(2 * results));
  }
  if (plan->own > 0) {
    args.jobs = plan->own_jobs;
    launch_attention(args, plan->own, true, device_->stream());
  }
  if (plan->shared > 0) {
    args.jobs = plan->shared_jobs;
    launch_attention(args, plan->shared, false, device_->stream());
  }
  if (plan->joins > 0) {
    args.jobs = plan->join_jobs;
    launch_join_splits(args, plan->joins, device_->stream());
  }
  return {};
}

}  // namespace quern::cuda
