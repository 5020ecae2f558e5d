// /openapi.json: made from the table of routes and the tables of fields, so that it cannot differ from them.
#include <cmath>

#include "http/handlers.h"
#include "http/router.h"

namespace quern {
namespace {

using Kind = FieldSpec::Kind;

/// Schemas of answers, and of what request fields refer to.
constexpr const char* kSchemas = R"json({
  "Error": {"type": "object", "required": ["error", "code"], "properties": {
    "error": {"type": "string"},
    "code": {"type": "string", "enum": ["BAD_REQUEST", "UNAUTHORIZED", "NOT_FOUND", "UNSUPPORTED_MODEL",
      "METHOD_NOT_ALLOWED", "REQUEST_TIMEOUT", "PAYLOAD_TOO_LARGE", "UNSUPPORTED_MEDIA_TYPE", "HEADER_TOO_LARGE",
      "MODEL_LOAD_ERROR", "SERVICE_UNAVAILABLE", "HTTP_VERSION_NOT_SUPPORTED", "INTERNAL_ERROR"]}}},
  "OpenAiError": {"type": "object", "required": ["error"], "properties": {"error": {"type": "object",
    "required": ["message", "type", "param", "code"], "properties": {
      "message": {"type": "string"}, "type": {"type": "string"}, "param": {"type": ["string", "null"]},
      "code": {"type": ["string", "null"]}}}}},
  "Message": {"type": "object", "required": ["role"], "properties": {
    "role": {"type": "string", "examples": ["system", "user", "assistant", "tool"]},
    "content": {"oneOf": [{"type": "string"}, {"type": "null"}, {"type": "array", "items": {"type": "object",
      "required": ["type"], "properties": {"type": {"const": "text"}, "text": {"type": "string"}}}}]},
    "tool_calls": {"type": "array", "items": {"type": "object"}}, "tool_call_id": {"type": "string"},
    "refusal": {"type": ["string", "null"]}, "name": {"type": "string"}}},
  "State": {"type": "string", "enum": ["absent", "downloading", "loading", "ready", "failed"]},
  "Live": {"type": "object", "required": ["status"], "properties": {"status": {"const": "alive"}}},
  "Ready": {"type": "object", "required": ["ready", "models"], "properties": {"ready": {"type": "boolean"},
    "models": {"type": "array", "items": {"type": "object", "properties": {
      "id": {"type": "string"}, "state": {"$ref": "#/components/schemas/State"}, "bytes_done": {"type": "integer"},
      "bytes_total": {"type": "integer"}, "eta_s": {"type": ["number", "null"]}, "error": {"type": ["string", "null"]}}}}}},
  "Llms": {"type": "array", "items": {"type": "object", "properties": {
    "id": {"type": "string"}, "state": {"$ref": "#/components/schemas/State"}, "device": {"type": "string"},
    "quantization": {"type": "string"}, "bytes": {"type": "integer"}, "parameters": {"type": "integer"},
    "context": {"type": "integer"}, "bytes_done": {"type": "integer"}, "bytes_total": {"type": "integer"},
    "eta_s": {"type": ["number", "null"]}, "error": {"type": ["string", "null"]}}}},
  "Quantization": {"type": "object", "required": ["id", "tensors"], "properties": {"id": {"type": "string"},
    "tensors": {"type": "array", "items": {"type": "object", "properties": {
      "name": {"type": "string"}, "shape": {"type": "array", "items": {"type": "integer"}}, "asked": {"type": "string"},
      "used": {"type": "string"}, "why": {"type": "string"}, "error": {"type": ["number", "null"]}, "bytes": {"type": "integer"}}}}}},
  "FinishReason": {"type": "string", "enum": ["length", "stop", "eos"]},
  "Text": {"type": "object", "required": ["text", "model", "tokens_generated", "finish_reason"], "properties": {
    "text": {"type": "string"}, "model": {"type": "string"}, "tokens_generated": {"type": "integer"},
    "finish_reason": {"$ref": "#/components/schemas/FinishReason"}}},
  "Chat": {"type": "object", "required": ["message", "model", "tokens_generated", "finish_reason"], "properties": {
    "message": {"$ref": "#/components/schemas/Message"}, "model": {"type": "string"},
    "tokens_generated": {"type": "integer"}, "finish_reason": {"$ref": "#/components/schemas/FinishReason"}}},
  "Done": {"type": "object", "required": ["done", "finish_reason", "tokens_generated"], "properties": {
    "done": {"const": true}, "finish_reason": {"$ref": "#/components/schemas/FinishReason"},
    "tokens_generated": {"type": "integer"}}},
  "TextEvent": {"oneOf": [{"type": "object", "required": ["text"], "properties": {"text": {"type": "string"}}},
    {"$ref": "#/components/schemas/Done"}, {"$ref": "#/components/schemas/Error"}]},
  "ChatEvent": {"oneOf": [{"type": "object", "required": ["content"], "properties": {"content": {"type": "string"}}},
    {"$ref": "#/components/schemas/Done"}, {"$ref": "#/components/schemas/Error"}]},
  "Tokens": {"type": "object", "required": ["tokens", "count", "max_model_len"], "properties": {
    "tokens": {"type": "array", "items": {"oneOf": [{"type": "integer"}, {"type": "object", "properties": {
      "id": {"type": "integer"}, "piece": {"oneOf": [{"type": "string"}, {"type": "array", "items": {"type": "integer"}}]}}}]}},
    "count": {"type": "integer"}, "max_model_len": {"type": "integer"},
    "token_strs": {"type": "array", "items": {"type": "string"}}}},
  "Detokenized": {"type": "object", "required": ["content", "prompt"], "properties": {
    "content": {"type": "string"}, "prompt": {"type": "string", "description": "The same text, under vLLM's name."}}},
  "Prompt": {"type": "object", "required": ["prompt"], "properties": {"prompt": {"type": "string"}}},
  "Model": {"type": "object", "required": ["id", "object", "created", "owned_by"], "properties": {
    "id": {"type": "string"}, "object": {"const": "model"}, "created": {"type": "integer"},
    "owned_by": {"type": "string"}, "max_model_len": {"type": "integer"}}},
  "ModelList": {"type": "object", "required": ["object", "data"], "properties": {"object": {"const": "list"},
    "data": {"type": "array", "items": {"$ref": "#/components/schemas/Model"}}}},
  "Usage": {"type": "object", "properties": {"prompt_tokens": {"type": "integer"},
    "completion_tokens": {"type": "integer"}, "total_tokens": {"type": "integer"},
    "prompt_tokens_details": {"type": "object", "properties": {"cached_tokens": {"type": "integer"}}}}},
  "OpenAiFinishReason": {"type": ["string", "null"], "enum": ["length", "stop", null]},
  "TokenLogprob": {"type": "object", "properties": {"token": {"type": "string"}, "logprob": {"type": "number"},
    "bytes": {"type": "array", "items": {"type": "integer"}},
    "top_logprobs": {"type": "array", "items": {"type": "object"}}}},
  "ChatLogprobs": {"type": ["object", "null"], "properties": {"content": {"type": "array",
    "items": {"$ref": "#/components/schemas/TokenLogprob"}}, "refusal": {"type": "null"}}},
  "ChatCompletion": {"type": "object", "required": ["id", "object", "created", "model", "choices", "usage"],
    "properties": {"id": {"type": "string"}, "object": {"const": "chat.completion"}, "created": {"type": "integer"},
      "model": {"type": "string"}, "system_fingerprint": {"type": "string"},
      "choices": {"type": "array", "items": {"type": "object", "properties": {"index": {"type": "integer"},
        "message": {"$ref": "#/components/schemas/Message"}, "logprobs": {"$ref": "#/components/schemas/ChatLogprobs"},
        "finish_reason": {"$ref": "#/components/schemas/OpenAiFinishReason"}}}},
      "usage": {"$ref": "#/components/schemas/Usage"}}},
  "ChatCompletionChunk": {"type": "object", "required": ["id", "object", "created", "model", "choices"],
    "properties": {"id": {"type": "string"}, "object": {"const": "chat.completion.chunk"},
      "created": {"type": "integer"}, "model": {"type": "string"}, "system_fingerprint": {"type": "string"},
      "choices": {"type": "array", "items": {"type": "object", "properties": {"index": {"type": "integer"},
        "delta": {"type": "object", "properties": {"role": {"const": "assistant"}, "content": {"type": "string"}}},
        "logprobs": {"$ref": "#/components/schemas/ChatLogprobs"},
        "finish_reason": {"$ref": "#/components/schemas/OpenAiFinishReason"}}}},
      "usage": {"oneOf": [{"$ref": "#/components/schemas/Usage"}, {"type": "null"}]}}},
  "Completion": {"type": "object", "required": ["id", "object", "created", "model", "choices"],
    "properties": {"id": {"type": "string"}, "object": {"const": "text_completion"}, "created": {"type": "integer"},
      "model": {"type": "string"}, "system_fingerprint": {"type": "string"},
      "choices": {"type": "array", "items": {"type": "object", "properties": {"index": {"type": "integer"},
        "text": {"type": "string"}, "logprobs": {"type": ["object", "null"], "properties": {
          "tokens": {"type": "array", "items": {"type": "string"}},
          "token_logprobs": {"type": "array", "items": {"type": ["number", "null"]}},
          "top_logprobs": {"type": "array", "items": {"type": ["object", "null"]}},
          "text_offset": {"type": "array", "items": {"type": "integer"}}}},
        "finish_reason": {"$ref": "#/components/schemas/OpenAiFinishReason"}}}},
      "usage": {"oneOf": [{"$ref": "#/components/schemas/Usage"}, {"type": "null"}]}}},
  "Document": {"type": "object"}
})json";

