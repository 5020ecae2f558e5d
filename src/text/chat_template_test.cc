#include "text/chat_template.h"

#include <gtest/gtest.h>

#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>
#include <thread>

#include "core/source_dir.h"
#include "core/test_data.h"

namespace quern {
namespace {

using Json = nlohmann::ordered_json;

std::vector<std::filesystem::path> template_files() {
  std::vector<std::filesystem::path> files;
  const auto add_folder = [&](const std::filesystem::path& folder) {
    if (!std::filesystem::is_directory(folder)) return;
    for (const auto& entry : std::filesystem::directory_iterator(folder)) {
      if (entry.path().extension() == ".jinja") files.push_back(entry.path());
    }
  };
  add_folder(QUERN_SOURCE_DIR "/tests/templates/models");
  if (const auto data = test_data()) add_folder(*data / "templates");
  std::sort(files.begin(), files.end());
  return files;
}

std::string read(const std::filesystem::path& path) {
  std::ostringstream text;
  text << std::ifstream(path, std::ios::binary).rdbuf();
  return text.str();
}

Json chat(std::initializer_list<std::pair<const char*, const char*>> turns) {
  auto messages = Json::array();
  for (const auto& [role, content] : turns) messages.push_back({{"role", role}, {"content", content}});
  return {
      {"messages", messages}, {"add_generation_prompt", true}, {"bos_token", "<s>"}, {"eos_token", "</s>"}};
}

std::string render_file(const std::string& name, const Json& variables) {
  const auto parsed = ChatTemplate::parse(read(*test_data() / "templates" / name));
  if (!parsed) return "error: " + parsed.error().message;
  const auto text = (*parsed)->render(variables);
  return text ? *text : "error: " + text.error().message;
}

TEST(ChatTemplate, EveryTemplateThatWeHaveParsesAndRenders) {
  const auto files = template_files();
  ASSERT_GE(files.size(), 13u);
  for (const auto& file : files) {
    const auto parsed = ChatTemplate::parse(read(file));
    ASSERT_TRUE(parsed) << file << ": " << parsed.error().message;
    const auto text =
        (*parsed)->render(chat({{"user", "What is 6 × 7?"}, {"assistant", "42"}, {"user", "Sure?"}}));
    ASSERT_TRUE(text) << file << ": " << text.error().message;
    EXPECT_NE(text->find("What is 6 × 7?"), std::string::npos) << file;
    EXPECT_LT(text->find("42"), text->find("Sure?")) << file;
  }
}

TEST(ChatTemplate, PublicTemplatesGiveTheirFormats) {
  if (!test_data()) GTEST_SKIP() << "skipped: no folder of public data files (QUERN_TEST_DATA)";
  const Json hello = chat({{"system", "Be brief."}, {"user", " Hi "}});
  EXPECT_EQ(
      render_file("Qwen-Qwen2.5-7B-Instruct.jinja", hello),
      "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n Hi <|im_end|>\n<|im_start|>assistant\n");
  EXPECT_EQ(render_file("microsoft-Phi-3.5-mini-instruct.jinja", hello),
            "<|system|>\nBe brief.<|end|>\n<|user|>\n Hi <|end|>\n<|assistant|>\n");
  EXPECT_EQ(
      render_file("meta-llama-Llama-3.1-8B-Instruct.jinja", hello),
      "<s><|start_header_id|>system<|end_header_id|>\n\nCutting Knowledge Date: December 2023\n"
      "Today Date: 26 Jul 2024\n\nBe brief.<|eot_id|><|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|>"
      "<|start_header_id|>assistant<|end_header_id|>\n\n");
  EXPECT_EQ(render_file("mistralai-Mistral-Nemo-Instruct-2407.jinja", hello),
            "<s>[INST]Be brief.\n\n Hi [/INST]");
}

TEST(ChatTemplate, RefusalsCarryTheTemplatesOwnWords) {
  if (!test_data()) GTEST_SKIP() << "skipped: no folder of public data files (QUERN_TEST_DATA)";
  EXPECT_EQ(render_file("google-gemma-2-2b-it.jinja", chat({{"system", "x"}, {"user", "y"}})),
            "error: System role not supported");
  EXPECT_EQ(render_file("google-gemma-2-2b-it.jinja", chat({{"user", "x"}, {"user", "y"}})),
            "error: Conversation roles must alternate user/assistant/user/assistant/...");
}

TEST(ChatTemplate, KeepsItsSource) {
  const std::string source = "{{ a }}\r\n";
  const auto parsed = ChatTemplate::parse(source);
  ASSERT_TRUE(parsed);
  EXPECT_EQ((*parsed)->source(), source);
}

TEST(ChatTemplate, ErrorsAreTheCallers) {
  const auto broken = ChatTemplate::parse("Hello\n{% if %}");
  ASSERT_FALSE(broken);
  EXPECT_EQ(broken.error().code, ErrorCode::invalid_argument);
  EXPECT_EQ(broken.error().message, "line 2, column 7: expected an expression, found the end of the tag");
  const auto parsed = ChatTemplate::parse("{{ messages[0].content.text }}");
  ASSERT_TRUE(parsed);
  const auto text = (*parsed)->render({{"messages", Json::array()}});
  ASSERT_FALSE(text);
  EXPECT_EQ(text.error().code, ErrorCode::invalid_argument);
  EXPECT_EQ(text.error().message, "the list of 0 items has no item 0 (chat template, line 1, column 15)");
}

TEST(ChatTemplate, ManyThreadsMayRenderWithOne) {
  const auto parsed = ChatTemplate::parse(
      "{% set ns = namespace(n=0) %}{% macro m(x) %}<{{ x }}>{% endmacro %}"
      "{% for i in range(k) %}{% set ns.n = ns.n + i %}{{ m(i) }}{% endfor %}{{ ns.n }}");
  ASSERT_TRUE(parsed);
  std::vector<std::string> texts(4);
  {
    std::vector<std::jthread> threads;
    for (size_t i = 0; i < texts.size(); ++i) {
      threads.emplace_back([&, i] {
        for (int round = 0; round < 50; ++round)
          texts[i] = (*parsed)->render({{"k", 3 + i}}).value_or("error");
      });
    }
  }
  EXPECT_EQ(texts, (std::vector<std::string>{"<0><1><2>3", "<0><1><2><3>6", "<0><1><2><3><4>10",
                                             "<0><1><2><3><4><5>15"}));
}

}  // namespace
}  // namespace quern
