// What stands before every matmul: see ActivationArgs. And what stands behind some: adding up the splits of
// K.
#include "backend/cuda/kernels/matmul.h"

namespace quern::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kRun = 16;  // columns of a thread

/// The power of two that brings `largest` below 2^15 and at least to half of that.
struct Scale {
  float value, inverse;
  QUERN_DEVICE static Scale of(float largest) {
    // Exponents as they stand in the bits; at least 15, so that scale and inverse are normal numbers.
    const uint32_t stored = bits_of_float(largest) >> 23;
    const uint32_t exponent = stored < 15 ? 15 : stored;
    return {float_of_bits((exponent - 14) << 23), float_of_bits((127 + 14 + 127 - exponent) << 23)};
  }
};

/// A block is one row.
QUERN_KERNEL(kThreads) activations(QUERN_ARGUMENT ActivationArgs args) {
  QUERN_SHARED(float, shared, 32);
  let_next_start();
  wait_for_previous();
  const int row = block_x();
  const float* in = args.in.data + int64_t{args.source != nullptr ? args.source[row] : row} * args.in.stride;
  const auto value = [&](int k) {
    const int from = args.order != nullptr ? args.order[k] : k < args.in.cols ? k : -1;
    return from >= 0 ? in[from] : 0.0f;
  };
  float most = 0;
  for (int k = thread_x(); k < args.in.cols; k += block_threads()) most = fmaxf(most, fabsf(in[k]));
  const Scale scale = Scale::of(block_max(most, shared));
  const float inverse = scale.inverse;
  if (thread_x() == 0) args.scale[row] = scale.value;

  if (args.by_units != 0) {
    // Part p of a row's unit holds, of the fragment p / 2, the registers p % 2 of four lanes (layout.h).
    for (int i = thread_x(); i < args.padded / 8; i += block_threads()) {
      const int unit = i / 8, part = i % 8;
      Words4 words;
      QUERN_UNROLL
      for (int t = 0; t < 4; ++t) {
        const int k = kUnit * unit + fragment_k(args.sub, part / 2, t, 2 * (part % 2), 0);
        words.w[t] = h2_of(value(k) * inverse, value(k + 1) * inverse);
      }
      reinterpret_cast<Words4*>(args.x)[(int64_t{unit} * args.padded_rows + row) * 8 + (part ^ row % 8)] =
          words;
    }
    return;
  }
  for (int run = thread_x(); run < args.padded / kRun; run += block_threads()) {
    uint32_t words[kRun / 2];
    QUERN_UNROLL
    for (int i = 0; i < kRun / 2; ++i)
      words[i] = h2_of(value(kRun * run + 2 * i) * inverse, value(kRun * run + 2 * i + 1) * inverse);
    auto* to = reinterpret_cast<Words4*>(args.x + int64_t{row} * args.padded + kRun * run);
    to[0] = {{words[0], words[1], words[2], words[3]}};
    to[1] = {{words[4], words[5], words[6], words[7]}};
  }
}

constexpr int kRowThreads = 1024;