Json bound(double value) {
  if (value == std::floor(value)) return static_cast<int64_t>(value);
  return value;
}

/// null stands for "not given" everywhere, so every optional field allows it.
Json schema_of(const FieldSpec& field) {
  static constexpr const char* kTypes[] = {"string", "boolean", "integer", "number", "object", "array"};
  Json schema = field.schema.empty() ? Json::object() : Json::parse(field.schema);
  if (field.schema.empty() && field.kind != Kind::any) {
    const char* type = kTypes[static_cast<size_t>(field.kind)];
    schema["type"] = field.required ? Json(type) : Json({type, "null"});
  }
  if (std::isfinite(field.least))
    schema[field.above_least ? "exclusiveMinimum" : "minimum"] = bound(field.least);
  if (std::isfinite(field.most)) schema["maximum"] = bound(field.most);
  schema["description"] = field.about;
  return schema;
}

Json body_of(std::span<const FieldSpec> fields) {
  Json schema = {{"type", "object"}, {"properties", Json::object()}};
  Json required = Json::array();
  for (const FieldSpec& field : fields) {
    schema["properties"][std::string(field.name)] = schema_of(field);
    if (field.required) required.push_back(field.name);
  }
  if (!required.empty()) schema["required"] = std::move(required);
  return schema;
}

