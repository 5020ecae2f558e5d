// A conversation → the tokens a model is prompted with. One way for HTTP and the terminal.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "core/result.h"
#include "engine/served_model.h"

namespace quern {

/// Renders the model's template, with tools the one for tools where it has one, over `variables` ({messages,
/// tools, add_generation_prompt, …}; bos_token and eos_token are added here). To a template that does not
/// know the role "developer" it is "system". invalid_argument: the model has no template (says why and what
/// to do), or the template rejects the conversation (its own message).
Result<std::string> render_chat(const ServedModel& model, nlohmann::ordered_json variables);

/// Tokens of a rendered conversation: special tokens are recognized, and BOS is added where the model wants
/// one and the template has not written it.
std::vector<int32_t> encode_chat(const ServedModel& model, const std::string& rendered);

}  // namespace quern
