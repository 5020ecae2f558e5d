// Which lane holds which weight: what the kernels load, word by word, against the codes of the stored matrix.
#include "backend/cuda/layout.h"

#include <gtest/gtest.h>

#include <cmath>
#include <map>
#include <set>

#include "backend/cuda/kernels/dequantize.h"
#include "backend/cuda/pack.h"
#include "backend/test_util.h"
#include "quant/grouped_for_test.h"

namespace quern::cuda {
namespace {

using namespace quern::testing;

TEST(Layout, SpotsAndFragmentsAreInverse) {
  for (const int sub : {16, 32}) {
    for (int lane = 0; lane < 32; ++lane)
      for (int pair = 0; pair < kPairs; ++pair)
        for (int half = 0; half < 2; ++half) {
          const int row = fragment_row(lane, pair % 4), k = fragment_k(sub, pair / 4, lane, pair % 4, half);
          const Spot spot = spot_of(sub, row, k);
          EXPECT_EQ(spot.lane, lane);
          EXPECT_EQ(spot.pair, pair);
          EXPECT_EQ(spot.half, half);
          // A fragment lies within one group, so that its sum can be scaled.
          EXPECT_EQ(k / sub, sub == 32 ? pair / 8 : pair / 4);
        }
  }
}

TEST(Layout, WordsOfAPlaneAreDistinctAndLoadsAreWide) {
  for (const int plane : {1, 2, 4, 8, 16}) {
    std::set<int> seen;
    for (int lane = 0; lane < 32; ++lane)
      for (int word = 0; word < plane; ++word) {
        const int at = word_at(plane, lane, word);
        EXPECT_TRUE(at >= 0 && at < 32 * plane && seen.insert(at).second);
        const int together = std::min(plane, 4);
        EXPECT_EQ(at, word_at(plane, lane, word / together * together) + word % together);
        EXPECT_EQ(word_at(plane, lane, word / together * together) % together, 0);
      }
    std::set<std::pair<int, int>> places;
    for (int pair = 0; pair < kPairs; ++pair) {
      EXPECT_LT(pair_word(plane, pair), plane);
      EXPECT_LE(pair_shift(plane, pair) + plane, 16);
      EXPECT_TRUE(places.emplace(pair_word(plane, pair), pair_shift(plane, pair)).second);
    }
  }
}

struct PackedMatrix {
  std::vector<uint32_t> codes, heads, supers;
  std::vector<float> factor;
  Packed view;
};

template <class Tile>
PackedMatrix pack_all(const PackPlan& plan, const Tile& pack) {
  PackedMatrix p;
  p.codes.resize(static_cast<size_t>(plan.code_words()) + 4);
  p.heads.resize(static_cast<size_t>(plan.head_words()) + 4);
  p.supers.resize(static_cast<size_t>(plan.super_words()) + 4);
  p.factor.resize(static_cast<size_t>(plan.factors()));
  for (int tile = 0; tile < plan.tiles; ++tile)
    pack(tile, PackOutput{p.codes.data(), p.heads.data(), p.supers.data(), p.factor.data()});
  p.view = plan.shape();
  p.view.codes = p.codes.data();
  p.view.heads = p.heads.data();
  p.view.supers = p.supers.data();
  p.view.factor = p.factor.data();
  return p;
}

float half_of(uint32_t pair, int half) { return f16_to_f32(static_cast<uint16_t>(pair >> (16 * half))); }

/// Every lane loads every unit as the kernels do; each value must be the weight that mma's definition says.
template <Form form>
void check_lanes(const PackPlan& plan, const PackedMatrix& p, std::span<const float> exact, double tolerance,
                 std::string_view name) {
  const Zero zero = Zero::of(plan.zero);
  for (int tile = 0; tile < plan.tiles; ++tile)
    for (int unit = 0; unit < plan.units; ++unit)
      for (int lane = 0; lane < 32; ++lane) {
        Raw<form> raw{};
        load_unit<form>(raw, p.view, tile, unit, lane);
        for (int kt = 0; kt < 4; ++kt) {
          uint32_t a[4];
          centered<form>(a, raw, kt, zero);
          for (int reg = 0; reg < 4; ++reg)
            for (int half = 0; half < 2; ++half) {
              const int64_t row = int64_t{tile} * kTile + fragment_row(lane, reg);
              const int64_t k = int64_t{unit} * kUnit + fragment_k(form.sub, kt, lane, reg, half);
              const int group = kt * form.groups() / 4;
              const float s = scale_of<form>(raw, group, reg & 1), least = min_of<form>(raw, group, reg & 1);
              float value = s * half_of(a[reg], half) - least;
              if (k >= plan.cols) {  // multiplied by zero
                ASSERT_TRUE(std::isfinite(value)) << name << " beyond the end: " << row << ", " << k;
                continue;
              }
              if (row >= plan.rows) {
                ASSERT_EQ(value, 0.0f) << name << " beyond the end: " << row << ", " << k;
                continue;
              }
              value *= p.factor[static_cast<size_t>(row)];
              const float expected = exact[static_cast<size_t>(row * plan.cols + k)];
              if (std::isnan(expected)) continue;
              ASSERT_NEAR(value, expected, 1e-3 * std::fabs(expected) + tolerance)
                  << name << " " << row << ", " << k;
            }
        }
      }
}

TEST(Layout, EveryLaneOfEveryFormatHoldsItsWeights) {
  for (const QuantInfo* info : all_quants()) {
    const int64_t unit = info->block > 32 ? info->block : 32;
    for (const int64_t cols : {unit, 3 * unit}) {
      const TestMatrix m = random_matrix(*info, {37, cols}, 5);
      const PackPlan plan = pack_plan(*info, 37, cols);
      const PackedMatrix p = pack_all(
          plan, [&](int tile, const PackOutput& out) { pack_tile(plan, *info, m.bytes.data(), tile, out); });
      const auto check = [&]<Form form>() {
        if (plan.form == form) check_lanes<form>(plan, p, m.exact, 1e-6, info->name);
        return plan.form == form;
      };
      const bool found =
          check.operator()<Form{.bits = 16}>() || check.operator()<Form{.bits = 4}>() ||
          check.operator()<Form{.bits = 4, .min = true}>() || check.operator()<Form{.bits = 5}>() ||
          check.operator()<Form{.bits = 5, .min = true}>() || check.operator()<Form{.bits = 8}>() ||
          check.operator()<Form{.bits = 2, .sub = 16, .super = true, .min = true}>() ||
          check.operator()<Form{.bits = 3, .sub = 16, .super = true}>() ||
          check.operator()<Form{.bits = 4, .super = true, .min = true}>() ||
          check.operator()<Form{.bits = 5, .super = true, .min = true}>() ||
          check.operator()<Form{.bits = 6, .sub = 16, .super = true}>();
      EXPECT_TRUE(found) << info->name << " is held in a form that this test does not know";
      EXPECT_TRUE(info->family == Family::floating || plan.form.bits < 16) << info->name;
    }
  }
}

template <Form form>
bool check_grouped(const GroupedPlan& plan, const testing::GroupedParts& parts, std::string_view name) {
  if (!(plan.form == form)) return false;
  const GroupedMatrix matrix = parts.matrix();
  const PackedMatrix p =
      pack_all(plan, [&](int tile, const PackOutput& out) { pack_tile(plan, matrix, tile, out); });
  // The weights as the plan orders them; a column that no input has is multiplied by zero.
  std::vector<float> exact;
  for (int64_t n = 0; n < plan.rows; ++n)
    for (int64_t k = 0; k < plan.cols; ++k) {
      const int64_t input = plan.order.empty() ? k : plan.order[static_cast<size_t>(k)];
      exact.push_back(input < 0 ? NAN : parts.exact[static_cast<size_t>(n * parts.cols + input)]);
    }
  // Scale times zero point is rounded to a half; scales times codes are below 1.5.
  check_lanes<form>(plan, p, exact, 1.5 * 0x1p-12, name);
  return true;
}

TEST(Layout, EveryLaneOfGroupedMatricesHoldsItsWeights) {
  using testing::GroupOrder;
  for (const int bits : {2, 3, 4, 8})
    for (const int64_t group : {32, 64, 96, 128, 384, 48})
      for (const bool symmetric : {true, false})
        for (const GroupOrder order :
             {GroupOrder::none, GroupOrder::shuffled, GroupOrder::negative, GroupOrder::uneven}) {
          const testing::GroupedParts parts = testing::random_grouped(
              {.bits = bits, .group_size = group, .symmetric = symmetric, .order = order}, 32, 384, 7);
          const GroupedPlan plan = pack_plan(parts.matrix());
          const auto name = fmt::format("{} bits, groups of {}{}, order {}", bits, group,
                                        symmetric ? "" : ", zero points", static_cast<int>(order));
          const bool found = check_grouped<Form{.bits = 2}>(plan, parts, name) ||
                             check_grouped<Form{.bits = 2, .min = true}>(plan, parts, name) ||
                             check_grouped<Form{.bits = 3}>(plan, parts, name) ||
                             check_grouped<Form{.bits = 3, .min = true}>(plan, parts, name) ||
                             check_grouped<Form{.bits = 4}>(plan, parts, name) ||
                             check_grouped<Form{.bits = 4, .min = true}>(plan, parts, name) ||
                             check_grouped<Form{.bits = 8}>(plan, parts, name) ||
                             check_grouped<Form{.bits = 8, .min = true}>(plan, parts, name);
          EXPECT_TRUE(found) << name;
          if (bits == 4 && group == 128 && symmetric && order != GroupOrder::uneven) {
            // 4 bits, and a half for each 128.
            EXPECT_EQ(plan.bytes(), size_t{32} * 384 / 2 + 32 * 3 * 2 + 32 * 4) << name;
          }
        }
}

}  // namespace
}  // namespace quern::cuda
