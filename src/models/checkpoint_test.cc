// Checkpoints of every architecture against the same weights as GGUF, and against the reference decoder.
#include "models/checkpoint.h"

#include <gtest/gtest.h>

#include <cmath>

#include "formats/gguf.h"
#include "models/gguf_tensors.h"
#include "models/hf_checkpoint_for_test.h"
#include "models/reference_decoder.h"
#include "models/runner.h"
#include "models/summary.h"

namespace quern {
namespace {

using namespace quern::testing;

/// The largest difference, relative to the largest value.
double difference(std::span<const float> a, std::span<const float> b) {
  EXPECT_EQ(a.size(), b.size());
  double worst = 0, scale = 0;
  for (size_t i = 0; i < std::min(a.size(), b.size()); ++i) {
    worst = std::max(worst, std::abs(double{a[i]} - b[i]));
    scale = std::max(scale, std::abs(double{a[i]}));
  }
  return worst / scale;
}

std::vector<float> logits_of(const WeightSource& source, int64_t vocab, int64_t context = 0) {
  return Runner(source, {.max_batch_rows = 48, .context = context}).run(random_tokens(37, vocab));
}

std::unique_ptr<WeightSource> open(const TestFolder& folder, const Metadata& text = {}) {
  auto source = open_checkpoint(folder.path(), text);
  EXPECT_TRUE(source.has_value()) << (source ? "" : source.error().message);
  return source ? *std::move(source) : nullptr;
}

struct Case {
  const char* name;
  ModelSpec spec;
};

const Case cases[] = {
    {"Llama", {.biases = true}},
    {"LlamaTied", {.tied = true}},
    {"LlamaOfOddSizes",
     {.dim = 84, .ffn = 101, .heads = 6, .kv_heads = 2, .head_dim = 14, .layers = 3, .vocab = 61}},
    {"LlamaWithHeadsOfTheirOwnSize", {.dim = 48, .heads = 3, .kv_heads = 1, .head_dim = 26}},
    {"Mistral", {.window = 11}},
    {"Mixtral", {.ffn = 40, .experts = 5, .experts_used = 2, .single_experts = true}},
    {"Phi3", {.arch = "phi3"}},
    {"Phi3WithWindow", {.arch = "phi3", .window = 9}},
    {"Qwen2", {.arch = "qwen2", .biases = true}},
    {"Qwen3", {.arch = "qwen3", .dim = 48, .head_dim = 24, .tied = true}},
};

class CheckpointCases : public ::testing::TestWithParam<Case> {};
INSTANTIATE_TEST_SUITE_P(All, CheckpointCases, ::testing::ValuesIn(cases),
                         [](const auto& info) { return std::string(info.param.name); });

TEST_P(CheckpointCases, GivesTheLogitsOfTheReference) {
  const ModelSpec& spec = GetParam().spec;
  const auto model = random_model(spec);
  const TestFolder folder("checkpoint");
  write_checkpoint(folder, *model, spec, hf_config(spec), Shards::scattered);
  const auto source = open(folder);
  ASSERT_NE(source, nullptr);
  const auto rows =
      ReferenceDecoder(*model, spec, plain_rope(spec.head_dim)).run(random_tokens(37, spec.vocab));
  std::vector<float> expected;
  for (const auto& row : rows) expected.insert(expected.end(), row.begin(), row.end());
  EXPECT_LT(difference(logits_of(*source, spec.vocab), expected), 1e-4);
}

TEST_P(CheckpointCases, GivesTheSameBitsHoweverItIsCut) {
  for (const DType dtype : {DType::F32, DType::F16, DType::BF16}) {
    ModelSpec spec = GetParam().spec;
    spec.dtype = dtype;
    const auto model = random_model(spec);
    std::vector<float> first;
    for (const Shards shards : {Shards::one, Shards::one_each, Shards::scattered, Shards::skewed}) {
      const TestFolder folder("cut");
      write_checkpoint(folder, *model, spec, hf_config(spec), shards);
      const auto source = open(folder);
      ASSERT_NE(source, nullptr);
      EXPECT_EQ(source->bytes(), model->bytes());
      const auto logits = logits_of(*source, spec.vocab);
      if (first.empty()) first = logits;
      EXPECT_EQ(first, logits);
    }
  }
}

void write_gguf(const WeightSource& source, const std::filesystem::path& path) {
  const auto plans = gguf_tensors(source);
  ASSERT_TRUE(plans.has_value()) << plans.error().message;
  std::vector<GgufTensor> tensors;
  for (const GgufTensorPlan& plan : *plans)
    tensors.push_back({plan.name, plan.parts.front()->dtype, plan.shape});
  auto writer = GgufWriter::create(path, source.metadata(), tensors);
  ASSERT_TRUE(writer.has_value()) << writer.error().message;
  for (const GgufTensorPlan& plan : *plans) {
    for (const RawTensor* part : plan.parts) {
      // A vector's "rows" are its elements.
      const int64_t rows = part->shape.size() == 1 ? part->shape[0] : part->rows();
      const size_t bytes = part->data.size() / static_cast<size_t>(rows);
      for (int64_t r = 0; r < rows; ++r) {
        const auto from = static_cast<size_t>(plan.source_row(r)) * bytes;
        ASSERT_TRUE((*writer)->write(part->data.subspan(from, bytes)).has_value());
      }
    }
  }
  ASSERT_TRUE((*writer)->finish().has_value());
}

TEST_P(CheckpointCases, BecomesTheGgufItCameFrom) {
  const ModelSpec& spec = GetParam().spec;
  const auto model = random_model(spec);
  const TestFolder folder("convert");
  write_checkpoint(folder, *model, spec, hf_config(spec), Shards::scattered);
  const auto source = open(folder);
  ASSERT_NE(source, nullptr);
  const auto path = folder.path() / "converted.gguf";
  write_gguf(*source, path);
  const auto gguf = open_gguf(path);
  ASSERT_TRUE(gguf.has_value()) << gguf.error().message;
  for (const RawTensor& tensor : model->tensors()) {
    // A stack's parts have lost their names.
    if (spec.experts > 0 && (*gguf)->find(tensor.name) == nullptr) continue;
    const RawTensor* converted = (*gguf)->find(tensor.name);
    ASSERT_NE(converted, nullptr) << tensor.name;
    EXPECT_TRUE(std::ranges::equal(tensor.data, converted->data)) << tensor.name;
  }
  // Phi-3's window is followed in checkpoints alone (arch/phi3.cc).
  if (spec.arch == "phi3" && spec.window > 0) return;
  // Not to the bit: heads sum over their values in another order, and the cache rounds.
  EXPECT_LT(difference(logits_of(*source, spec.vocab), logits_of(**gguf, spec.vocab)), 1e-4);
}

TEST(Checkpoint, ASummaryHasEverything) {
  const ModelSpec spec{.layers = 3, .dtype = DType::BF16};
  const TestFolder folder("summary");
  write_checkpoint(folder, *random_model(spec), spec, hf_config(spec));
  const auto source = open(folder);
  ASSERT_NE(source, nullptr);
  const ModelSummary s = summarize_model(*source);
  EXPECT_EQ(s.architecture, "llama");
  EXPECT_EQ(s.quantization, "BF16");
  EXPECT_EQ(s.name, folder.path().filename().string());
  ASSERT_TRUE(s.config.has_value()) << s.problem;
  EXPECT_EQ(s.config->layers, 3);
  EXPECT_EQ(s.config->context, 512);
}

TEST(Checkpoint, TheEmbeddingsPaddingBecomesUnusedTokens) {
  const ModelSpec spec;
  const TestFolder folder("padded");
  write_checkpoint(folder, *random_model(spec), spec, hf_config(spec));
  Metadata text;
  text.add("tokenizer.ggml.model", std::string("gpt2"));
  text.add("tokenizer.ggml.tokens", Metadata::Array{std::vector<std::string>(47, "x")});
  text.add("tokenizer.ggml.token_type", Metadata::Array{std::vector<int64_t>(47, 1)});
  const auto source = open(folder, text);
  ASSERT_NE(source, nullptr);
  const auto* tokens = source->metadata().strings("tokenizer.ggml.tokens");
  ASSERT_EQ(tokens->size(), 50u);
  EXPECT_EQ(tokens->back(), "[PAD49]");
  EXPECT_EQ(source->metadata().integers("tokenizer.ggml.token_type")->back(), 5);
  ASSERT_TRUE(read_model_config(*source).has_value());
  Metadata more;
  more.add("tokenizer.ggml.tokens", Metadata::Array{std::vector<std::string>(51, "x")});
  const auto large = open(folder, more);
  const auto config = read_model_config(*large);
  ASSERT_FALSE(config.has_value());
  EXPECT_NE(config.error().message.find("51 tokens"), std::string::npos) << config.error().message;
}

TEST(Checkpoint, AddedTokensBeyondTheEmbeddingAreLeftOut) {
  const ModelSpec spec;  // 50 rows
  const TestFolder folder("added");
  write_checkpoint(folder, *random_model(spec), spec, hf_config(spec));
  const auto text_of = [](int64_t last_type) {
    std::vector<std::string> tokens(52, "x");
    std::vector<int64_t> types(52, 1);
    tokens[50] = "<pad>";
    types[50] = 3;
    types[51] = last_type;
    Metadata text;
    text.add("tokenizer.ggml.model", std::string("gpt2"));
    text.add("tokenizer.ggml.tokens", Metadata::Array{tokens});
    text.add("tokenizer.ggml.token_type", Metadata::Array{types});
    text.add("tokenizer.ggml.eos_token_id", uint64_t{49});
    text.add("tokenizer.ggml.padding_token_id", uint64_t{50});
    return text;
  };
  const auto source = open(folder, text_of(4));
  ASSERT_NE(source, nullptr);
  EXPECT_EQ(source->metadata().strings("tokenizer.ggml.tokens")->size(), 50u);
  EXPECT_EQ(source->metadata().integers("tokenizer.ggml.token_type")->size(), 50u);
  EXPECT_EQ(source->metadata().uint("tokenizer.ggml.eos_token_id"), 49u);
  EXPECT_FALSE(source->metadata().contains("tokenizer.ggml.padding_token_id"));
  ASSERT_TRUE(read_model_config(*source).has_value());
  // A word of the vocabulary is needed.
  EXPECT_FALSE(read_model_config(*open(folder, text_of(1))).has_value());
}

// ---- heads and biases

TEST(Checkpoint, ATiedHeadInTheFileIsLeftOut) {
  ModelSpec spec;
  const auto model = random_model(spec);
  const TestFolder folder("tied");
  auto config = hf_config(spec);
  config["tie_word_embeddings"] = true;
  write_checkpoint(folder, *model, spec, config);
  const auto source = open(folder);
  ASSERT_NE(source, nullptr);
  EXPECT_EQ(source->find("lm_head.weight"), nullptr);
  spec.tied = true;
  EXPECT_LT(difference(logits_of(*source, spec.vocab), logits_of(*random_model(spec), spec.vocab)), 1e-5);
}

struct Wrong {
  const char* name;
  ModelSpec spec;
  std::function<void(nlohmann::ordered_json&)> edit;
  std::vector<std::string> says;
};

template <class Value>
std::function<void(nlohmann::ordered_json&)> with(const char* key, const Value& value) {
  return [=](nlohmann::ordered_json& config) { config[key] = value; };
}
std::function<void(nlohmann::ordered_json&)> without(const char* key) {
  return [=](nlohmann::ordered_json& config) { config.erase(key); };
}
std::function<void(nlohmann::ordered_json&)> scaled(const std::string& json) {
  return
      [=](nlohmann::ordered_json& config) { config["rope_scaling"] = nlohmann::ordered_json::parse(json); };
}

const Wrong wrong_configs[] = {
    {"NoArchitecture", {}, without("architectures"), {"architectures", "Phi3ForCausalLM"}},
    {"OtherArchitecture",
     {},
     with("architectures", std::vector<std::string>{"MambaForCausalLM"}),
     {"MambaForCausalLM", "these work: LlamaForCausalLM"}},
    {"ArchitectureIsANumber", {}, with("architectures", 7), {"architectures"}},
    {"Awq",
     {},
     with("quantization_config", nlohmann::ordered_json{{"quant_method", "awq"}, {"bits", 4}}),
     {"quant_method is awq", "gptq"}},
    {"Gelu", {}, with("hidden_act", "gelu"), {"hidden_act is gelu", "silu"}},
    {"NoWidth", {}, with("hidden_size", 0), {"hidden_size is 0"}},
    {"NegativeWidth", {}, with("hidden_size", -64), {"hidden_size is -64"}},
    {"FractionalWidth", {}, with("hidden_size", 64.5), {"hidden_size is 64.5"}},
    {"TextWidth", {}, with("hidden_size", "64"), {"hidden_size is \"64\""}},
    {"ListWidth", {}, with("hidden_size", std::vector<int>(100000, 1)), {"hidden_size is a list"}},
    {"MissingWidth", {}, without("hidden_size"), {"hidden_size is missing"}},
    {"NoHeads", {}, with("num_attention_heads", 0), {"num_attention_heads is 0"}},
    {"HeadsDoNotDivide", {}, with("num_attention_heads", 7), {"64", "7"}},
    {"KvHeadsDoNotDivide", {}, with("num_key_value_heads", 3), {"4 query heads", "3 key"}},
    {"NoLayers", {}, with("num_hidden_layers", 0), {"num_hidden_layers is 0"}},
    {"ABillionLayers", {}, with("num_hidden_layers", 1000000000), {"num_hidden_layers is 1000000000"}},
    {"LayersBeyond64Bits", {}, with("num_hidden_layers", uint64_t{1} << 63), {"num_hidden_layers is 92233"}},
    {"OneLayerTooMany", {}, with("num_hidden_layers", 3), {"model.layers.2.", "missing"}},
    {"OtherVocabulary", {}, with("vocab_size", 51), {"50 rows", "vocab_size", "51"}},
    {"NanEps", {}, with("rms_norm_eps", "NaN"), {"rms_norm_eps"}},
    {"NegativeTheta", {}, with("rope_theta", -1.0), {"rope_theta is -1"}},
    {"HugeTheta", {}, with("rope_theta", 1e300), {"rope_theta"}},
    {"MissingHead",
     {.tied = true},
     with("tie_word_embeddings", false),
     {"lm_head.weight", "tie_word_embeddings"}},
    {"BiasesNotSaid",
     {.biases = true},
     without("attention_bias"),
     {"q_proj.bias is there", "attention_bias"}},
    {"BiasesSaid", {}, with("attention_bias", true), {"q_proj.bias is missing", "attention_bias"}},
    {"MlpBiasesSaid", {}, with("mlp_bias", true), {"gate_proj.bias is missing", "mlp_bias"}},
    {"QwenWithoutBiases", {.arch = "qwen2"}, [](auto&) {}, {"q_proj.bias is missing"}},
    {"WindowInSomeLayers",
     {.arch = "qwen2", .biases = true, .window = 16},
     [](auto& c) {
       c["use_sliding_window"] = true;
       c["max_window_layers"] = 1;
     },
     {"max_window_layers", "1 of 2 layers"}},
    {"LayersOfTwoKinds",
     {.arch = "qwen3", .window = 16},
     [](auto& c) {
       c["use_sliding_window"] = true;
       c["layer_types"] = {"full_attention", "sliding_attention"};
     },
     {"layer_types", "1 of 2 layers"}},
    {"MoreExpertsUsedThanThere",
     {.experts = 3, .experts_used = 2, .single_experts = true},
     with("num_experts_per_tok", 4),
     {"num_experts_per_tok is 4"}},
    {"NoExperts",
     {.experts = 3, .experts_used = 2, .single_experts = true},
     without("num_local_experts"),
     {"num_local_experts is missing"}},
    {"OtherRope", {}, scaled(R"({"rope_type":"mrope"})"), {"mrope", "yarn"}},
    {"RopeIsText", {}, with("rope_scaling", "linear"), {"rope_scaling"}},
    {"RopeByLayer", {}, scaled(R"({"full_attention":{"rope_type":"default"}})"), {"layer to layer"}},
    {"LinearWithoutFactor", {}, scaled(R"({"type":"linear"})"), {"rope_scaling.factor is missing"}},
    {"FactorIsZero", {}, scaled(R"({"type":"linear","factor":0})"), {"rope_scaling.factor is 0"}},
    {"Llama3Halfway", {}, scaled(R"({"rope_type":"llama3","factor":8.0})"), {"low_freq_factor"}},
    {"LongropeWithoutFactors", {.arch = "phi3"}, scaled(R"({"type":"longrope"})"), {"long_factor"}},
    {"LongropeTooShort",
     {.arch = "phi3"},
     scaled(R"({"type":"su","long_factor":[1,2],"short_factor":[1,2]})"),
     {"long_factor must be a list of 8"}},
    {"LongropeNegative",
     {.arch = "phi3"},
     scaled(R"({"type":"su","long_factor":[1,1,1,1,1,1,1,-1],"short_factor":[1,1,1,1,1,1,1,1]})"),
     {"long_factor holds -1"}},
    {"Llama3OfQwen",
     {.arch = "qwen2", .biases = true},
     scaled(R"({"rope_type":"llama3","factor":8,"low_freq_factor":1,"high_freq_factor":4,)"
            R"("original_max_position_embeddings":64})"),
     {"Qwen2ForCausalLM"}},
    {"YarnNotTruncated",
     {},
     scaled(R"({"rope_type":"yarn","factor":4,"truncate":false})"),
     {"truncate is false"}},
    {"OddRotation", {}, with("partial_rotary_factor", 0.45), {"partial_rotary_factor", "7"}},
};

class WrongConfig : public ::testing::TestWithParam<Wrong> {};
INSTANTIATE_TEST_SUITE_P(All, WrongConfig, ::testing::ValuesIn(wrong_configs),
                         [](const auto& info) { return std::string(info.param.name); });

TEST_P(WrongConfig, IsNamed) {
  const ModelSpec& spec = GetParam().spec;
  const TestFolder folder("wrong");
  auto config = hf_config(spec);
  GetParam().edit(config);
  write_checkpoint(folder, *random_model(spec), spec, config);
  const auto opened = open_checkpoint(folder.path(), {});
  std::string message = opened ? "" : opened.error().message;
  if (opened) {
    const auto backend = make_cpu_backend({.threads = 1});
    const auto model = load_model(**opened, **backend);
    ASSERT_FALSE(model.has_value());
    message = model.error().message;
  }
  for (const std::string& part : GetParam().says) EXPECT_NE(message.find(part), std::string::npos) << message;
  EXPECT_EQ(message.find('\n'), std::string::npos);
  EXPECT_LT(message.size(), 500u);
}

TEST(Checkpoint, HostileConfigsAreRefused) {
  const TestFolder folder("hostile");
  folder.write("model.safetensors", SafetensorsBuilder().str());
  std::string objects;
  for (int i = 0; i < 100000; ++i) objects += "{\"a\":";
  for (const std::string& text :
       {std::string(), std::string("{"), std::string("7"), std::string("[]"), std::string(100000, '['),
        objects, std::string("{\"architectures\":[\"LlamaForCausalLM\"],\"hidden_size\":1e999}"),
        std::string("{\"\xff\":1}"), std::string(2 << 20, ' ')}) {
    folder.write("config.json", text);
    const auto opened = open_checkpoint(folder.path(), {});
    ASSERT_FALSE(opened.has_value());
    EXPECT_NE(opened.error().message.find("config.json: "), std::string::npos) << opened.error().message;
    EXPECT_LT(opened.error().message.size(), 400u);
  }
}

TEST(Checkpoint, TensorsThatWouldBeLeftOutAreNamed) {
  const ModelSpec spec;
  const auto model = random_model(spec);
  const auto error_with = [&](const std::string& name, const std::string& dtype, size_t bytes) {
    const TestFolder folder("extra");
    folder.write("config.json", hf_config(spec).dump());
    write_weights(folder, *model, spec, Shards::scattered);
    folder.write("part-3.safetensors",
                 SafetensorsBuilder().add(name, dtype, {4}, std::string(bytes, '\0')).str());
    std::filesystem::remove(folder.path() / "model.safetensors.index.json");
    const auto opened = open_checkpoint(folder.path(), {});
    return opened ? std::string() : opened.error().message;
  };
  EXPECT_EQ(error_with("model.layers.1.self_attn.rotary_emb.inv_freq", "F32", 16), "");
  EXPECT_EQ(error_with("model.layers.2.mlp.up_proj.weight", "F32", 16), "");  // a layer beyond the last
  EXPECT_NE(
      error_with("model.layers.1.self_attn.q_norm.weight", "F32", 16).find("q_norm.weight is not known"),
      std::string::npos);
  EXPECT_NE(error_with("model.layers.01.mlp.up_proj.weight", "F32", 16).find("not known"), std::string::npos);
  EXPECT_NE(error_with("model.layers.0.mlp.up_proj.qweight", "I32", 16)
                .find("up_proj has both a weight and a qweight"),
            std::string::npos);
  EXPECT_NE(error_with("model.layers.0.mlp.down_proj.bias", "F8_E4M3", 4).find("has type F8_E4M3"),
            std::string::npos);
  EXPECT_NE(error_with("model.norm.weight", "F32", 16).find("model.norm.weight is in"), std::string::npos);
}

}  // namespace
}  // namespace quern
