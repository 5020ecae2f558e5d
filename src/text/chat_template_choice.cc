// Which template a model gets.
#include <algorithm>
#include <unordered_set>

#include "text/chat_template.h"
#include "text/known_templates.h"

namespace quern {
namespace {

/// A family shows in the vocabulary by all of these tokens. The first match counts: models that were trained
/// further keep the tokens of the model they come from, so newer formats stand before those that they build
/// on.
struct TokenRule {
  std::string_view tokens[3];
  std::string_view family;
};
constexpr TokenRule kTokenRules[] = {
    {{"<｜User｜>", "<｜Assistant｜>"}, "deepseek"},
    {{"<|im_start|>", "<|im_sep|>"}, "phi-4"},
    {{"<|im_start|>", "<|im_end|>"}, "chatml"},
    {{"<|header_start|>", "<|header_end|>", "<|eot|>"}, "llama-4"},
    {{"<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"}, "llama-3"},
    {{"<start_of_turn>", "<end_of_turn>"}, "gemma"},
    {{"<|start_of_role|>", "<|end_of_role|>"}, "granite"},
    {{"<|START_OF_TURN_TOKEN|>", "<|CHATBOT_TOKEN|>"}, "command-r"},
    {{"[gMASK]", "<sop>", "<|assistant|>"}, "glm-4"},
    {{"[|assistant|]", "[|endofturn|]"}, "exaone"},
    {{"[SYSTEM_PROMPT]", "[INST]", "[/INST]"}, "mistral-v7"},
    {{"[INST]", "[/INST]"}, "mistral-v3"},
    {{"<|user|>", "<|assistant|>", "<|end|>"}, "phi-3"},
    {{"<|user|>", "<|assistant|>"}, "zephyr"},
    {{"<|end_of_turn|>"}, "openchat"},
};

/// A family shows in a name by all of these parts. Base models share their vocabulary and half of their name
/// with chat models: each rule has a word that only chat models carry.
struct NameRule {
  std::string_view parts[3];
  std::string_view family;
};
constexpr NameRule kNameRules[] = {
    {{"tinyllama", "chat"}, "zephyr"},
    {{"zephyr"}, "zephyr"},
    {{"openchat"}, "openchat"},
    {{"starling"}, "openchat"},
    {{"vicuna"}, "vicuna"},
    {{"wizardlm"}, "vicuna"},
    {{"wizardcoder"}, "alpaca"},
    {{"alpaca"}, "alpaca"},
    {{"mythomax"}, "alpaca"},
    {{"hermes-2"}, "chatml"},
    {{"hermes-3"}, "chatml"},
    {{"openhermes"}, "chatml"},
    {{"nous-hermes"}, "alpaca"},
    {{"dolphin"}, "chatml"},
    {{"orca-2"}, "chatml"},
    {{"orca-mini"}, "solar"},
    {{"beluga"}, "solar"},
    {{"solar", "instruct"}, "solar"},
    {{"upstage", "instruct"}, "solar"},
    {{"deepseek", "coder", "instruct"}, "deepseek-coder"},
    {{"deepseek", "chat"}, "deepseek-chat"},
    {{"mistral", "instruct"}, "mistral"},
    {{"mixtral", "instruct"}, "mistral"},
    {{"codellama", "instruct"}, "llama-2"},
    {{"llama-2", "chat"}, "llama-2"},
    {{"llama2", "chat"}, "llama-2"},
    {{"llama-v2", "chat"}, "llama-2"},
    {{"llama-3", "instruct"}, "llama-3"},
    {{"phi-3"}, "phi-3"},
    {{"qwen", "chat"}, "chatml"},
    {{"qwen", "instruct"}, "chatml"},
    {{"yi-", "chat"}, "chatml"},
    {{"mpt", "chat"}, "chatml"},
    {{"falcon", "instruct"}, "falcon"},
};

/// Lower case, with '-' for every other mark: "LLaMA v2" → "llama-v2".
std::string plain_name(std::string_view name) {
  std::string plain(name);
  for (char& c : plain) {
    if (c >= 'A' && c <= 'Z') c = static_cast<char>(c - 'A' + 'a');
    const bool word = (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9');
    if (!word) c = '-';
  }
  return plain;
}

TemplateChoice known(std::string_view family, std::string_view how) {
  return {std::string(known_template(family)),
          fmt::format("known template of the {} family (by {})", family, how)};
}

std::string_view family_by_tokens(const Metadata& metadata) {
  const auto* tokens = metadata.strings("tokenizer.ggml.tokens");
  if (tokens == nullptr) return {};
  std::unordered_set<std::string_view> wanted;
  for (const TokenRule& rule : kTokenRules) wanted.insert(std::begin(rule.tokens), std::end(rule.tokens));
  std::unordered_set<std::string_view> present = {""};  // the unused places of a rule
  for (const std::string& token : *tokens) {
    if (wanted.contains(token)) present.insert(token);
  }
  for (const TokenRule& rule : kTokenRules) {
    const auto here = [&](std::string_view token) { return present.contains(token); };
    if (std::all_of(std::begin(rule.tokens), std::end(rule.tokens), here)) return rule.family;
  }
  return {};
}

std::string_view family_by_name(std::string_view name) {
  for (const NameRule& rule : kNameRules) {
    const auto here = [&](std::string_view part) { return name.find(part) != std::string_view::npos; };
    if (std::all_of(std::begin(rule.parts), std::end(rule.parts), here)) return rule.family;
  }
  return {};
}

/// The file's own: the plain one, else the one called default, else the first of the named ones.
TemplateChoice own_template(const Metadata& metadata) {
  constexpr std::string_view kPrefix = "tokenizer.chat_template.";
  for (const char* key : {"tokenizer.chat_template", "tokenizer.chat_template.default"}) {
    if (const std::string* source = metadata.string(key); source != nullptr && !source->empty()) {
      return {*source, "the file"};
    }
  }
  for (const auto& [key, value] : metadata.entries()) {
    const auto* source = std::get_if<std::string>(&value);
    if (key.starts_with(kPrefix) && source != nullptr && !source->empty()) {
      return {*source, fmt::format("the file ({})", key)};
    }
  }
  return {};
}

}  // namespace

TemplateChoice choose_chat_template(const Metadata& metadata, std::string_view file_name) {
  if (TemplateChoice own = own_template(metadata); !own.source.empty()) {
    // By this name transformers and llama.cpp know it.
    const std::string* tools = metadata.string("tokenizer.chat_template.tool_use");
    if (tools != nullptr && *tools != own.source) own.tool_source = *tools;
    return own;
  }
  if (const auto family = family_by_tokens(metadata); !family.empty()) return known(family, "special tokens");
  // The names together: TheBloke's Llama-2-7B-Chat is "LLaMA v2" in general.name and "chat" in its file's
  // name.
  const std::string_view base = file_name.substr(file_name.find_last_of('/') + 1);
  const std::string* general = metadata.string("general.name");
  const std::string names = plain_name(general != nullptr ? *general : "") + "|" + plain_name(base);
  if (const auto family = family_by_name(names); !family.empty()) return known(family, "name");
  return {};
}

}  // namespace quern
