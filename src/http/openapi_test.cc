// The description and the router say the same.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <set>

#include "http/router.h"
#include "http/test_server.h"

namespace quern::testing {
namespace {

void collect_references(const Json& node, std::set<std::string>& out) {
  if (node.is_object() && node.contains("$ref")) out.insert(node["$ref"].get<std::string>());
  if (!node.is_structured()) return;
  for (const auto& child : node) collect_references(child, out);
}

TEST(OpenApi, DescribesExactlyTheRoutes) {
  TestServer server;
  const Json api = server.get("/openapi.json").json();
  EXPECT_EQ(api["openapi"], "3.1.0");
  std::set<std::string> described, routed, operations;
  for (const auto& [path, item] : api["paths"].items()) {
    for (const auto& [method, operation] : item.items()) {
      described.insert(fmt::format("{} {}", method, path));
      EXPECT_TRUE(operations.insert(operation["operationId"].get<std::string>()).second);
      EXPECT_TRUE(operation["responses"].contains("200"));
      EXPECT_FALSE(operation["summary"].get<std::string>().empty());
      for (const auto& [status, response] : operation["responses"].items())
        EXPECT_TRUE(response.contains("description")) << path << status;
    }
  }
  for (const Route& route : all_routes()) {
    routed.insert((route.method == "GET" ? "get " : "post ") + std::string(route.path));
    EXPECT_EQ(route.method == "POST", !route.fields.empty()) << route.path;
  }
  EXPECT_EQ(described, routed);
  std::set<std::string> references;
  collect_references(api, references);
  for (const std::string& reference : references) {
    ASSERT_TRUE(reference.starts_with("#/components/schemas/"));
    EXPECT_TRUE(api["components"]["schemas"].contains(reference.substr(21))) << reference;
  }
}

/// What a schema names as required or typed must be what the server answers.
void expect_fits(const Json& api, Json schema, const Json& value, const std::string& where) {
  if (schema.contains("$ref"))
    schema = api["components"]["schemas"][schema["$ref"].get<std::string>().substr(21)];
  if (schema.contains("oneOf")) return;
  if (schema.contains("const")) {
    EXPECT_EQ(schema["const"], value) << where;
  }
  if (schema.contains("type")) {
    std::set<std::string> types;
    if (schema["type"].is_string())
      types.insert(schema["type"].get<std::string>());
    else
      for (const Json& type : schema["type"]) types.insert(type.get<std::string>());
    std::string is(value.type_name());
    if (value.is_number_integer() && types.contains("integer")) is = "integer";
    EXPECT_TRUE(types.contains(is)) << where << " is " << is;
  }
  if (schema.contains("required")) {
    for (const Json& name : schema["required"])
      EXPECT_TRUE(value.contains(name.get<std::string>())) << where << name;
  }
  if (value.is_object() && schema.contains("properties")) {
    for (const auto& [name, child] : value.items()) {
      EXPECT_TRUE(schema["properties"].contains(name)) << where << "." << name << " is not described";
      if (schema["properties"].contains(name))
        expect_fits(api, schema["properties"][name], child, fmt::format("{}.{}", where, name));
    }
  }
  if (value.is_array() && schema.contains("items"))
    for (const Json& child : value) expect_fits(api, schema["items"], child, where + "[]");
}

TEST(OpenApi, AnswersFitTheirSchemas) {
  TestServer server;
  const Json api = server.get("/openapi.json").json();
  const Json messages = {{{"role", "user"}, {"content", "a"}}};
  const std::map<std::string, Json> bodies = {
      {"/api/generate", {{"prompt", "a"}, {"max_tokens", 2}}},
      {"/api/chat", {{"messages", messages}, {"max_tokens", 2}}},
      {"/api/completions", {{"prompt", "a"}, {"max_tokens", 2}}},
      {"/tokenize", {{"content", "a"}, {"return_token_strs", true}}},
      {"/detokenize", {{"tokens", {7}}}},
      {"/apply-template", {{"messages", messages}}},
      {"/v1/chat/completions",
       {{"messages", messages}, {"max_tokens", 2}, {"logprobs", true}, {"top_logprobs", 2}}},
      {"/v1/completions", {{"prompt", "a"}, {"max_tokens", 2}, {"logprobs", 2}, {"echo", true}}}};
  for (const Route& route : all_routes()) {
    if (route.response.empty()) continue;
    std::string path(route.path);
    if (const size_t id = path.find("{id}"); id != std::string::npos) path.replace(id, 4, tiny_model("chat"));
    const Reply reply = route.method == "GET" ? server.get(path) : server.post(path, bodies.at(path));
    ASSERT_EQ(reply.status, 200) << path << reply.body;
    expect_fits(api, {{"$ref", "#/components/schemas/" + std::string(route.response)}}, reply.json(), path);
  }
  const Reply error = server.get("/nowhere");
  expect_fits(api, {{"$ref", "#/components/schemas/Error"}}, error.json(), "error");
  expect_fits(api, {{"$ref", "#/components/schemas/OpenAiError"}}, server.get("/v1/models/x").json(),
              "error");
}

}  // namespace
}  // namespace quern::testing
