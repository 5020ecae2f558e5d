// Messages → the model's chat template → text → tokens.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "engine/model_host.h"
#include "http/json.h"

namespace quern {

/// messages, tools, add_generation_prompt …: what conversation_text reads.
std::span<const FieldSpec> conversation_fields();

/// Exactly what the template makes of the messages. 400: a base model without a template, messages that are
/// malformed or that the template refuses.
Parsed<std::string> conversation_text(const ServedModel& model, const Body& body);
/// The same as tokens that fit the context.
Parsed<std::vector<int32_t>> conversation_tokens(const ServedModel& model, const Body& body);

}  // namespace quern
