#include "text/known_templates.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "text/chat_template.h"

namespace quern {
namespace {

nlohmann::ordered_json conversation(bool with_system) {
  auto messages = nlohmann::ordered_json::array();
  if (with_system) messages.push_back({{"role", "system"}, {"content", "SYS"}});
  messages.push_back({{"role", "user"}, {"content", "one"}});
  messages.push_back({{"role", "assistant"}, {"content", "two"}});
  messages.push_back({{"role", "user"}, {"content", "three"}});
  return {
      {"messages", messages}, {"add_generation_prompt", true}, {"bos_token", "<s>"}, {"eos_token", "</s>"}};
}

std::string render(std::string_view family, bool with_system) {
  const auto parsed = ChatTemplate::parse(known_template(family));
  EXPECT_TRUE(parsed) << family;
  if (!parsed) return "";
  const auto text = (*parsed)->render(conversation(with_system));
  EXPECT_TRUE(text) << family << ": " << (text ? "" : text.error().message);
  return text.value_or("");
}

struct Expected {
  const char* family;
  const char* with_system;
  const char* without;
};

class KnownTemplates : public testing::TestWithParam<Expected> {};

TEST_P(KnownTemplates, RenderTheFormatOfTheFamily) {
  EXPECT_EQ(render(GetParam().family, true), GetParam().with_system);
  EXPECT_EQ(render(GetParam().family, false), GetParam().without);
}

INSTANTIATE_TEST_SUITE_P(
    Families, KnownTemplates,
    testing::Values(
        Expected{"chatml",
                 "<|im_start|>system\nSYS<|im_end|>\n<|im_start|>user\none<|im_end|>\n<|im_start|>"
                 "assistant\ntwo<|im_end|>\n"
                 "<|im_start|>user\nthree<|im_end|>\n<|im_start|>assistant\n",
                 "<|im_start|>user\none<|im_end|>\n<|im_start|>assistant\ntwo<|im_end|>\n"
                 "<|im_start|>user\nthree<|im_end|>\n<|im_start|>assistant\n"},
        Expected{"phi-4",
                 "<|im_start|>system<|im_sep|>SYS<|im_end|><|im_start|>user<|im_sep|>one<|im_end|>"
                 "<|im_start|>assistant<|im_sep|>two<|im_end|><|im_start|>user<|im_sep|>three<|im_end|>"
                 "<|im_start|>assistant<|im_sep|>",
                 "<|im_start|>user<|im_sep|>one<|im_end|><|im_start|>assistant<|im_sep|>two<|im_end|>"
                 "<|im_start|>user<|im_sep|>three<|im_end|><|im_start|>assistant<|im_sep|>"},
        Expected{"llama-2", "<s>[INST] <<SYS>>\nSYS\n<</SYS>>\n\none [/INST] two </s><s>[INST] three [/INST]",
                 "<s>[INST] one [/INST] two </s><s>[INST] three [/INST]"},
        Expected{"llama-3",
                 "<s><|start_header_id|>system<|end_header_id|>\n\nSYS<|eot_id|><|start_header_id|>user<|end_"
                 "header_id|>\n\n"
                 "one<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\ntwo<|eot_id|>"
                 "<|start_header_id|>user<|end_header_id|>\n\nthree<|eot_id|>"
                 "<|start_header_id|>assistant<|end_header_id|>\n\n",
                 "<s><|start_header_id|>user<|end_header_id|>\n\none<|eot_id|>"
                 "<|start_header_id|>assistant<|end_header_id|>\n\ntwo<|eot_id|>"
                 "<|start_header_id|>user<|end_header_id|>\n\nthree<|eot_id|>"
                 "<|start_header_id|>assistant<|end_header_id|>\n\n"},
        Expected{"llama-4",
                 "<s><|header_start|>system<|header_end|>\n\nSYS<|eot|><|header_start|>user<|header_end|>"
                 "\n\none<|eot|>"
                 "<|header_start|>assistant<|header_end|>\n\ntwo<|eot|><|header_start|>user<|header_end|>"
                 "\n\nthree<|eot|>"
                 "<|header_start|>assistant<|header_end|>\n\n",
                 "<s><|header_start|>user<|header_end|>\n\none<|eot|>"
                 "<|header_start|>assistant<|header_end|>\n\ntwo<|eot|><|header_start|>user<|header_end|>"
                 "\n\nthree<|eot|>"
                 "<|header_start|>assistant<|header_end|>\n\n"},
        Expected{"mistral", "<s>[INST] SYS\n\none [/INST] two</s>[INST] three [/INST]",
                 "<s>[INST] one [/INST] two</s>[INST] three [/INST]"},
        Expected{"mistral-v3", "<s>[INST] one[/INST] two</s>[INST] SYS\n\nthree[/INST]",
                 "<s>[INST] one[/INST] two</s>[INST] three[/INST]"},
        Expected{"mistral-v7",
                 "<s>[SYSTEM_PROMPT]SYS[/SYSTEM_PROMPT][INST]one[/INST]two</s>[INST]three[/INST]",
                 "<s>[INST]one[/INST]two</s>[INST]three[/INST]"},
        Expected{"gemma",
                 "<s><start_of_turn>user\nSYS\n\none<end_of_turn>\n<start_of_turn>model\ntwo<end_of_turn>\n"
                 "<start_of_turn>user\nthree<end_of_turn>\n<start_of_turn>model\n",
                 "<s><start_of_turn>user\none<end_of_turn>\n<start_of_turn>model\ntwo<end_of_turn>\n"
                 "<start_of_turn>user\nthree<end_of_turn>\n<start_of_turn>model\n"},
        Expected{"phi-3",
                 "<|system|>\nSYS<|end|>\n<|user|>\none<|end|>\n<|assistant|>\ntwo<|end|>\n<|user|>\nthree<|"
                 "end|>\n"
                 "<|assistant|>\n",
                 "<|user|>\none<|end|>\n<|assistant|>\ntwo<|end|>\n<|user|>\nthree<|end|>\n<|assistant|>\n"},
        Expected{"zephyr",
                 "<|system|>\nSYS</s>\n<|user|>\none</s>\n<|assistant|>\ntwo</s>\n<|user|>\nthree</"
                 "s>\n<|assistant|>\n",
                 "<|user|>\none</s>\n<|assistant|>\ntwo</s>\n<|user|>\nthree</s>\n<|assistant|>\n"},
        Expected{"glm-4",
                 "[gMASK]<sop><|system|>\nSYS<|user|>\none<|assistant|>\ntwo<|user|>\nthree<|assistant|>",
                 "[gMASK]<sop><|user|>\none<|assistant|>\ntwo<|user|>\nthree<|assistant|>"},
        Expected{"granite",
                 "<|start_of_role|>system<|end_of_role|>SYS<|end_of_text|>\n<|start_of_role|>user<|end_of_"
                 "role|>one<|end_of_text|>\n"
                 "<|start_of_role|>assistant<|end_of_role|>two<|end_of_text|>\n<|start_of_role|>user<|end_of_"
                 "role|>three"
                 "<|end_of_text|>\n<|start_of_role|>assistant<|end_of_role|>",
                 "<|start_of_role|>user<|end_of_role|>one<|end_of_text|>\n"
                 "<|start_of_role|>assistant<|end_of_role|>two<|end_of_text|>\n<|start_of_role|>user<|end_of_"
                 "role|>three"
                 "<|end_of_text|>\n<|start_of_role|>assistant<|end_of_role|>"},
        Expected{"deepseek", "<s>SYS<｜User｜>one<｜Assistant｜>two</s><｜User｜>three<｜Assistant｜>",
                 "<s><｜User｜>one<｜Assistant｜>two</s><｜User｜>three<｜Assistant｜>"},
        Expected{"deepseek-chat", "<s>SYS\n\nUser: one\n\nAssistant: two</s>User: three\n\nAssistant:",
                 "<s>User: one\n\nAssistant: two</s>User: three\n\nAssistant:"},
        Expected{"deepseek-coder",
                 "<s>SYS\n### Instruction:\none\n### Response:\ntwo\n<|EOT|>\n### Instruction:\nthree\n### "
                 "Response:\n",
                 "<s>### Instruction:\none\n### Response:\ntwo\n<|EOT|>\n### Instruction:\nthree\n### "
                 "Response:\n"},
        Expected{"command-r",
                 "<s><|START_OF_TURN_TOKEN|><|SYSTEM_TOKEN|>SYS<|END_OF_TURN_TOKEN|>"
                 "<|START_OF_TURN_TOKEN|><|USER_TOKEN|>one<|END_OF_TURN_TOKEN|>"
                 "<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>two<|END_OF_TURN_TOKEN|>"
                 "<|START_OF_TURN_TOKEN|><|USER_TOKEN|>three<|END_OF_TURN_TOKEN|><|START_OF_TURN_TOKEN|><|"
                 "CHATBOT_TOKEN|>",
                 "<s><|START_OF_TURN_TOKEN|><|USER_TOKEN|>one<|END_OF_TURN_TOKEN|>"
                 "<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>two<|END_OF_TURN_TOKEN|>"
                 "<|START_OF_TURN_TOKEN|><|USER_TOKEN|>three<|END_OF_TURN_TOKEN|><|START_OF_TURN_TOKEN|><|"
                 "CHATBOT_TOKEN|>"},
        Expected{"exaone",
                 "[|system|]SYS[|endofturn|]\n[|user|]one\n[|assistant|]two[|endofturn|]\n[|user|]three\n[|"
                 "assistant|]",
                 "[|user|]one\n[|assistant|]two[|endofturn|]\n[|user|]three\n[|assistant|]"},
        Expected{"vicuna", "<s>SYS\n\nUSER: one\nASSISTANT: two</s>\nUSER: three\nASSISTANT:",
                 "<s>USER: one\nASSISTANT: two</s>\nUSER: three\nASSISTANT:"},
        Expected{"alpaca",
                 "<s>SYS\n\n### Instruction:\none\n\n### Response:\ntwo</s>\n\n### "
                 "Instruction:\nthree\n\n### Response:\n",
                 "<s>### Instruction:\none\n\n### Response:\ntwo</s>\n\n### Instruction:\nthree\n\n### "
                 "Response:\n"},
        Expected{"solar",
                 "<s>### System:\nSYS\n\n### User:\none\n\n### Assistant:\ntwo</s>\n\n### "
                 "User:\nthree\n\n### Assistant:\n",
                 "<s>### User:\none\n\n### Assistant:\ntwo</s>\n\n### User:\nthree\n\n### Assistant:\n"},
        Expected{"openchat",
                 "<s>SYS<|end_of_turn|>GPT4 Correct User: one<|end_of_turn|>GPT4 Correct Assistant: "
                 "two<|end_of_turn|>"
                 "GPT4 Correct User: three<|end_of_turn|>GPT4 Correct Assistant:",
                 "<s>GPT4 Correct User: one<|end_of_turn|>GPT4 Correct Assistant: two<|end_of_turn|>"
                 "GPT4 Correct User: three<|end_of_turn|>GPT4 Correct Assistant:"},
        Expected{"falcon", "SYS\n\nUser: one\n\nAssistant: two\n\nUser: three\n\nAssistant:",
                 "User: one\n\nAssistant: two\n\nUser: three\n\nAssistant:"}),
    [](const auto& info) {
      std::string name = info.param.family;
      std::erase(name, '-');
      return name;
    });

TEST(KnownTemplateTable, EveryFamilyIsTestedAndParses) {
  EXPECT_EQ(known_templates().size(), 23u);
  for (const KnownTemplate& known : known_templates()) {
    EXPECT_TRUE(ChatTemplate::parse(known.source)) << known.family;
  }
  EXPECT_TRUE(known_template("no such family").empty());
}

Metadata vocabulary(std::vector<std::string> tokens, std::string name = "") {
  Metadata metadata;
  if (!name.empty()) metadata.add("general.name", std::move(name));
  metadata.add("tokenizer.ggml.tokens", Metadata::Array{std::move(tokens)});
  return metadata;
}

std::string choice(const Metadata& metadata, std::string_view file) {
  return choose_chat_template(metadata, file).origin;
}

TEST(ChooseChatTemplate, TakesTheFilesOwn) {
  Metadata metadata = vocabulary({"<|im_start|>", "<|im_end|>"});
  metadata.add("tokenizer.chat_template.tool_use", std::string("tools"));
  EXPECT_EQ(choose_chat_template(metadata, "x.gguf").source, "tools");
  EXPECT_EQ(choose_chat_template(metadata, "x.gguf").tool_source, "");
  EXPECT_EQ(choose_chat_template(metadata, "x.gguf").origin, "the file (tokenizer.chat_template.tool_use)");
  metadata.add("tokenizer.chat_template.default", std::string("default"));
  EXPECT_EQ(choose_chat_template(metadata, "x.gguf").source, "default");
  metadata.add("tokenizer.chat_template", std::string("plain"));
  EXPECT_EQ(choose_chat_template(metadata, "x.gguf").source, "plain");
  EXPECT_EQ(choose_chat_template(metadata, "x.gguf").origin, "the file");
  EXPECT_EQ(choose_chat_template(metadata, "x.gguf").tool_source, "tools");
}

TEST(ChooseChatTemplate, AnEmptyOneCountsAsNone) {
  Metadata metadata = vocabulary({"<|im_start|>", "<|im_end|>"});
  metadata.add("tokenizer.chat_template", std::string());
  EXPECT_EQ(choice(metadata, "x.gguf"), "known template of the chatml family (by special tokens)");
}

TEST(ChooseChatTemplate, KnowsFamiliesByTheirTokens) {
  const auto by_tokens = [](std::vector<std::string> tokens) {
    return choose_chat_template(vocabulary(std::move(tokens)), "model.gguf").source;
  };
  EXPECT_EQ(by_tokens({"a", "<|im_start|>", "<|im_end|>"}), known_template("chatml"));
  EXPECT_EQ(by_tokens({"<|im_sep|>", "<|im_start|>", "<|im_end|>"}), known_template("phi-4"));
  EXPECT_EQ(by_tokens({"<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"}), known_template("llama-3"));
  EXPECT_EQ(by_tokens({"<start_of_turn>", "<end_of_turn>", "<bos>"}), known_template("gemma"));
  EXPECT_EQ(by_tokens({"<|user|>", "<|assistant|>", "<|end|>"}), known_template("phi-3"));
  EXPECT_EQ(by_tokens({"<|user|>", "<|assistant|>", "</s>"}), known_template("zephyr"));
  EXPECT_EQ(by_tokens({"[INST]", "[/INST]", "</s>"}), known_template("mistral-v3"));
  EXPECT_EQ(by_tokens({"[INST]", "[/INST]", "[SYSTEM_PROMPT]"}), known_template("mistral-v7"));
  // A distilled model keeps the tokens of the one it comes from.
  EXPECT_EQ(by_tokens({"<|im_start|>", "<|im_end|>", "<｜User｜>", "<｜Assistant｜>"}),
            known_template("deepseek"));
  EXPECT_EQ(
      by_tokens({"<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<|im_start|>", "<|im_end|>"}),
      known_template("chatml"));
  // Half of a pair is no sign.
  EXPECT_EQ(by_tokens({"<|im_start|>"}), "");
}

TEST(ChooseChatTemplate, KnowsFamiliesByTheirNames) {
  const auto by_name = [](std::string general, std::string_view file) {
    return choice(vocabulary({"<unk>", "<s>", "</s>"}, std::move(general)), file);
  };
  EXPECT_EQ(by_name("LLaMA v2", "/models/llama-2-7b-chat.Q4_K_M.gguf"),
            "known template of the llama-2 family (by name)");
  EXPECT_EQ(by_name("mistralai_mistral-7b-instruct-v0.2", "a.gguf"),
            "known template of the mistral family (by name)");
  EXPECT_EQ(by_name("mistralai_mixtral-8x7b-instruct-v0.1", "a.gguf"),
            "known template of the mistral family (by name)");
  EXPECT_EQ(by_name("tinyllama_tinyllama-1.1b-chat-v1.0", "a.gguf"),
            "known template of the zephyr family (by name)");
  EXPECT_EQ(by_name("", "codellama-7b-instruct.Q4_K_M.gguf"),
            "known template of the llama-2 family (by name)");
  EXPECT_EQ(by_name("LLaMA v2", "vicuna-13b-v1.5.Q4_K_M.gguf"),
            "known template of the vicuna family (by name)");
  EXPECT_EQ(by_name("", "OpenHermes-2.5-Mistral-7B.gguf"), "known template of the chatml family (by name)");
  EXPECT_EQ(by_name("upstage_solar-10.7b-instruct-v1.0", ""), "known template of the solar family (by name)");
}

TEST(ChooseChatTemplate, ABaseModelHasNone) {
  const Metadata metadata = vocabulary({"<unk>", "<s>", "</s>"}, "LLaMA v2");
  EXPECT_EQ(choose_chat_template(metadata, "/home/chat/instruct/llama-2-7b.Q4_K_M.gguf").source, "");
  EXPECT_EQ(choose_chat_template(metadata, "mistral-7b-v0.1.Q4_K_M.gguf").source, "");
  EXPECT_EQ(choose_chat_template(Metadata(), "").source, "");
}

}  // namespace
}  // namespace quern