Json reference(std::string_view schema) { return {{"$ref", fmt::format("#/components/schemas/{}", schema)}}; }

Json content(std::string_view type, Json schema) {
  Json out;
  out["content"][std::string(type)]["schema"] = std::move(schema);
  return out;
}

Json responses_of(const Route& route) {
  Json good = {{"description", "Done."}};
  if (!route.response.empty())
    good.update(content(route.content_type, reference(route.response)), true);
  else if (route.event.empty())
    good.update(content(route.content_type, {{"type", "string"}}), true);
  if (!route.event.empty()) {
    Json& stream = good["content"]["text/event-stream"];
    stream["schema"] = {
        {"type", "string"},
        {"description", fmt::format("Events `data: JSON`, each a {}, then `data: [DONE]`.", route.event)}};
  }
  Json out;
  out["200"] = std::move(good);
  if (route.path == "/health/ready") {
    out["503"] = content("application/json", reference(route.response));
    out["503"]["description"] = "Not ready yet, or stopping.";
    return out;
  }
  Json bad =
      content("application/json", reference(route.style == ErrorStyle::openai ? "OpenAiError" : "Error"));
  bad["description"] = "Why not.";
  out["default"] = std::move(bad);
  return out;
}

Json operation_of(const Route& route) {
  std::string id(route.method == "GET" ? "get" : "post");
  for (const char c : route.path) id += std::isalnum(static_cast<unsigned char>(c)) ? c : '_';
  Json operation = {{"operationId", id}, {"summary", route.summary}};
  operation["tags"] = Json::array({route.style == ErrorStyle::openai ? "OpenAI" : "native"});
  if (route.open) operation["security"] = Json::array();
  if (route.path.find("{id}") != std::string_view::npos)
    operation["parameters"] =
        Json::array({{{"name", "id"},
                      {"in", "path"},
                      {"required", true},
                      {"description", "A model reference; its slashes may be plain or %2F."},
                      {"schema", {{"type", "string"}}}}});
  if (!route.fields.empty()) {
    operation["requestBody"] = content("application/json", body_of(route.fields));
    operation["requestBody"]["required"] = true;
  }
  operation["responses"] = responses_of(route);
  return operation;
}

Json make_document() {
  Json document;
  document["openapi"] = "3.1.0";
  document["info"] = {{"title", "Quern"},
                      {"version", "0.1.0"},
                      {"description", "An LLM inference server for quantized models."},
                      {"license", {{"name", "Apache-2.0"}, {"identifier", "Apache-2.0"}}}};
  document["security"] = Json::array({{{"bearer", Json::array()}}, {{"key", Json::array()}}, Json::object()});
  for (const Route& route : all_routes())
    document["paths"][std::string(route.path)][route.method == "GET" ? "get" : "post"] = operation_of(route);
  document["components"]["schemas"] = Json::parse(kSchemas);
  document["components"]["securitySchemes"] = {
      {"bearer", {{"type", "http"}, {"scheme", "bearer"}}},
      {"key", {{"type", "apiKey"}, {"in", "header"}, {"name", "X-Api-Key"}}}};
  return document;
}

}  // namespace

Parsed<Reply> openapi_document(App&, const HttpRequest&) {
  static const std::string text = dump(make_document());
  return HttpResponse::json(text);
}

}  // namespace quern
