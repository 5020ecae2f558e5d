// What GPTQ checkpoints say about themselves: read, or refused by key and value.
#include "formats/gptq_config.h"

#include <gtest/gtest.h>

namespace quern::gptq {
namespace {

Result<std::optional<Config>> nested(const std::string& object) {
  return read_config(R"({"model_type":"llama","quantization_config":)" + object + "}", "config.json",
                     Place::nested);
}

Config config_of(const std::string& object) {
  auto config = nested(object);
  EXPECT_TRUE(config.has_value()) << (config ? "" : config.error().message);
  return config && *config ? **config : Config();
}

std::string error_of(const std::string& object) {
  const auto config = nested(object);
  return config ? "" : config.error().message;
}

std::optional<Settings> settings(const Config& config, std::string_view module) {
  int64_t steps = kMaxMatchSteps;
  auto found = config.settings_of(module, steps);
  EXPECT_TRUE(found.has_value()) << (found ? "" : found.error().message);
  return found ? *found : std::nullopt;
}

TEST(GptqConfig, WhatWritersWrite) {
  // Optimum's, AutoGPTQ's and GPTQModel's keys.
  const Config a = config_of(
      R"({"bits":4,"group_size":128,"damp_percent":0.1,"desc_act":true,"sym":true,"true_sequential":true,)"
      R"("model_name_or_path":null,"model_file_base_name":"model","quant_method":"gptq","use_exllama":true})");
  EXPECT_EQ(a.base, (Settings{4, 128, true, true}));
  EXPECT_EQ(a.zeros, ZeroFormat::v1);
  EXPECT_FALSE(a.lm_head);
  const Config b = config_of(
      R"({"bits":3,"group_size":-1,"sym":false,"lm_head":true,"quant_method":"gptq","pack_dtype":"int32",)"
      R"("checkpoint_format":"gptq_v2","meta":{"quantizer":["gptqmodel:1.9.0"]},"dynamic":null})");
  EXPECT_EQ(b.base, (Settings{3, -1, false, false}));
  EXPECT_EQ(b.zeros, ZeroFormat::v2);
  EXPECT_TRUE(b.lm_head);
  EXPECT_EQ(config_of(R"({"bits":8,"group_size":32,"quant_method":"gptq","format":"gptq_v2"})").zeros,
            ZeroFormat::v2);
  const auto whole =
      read_config(R"({"bits":2,"group_size":64,"desc_act":false})", "quantize_config.json", Place::whole);
  ASSERT_TRUE(whole && *whole);
  EXPECT_EQ((*whole)->base, (Settings{2, 64, false, true}));
  EXPECT_EQ(quantization_name(4, 128), "GPTQ 4-bit g128");
  EXPECT_EQ(quantization_name(3, -1), "GPTQ 3-bit");
}

TEST(GptqConfig, NoneIsNone) {
  for (const char* text : {"{}", R"({"quantization_config":null})"}) {
    const auto config = read_config(text, "config.json", Place::nested);
    ASSERT_TRUE(config.has_value());
    EXPECT_FALSE(config->has_value());
  }
}

TEST(GptqConfig, TheFirstRuleThatMatchesCounts) {
  const Config config = config_of(R"({"bits":4,"group_size":128,"quant_method":"gptq","dynamic":{)"
                                  R"("-:model\\.layers\\.0\\..*":{},)"
                                  R"("+:.*\\.18\\..*gate.*":{"bits":8,"group_size":32,"sym":false},)"
                                  R"(".*\\.18\\..*":{"bits":2,"desc_act":true},)"
                                  R"("-:lm_head":{},"mlp":{"bits":8}}})");
  EXPECT_EQ(settings(config, "model.layers.0.mlp.up_proj"), std::nullopt);
  EXPECT_EQ(settings(config, "model.layers.18.mlp.gate_proj"), (Settings{8, 32, false, false}));
  EXPECT_EQ(settings(config, "model.layers.18.mlp.up_proj"), (Settings{2, 128, true, true}));
  EXPECT_EQ(settings(config, "lm_head"), std::nullopt);
  // From the beginning, but not to the end.
  EXPECT_EQ(settings(config, "model.layers.1.mlp.up_proj"), config.base);
  EXPECT_EQ(settings(config, "mlp.up_proj"), (Settings{8, 128, false, true}));
}

TEST(GptqConfig, WhatIsNotSupportedIsNamed) {
  struct Case {
    const char* object;
    std::vector<std::string> says;
  };
  const Case cases[] = {
      {R"({"bits":5,"group_size":128,"quant_method":"gptq"})", {"quantization_config.bits is 5", "2, 3, 4"}},
      {R"({"bits":"4","group_size":128,"quant_method":"gptq"})", {"bits is \"4\""}},
      {R"({"bits":18446744073709551615,"group_size":128,"quant_method":"gptq"})",
       {"bits is 18446744073709551615"}},
      {R"({"group_size":128,"quant_method":"gptq"})", {"bits is missing"}},
      {R"({"bits":4,"quant_method":"gptq"})", {"group_size is missing"}},
      {R"({"bits":4,"group_size":0,"quant_method":"gptq"})", {"group_size is 0"}},
      {R"({"bits":4,"group_size":-2,"quant_method":"gptq"})", {"group_size is -2"}},
      {R"({"bits":4,"group_size":128,"quant_method":"awq"})", {"quant_method is awq", "gptq"}},
      {R"({"w_bit":4,"q_group_size":128,"version":"GEMM","bits":4})", {"quant_method is not there"}},
      {R"({"load_in_8bit":true})", {"quant_method is not there"}},
      {R"({"bits":4,"group_size":128,"quant_method":"gptq","pack_dtype":"int16"})", {"pack_dtype is int16"}},
      {R"({"bits":4,"group_size":128,"quant_method":"gptq","checkpoint_format":"marlin"})",
       {"checkpoint_format is marlin"}},
      {R"({"bits":4,"group_size":128,"quant_method":"gptq","checkpoint_format":"gptq_p"})",
       {"checkpoint_format is gptq_p"}},
      {R"({"bits":4,"group_size":128,"quant_method":"gptq","format":"bitblas"})", {"format is bitblas"}},
      {R"({"bits":4,"group_size":128,"quant_method":"gptq","checkpoint_format":"gptq","format":"gptq_v2"})",
       {"format is gptq_v2", "checkpoint_format"}},
      {R"({"bits":4,"group_size":128,"quant_method":"gptq","is_marlin_format":true})", {"is_marlin_format"}},
      {R"({"bits":4,"group_size":128,"quant_method":"gptq","sym":1})", {"sym is 1"}},
      {R"({"bits":4,"group_size":128,"quant_method":"gptq","dynamic":[]})", {"dynamic is a list"}},
      {R"({"bits":4,"group_size":128,"quant_method":"gptq","dynamic":{"(":{}}})",
       {"dynamic.\"(\"", "not a regular expression"}},
      {R"({"bits":4,"group_size":128,"quant_method":"gptq","dynamic":{"a\nb":{"bits":7}}})",
       {"dynamic.\"a?b\".bits is 7"}},
      {R"({"bits":4,"group_size":128,"quant_method":"gptq","dynamic":{"a":7}})", {"\"a\" is 7"}},
      {"7", {"quantization_config is 7"}},
  };
  for (const Case& c : cases) {
    const std::string message = error_of(c.object);
    for (const std::string& part : c.says)
      EXPECT_NE(message.find(part), std::string::npos) << c.object << ": " << message;
    EXPECT_EQ(message.find('\n'), std::string::npos);
    EXPECT_LT(message.size(), 400u);
  }
}

TEST(GptqConfig, PatternsThatTakeForeverAreRefused) {
  const Config config = config_of(
      R"({"bits":4,"group_size":128,"quant_method":"gptq","dynamic":{"(a+)+(b+)+(a|b)+$":{"bits":8}}})");
  int64_t steps = 100'000;
  const auto found = config.settings_of(std::string(40, 'a') + std::string(40, 'b') + "!", steps);
  ASSERT_FALSE(found.has_value());
  EXPECT_NE(found.error().message.find("takes too long"), std::string::npos) << found.error().message;
}

TEST(GptqConfig, StepsCountForAllModulesTogether) {
  std::string rules;
  for (int i = 0; i < 100; ++i) {
    const char* between = i == 0 ? "" : ",";
    rules += fmt::format(R"rule({}"(?:.|..){{1,6}}[!?](?#{})":{{"bits":8}})rule", between, i);
  }
  const Config config =
      config_of(R"({"bits":4,"group_size":128,"quant_method":"gptq","dynamic":{)" + rules + "}}");
  const std::string module = "model.layers.0.mlp.up_proj";
  const int64_t all = 1'000'000;
  int64_t steps = all;
  ASSERT_TRUE(config.settings_of(module, steps).has_value());
  const int64_t each = all - steps;
  ASSERT_GT(each, 100 * 64);  // every way of taking six characters, for every rule
  int64_t modules = 1;
  while (config.settings_of(module, steps).has_value()) ASSERT_LE(++modules, all / each);
  EXPECT_EQ(modules, all / each);
  EXPECT_FALSE(config.settings_of(module, steps).has_value());
}

/// What GPTQModel writes for a mixture of experts, by far the most modules.
TEST(GptqConfig, StepsAreEnoughForRulesThatAreMeant) {
  const Config config = config_of(R"({"bits":4,"group_size":128,"quant_method":"gptq","dynamic":{)"
                                  R"("-:.*lm_head.*":{},"-:.*self_attn.*":{},"-:.*shared_expert.*":{},)"
                                  R"("-:.*mlp\\.gate$":{},"+:.*\\.18\\..*gate.*":{"bits":8},)"
                                  R"("+:model\\.layers\\.(?:1|2|3)\\..*down_proj":{"bits":8}}})");
  int64_t steps = kMaxMatchSteps;
  ASSERT_TRUE(config.settings_of("model.layers.61.mlp.experts.255.down_proj", steps).has_value());
  EXPECT_LT((kMaxMatchSteps - steps) * 61 * 256 * 3, kMaxMatchSteps);
}

TEST(GptqConfig, HostileTextIsRefused) {
  std::string objects;
  for (int i = 0; i < 100000; ++i) objects += "{\"a\":";
  for (const std::string& text : {std::string(), std::string("7"), std::string("["), objects,
                                  std::string(2 << 20, ' '), std::string("{\"\xff\":1}")}) {
    for (const Place place : {Place::nested, Place::whole}) {
      const auto config = read_config(text, "x.json", place);
      ASSERT_FALSE(config.has_value());
      EXPECT_NE(config.error().message.find("x.json: "), std::string::npos);
      EXPECT_LT(config.error().message.size(), 300u);
    }
  }
}

}  // namespace
}  // namespace quern::gptq
