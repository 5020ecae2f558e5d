// GPTQ checkpoints of whole models: logits against the float reference of the weights that they stand for.
#include <gtest/gtest.h>

#include <cmath>

#include "core/log.h"
#include "models/checkpoint.h"
#include "models/gptq_checkpoint_for_test.h"
#include "models/quantization_report.h"
#include "models/reference_decoder.h"
#include "models/runner.h"
#include "models/summary.h"

namespace quern {
namespace {

using namespace quern::testing;

const ModelSpec llama = {.dim = 128, .ffn = 256, .heads = 4, .kv_heads = 2, .head_dim = 32, .vocab = 64};
const ModelSpec qwen2 = {.arch = "qwen2",
                         .dim = 128,
                         .ffn = 256,
                         .heads = 4,
                         .kv_heads = 2,
                         .head_dim = 32,
                         .vocab = 64,
                         .biases = true,
                         .dtype = DType::BF16};
const ModelSpec qwen3 = {.arch = "qwen3",
                         .dim = 128,
                         .ffn = 192,
                         .heads = 4,
                         .kv_heads = 2,
                         .head_dim = 32,
                         .vocab = 64,
                         .tied = true};
const ModelSpec phi3 = {
    .arch = "phi3", .dim = 128, .ffn = 256, .heads = 4, .kv_heads = 2, .head_dim = 32, .vocab = 64};
const ModelSpec mixtral = {.dim = 128,
                           .ffn = 64,
                           .heads = 4,
                           .kv_heads = 2,
                           .head_dim = 32,
                           .vocab = 64,
                           .experts = 3,
                           .experts_used = 2,
                           .single_experts = true,
                           .dtype = DType::F16};

std::vector<float> reference_logits(const MemorySource& model, const ModelSpec& spec) {
  const auto rows =
      ReferenceDecoder(model, spec, plain_rope(spec.head_dim)).run(random_tokens(21, spec.vocab));
  std::vector<float> all;
  for (const auto& row : rows) all.insert(all.end(), row.begin(), row.end());
  return all;
}

/// Root mean square of the difference over that of the values.
double error_of(std::span<const float> a, std::span<const float> b) {
  EXPECT_EQ(a.size(), b.size());
  double difference = 0, power = 0;
  for (size_t i = 0; i < std::min(a.size(), b.size()); ++i) {
    difference += (double{a[i]} - b[i]) * (double{a[i]} - b[i]);
    power += double{b[i]} * b[i];
  }
  return std::sqrt(difference / power);
}

/// Activations are rounded to 8 bits in every product; nothing else may differ.
constexpr double kTolerance = 0.03;

std::unique_ptr<WeightSource> open(const TestFolder& folder) {
  auto source = open_checkpoint(folder.path(), {});
  EXPECT_TRUE(source.has_value()) << (source ? "" : source.error().message);
  return source ? *std::move(source) : nullptr;
}

void expect_reference(const TestFolder& folder, const MemorySource& model, const ModelSpec& spec) {
  const auto source = open(folder);
  ASSERT_NE(source, nullptr);
  Runner runner(*source, {.max_batch_rows = 48}, 2);
  EXPECT_LT(error_of(runner.run(random_tokens(21, spec.vocab)), reference_logits(model, spec)), kTolerance);
}

struct Case {
  std::string name;
  ModelSpec spec;
  GroupedSpec grouped;
};

std::vector<Case> cases() {
  std::vector<Case> all;
  const auto add = [&](const ModelSpec& spec, const GroupedSpec& g) {
    const char* orders[] = {"NoIndex", "InOrder", "ActOrder", "Negative", "Uneven"};
    all.push_back(
        {fmt::format("{}{}Bits{}{}{}{}", spec.experts > 0 ? "mixtral" : spec.arch, g.bits,
                     g.group_size < 0 ? "Whole" : fmt::format("G{}", g.group_size),
                     g.symmetric ? "Sym" : "Asym", orders[static_cast<int>(g.order)], g.v2 ? "V2" : ""),
         spec, g});
  };
  for (const int bits : {2, 3, 4, 8}) {
    for (const bool symmetric : {true, false}) {
      add(llama, {bits, 32, symmetric, GroupOrder::none, false});
      add(llama, {bits, 128, symmetric, GroupOrder::shuffled, symmetric});
      add(qwen2, {bits, 64, symmetric, GroupOrder::negative, true, DType::BF16});
      add(llama, {bits, -1, symmetric, GroupOrder::in_order, true});
      add(mixtral, {bits, 32, symmetric, GroupOrder::shuffled, false});
    }
    add(phi3, {bits, 64, false, GroupOrder::uneven, false});
    add(llama, {bits, 16, false, GroupOrder::none, false});
    add(qwen3, {bits, 96 / 2, true, GroupOrder::none, false});
  }
  return all;
}

class GptqModel : public ::testing::TestWithParam<Case> {};
INSTANTIATE_TEST_SUITE_P(All, GptqModel, ::testing::ValuesIn(cases()),
                         [](const auto& info) { return info.param.name; });

TEST_P(GptqModel, GivesTheLogitsOfItsWeights) {
  ModelSpec spec = GetParam().spec;
  GroupedSpec grouped = GetParam().grouped;
  if (spec.arch == "qwen3") spec.dim = 96, grouped.group_size = 32;  // rows that are no whole superblock
  const auto model = random_model(spec);
  const TestFolder folder("gptq");
  folder.write("config.json", gptq_config(spec, grouped).dump());
  GptqWriter(*model, spec).write(folder, all_linear(grouped));
  const auto source = open(folder);
  ASSERT_NE(source, nullptr);
  for (const RawTensor& tensor : model->tensors()) {
    const RawTensor* stored = source->find(hf_name(spec.arch, tensor.name));
    ASSERT_NE(stored, nullptr) << tensor.name;
    EXPECT_EQ(stored->grouped != nullptr, is_linear(tensor.name)) << tensor.name;
    if (!is_linear(tensor.name) || tensor.name.find("attn_q.") != std::string::npos ||
        tensor.name.find("attn_k.") != std::string::npos)
      continue;  // (the rows of those lie in another order)
    std::vector<float> values(static_cast<size_t>(stored->elements()));
    decode_rows(*stored, 0, stored->rows(), values.data());
    EXPECT_EQ(values, model->values(tensor.name)) << tensor.name;
  }
  expect_reference(folder, *model, spec);
}

TEST(GptqCheckpoint, ModulesOfTheirOwnSettings) {
  // q and v by rules of their own, k and layer 1's feed-forward in full precision, the head quantized too.
  const ModelSpec spec = llama;
  const auto model = random_model(spec);
  const TestFolder folder("dynamic");
  const GroupedSpec base{4, 32, true, GroupOrder::shuffled}, q{8, 64, false, GroupOrder::shuffled},
      v{3, 128, true, GroupOrder::none}, head{2, 32, false};
  auto config = gptq_config(spec, base);
  config["quantization_config"]["lm_head"] = true;
  config["quantization_config"]["dynamic"] = nlohmann::ordered_json::parse(
      R"({"-:.*k_proj":{},"-:model\\.layers\\.1\\.mlp\\..*":{},)"
      R"(".*\\.q_proj$":{"bits":8,"group_size":64,"sym":false},"+:.*v_proj":{"bits":3,"group_size":128},)"
      R"("lm_head":{"bits":2,"sym":false}})");
  folder.write("config.json", config.dump());
  GptqWriter(*model, spec).write(folder, [&](const std::string& name) -> std::optional<GroupedSpec> {
    if (name == "output.weight") return head;
    if (name.find("attn_k.") != std::string::npos || name.starts_with("blk.1.ffn")) return std::nullopt;
    if (name.find("attn_q.") != std::string::npos) return q;
    if (name.find("attn_v.") != std::string::npos) return v;
    return is_linear(name) ? std::optional(base) : std::nullopt;
  });
  expect_reference(folder, *model, spec);
  const auto source = open(folder);
  EXPECT_EQ(source->find("lm_head.weight")->grouped->label, "GPTQ 2-bit g32");
  EXPECT_EQ(source->find("model.layers.0.self_attn.q_proj.weight")->grouped->label, "GPTQ 8-bit g64");
}

TEST(GptqCheckpoint, TheConfigurationMayLieBesideIt) {
  const ModelSpec spec = llama;
  const GroupedSpec grouped{4, 64, true, GroupOrder::shuffled};
  for (const char* file : {"quantize_config.json", "quant_config.json"}) {
    const auto model = random_model(spec);
    const TestFolder folder("beside");
    folder.write("config.json", hf_config(spec).dump());
    folder.write(file, "{" + gptq_fields(grouped) + "}");
    GptqWriter(*model, spec).write(folder, all_linear(grouped));
    expect_reference(folder, *model, spec);
  }
}

// ---- biases

void add_bias(GptqWriter& writer, const std::string& module, size_t count, float value) {
  const std::vector<float> values(count, value);
  writer.add(module + ".bias", "F32", {static_cast<int64_t>(count)}, std::as_bytes(std::span(values)));
}

TEST(GptqCheckpoint, BiasesOfZeroAreLeftOutAndOthersUsed) {
  const ModelSpec spec = llama;
  const GroupedSpec grouped{4, 32};
  for (const bool real : {false, true}) {
    const auto model = random_model(spec);
    const TestFolder folder("biases");
    folder.write("config.json", gptq_config(spec, grouped).dump());
    GptqWriter writer(*model, spec);
    for (int layer = 0; layer < 2; ++layer) {
      const std::string prefix = fmt::format("model.layers.{}.", layer);
      // Of the first layer they are zero: the second's count.
      const float value = real && layer == 1 ? 0.25f : 0.0f;
      add_bias(writer, prefix + "self_attn.o_proj", 128, value);
      add_bias(writer, prefix + "mlp.up_proj", 256, value);
      add_bias(writer, prefix + "mlp.down_proj", 128, 0);
    }
    writer.write(folder, [&](const std::string& name) -> std::optional<GroupedSpec> {
      return is_linear(name) ? std::optional(grouped) : std::nullopt;
    });
    for (int layer = 0; real && layer < 2; ++layer) {
      const float value = layer == 1 ? 0.25f : 0.0f;
      model->add(fmt::format("blk.{}.attn_output.bias", layer), {128}, std::vector<float>(128, value),
                 DType::F32);
      model->add(fmt::format("blk.{}.ffn_up.bias", layer), {256}, std::vector<float>(256, value), DType::F32);
    }
    expect_reference(folder, *model, spec);
    const auto source = open(folder);
    ASSERT_NE(source, nullptr);
    EXPECT_EQ(source->find("model.layers.0.self_attn.o_proj.bias") != nullptr, real);
    EXPECT_EQ(source->find("model.layers.0.mlp.down_proj.bias"), nullptr);
  }
}

TEST(GptqCheckpoint, ABiasThatTheModelCannotUseIsRefused) {
  ModelSpec spec = qwen3;
  const GroupedSpec grouped{4, 32};
  for (const float value : {0.0f, 1.0f}) {
    const auto model = random_model(spec);
    const TestFolder folder("bias");
    folder.write("config.json", gptq_config(spec, grouped).dump());
    GptqWriter writer(*model, spec);
    add_bias(writer, "model.layers.0.mlp.up_proj", 192, value);
    writer.write(folder, all_linear(grouped));
    const auto opened = open_checkpoint(folder.path(), {});
    EXPECT_EQ(opened.has_value(), value == 0) << (opened ? "" : opened.error().message);
    if (!opened) {
      EXPECT_NE(opened.error().message.find("up_proj.bias is not known"), std::string::npos);
    }
  }
}

// ---- what is told of it

TEST(GptqCheckpoint, ASummaryTellsWhatItIs) {
  const ModelSpec spec = llama;
  const GroupedSpec grouped{4, 128};
  const auto model = random_model(spec);
  const TestFolder folder("summary");
  folder.write("config.json", gptq_config(spec, grouped).dump());
  GptqWriter(*model, spec).write(folder, all_linear(grouped));
  const auto source = open(folder);
  ASSERT_NE(source, nullptr);
  EXPECT_EQ(quantization_name(*source), "GPTQ 4-bit g128");
  const ModelSummary s = summarize_model(*source);
  ASSERT_EQ(s.types.size(), 2u);
  const auto& type = s.types[s.types[0].name == "F32" ? 1 : 0];
  EXPECT_EQ(type.name, "GPTQ 4-bit g128");
  EXPECT_EQ(type.tensors, 14);
  // 4 bits a weight, and for 128 of them a scale of 16 and a zero point of 4.
  EXPECT_EQ(type.bytes * 8, static_cast<uint64_t>(type.parameters * 4 + type.parameters / 128 * 20));
  uint64_t bytes = 0;
  for (const QuantizedTensor& tensor : quantization_report(*source)) {
    bytes += tensor.bytes;
    EXPECT_EQ(tensor.stored_as, tensor.shape.size() == 2 && tensor.name.find("proj") != std::string::npos
                                    ? "GPTQ 4-bit g128"
                                    : "F32");
    EXPECT_EQ(asked_name(tensor), tensor.stored_as);
  }
  EXPECT_EQ(bytes, s.bytes);
  EXPECT_EQ(source->bytes(), s.bytes);
}

TEST(GptqCheckpoint, ShapesThatAreNotTheModelsAreRefused) {
  ModelSpec spec = llama;
  const GroupedSpec grouped{4, 32};
  const auto model = random_model(spec);
  const TestFolder folder("shapes");
  auto config = gptq_config(spec, grouped);
  config["intermediate_size"] = 128;
  folder.write("config.json", config.dump());
  GptqWriter(*model, spec).write(folder, all_linear(grouped));
  const auto source = open(folder);
  ASSERT_NE(source, nullptr);
  const auto backend = make_cpu_backend({.threads = 1});
  const auto loaded = load_model(*source, **backend);
  ASSERT_FALSE(loaded.has_value());
  EXPECT_NE(loaded.error().message.find("mlp.gate_proj.weight has shape [256, 128], expected [128, 128]"),
            std::string::npos)
      << loaded.error().message;
}

TEST(GptqCheckpoint, MethodsThatAreNotSupportedAreNamed) {
  const ModelSpec spec = llama;
  const auto model = random_model(spec);
  const auto error_of_config = [&](const char* key, const nlohmann::ordered_json& value) {
    const TestFolder folder("method");
    auto config = gptq_config(spec, {4, 32});
    config["quantization_config"][key] = value;
    write_checkpoint(folder, *model, spec, config);
    const auto opened = open_checkpoint(folder.path(), {});
    return opened ? std::string() : opened.error().message;
  };
  EXPECT_NE(error_of_config("quant_method", "awq").find("quant_method is awq"), std::string::npos);
  EXPECT_NE(error_of_config("bits", 5).find("bits is 5"), std::string::npos);
  EXPECT_NE(error_of_config("pack_dtype", "int16").find("pack_dtype is int16"), std::string::npos);
  EXPECT_NE(error_of_config("checkpoint_format", "marlin").find("checkpoint_format is marlin"),
            std::string::npos);
  // Nothing in it is quantized: it runs as it is.
  EXPECT_EQ(error_of_config("sym", false), "");
}

}  // namespace
}  // namespace quern
