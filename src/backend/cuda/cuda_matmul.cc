// Which kernel multiplies, in what grid.
#include <algorithm>
#include <bit>

#include "backend/cuda/cuda_backend.h"
#include "core/check.h"

namespace quern::cuda {
namespace {

constexpr int kRowRoom = 8;  // activations in order have room for whole eights of rows
/// Rows of one product where the splits of K do not depend on them: the sums of all splits stay in the cache.
constexpr int64_t kInvariantRows = 256;

/// Of the grid's x, one of `rows` outputs each.
int blocks_of(const Packed& weight, int rows) { return (weight.tiles * kTile + rows - 1) / rows; }

/// Columns of the wide kernel that takes `rows` rows of activations, and that kernel.
std::pair<int, MatmulLaunch> wide_kernel(const MatmulKernels& kernels, int rows) {
  if (rows <= 32) return {32, kernels.wide32};
  return {128, kernels.wide128};
}

const CudaWeight& weight_of(const MatmulTarget& target) {
  return static_cast<const CudaWeight&>(*target.weight);
}

/// Fills in the targets, for blocks of `rows` outputs. Returns how many blocks they are.
int set_targets(MatmulArgs& args, std::span<const MatmulTarget* const> targets, int rows) {
  args.targets = static_cast<int>(targets.size());
  int blocks = 0;
  for (size_t i = 0; i < targets.size(); ++i) {
    const MatmulTarget& from = *targets[i];
    Target& to = args.target[i];
    to.weight = weight_of(from).packed();
    if (from.bias != nullptr) to.bias = static_cast<const CudaVector*>(from.bias)->device();
    to.out = from.out.data;
    to.stride = from.out.stride;
    to.accumulate = from.accumulate ? 1 : 0;
    to.first_block = blocks;
    to.first_col = args.cols;
    blocks += blocks_of(to.weight, rows);
    args.cols += to.weight.tiles * kTile;
  }
  return blocks;
}

}  // namespace

NarrowGrid narrow_grid(int units, int tiles, int multiprocessors) {
  // Some warps for every multiprocessor; as few to a tile as that allows, for each has its own beginning and
  // end.
  constexpr int kWarps = 16;
  const int wanted = std::max(1, kWarps * multiprocessors / tiles);
  NarrowGrid grid;
  grid.share =
      static_cast<int>(std::bit_floor(static_cast<unsigned>(std::clamp(wanted, 1, std::min(8, units)))));
  grid.tiles = std::max(1, 4 / grid.share);
  grid.threads = 32 * grid.share * grid.tiles;
  return grid;
}

MatmulArgs matmul_args(const ActivationArgs& a) {
  MatmulArgs args;
  args.rows = a.rows;
  args.x = a.x;
  args.scale = a.scale;
  args.padded = a.padded;
  args.padded_rows = a.padded_rows;
  return args;
}

void CudaBackend::matmul(Tensor out, const Weight& weight, Tensor in, const Vector* bias, bool accumulate) {
  const MatmulTarget target{out, &weight, bias, accumulate};
  matmul_multi(std::span(&target, 1), in);
}

void CudaBackend::matmul_multi(std::span<const MatmulTarget> targets, Tensor in) {
  for ([[maybe_unused]] const MatmulTarget& t : targets) {
    QUERN_DCHECK(t.out.rows == in.rows && t.out.cols == t.weight->rows && in.cols == t.weight->cols);
    QUERN_DCHECK(t.weight->experts == 1 && weight_of(t).kernels() != nullptr);
  }
  launch_waiting_rope();
  if (in.rows > 0) note(invariant_ ? run_in_parts(targets, in) : run_targets(targets, in));
  converted_.reset();
}

/// Rows of activations in a block of the Hopper kernel; 0 when it is not to be used.
int CudaBackend::hopper_cols(int rows) const {
  if (!hopper_ || (rows <= kNarrowCols && !invariant_)) return 0;
  if (rows <= 128) return *std::ranges::lower_bound(kHopperCols, rows);
  const auto covered = [&](int cols) { return (rows + cols - 1) / cols * cols; };
  return covered(256) <= covered(128) ? 256 : 128;
}

CudaBackend::Wanted CudaBackend::wanted(const CudaWeight& weight, int rows) const {
  return {hopper_cols(rows), weight.form().sub};
}

Result<ActivationArgs> CudaBackend::room_for(int rows, int padded, const Wanted& wanted) {
  converted_.reset();
  const int part = wanted.cols > 0 ? wanted.cols : kRowRoom;
  const int padded_rows = (rows + part - 1) / part * part;
  ActivationArgs a{.rows = rows, .padded_rows = padded_rows, .padded = padded};
  a.by_units = wanted.cols > 0 ? 1 : 0;
  a.sub = wanted.sub;
  QUERN_TRY(a.x, halves_.take<uint16_t>(static_cast<size_t>(padded_rows) * static_cast<size_t>(padded)));
  QUERN_TRY(a.scale, scales_.take<float>(static_cast<size_t>(padded_rows)));
  return a;
}

Result<bool> CudaBackend::row_step(RowStepArgs::Kind kind, Tensor out, RowStepArgs args,
                                   const Wanted& wanted) {
  const auto fits = [](const Rows& r) {
    return reinterpret_cast<uintptr_t>(r.data) % 16 == 0 && r.stride % 4 == 0;
  };
  const int padded = units_of(out.cols) * kUnit;
  if (out.rows == 0 || out.cols % 4 != 0 || padded > kRowStepCols || !fits(args.in) || !fits(args.up) ||
      !fits(rows_of(out)))
    return false;
  QUERN_TRY(args.to, room_for(static_cast<int>(out.rows), padded, wanted));
  args.out = out.data;
  args.stride = out.stride;
  launch_row_step(kind, args, device_->stream());
  converted_ = {out, wanted, matmul_args(args.to)};
  return true;
}

Result<MatmulArgs> CudaBackend::convert(Tensor in, int rows, const CudaWeight& weight, const int32_t* source,
                                        const Wanted& wanted) {
  const bool plain = source == nullptr && weight.order() == nullptr;
  // In order, k is not permuted, whatever the form.
  const auto alike = [&](const Wanted& w) {
    return w.cols == wanted.cols && (w.cols == 0 || w.sub == wanted.sub);
  };
  if (plain && converted_ && alike(converted_->wanted) && converted_->of.data == in.data &&
      converted_->of.rows == in.rows && converted_->of.cols == in.cols && converted_->of.stride == in.stride)
    return converted_->args;
  if (plain) {
    QUERN_TRY(const bool done, row_step(RowStepArgs::copy, in, {.in = rows_of(in)}, wanted));
    if (done) return converted_->args;
  }
  QUERN_TRY(ActivationArgs a, room_for(rows, weight.packed().units * kUnit, wanted));
  a.in = rows_of(in);
  a.source = source;
  a.order = weight.order();
  if (a.order != nullptr && source == nullptr && a.padded <= kRowStepCols)
    launch_row_step(RowStepArgs::permute, {.in = a.in, .to = a}, device_->stream());
  else
    launch_activations(a, device_->stream());
  return matmul_args(a);
}

Result<> CudaBackend::run_in_parts(std::span<const MatmulTarget> targets, Tensor in) {
  std::vector<MatmulTarget> part(targets.begin(), targets.end());
  for (int64_t first = 0; first < in.rows; first += kInvariantRows) {
    const int64_t count = std::min(kInvariantRows, in.rows - first);
    for (size_t i = 0; i < part.size(); ++i) part[i].out = targets[i].out.slice_rows(first, count);
    QUERN_TRY_VOID(run_targets(part, in.slice_rows(first, count)));
  }
  return {};
}

Result<> CudaBackend::run_targets(std::span<const MatmulTarget> targets, Tensor in) {
  // Those of one form and order share a launch.
  MatmulArgs converted;
  const CudaWeight* last = nullptr;  // whose order of columns `converted` has
  std::vector<bool> taken(targets.size());
  for (size_t i = 0; i < targets.size(); ++i) {
    if (taken[i]) continue;
    const CudaWeight& weight = weight_of(targets[i]);
    const Wanted want = wanted(weight, static_cast<int>(in.rows));
    std::vector<const MatmulTarget*> alike;
    for (size_t j = i; j < targets.size() && alike.size() < kTargets; ++j) {
      if (taken[j] || !(weight_of(targets[j]).form() == weight.form()) ||
          weight_of(targets[j]).order() != weight.order())
        continue;
      taken[j] = true;
      alike.push_back(&targets[j]);
    }
    const bool same = last != nullptr && last->order() == weight.order() &&
                      (want.cols == 0 || last->form().sub == weight.form().sub);
    if (!same) {
      QUERN_TRY(converted, convert(in, static_cast<int>(in.rows), weight, nullptr, want));
      last = &weight;
    }
    QUERN_TRY_VOID(run_same_form(converted, alike, want.cols));
  }
  return {};
}

Result<> CudaBackend::run_same_form(const MatmulArgs& converted, std::span<const MatmulTarget* const> targets,
                                    int hopper_cols) {
  if (converted.rows > kNarrowCols || invariant_)
    return hopper_cols > 0 ? run_hopper(converted, targets, hopper_cols) : run_wide(converted, targets);
  MatmulArgs args = converted;
  const CudaWeight& first = weight_of(*targets[0]);
  int tiles = 0;
  for (const MatmulTarget* t : targets) tiles += weight_of(*t).packed().tiles;
  const NarrowGrid grid = narrow_grid(first.packed().units, tiles, device_->multiprocessors());
  args.share = grid.share;
  const int blocks = set_targets(args, targets, kTile * grid.tiles);
  first.kernels()->narrow(args, {blocks, 1, 1}, grid.threads, device_->stream());
  return {};
}

Result<> CudaBackend::run_hopper(MatmulArgs args, std::span<const MatmulTarget* const> targets, int cols) {
  const int blocks = set_targets(args, targets, kHopperRows);
  const int units = args.target[0].weight.units;
  args.cluster = hopper_cluster_;
  const auto chunks = [&] { return (args.rows + cols - 1) / cols; };
  const auto all = [&] { return (blocks + args.cluster - 1) / args.cluster * args.cluster * chunks(); };
  // As many blocks as fit at once, each with some units at least.
  const auto splits_of = [&](int of_cols, int without) {
    const int room = hopper_blocks(of_cols) * device_->multiprocessors();
    return std::clamp(room / without, 1, std::max(1, units / 8));
  };
  const int fixed = invariant_ ? splits_of(kHopperCols[0], blocks) : 1;
  // Better more blocks of fewer columns than splits of K, whose sums must be added up. (Activations laid out
  // for many columns serve fewer.)
  while (cols > 64 && 10 * all() * fixed < 9 * device_->multiprocessors()) cols /= 2;
  args.chunks = chunks();
  const MatmulKernels& kernels = *weight_of(*targets[0]).kernels();
  const HopperLaunch launch = kernels.hopper.of_cols[std::ranges::find(kHopperCols, cols) - kHopperCols];
  return run_split(args, invariant_ ? fixed : splits_of(cols, all()), [&] {
    launch(args, {all(), args.splits, 1}, device_->stream());
  });
}

Result<> CudaBackend::run_wide(MatmulArgs args, std::span<const MatmulTarget* const> targets) {
  const int blocks = set_targets(args, targets, kWideRows);
  const auto [cols, launch] = wide_kernel(*weight_of(*targets[0]).kernels(), args.rows);
  const int chunks = (args.rows + cols - 1) / cols;
  const int all = std::max(1, invariant_ ? blocks : blocks * chunks);
  // Enough blocks for two on every multiprocessor.
  const int wanted = (2 * device_->multiprocessors() + all - 1) / all;
  return run_split(args, std::clamp(wanted, 1, std::max(1, args.target[0].weight.units / 4)),
                   [&, launch = launch] {
                     launch(args, {blocks, args.splits, chunks}, kWideThreads, device_->stream());
                   });
}

template <class Launch>
Result<> CudaBackend::run_split(MatmulArgs& args, int splits, const Launch& launch) {
  args.splits = splits;
  if (splits > 1) {
    const auto size = [](int n) { return static_cast<size_t>(n); };
    QUERN_TRY(args.partial, partials_.take<float>(size(splits) * size(args.rows) * size(args.cols)));
  }
  launch();
  if (splits > 1) launch_add_splits(args, device_->stream());
  return {};
}

void CudaBackend::matmul_experts(Tensor out, const Weight& stack, Tensor in, std::span<const int32_t> expert,
                                 std::span<const int32_t> source) {
  QUERN_DCHECK(out.rows == static_cast<int64_t>(expert.size()) && expert.size() == source.size());
  QUERN_DCHECK(out.cols == stack.rows && in.cols == stack.cols);
  launch_waiting_rope();
  if (out.rows > 0) note(run_experts(out, static_cast<const CudaWeight&>(stack), in, expert, source));
  converted_.reset();
}

Result<> CudaBackend::run_experts(Tensor out, const CudaWeight& stack, Tensor in,
                                  std::span<const int32_t> expert, std::span<const int32_t> source) {
  std::vector<Job> runs;
  for (size_t i = 0; i < expert.size(); ++i) {
    if (runs.empty() || runs.back().matrix != expert[i])
      runs.push_back({expert[i], static_cast<int32_t>(i), 0, 0});
    ++runs.back().count;
  }
  const int most = std::ranges::max_element(runs, {}, &Job::count)->count;
  const bool narrow = most <= kNarrowCols && !invariant_;
  const MatmulKernels& kernels = *stack.kernels();
  const auto [cols, launch] = narrow ? std::pair{kNarrowCols, kernels.narrow} : wide_kernel(kernels, most);
  std::vector<Job> jobs;
  for (const Job& run : runs)
    for (int first = 0; first < run.count; first += cols)
      jobs.push_back({run.matrix, run.first + first, std::min(cols, run.count - first), 0});

  QUERN_TRY(const int32_t* sources, uploads_.add(source));
  QUERN_TRY(const Job* on_device, upload(std::span<const Job>(jobs)));
  QUERN_TRY(MatmulArgs args, convert(in, static_cast<int>(expert.size()), stack, sources, {}));
  args.jobs = on_device;
  Target& target = args.target[0];
  target.weight = stack.packed();
  target.out = out.data;
  target.stride = out.stride;
  args.cols = target.weight.tiles * kTile;
  const auto count = static_cast<int>(jobs.size());
  const NarrowGrid small =
      narrow_grid(target.weight.units, target.weight.tiles * count, device_->multiprocessors());
  args.share = small.share;
  launch(args, {blocks_of(target.weight, narrow ? kTile * small.tiles : kWideRows), 1, count},
         narrow ? small.threads : kWideThreads, device_->stream());
  return {};
}

}  // namespace quern::cuda
