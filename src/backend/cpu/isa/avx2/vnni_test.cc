// The products of vec_vnni.h on machines that lack vpdpbusd: its text over an instruction that is written
// out, against the reference. Where the CPU has it, the conformance tests run the real one.
#if defined(__x86_64__)
#include <gtest/gtest.h>

#include <algorithm>

#include "backend/cpu/activations.h"
#include "backend/cpu/kernels_begin.inc.h"
#include "backend/test_util.h"
#include "core/isa.h"

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma,f16c"))), apply_to = function)
#else
#pragma GCC push_options
#pragma GCC target("avx2,fma,f16c")
#endif

namespace quern::cpu {
namespace {
#include "backend/cpu/isa/avx2/registers.h"
#include "backend/cpu/kernels_for_each.inc.h"

/// In each 32-bit lane: sums + Σ of four products of unsigned codes and signed x, without saturation.
QUERN_INLINE __m256i dpbusd(__m256i sums, __m256i codes, __m256i x) {
  const __m256i low = _mm256_set1_epi16(0xff);
  const __m256i even =
      _mm256_madd_epi16(_mm256_and_si256(codes, low), _mm256_srai_epi16(_mm256_slli_epi16(x, 8), 8));
  const __m256i odd = _mm256_madd_epi16(_mm256_srli_epi16(codes, 8), _mm256_srai_epi16(x, 8));
  return _mm256_add_epi32(sums, _mm256_add_epi32(even, odd));
}

#include "backend/cpu/isa/avx2/vec_vnni.h"
#include "backend/cpu/kernels.inc.h"
}  // namespace

constinit const Kernels kernels_vnni_written_out = make_table("avx2-vnni written out");

}  // namespace quern::cpu

#if defined(__clang__)
#pragma clang attribute pop
#else
#pragma GCC pop_options
#endif

namespace quern::cpu {
namespace {

using namespace quern::testing;

std::vector<float> multiply(const Kernels& kernels, const PackedLayout& layout, const PackTile& rows,
                            const uint8_t* tile, const TestTensor& x) {
  const int columns = static_cast<int>(x.view.rows);
  ThreadPool pool(1);
  std::vector<int> widths;
  append_widths(columns, kernels.max_panel, widths);
  Activations activations;
  const ActivationNeed need = activation_need(layout, kernels);
  activations.quantize(kernels, pool, x.view, nullptr, widths, std::span(&need, 1));
  const auto panels = activations.panels(0);
  std::vector<float> out(static_cast<size_t>(columns) * kTileRows);
  kernels.affine_tiles({&layout, tile, tile != nullptr ? nullptr : &rows, panels.data(),
                        static_cast<int>(panels.size()), columns, out.data()});
  return out;
}

TEST(Vnni, WrittenOutItMultipliesAsTheReferenceDoes) {
  if (std::ranges::find(available_isas(), "avx2") == available_isas().end())
    GTEST_SKIP() << "skipped: this CPU has no AVX2";
  for (const QuantInfo* info : all_quants()) {
    if (info->family != Family::affine) continue;
    for (const int64_t blocks : {1, 3, 9}) {
      const int64_t cols = blocks * info->block;
      const PackedLayout layout = *packed_layout(*info, cols);
      const TestMatrix m = random_matrix(*info, {kTileRows, cols}, 4);
      std::vector<uint8_t> tile(static_cast<size_t>(layout.tile_bytes()) + 64);
      const PackTile rows{info, &layout, m.bytes.data(), m.bytes.size() / kTileRows, tile.data()};
      pack_tile_reference(rows, kTileRows);
      for (const int columns : {1, 2, 3, 4, 7, 9, 33}) {
        const TestTensor x = TestTensor::random(columns, cols, 5);
        const auto which = fmt::format("{} {} by {}", info->name, cols, columns);
        const auto expected = multiply(kernels_scalar, layout, rows, tile.data(), x);
        EXPECT_TRUE(same_bits(multiply(kernels_vnni_written_out, layout, rows, tile.data(), x), expected))
            << which;
        if (info->fields == nullptr) continue;
        EXPECT_TRUE(same_bits(multiply(kernels_vnni_written_out, layout, rows, nullptr, x), expected))
            << which << ", from rows";
      }
    }
  }
}

}  // namespace
}  // namespace quern::cpu
#endif
