// Modules of GPTQ checkpoints, written to real files by a packer of its own (grouped_for_test.h): every
// variant decodes to what was packed, and what is wrong is named.
#include "formats/gptq.h"

#include <gtest/gtest.h>

#include "formats/gptq_for_test.h"
#include "formats/safetensors_for_test.h"
#include "quant/quant.h"

namespace quern::gptq {
namespace {

using namespace quern::testing;

std::string config_text(const GroupedSpec& spec, const std::string& more = "") {
  return R"({"quantization_config":{"quant_method":"gptq",)" + gptq_fields(spec) + more + "}}";
}

/// A folder with one module "m", read again.
struct Opened {
  safetensors::Checkpoint files;
  Modules modules;
  const RawTensor* weight() const {
    for (const RawTensor& tensor : files.tensors)
      if (tensor.name == "m.weight") return &tensor;
    return nullptr;
  }
};

Result<Opened> open_module(const TestFolder& folder, const std::string& config) {
  Opened opened;
  QUERN_TRY(const auto found, find_config(folder.path(), config));
  QUERN_TRY(opened.files, safetensors::open(folder.path()));
  QUERN_TRY(opened.modules, take_modules(opened.files, found, "folder"));
  return opened;
}

Opened open_good(const GroupedParts& parts, const std::string& config) {
  const TestFolder folder("gptq");
  SafetensorsBuilder file;
  add_gptq_module(file, "m", parts);
  folder.write("model.safetensors", file.str(1));  // the data lie askew
  auto opened = open_module(folder, config);
  EXPECT_TRUE(opened.has_value()) << (opened ? "" : opened.error().message);
  return opened ? std::move(*opened) : Opened();
}

std::vector<float> decoded(const RawTensor& tensor) {
  std::vector<float> values(static_cast<size_t>(tensor.elements()));
  decode_rows(tensor, 0, tensor.rows(), values.data());
  return values;
}

TEST(Gptq, EveryVariantIsWhatWasPacked) {
  uint32_t seed = 0;
  for (const int bits : {2, 3, 4, 8}) {
    for (const int64_t group : {int64_t{16}, int64_t{32}, int64_t{64}, int64_t{128}, int64_t{-1}}) {
      for (const bool symmetric : {true, false}) {
        for (const GroupOrder order : {GroupOrder::none, GroupOrder::in_order, GroupOrder::shuffled,
                                       GroupOrder::negative, GroupOrder::uneven}) {
          for (const bool v2 : {false, true}) {
            const DType type = order == GroupOrder::none     ? DType::BF16
                               : order == GroupOrder::uneven ? DType::F32
                                                             : DType::F16;
            const GroupedSpec spec{bits, group, symmetric, order, v2, type};
            const GroupedParts parts = random_grouped(spec, 64, 256, ++seed);
            const Opened opened = open_good(parts, config_text(spec));
            const std::string where = gptq_fields(spec) + std::to_string(static_cast<int>(order));
            ASSERT_NE(opened.weight(), nullptr) << where;
            const RawTensor& w = *opened.weight();
            EXPECT_EQ(w.shape, (std::vector<int64_t>{64, 256})) << where;
            EXPECT_EQ(decoded(w), parts.exact) << where;
            EXPECT_EQ(opened.modules.warnings, std::vector<std::string>()) << where;
            EXPECT_EQ(w.grouped->zero.has_value(), symmetric) << where;
            const bool ordered = group < 0 || order == GroupOrder::none || order == GroupOrder::in_order;
            EXPECT_EQ(w.grouped->group_of.empty(), ordered) << where;
            EXPECT_EQ(stored_bytes(w), 4 * parts.qweight.size() + 4 * parts.qzeros.size() +
                                           parts.scales.size() + 4 * parts.g_idx.size());
            EXPECT_TRUE(opened.files.foreign.empty());
            EXPECT_EQ(opened.files.tensors.size(), 1u);
          }
        }
      }
    }
  }
}

TEST(Gptq, AGIdxOfZerosAloneIsNone) {
  GroupedParts parts = random_grouped({4, 32, true, GroupOrder::in_order}, 8, 128, 1);
  std::ranges::fill(parts.g_idx, 0);
  EXPECT_EQ(decoded(*open_good(parts, config_text(parts.spec)).weight()), parts.exact);
}

TEST(Gptq, ALabelThatTheZeroPointsContradictWarns) {
  for (const int bits : {2, 3, 4, 8}) {
    for (const bool v2 : {false, true}) {
      GroupedSpec spec{bits, 32, true, GroupOrder::shuffled, v2};
      const GroupedParts parts = random_grouped(spec, 32, 128, 2);
      spec.v2 = !v2;
      const Opened opened = open_good(parts, config_text(spec));
      ASSERT_EQ(opened.modules.warnings.size(), 1u);
      EXPECT_NE(opened.modules.warnings[0].find(v2 ? "is gptq, but" : "is gptq_v2, but"), std::string::npos)
          << opened.modules.warnings[0];
      EXPECT_EQ(decoded(*opened.weight()), parts.exact);
    }
  }
}

TEST(Gptq, NotSaidToBeSymmetricTheLabelCounts) {
  for (const bool v2 : {false, true}) {
    GroupedSpec spec{4, 32, true, GroupOrder::none, v2};
    const GroupedParts parts = random_grouped(spec, 32, 64, 3);
    spec.symmetric = false;
    spec.v2 = !v2;
    const Opened opened = open_good(parts, config_text(spec));
    EXPECT_TRUE(opened.modules.warnings.empty());
    EXPECT_EQ(opened.weight()->grouped->zero_at(0, 0), v2 ? 9 : 7);
  }
}

TEST(Gptq, ConfigurationsAreFoundInTheirOrder) {
  const TestFolder folder("configs");
  const auto bits = [&](const std::string& config) {
    const auto found = find_config(folder.path(), config);
    EXPECT_TRUE(found.has_value()) << (found ? "" : found.error().message);
    return found && *found ? (*found)->base.bits : 0;
  };
  EXPECT_EQ(bits("{}"), 0);
  folder.write("quant_config.json", R"({"bits":2,"group_size":32})");
  EXPECT_EQ(bits("{}"), 2);
  folder.write("quantize_config.json", R"({"bits":3,"group_size":32})");
  EXPECT_EQ(bits("{}"), 3);
  EXPECT_EQ(bits(config_text({8, 32})), 8);
  folder.write("quantize_config.json", R"({"bits":5,"group_size":32})");
  const auto wrong = find_config(folder.path(), "{}");
  ASSERT_FALSE(wrong.has_value());
  EXPECT_NE(wrong.error().message.find("quantize_config.json: config.bits is 5"), std::string::npos)
      << wrong.error().message;
}

TEST(Gptq, RulesGiveModulesTheirOwnSettings) {
  const TestFolder folder("dynamic");
  const GroupedParts a = random_grouped({4, 32}, 16, 64, 4), b = random_grouped({8, 64, false}, 16, 64, 5),
                     c = random_grouped({4, 32}, 16, 64, 6);
  SafetensorsBuilder file;
  add_gptq_module(file, "model.a", a);
  add_gptq_module(file, "model.b", b);
  add_gptq_module(file, "model.c", c);  // said not to be quantized, but it is
  folder.write("model.safetensors", file.str());
  const auto opened = open_module(
      folder,
      config_text({4, 32}, R"(,"dynamic":{"-:model\\.c":{},"model\\.b":{"bits":8,"group_size":64}})"));
  ASSERT_TRUE(opened.has_value()) << opened.error().message;
  ASSERT_EQ(opened->files.tensors.size(), 3u);
  for (const auto& [i, parts] : {std::pair(0, &a), std::pair(1, &b), std::pair(2, &c)})
    EXPECT_EQ(decoded(opened->files.tensors[static_cast<size_t>(i)]), parts->exact);
  EXPECT_EQ(opened->files.tensors[1].grouped->label, "GPTQ 8-bit g64");
  ASSERT_EQ(opened->modules.warnings.size(), 1u);
  EXPECT_NE(opened->modules.warnings[0].find("1 modules are quantized, though"), std::string::npos);
}

// ---- what is wrong

struct Wrong {
  const char* name;
  std::function<void(GroupedParts&, ModuleTensors&)> damage;
  std::vector<std::string> says;
  std::string config = config_text({4, 32});
};

const Wrong wrong_modules[] = {
    {"NoConfig", [](auto&, auto&) {}, {"module m is quantized", "quantize_config.json"}, "{}"},
    {"NoScales", [](auto&, auto& t) { t.erase("scales"); }, {"module m: tensor scales is missing"}},
    {"NoZeros", [](auto&, auto& t) { t.erase("qzeros"); }, {"module m: tensor qzeros is missing"}},
    {"NoWeight", [](auto&, auto& t) { t.erase("qweight"); }, {"m.", "has no qweight beside it"}},
    {"BothWeights",
     [](auto&, auto& t) {
       t["weight"] = {"F16", {1}, std::string(2, '\0')};
     },
     {"module m has both a weight and a qweight"}},
    {"WordsOfSixteenBits",
     [](auto&, auto& t) { t["qweight"].dtype = "I16", t["qweight"].shape[0] *= 2; },
     {"module m: qweight has type I16", "I32"}},
    {"ThreeDimensions",
     [](auto&, auto& t) { t["qweight"].shape.insert(t["qweight"].shape.begin(), 1); },
     {"qweight has shape [1, 16, 16]", "2 dimensions"}},
    {"Empty",
     [](auto&, auto& t) {
       t["qweight"] = {"I32", {0, 16}, ""};
     },
     {"qweight has shape [0, 16]"}},
    {"OtherBits",
     [](auto&, auto&) {},
     {"scales has shape [4, 16]", "must have [2, 16]", "16 x 64"},
     config_text({8, 32})},
    {"ThreeBits", [](auto&, auto&) {}, {"qweight has shape [16, 16]", "3-bit"}, config_text({3, 32})},
    {"GroupsDoNotDivide",
     [](auto&, auto&) {},
     {"module m: group_size is 48", "128 inputs"},
     config_text({4, 48})},
    {"LargerGroups", [](auto&, auto&) {}, {"group_size is 256", "128 inputs"}, config_text({4, 256})},
    {"OtherGroups",
     [](auto&, auto&) {},
     {"scales has shape [4, 16], must have [2, 16]"},
     config_text({4, 64})},
    {"ScalesTurned",
     [](auto&, auto& t) { std::swap(t["scales"].shape[0], t["scales"].shape[1]); },
     {"scales has shape [16, 4]"}},
    {"ZerosOfOtherRows",
     [](auto&, auto& t) {
       t["qzeros"] = {"I32", {4, 3}, std::string(48, '\0')};
     },
     {"qzeros has shape [4, 3], must have [4, 2]"}},
    {"IntegerScales", [](auto&, auto& t) { t["scales"].dtype = "I16"; }, {"scales is missing"}},
    {"ShortIndex",
     [](auto&, auto& t) {
       t["g_idx"] = {"I32", {64}, std::string(256, '\0')};
     },
     {"g_idx has shape [64], must have [128]"}},
    {"LongIndex",
     [](auto&, auto& t) {
       t["g_idx"] = {"I64", {128}, std::string(1024, '\0')};
     },
     {"g_idx has type I64"}},
    {"GroupBeyond",
     [](auto& p, auto& t) { p.g_idx[5] = 4, t["g_idx"].set(p.g_idx); },
     {"g_idx[5] is 4, but it has 4 groups"}},
    {"GroupBefore",
     [](auto& p, auto& t) { p.g_idx[7] = -5, t["g_idx"].set(p.g_idx); },
     {"g_idx[7] is -5, but it has 4 groups"}},
};

class WrongModule : public ::testing::TestWithParam<Wrong> {};
INSTANTIATE_TEST_SUITE_P(Gptq, WrongModule, ::testing::ValuesIn(wrong_modules),
                         [](const auto& info) { return std::string(info.param.name); });

TEST_P(WrongModule, IsNamed) {
  GroupedParts parts = random_grouped({4, 32, true, GroupOrder::in_order}, 16, 128, 7);
  ModuleTensors tensors = module_tensors(parts);
  GetParam().damage(parts, tensors);
  const TestFolder folder("wrong");
  SafetensorsBuilder file;
  for (const auto& [name, t] : tensors) file.add("m." + name, t.dtype, t.shape, t.bytes);
  folder.write("model.safetensors", file.str());
  const auto opened = open_module(folder, GetParam().config);
  ASSERT_FALSE(opened.has_value());
  for (const std::string& part : GetParam().says)
    EXPECT_NE(opened.error().message.find(part), std::string::npos) << opened.error().message;
  EXPECT_EQ(opened.error().message.find('\n'), std::string::npos);
}

}  // namespace
}  // namespace quern::gptq
