// Grouped matrices (GPTQ's) on every ISA that this CPU has: against exact arithmetic on what their words say,
// and bit for bit against the scalar reference; orders of inputs shared and not.
#include "quant/grouped.h"

#include <gtest/gtest.h>

#include "backend/backend.h"
#include "backend/cpu/check_grouped.h"
#include "backend/test_util.h"
#include "quant/grouped_for_test.h"

namespace quern {
namespace {

using namespace quern::testing;

std::unique_ptr<Backend> make(std::string_view isa, int threads = 1, bool keep = true) {
  auto backend = make_cpu_backend({.threads = threads, .isa = isa, .keep_packed = keep});
  EXPECT_TRUE(backend.has_value()) << (backend ? "" : backend.error().message);
  return std::move(*backend);
}

/// A grouped tensor that owns everything.
struct TestGrouped {
  GroupedParts parts;
  GroupedMatrix matrix;
  RawTensor tensor;
  TestGrouped(const GroupedSpec& spec, int64_t rows, int64_t cols, uint32_t seed)
      : parts(random_grouped(spec, rows, cols, seed)), matrix(parts.matrix()) {
    tensor = {"test", DType::Grouped, {rows, cols}, std::as_bytes(std::span(parts.qweight)), &matrix};
  }
  TestGrouped(const TestGrouped&) = delete;
  TestGrouped& operator=(const TestGrouped&) = delete;
};

struct Variant {
  GroupedSpec spec;
  int64_t rows, cols;
};

std::vector<Variant> variants() {
  std::vector<Variant> all;
  for (const int bits : {2, 3, 4, 8}) {
    for (const bool symmetric : {true, false}) {
      for (const GroupOrder order : {GroupOrder::none, GroupOrder::shuffled, GroupOrder::uneven}) {
        for (const int64_t group : {int64_t{32}, int64_t{64}, int64_t{128}, int64_t{-1}})
          all.push_back({{bits, group, symmetric, order, group == 64}, 64, 640});
        // Not of whole units, and rows that do not fill tiles.
        const int64_t run = bits == 3 ? 32 : 32 / bits;
        all.push_back({{bits, 16, symmetric, order}, 3 * run, 192});
        all.push_back({{bits, 48, symmetric, order}, 32, 288});
        all.push_back({{bits, 5 * run, symmetric, order, true}, 7 * run, 5 * run});
      }
      for (const DType type : {DType::BF16, DType::F32})
        all.push_back({{bits, 128, symmetric, GroupOrder::shuffled, false, type}, 32, 256});
    }
  }
  return all;
}

std::string text(const Variant& v) {
  return fmt::format("{} bits, groups of {}, {}, order {}, {}, {}: {} x {}", v.spec.bits, v.spec.group_size,
                     v.spec.symmetric ? "symmetric" : "asymmetric", static_cast<int>(v.spec.order),
                     v.spec.v2 ? "v2" : "v1", dtype_name(v.spec.scale_type), v.rows, v.cols);
}

std::vector<float> multiply(Backend& backend, const Weight& w, const TestTensor& x) {
  TestTensor out(x.view.rows, w.rows);
  backend.matmul(out.view, w, x.view);
  return out.values;
}

std::unique_ptr<Weight> prepare(Backend& backend, const RawTensor& tensor) {
  auto w = backend.prepare(tensor);
  EXPECT_TRUE(w.has_value()) << (w ? "" : w.error().message);
  return w ? std::move(*w) : nullptr;
}

TEST(Grouped, TheReferenceDecodesWhatWasPacked) {
  uint32_t seed = 0;
  for (const Variant& v : variants()) {
    const TestGrouped m(v.spec, v.rows, v.cols, ++seed);
    std::vector<float> values(m.parts.exact.size());
    decode_rows(m.tensor, 0, v.rows, values.data());
    EXPECT_TRUE(same_bits(values, m.parts.exact)) << text(v);
  }
}

class GroupedIsa : public ::testing::TestWithParam<std::string> {};
std::vector<std::string> isas() {
  std::vector<std::string> names;
  for (const cpu::Kernels* k : cpu::available_kernels()) names.emplace_back(k->name);
  return names;
}
INSTANTIATE_TEST_SUITE_P(All, GroupedIsa, ::testing::ValuesIn(isas()), [](const auto& info) {
  std::string name = info.param;
  std::erase(name, '-');
  return name;
});

TEST_P(GroupedIsa, MatmulOfEveryVariant) {
  auto backend = make(GetParam()), reference = make("scalar"), fresh = make(GetParam(), 1, false);
  uint32_t seed = 100;
  for (const Variant& v : variants()) {
    const TestGrouped m(v.spec, v.rows, v.cols, ++seed);
    const auto w = prepare(*backend, m.tensor), r = prepare(*reference, m.tensor),
               late = prepare(*fresh, m.tensor);
    if (w == nullptr || r == nullptr || late == nullptr) continue;
    for (const int64_t batch : {1, 3, 8, 21}) {
      const TestTensor x = TestTensor::random(batch, v.cols, ++seed);
      const auto y = multiply(*backend, *w, x);
      EXPECT_LE(nmse(y, exact_matmul(m.parts.exact, v.rows, v.cols, x.view)), 5e-4) << text(v);
      EXPECT_TRUE(same_bits(y, multiply(*reference, *r, x))) << text(v) << " batch " << batch;
      EXPECT_TRUE(same_bits(y, multiply(*fresh, *late, x))) << text(v) << " batch " << batch;
      backend->settle();
      EXPECT_TRUE(same_bits(y, multiply(*backend, *w, x))) << text(v) << " batch " << batch;
    }
  }
}

/// Every input is 127 or -127, which int8 holds exactly in any order: one wrong code or zero point shows.
TEST_P(GroupedIsa, MatmulIsExactUpToSumming) {
  auto backend = make(GetParam());
  uint32_t seed = 200;
  for (const Variant& v : variants()) {
    if (v.spec.order == GroupOrder::uneven) continue;  // a group may have a few inputs only
    const TestGrouped m(v.spec, v.rows, v.cols, ++seed);
    const auto w = prepare(*backend, m.tensor);
    TestTensor x(5, v.cols);
    std::mt19937 random(++seed);
    for (float& value : x.values) value = random() % 2 == 0 ? 127.0f : -127.0f;
    EXPECT_LE(nmse(multiply(*backend, *w, x), exact_matmul(m.parts.exact, v.rows, v.cols, x.view)), 1e-11)
        << text(v);
  }
}

TEST_P(GroupedIsa, TilesAreTheReferences) {
  const cpu::Kernels* kernels = *cpu::choose_kernels(GetParam());
  uint32_t seed = 300;
  for (const Variant& v : variants()) {
    if (v.rows < cpu::kTileRows) continue;
    const TestGrouped m(v.spec, v.rows, v.cols, ++seed);
    const cpu::GroupedPlan plan = cpu::plan_grouped(m.matrix);
    const auto size = static_cast<size_t>(plan.layout.tile_bytes());
    for (int64_t first = 0; first + cpu::kTileRows <= v.rows; first += cpu::kTileRows) {
      std::vector<uint8_t> expected(size + 64, 0xa5), packed(size + 64, 0xa5);
      cpu::pack_grouped_reference({&m.matrix, &plan, plan.source(), first, expected.data()});
      kernels->pack_grouped({&m.matrix, &plan, plan.source(), first, packed.data()});
      EXPECT_EQ(packed, expected) << text(v) << " row " << first;
    }
  }
}

/// q, k and v of one layer have one order, o another; plain weights have none.
TEST_P(GroupedIsa, EachWeightGetsItsOwnOrder) {
  auto backend = make(GetParam(), 2);
  const GroupedSpec plain{4, 64}, shuffled{4, 64, true, GroupOrder::shuffled},
      asymmetric{3, 32, false, GroupOrder::shuffled};
  const TestGrouped a(plain, 32, 256, 1), b(shuffled, 48, 256, 2), c(asymmetric, 32, 256, 3);
  TestGrouped d(shuffled, 64, 256, 4);
  d.matrix.group_of = b.matrix.group_of;  // two of the same order
  const TestMatrix e = random_matrix(*find_quant("Q4_K"), {24, 256}, 5);
  const TestTensor x = TestTensor::random(6, 256, 6);
  std::vector<std::unique_ptr<Weight>> weights;
  const RawTensor* const tensors[] = {&a.tensor, &b.tensor, &c.tensor, &d.tensor, &e.tensor};
  for (const RawTensor* tensor : tensors) weights.push_back(prepare(*backend, *tensor));
  const auto order = [&](size_t i) { return static_cast<const cpu::CpuWeight&>(*weights[i]).order(); };
  EXPECT_EQ(order(0), nullptr);
  EXPECT_NE(order(1), nullptr);
  EXPECT_NE(order(1), order(2));
  EXPECT_EQ(order(1), order(3));
  TestTensor wide(6, 200);
  std::vector<MatmulTarget> targets;
  int64_t first = 0;
  for (const auto& w : weights) {
    targets.push_back({wide.view.slice_cols(first, w->rows), w.get(), nullptr, false});
    first += w->rows;
  }
  backend->matmul_multi(targets, x.view);
  first = 0;
  for (const auto& w : weights) {
    const auto alone = multiply(*backend, *w, x);
    for (int64_t r = 0; r < 6; ++r)
      for (int64_t i = 0; i < w->rows; ++i) EXPECT_EQ(wide.at(r, first + i), alone[r * w->rows + i]) << first;
    first += w->rows;
  }
}

TEST_P(GroupedIsa, ARowIsTheSameAloneAndInABatch) {
  auto backend = make(GetParam(), 3);
  const TestGrouped m({4, 32, false, GroupOrder::shuffled}, 40, 256, 7);
  const auto w = prepare(*backend, m.tensor);
  const TestTensor x = TestTensor::random(600, 256, 8);
  const auto all = multiply(*backend, *w, x);
  for (const int64_t first : {0, 13, 511, 599}) {
    TestTensor one(1, 256);
    std::copy_n(x.values.data() + first * 256, 256, one.values.data());
    EXPECT_TRUE(same_bits(multiply(*backend, *w, one), std::span(all).subspan(first * 40, 40))) << first;
  }
}

TEST(Grouped, SymmetricWithoutOrderIsQ4_0) {
  // The same codes and scales as blocks of 32: 2 bytes of scale, 16 of codes.
  const TestGrouped m({4, 32}, 32, 256, 9);
  std::vector<std::byte> blocks;
  for (int64_t n = 0; n < 32; ++n) {
    for (int64_t first = 0; first < 256; first += 32) {
      const auto* scale = m.parts.scales.data() + 2 * (first / 32 * 32 + n);
      blocks.insert(blocks.end(), scale, scale + 2);
      for (int64_t j = 0; j < 16; ++j)
        blocks.push_back(static_cast<std::byte>(m.matrix.code_at(n, first + j) |
                                                m.matrix.code_at(n, first + 16 + j) << 4));
    }
  }
  auto backend = make("");
  const RawTensor q4{"q4", DType::Q4_0, {32, 256}, blocks};
  const auto a = prepare(*backend, m.tensor), b = prepare(*backend, q4);
  const TestTensor x = TestTensor::random(9, 256, 10);
  EXPECT_TRUE(same_bits(multiply(*backend, *a, x), multiply(*backend, *b, x)));
}

TEST(Grouped, MemoryIsPlannedAsItIsTaken) {
  for (const Variant& v : variants()) {
    auto backend = make("");
    const TestGrouped m(v.spec, v.rows, v.cols, 11);
    const auto w = prepare(*backend, m.tensor);
    EXPECT_EQ(backend->prepared_bytes(m.tensor) + 64, w->bytes()) << text(v);
  }
  // 4 bits a weight and a scale of 16 for 128 of them; with zero points 8 more.
  auto backend = make("");
  const TestGrouped m({4, 128}, 64, 1024, 12), z({4, 128, false, GroupOrder::shuffled}, 64, 1024, 13);
  EXPECT_EQ(backend->prepared_bytes(m.tensor), 64 * (1024 / 2 + 8 * 2));
  EXPECT_EQ(backend->prepared_bytes(z.tensor), 64 * (1024 / 2 + 8 * 3));
}

TEST(Grouped, ALookAtLoadFindsWhatIsComputedWrongly) {
  const cpu::Kernels good = *cpu::available_kernels().front();
  static decltype(good.pack_grouped) real;
  real = good.pack_grouped;
  struct Fault {
    const char* name;
    decltype(good.pack_grouped) pack;
  };
  const Fault faults[] = {
      {"a code",
       [](const cpu::PackGrouped& job) { real(job), job.out[job.plan->layout.tile_bytes() - 256] ^= 1; }},
      {"a scale", [](const cpu::PackGrouped& job) { real(job), job.out[1] ^= 1; }},
      {"a zero point",
       [](const cpu::PackGrouped& job) { real(job), job.out[job.plan->layout.d_bytes() * 8] ^= 1; }},
  };
  for (const int64_t order : {0, 1}) {
    const TestGrouped m({4, 32, false, order == 0 ? GroupOrder::none : GroupOrder::shuffled}, 48, 512, 14);
    cpu::CpuWeight weight;
    weight.raw = m.tensor;
    weight.rows = 48;
    weight.cols = 512;
    weight.dtype = DType::Grouped;
    weight.set_grouped(cpu::plan_grouped(m.matrix), nullptr);
    EXPECT_TRUE(cpu::check_grouped(good, weight).has_value());
    for (const Fault& fault : faults) {
      cpu::Kernels bad = good;
      bad.pack_grouped = fault.pack;
      const auto checked = cpu::check_grouped(bad, weight);
      ASSERT_FALSE(checked.has_value()) << fault.name;
      EXPECT_NE(checked.error().message.find("tensor test: row 0 is computed as"), std::string::npos)
          << checked.error().message;
    }
  }
}

TEST(Grouped, ScalesThatAreNotFiniteStopTheLoad) {
  TestGrouped m({4, 32}, 16, 64, 15);
  const uint16_t nan = 0x7e00;
  std::memcpy(m.parts.scales.data(), &nan, 2);
  const auto w = make("")->prepare(m.tensor);
  ASSERT_FALSE(w.has_value());
  EXPECT_NE(w.error().message.find("tensor test: row 0 has a scale that is not finite"), std::string::npos);
}

}  // namespace
}  // namespace quern
