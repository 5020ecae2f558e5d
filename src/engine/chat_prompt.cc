#include "engine/chat_prompt.h"

#include <nlohmann/json.hpp>

namespace quern {
namespace {

/// OpenAI's newer name for the system's role, where a template does not know it.
void rename_developer(nlohmann::ordered_json& variables) {
  const auto messages = variables.find("messages");
  if (messages == variables.end() || !messages->is_array()) return;
  for (auto& message : *messages) {
    const auto role = message.find("role");
    if (role != message.end() && *role == "developer") *role = "system";
  }
}

}  // namespace

Result<std::string> render_chat(const ServedModel& model, nlohmann::ordered_json variables) {
  if (model.chat_template == nullptr)
    return fail(ErrorCode::invalid_argument,
                "model {} has no chat template: {}: use completions, or a file with tokenizer.chat_template",
                model.id,
                model.chat_template_problem.empty() ? "it is a base model or its template is not known"
                                                    : model.chat_template_problem);
  if (!variables.contains("bos_token")) variables["bos_token"] = model.bos_text;
  if (!variables.contains("eos_token")) variables["eos_token"] = model.eos_text;
  const auto tools = variables.find("tools");
  const bool with_tools = tools != variables.end() && !tools->empty();
  const ChatTemplate& chosen =
      with_tools && model.tool_template != nullptr ? *model.tool_template : *model.chat_template;
  if (chosen.source().find("developer") == std::string::npos) rename_developer(variables);
  return chosen.render(variables);
}

std::vector<int32_t> encode_chat(const ServedModel& model, const std::string& rendered) {
  const Tokenizer& tokenizer = *model.tokenizer;
  const bool has_bos =
      tokenizer.bos() >= 0 && !model.bos_text.empty() && rendered.starts_with(model.bos_text);
  std::vector<int32_t> tokens = tokenizer.encode(rendered, {.add_special = !has_bos, .parse_special = true});
  // The conversation goes on: an EOS that the vocabulary's rules append would end it.
  if (!has_bos && tokenizer.add_eos() && !tokens.empty() && tokens.back() == tokenizer.eos())
    tokens.pop_back();
  return tokens;
}

}  // namespace quern
