// Chat templates: the Jinja that model files carry.
#pragma once

#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <string_view>

#include "core/metadata.h"
#include "core/result.h"

namespace quern {

/// A parsed template; immutable, any number of threads may render with one.
class ChatTemplate {
 public:
  /// Syntax errors say line, column and what was expected. Nesting and size are bounded.
  static Result<std::unique_ptr<ChatTemplate>> parse(std::string_view source);
  virtual ~ChatTemplate() = default;

  struct Inputs;
  /// `variables` is an object: messages, tools, add_generation_prompt, bos_token, eos_token and whatever else
  /// the request gives (enable_thinking …). raise_exception's text, an undefined function, a runaway loop:
  /// invalid_argument with the message. Output and steps are bounded.
  virtual Result<std::string> render(const nlohmann::ordered_json& variables) const = 0;
  virtual const std::string& source() const = 0;
};

/// Which template a model gets, and how it was found.
struct TemplateChoice {
  std::string source;  // empty: none is known for this model (a base model)
  std::string origin;  // for the log: "the file", "known template of the llama-2 family (by special tokens)"
  std::string tool_source = {};  // the file's own for conversations with tools; empty: the same
};

/// `tokenizer.chat_template` where the file has one; else the family is recognized by special tokens in the
/// vocabulary, then by general.name / the file's name.
TemplateChoice choose_chat_template(const Metadata& metadata, std::string_view file_name);

}  // namespace quern