template <int kind>
QUERN_KERNEL(kRowThreads)
row_step(QUERN_ARGUMENT RowStepArgs args) {
  QUERN_SHARED(float, shared, 64);
  constexpr int most = kRowStepCols / (4 * kRowThreads);  // fours of columns of a thread
  let_next_start();
  const int64_t row = block_x();
  const int cols = args.in.cols, step = 4 * block_threads();
  const auto load = [&](const float* from, float(&v)[4]) {
    const auto four = *reinterpret_cast<const Words4*>(from);
    QUERN_UNROLL
    for (int i = 0; i < 4; ++i) v[i] = float_of_bits(four.w[i]);
  };
  // What no kernel writes is on its way while the one before ends.
  float gain[kind == RowStepArgs::rms_norm ? most : 1][4];
  Words4 order[kind == RowStepArgs::permute ? most : 1];
  QUERN_UNROLL
  for (int j = 0; j < most; ++j) {
    const int c = 4 * thread_x() + j * step;
    if constexpr (kind == RowStepArgs::rms_norm)
      if (c < cols) load(args.gain + c, gain[j]);
    if constexpr (kind == RowStepArgs::permute)
      if (c < args.to.padded) order[j] = *reinterpret_cast<const Words4*>(args.to.order + c);
  }
  wait_for_previous();
  float v[most][4] = {};
  QUERN_UNROLL
  for (int j = 0; j < most; ++j) {
    const int c = 4 * thread_x() + j * step;
    const float* in = args.in.data + row * args.in.stride;
    if constexpr (kind == RowStepArgs::permute) {
      if (c >= args.to.padded) continue;
      QUERN_UNROLL
      for (int i = 0; i < 4; ++i) {
        const auto k = static_cast<int32_t>(order[j].w[i]);
        if (k >= 0) v[j][i] = in[k];
      }
    } else if (c < cols) {
      load(in + c, v[j]);
    }
  }
  if constexpr (kind == RowStepArgs::rms_norm) {
    float squares = 0;
    QUERN_UNROLL
    for (int j = 0; j < most; ++j) {
      QUERN_UNROLL
      for (int i = 0; i < 4; ++i) squares += v[j][i] * v[j][i];
    }
    const float mean = block_sum(squares, shared) / static_cast<float>(cols);
    const float inverse = 1.0f / sqrtf(mean + args.eps);
    QUERN_UNROLL
    for (int j = 0; j < most; ++j) {
      const int c = 4 * thread_x() + j * step;
      if (c >= cols) continue;
      QUERN_UNROLL
      for (int i = 0; i < 4; ++i) v[j][i] = v[j][i] * inverse * gain[j][i];
    }
  }
  if constexpr (kind == RowStepArgs::silu_mul) {
    QUERN_UNROLL
    for (int j = 0; j < most; ++j) {
      const int c = 4 * thread_x() + j * step;
      if (c >= cols) continue;
      float up[4];
      load(args.up.data + row * args.up.stride + c, up);
      QUERN_UNROLL
      for (int i = 0; i < 4; ++i) v[j][i] = v[j][i] / (1.0f + expf(-v[j][i])) * up[i];
    }
  }
  float largest = 0;
  QUERN_UNROLL
  for (int j = 0; j < most; ++j) {
    QUERN_UNROLL
    for (int i = 0; i < 4; ++i) largest = fmaxf(largest, fabsf(v[j][i]));
    const int c = 4 * thread_x() + j * step;
    if ((kind == RowStepArgs::rms_norm || kind == RowStepArgs::silu_mul) && c < cols) {
      Words4 four;
      QUERN_UNROLL
      for (int i = 0; i < 4; ++i) four.w[i] = bits_of_float(v[j][i]);
      *reinterpret_cast<Words4*>(args.out + row * args.stride + c) = four;
    }
  }
  const Scale scale = Scale::of(block_max(largest, shared + 32));
  if (thread_x() == 0) args.to.scale[row] = scale.value;
  QUERN_UNROLL
  for (int j = 0; j < most; ++j) {
    const int c = 4 * thread_x() + j * step;
    if (c >= args.to.padded) continue;
    const uint32_t low = h2_of(v[j][0] * scale.inverse, v[j][1] * scale.inverse);
    const uint32_t high = h2_of(v[j][2] * scale.inverse, v[j][3] * scale.inverse);
    if (args.to.by_units == 0) {
      *reinterpret_cast<Words2*>(args.to.x + row * args.to.padded + c) = {{low, high}};
      continue;
    }
    // Four neighbours are a lane's: word t of two parts.
    const Spot spot = spot_of(args.to.sub, 0, c % kUnit);
    const int part = spot.pair / 4 * 2, turn = static_cast<int>(row % 8);
    uint32_t* to = reinterpret_cast<uint32_t*>(args.to.x) +
                   (int64_t{c / kUnit} * args.to.padded_rows + row) * 32 + spot.lane;
    to[4 * (part ^ turn)] = low;
    to[4 * ((part + 1) ^ turn)] = high;
  }
}

/// x: outputs of all targets, y: rows.
QUERN_KERNEL(kThreads) add_splits(QUERN_ARGUMENT MatmulArgs args) {
  let_next_start();
  wait_for_previous();
  const int col = block_x() * block_threads() + thread_x(), m = block_y();
  if (col >= args.cols) return;
  int index = 0;
  for (int i = 1; i < args.targets; ++i) index += col >= args.target[i].first_col;
  const Target& target = args.target[index];
  const int n = col - target.first_col;
  if (n >= target.weight.rows) return;
  float sum = 0;
  for (int i = 0; i < args.splits; ++i) sum += args.partial[(int64_t{i} * args.rows + m) * args.cols + col];
  finish(args, target, target.weight, n, m, sum);
}

}  // namespace

void launch_activations(const ActivationArgs& args, Stream stream) {
  const Grid grid{args.rows};
  QUERN_LAUNCH(activations, grid, kThreads, stream)(args);
}

void launch_row_step(RowStepArgs::Kind kind, const RowStepArgs& args, Stream stream) {
  const Grid grid{args.in.rows};
  // As many as take the row in a few loads each, which are on their way together.
  int threads = 256;
  while (4 * 4 * threads < args.to.padded) threads *= 2;
  auto* kernel = kind == RowStepArgs::rms_norm   ? &row_step<RowStepArgs::rms_norm>
                 : kind == RowStepArgs::silu_mul ? &row_step<RowStepArgs::silu_mul>
                 : kind == RowStepArgs::permute  ? &row_step<RowStepArgs::permute>
                                                 : &row_step<RowStepArgs::copy>;
  QUERN_LAUNCH(kernel, grid, threads, stream)(args);
}

void launch_add_splits(const MatmulArgs& args, Stream stream) {
  const Grid grid{(args.cols + kThreads - 1) / kThreads, args.rows, 1};
  QUERN_LAUNCH(add_splits, grid, kThreads, stream)(args);
}

}  // namespace quern::cuda
