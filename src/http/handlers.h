// All handlers and the tables of fields that their bodies have; routes.cc says where each of them lives.
#pragma once

#include "http/app.h"
#include "http/json.h"

namespace quern {

// health.cc
Parsed<Reply> health_live(App& app, const HttpRequest& request);
Parsed<Reply> health_ready(App& app, const HttpRequest& request);
Parsed<Reply> list_llms(App& app, const HttpRequest& request);
Parsed<Reply> metrics_text(App& app, const HttpRequest& request);

// models.cc
Parsed<Reply> llm_quantization(App& app, const HttpRequest& request);
Parsed<Reply> openai_models(App& app, const HttpRequest& request);
Parsed<Reply> openai_model(App& app, const HttpRequest& request);

// native.cc
std::span<const FieldSpec> generate_fields();
std::span<const FieldSpec> native_chat_fields();
std::span<const FieldSpec> native_completion_fields();
Parsed<Reply> generate(App& app, const HttpRequest& request);
Parsed<Reply> generate_stream(App& app, const HttpRequest& request);
Parsed<Reply> native_chat(App& app, const HttpRequest& request);
Parsed<Reply> native_chat_stream(App& app, const HttpRequest& request);
Parsed<Reply> native_completion(App& app, const HttpRequest& request);
Parsed<Reply> native_completion_stream(App& app, const HttpRequest& request);

// tools.cc
std::span<const FieldSpec> tokenize_fields();
std::span<const FieldSpec> detokenize_fields();
std::span<const FieldSpec> apply_template_fields();
Parsed<Reply> tokenize(App& app, const HttpRequest& request);
Parsed<Reply> detokenize(App& app, const HttpRequest& request);
Parsed<Reply> apply_template(App& app, const HttpRequest& request);

// openai_chat.cc, openai_completions.cc
std::span<const FieldSpec> openai_chat_fields();
std::span<const FieldSpec> openai_completion_fields();
Parsed<Reply> openai_chat(App& app, const HttpRequest& request);
Parsed<Reply> openai_completion(App& app, const HttpRequest& request);

// openapi.cc
Parsed<Reply> openapi_document(App& app, const HttpRequest& request);

}  // namespace quern
