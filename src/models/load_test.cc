// Metadata and tensors as files have them: silent, odd, broken, hostile.
#include <gtest/gtest.h>

#include <functional>
#include <set>

#include "models/arch.h"
#include "models/random_model.h"
#include "models/summary.h"

namespace quern {
namespace {

using testing::MemorySource;
using testing::ModelSpec;
using testing::random_model;

/// Counts what is asked of it, and refuses nothing: loading must fail before it gets here.
std::unique_ptr<Backend> cpu() { return *make_cpu_backend({.threads = 1}); }

struct BadFile {
  const char* name;
  std::function<void(MemorySource&)> damage;
  std::vector<std::string> says;  // parts of the message
  ModelSpec spec = {};
};

Metadata::Value number(int64_t v) { return v; }
Metadata::Value list(std::vector<int64_t> v) { return Metadata::Array{std::move(v)}; }

const BadFile bad_files[] = {
    {"NoArchitecture", [](auto& s) { s.unset("general.architecture"); }, {"general.architecture"}},
    {"UnknownArchitecture",
     [](auto& s) { s.set("general.architecture", std::string("mamba")); },
     {"mamba", "llama, phi3, qwen2, qwen3"}},
    {"NoLayers", [](auto& s) { s.set("llama.block_count", number(0)); }, {"llama.block_count", "0"}},
    {"NegativeLayers", [](auto& s) { s.set("llama.block_count", number(-3)); }, {"llama.block_count"}},
    {"ABillionLayers",
     [](auto& s) { s.set("llama.block_count", number(1000000000)); },
     {"block_count", "1000000000"}},
    {"OneLayerTooMany", [](auto& s) { s.set("llama.block_count", number(3)); }, {"blk.2.", "missing"}},
    {"MissingKey", [](auto& s) { s.unset("llama.embedding_length"); }, {"llama.embedding_length", "missing"}},
    {"MissingContext", [](auto& s) { s.unset("llama.context_length"); }, {"llama.context_length", "missing"}},
    {"MissingFeedForward",
     [](auto& s) { s.unset("llama.feed_forward_length"); },
     {"llama.feed_forward_length"}},
    {"MissingEps",
     [](auto& s) { s.unset("llama.attention.layer_norm_rms_epsilon"); },
     {"layer_norm_rms_epsilon"}},
    {"NegativeEps",
     [](auto& s) { s.set("llama.attention.layer_norm_rms_epsilon", -1.0); },
     {"layer_norm_rms_epsilon"}},
    {"NanEps",
     [](auto& s) { s.set("llama.attention.layer_norm_rms_epsilon", std::nan("")); },
     {"rms_epsilon"}},
    {"TextForANumber",
     [](auto& s) { s.set("llama.block_count", std::string("2")); },
     {"block_count", "not an integer"}},
    {"HeadsDoNotDivide", [](auto& s) { s.set("llama.attention.head_count", number(5)); }, {"5"}},
    {"KvHeadsDoNotDivide", [](auto& s) { s.set("llama.attention.head_count_kv", number(3)); }, {"4", "3"}},
    {"NoKvHeads", [](auto& s) { s.set("llama.attention.head_count_kv", number(0)); }, {"head_count_kv"}},
    {"HeadsPerLayerDiffer",
     [](auto& s) {
       s.set("llama.attention.head_count_kv", list({2, 1}));
     },
     {"head_count_kv", "layer to layer"}},
    {"OddRope", [](auto& s) { s.set("llama.rope.dimension_count", number(7)); }, {"7"}},
    {"RopeBeyondTheHead",
     [](auto& s) { s.set("llama.rope.dimension_count", number(18)); },
     {"dimension_count", "18"}},
    {"KeyAndValueLengthsDiffer",
     [](auto& s) { s.set("llama.attention.key_length", number(32)); },
     {"32", "16"}},
    {"UnknownScaling",
     [](auto& s) { s.set("llama.rope.scaling.type", std::string("su")); },
     {"rope.scaling.type", "su"}},
    {"BadRopeFactors",
     [](auto& s) {
       s.add("rope_freqs.weight", {8}, std::vector<float>{1, 1, 1, 0, 1, 1, 1, 1}, DType::F32);
     },
     {"rope_freqs.weight"}},
    {"ShortRopeFactors",
     [](auto& s) {
       s.add("rope_freqs.weight", {4}, std::vector<float>{1, 1, 1, 1}, DType::F32);
     },
     {"rope_freqs.weight", "4", "8"}},
    {"ExpertsWithoutUse", [](auto& s) { s.set("llama.expert_count", number(8)); }, {"expert_used_count"}},
    {"MoreUsedThanThere",
     [](auto& s) { s.set("llama.expert_used_count", number(5)); },
     {"expert_used_count", "5"},
     ModelSpec{.experts = 4, .experts_used = 2}},
    {"MissingExpert",
     [](auto& s) { s.remove("blk.1.ffn_up.2.weight"); },
     {"blk.1.ffn_up.2.weight", "missing"},
     ModelSpec{.experts = 4, .experts_used = 2, .single_experts = true}},
    {"QwenWithExperts",
     [](auto& s) { s.set("qwen2.expert_count", number(8)); },
     {"qwen2", "experts"},
     ModelSpec{.arch = "qwen2"}},
    {"MissingTensor", [](auto& s) { s.remove("blk.1.ffn_up.weight"); }, {"blk.1.ffn_up.weight", "missing"}},
    {"MissingNorm", [](auto& s) { s.remove("output_norm.weight"); }, {"output_norm.weight", "missing"}},
    {"MissingEmbedding", [](auto& s) { s.remove("token_embd.weight"); }, {"token_embd.weight"}},
    {"MissingQNorm",
     [](auto& s) { s.remove("blk.0.attn_q_norm.weight"); },
     {"blk.0.attn_q_norm.weight", "missing"},
     ModelSpec{.arch = "qwen3"}},
    {"BiasInOneLayerOnly",
     [](auto& s) { s.remove("blk.1.attn_k.bias"); },
     {"blk.1.attn_k.bias", "other layers"},
     ModelSpec{.arch = "qwen2", .biases = true}},
    {"WrongShape",
     [](auto& s) {
       s.edit("blk.0.attn_k.weight")->shape = {64, 32};
     },
     {"blk.0.attn_k.weight", "[64, 32]", "[32, 64]"}},
    {"DimNotMatchingTensors",
     [](auto& s) { s.set("llama.embedding_length", number(128)); },
     {"token_embd.weight", "[50, 64]", "[50, 128]"}},
    {"VocabularyOfAnotherSize",
     [](auto& s) { s.set("tokenizer.ggml.tokens", Metadata::Array{std::vector<std::string>(49, "x")}); },
     {"token_embd.weight", "50", "49"}},
    {"HugeDim",
     [](auto& s) { s.set("llama.embedding_length", number(int64_t{1} << 40)); },
     {"embedding_length"}},
    {"HugeHeads",
     [](auto& s) { s.set("llama.attention.head_count", number(int64_t{1} << 31)); },
     {"head_count"}},
};

class LoadErrors : public ::testing::TestWithParam<BadFile> {};

TEST_P(LoadErrors, NameWhatIsWrong) {
  const auto source = random_model(GetParam().spec);
  GetParam().damage(*source);
  const auto backend = cpu();
  const auto model = load_model(*source, *backend);
  ASSERT_FALSE(model.has_value());
  for (const std::string& part : GetParam().says)
    EXPECT_NE(model.error().message.find(part), std::string::npos) << model.error().message;
  EXPECT_EQ(model.error().message.find('\n'), std::string::npos);
}

INSTANTIATE_TEST_SUITE_P(Files, LoadErrors, ::testing::ValuesIn(bad_files),
                         [](const auto& info) { return std::string(info.param.name); });

TEST(ModelConfig, DefaultsOfAnOldFile) {
  const auto source = random_model(ModelSpec{.heads = 4, .kv_heads = 4});
  source->unset("llama.attention.head_count_kv");
  const auto config = read_model_config(*source);
  ASSERT_TRUE(config.has_value()) << config.error().message;
  EXPECT_EQ(config->kv_heads, 4);
  EXPECT_EQ(config->head_dim, 16);
  EXPECT_EQ(config->rope.rotated, 16);
  EXPECT_EQ(config->rope.style, RopeStyle::interleaved);
  EXPECT_EQ(config->vocab, 50);
  EXPECT_EQ(config->experts, 0);
  EXPECT_EQ(config->window, 0);
  ASSERT_EQ(config->rope_frequency.size(), 8u);
  EXPECT_NEAR(config->rope_frequency[4], 100, 1e-3);  // 10000^(8/16)
}

TEST(ModelConfig, AValuePerLayerIsFineWhenAllAreEqual) {
  const auto source = random_model(ModelSpec{});
  source->set("llama.attention.head_count_kv", list({2, 2}));
  source->set("llama.feed_forward_length", list({96, 96}));
  const auto config = read_model_config(*source);
  ASSERT_TRUE(config.has_value()) << config.error().message;
  EXPECT_EQ(config->kv_heads, 2);
  EXPECT_EQ(config->ffn_dim, 96);
}

TEST(ModelConfig, UnusedTensorsAreLeftAlone) {
  const auto source = random_model(ModelSpec{});
  source->add("blk.0.attn_rot_embd", {8}, std::vector<float>(8, 1), DType::F32);
  const auto backend = cpu();
  EXPECT_TRUE(load_model(*source, *backend).has_value());
}

TEST(Load, CountsParametersAndReportsProgress) {
  const auto source = random_model(ModelSpec{.tied = true});
  const auto backend = cpu();
  uint64_t last = 0, total = 0;
  ModelOptions options;
  options.progress = [&](uint64_t done, uint64_t of) {
    EXPECT_GT(done, last);
    last = done;
    total = of;
    return true;
  };
  const auto model = load_model(*source, *backend, options);
  ASSERT_TRUE(model.has_value());
  EXPECT_EQ(last, total);
  EXPECT_EQ(total, source->bytes());
  int64_t parameters = 0;
  for (const RawTensor& t : source->tensors()) parameters += t.elements();
  EXPECT_EQ((*model)->parameters(), parameters);
}

TEST(Load, CanBeCancelled) {
  const auto source = random_model(ModelSpec{});
  const auto backend = cpu();
  int calls = 0;
  ModelOptions options;
  options.progress = [&](uint64_t, uint64_t) { return ++calls < 3; };
  const auto model = load_model(*source, *backend, options);
  ASSERT_FALSE(model.has_value());
  EXPECT_EQ(model.error().code, ErrorCode::cancelled);
  EXPECT_EQ(calls, 3);
}

TEST(Arch, TablesAreSound) {
  EXPECT_EQ(arch_names(), "llama, phi3, qwen2, qwen3");
  for (const ArchSpec* arch : all_archs()) {
    std::set<std::string_view> gguf, hf;
    std::set<Role> roles;
    for (const TensorName& t : arch->tensors) {
      EXPECT_FALSE(t.gguf.empty());
      EXPECT_TRUE(gguf.insert(t.gguf).second) << t.gguf;
      EXPECT_TRUE(t.hf.empty() || hf.insert(t.hf).second) << t.hf;
      EXPECT_TRUE(roles.insert(t.role).second) << t.gguf;
    }
    for (const HfClass& hf : arch->hf_classes) EXPECT_EQ(find_arch_of_hf_class(hf.name), arch);
  }
  EXPECT_EQ(find_arch("gguf"), nullptr);
  EXPECT_EQ(find_arch_of_hf_class("GPT2LMHeadModel"), nullptr);
  EXPECT_EQ(expand_name("blk.{}.ffn_up.{}.weight", 12, 3), "blk.12.ffn_up.3.weight");
}

TEST(Summary, SaysWhatAFileIs) {
  const auto source = random_model(ModelSpec{.ffn = 128, .dtype = DType::Q8_0});
  source->set("general.name", std::string("Tiny"));
  source->set("general.file_type", uint64_t{7});
  const ModelSummary s = summarize_model(*source);
  EXPECT_EQ(s.architecture, "llama");
  EXPECT_EQ(s.name, "Tiny");
  EXPECT_EQ(s.quantization, "Q8_0");
  EXPECT_EQ(s.bytes, source->bytes());
  EXPECT_GT(s.bits_per_weight, 8.5);
  EXPECT_LT(s.bits_per_weight, 9.0);
  ASSERT_EQ(s.types.size(), 2u);
  EXPECT_EQ(s.types[0].dtype, DType::Q8_0);
  ASSERT_TRUE(s.config.has_value()) << s.problem;
  EXPECT_EQ(s.kv_bytes_per_token, 2u * 2 * 2 * 16 * 2);  // K and V, layers, heads, head size, bytes
}

TEST(Summary, AWrongFileTypeIsNotBelieved) {
  const auto source = random_model(ModelSpec{.dtype = DType::Q4_0});
  source->set("general.file_type", uint64_t{15});  // Q4_K_M
  EXPECT_EQ(quantization_name(*source), "Q4_0");
  source->set("general.file_type", uint64_t{0});  // F32: only the norms are
  EXPECT_EQ(quantization_name(*source), "Q4_0");
}

TEST(Summary, AModelThatDoesNotRunHere) {
  const auto source = random_model(ModelSpec{});
  source->set("general.architecture", std::string("mamba"));
  const ModelSummary s = summarize_model(*source);
  EXPECT_EQ(s.architecture, "mamba");
  EXPECT_FALSE(s.config.has_value());
  EXPECT_NE(s.problem.find("mamba"), std::string::npos);
  EXPECT_GT(s.parameters, 0);
  MemorySource empty;
  EXPECT_EQ(summarize_model(empty).quantization, "none");
}

}  // namespace
}  // namespace quern
