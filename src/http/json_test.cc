#include "http/json.h"

#include <gtest/gtest.h>

#include "http/request_fields.h"

namespace quern {
namespace {

using Kind = FieldSpec::Kind;

std::string complaint(std::string_view text) {
  const auto value = parse_json(text);
  EXPECT_FALSE(value) << text.substr(0, 80);
  return value ? "" : value.error().message;
}

TEST(Json, HostileTextsAreErrors) {
  EXPECT_NE(complaint(std::string(100000, '[')).find("nested deeper than 64"), std::string::npos);
  std::string objects;
  for (int i = 0; i < 100000; ++i) objects += "{\"a\":";
  EXPECT_NE(complaint(objects).find("nested deeper"), std::string::npos);
  std::string many = "[1";
  for (int i = 0; i < 2'100'000; ++i) many += ",1";
  EXPECT_NE(complaint(many + "]").find("more than 2000000 values"), std::string::npos);
  for (const char* text : {"",      " ",        "{",          "}",           "{\"a\"}",          "{\"a\":}",
                           "[1,]",  "nul",      "{\"a\":1}{", "\"\\ud800\"", "\"\\x41\"",        "01",
                           "1e999", "\"\x01\"", "\"\xff\"",   "\"\xc3\"",    "\"\xed\xa0\x80\"", "{'a':1}",
                           "NaN",   "[1 2]",    "/* */ 1"}) {
    const std::string message = complaint(text);
    EXPECT_TRUE(message.starts_with("the body is not valid JSON: ")) << message;
    EXPECT_LT(message.size(), 400u);
  }
  EXPECT_LT(complaint("{\"a\": \"" + std::string(1 << 20, 'x')).size(), 400u);
  EXPECT_TRUE(parse_json(std::string(63, '[') + std::string(63, ']')));
  EXPECT_TRUE(parse_json(
      "\"brackets in a string [[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[\""));
}

/// A member is compared with all before it.
TEST(Json, ObjectsAreBounded) {
  const auto object = [](int members) {
    std::string text = "{";
    for (int i = 0; i < members; ++i) text += fmt::format("{}\"{}\":{{}}", i > 0 ? "," : "", i);
    return text + "}";
  };
  EXPECT_TRUE(parse_json(object(4096)));
  EXPECT_NE(complaint(object(4097)).find("an object has more than 4096 members"), std::string::npos);
  EXPECT_NE(complaint(R"({"a":[)" + object(4097) + "]}").find("more than 4096 members"), std::string::npos);
  const auto objects = [&](int count, int members) {
    std::string text = "[" + object(members);
    for (int i = 1; i < count; ++i) text += "," + object(members);
    return text + "]";
  };
  EXPECT_TRUE(parse_json(objects(4, 2048))) << "as the message says";
  EXPECT_NE(complaint(objects(4, 2050)).find("one may have 4096, or four 2048 each"), std::string::npos);
  std::string many = "[";
  for (int i = 0; i < 10000; ++i) many += R"({"a":1,"b":{"c":":::","d":[]}},)";
  EXPECT_TRUE(parse_json(many + "{}]"));
  size_t spent = 0;
  EXPECT_TRUE(parse_json(object(4000), &spent));
  EXPECT_FALSE(parse_json(object(4000), &spent)) << "several texts of one request count together";
  for (const char* text : {":::", "}}}:{", "]:", "[:]"}) complaint(text);
}

TEST(Json, DumpNeverFails) {
  EXPECT_EQ(dump(Json("a\xff")), "\"a\xef\xbf\xbd\"");
  EXPECT_EQ(shown(Json(std::string(200, 'x'))).size(), 57 + std::string("…").size());
}

TEST(Json, FieldsSayWhatIsAllowedAndWhatCame) {
  static const FieldSpec fields[] = {
      {.name = "temperature", .kind = Kind::number, .least = 0, .most = 2},
      {.name = "top_p", .kind = Kind::number, .least = 0, .most = 1, .above_least = true},
      {.name = "n", .kind = Kind::integer, .least = 1, .most = 128},
      {.name = "seed", .kind = Kind::integer},
      {.name = "stream", .kind = Kind::boolean},
      {.name = "prompt", .kind = Kind::string, .required = true}};
  const auto error = [&](const char* text) {
    const auto body = Body::parse(text, fields);
    EXPECT_FALSE(body) << text;
    return body ? ApiError{} : body.error();
  };
  EXPECT_EQ(error(R"({"prompt":"","temperature":"hot"})").message,
            "temperature: must be a number between 0 and 2, got \"hot\"");
  EXPECT_EQ(error(R"({"prompt":"","temperature":2.5})").param, "temperature");
  EXPECT_EQ(error(R"({"prompt":"","top_p":0})").message,
            "top_p: must be a number above 0 and at most 1, got 0");
  EXPECT_EQ(error(R"({"prompt":"","n":1.5})").message, "n: must be an integer between 1 and 128, got 1.5");
  EXPECT_EQ(error(R"({"prompt":"","n":true})").message, "n: must be an integer between 1 and 128, got true");
  EXPECT_EQ(error(R"({"prompt":"","seed":18446744073709551615})").message,
            "seed: must be an integer, got 18446744073709551615");
  EXPECT_EQ(error(R"({"prompt":"","stream":"yes"})").message, "stream: must be true or false, got \"yes\"");
  EXPECT_EQ(error(R"({"prompt":{"a":1}})").message, "prompt: must be a string, got an object");
  EXPECT_EQ(error("{}").message, "prompt: required, but missing");
  EXPECT_EQ(error(R"({"prompt":null})").message, "prompt: required, but missing");
  EXPECT_EQ(error("[]").message, "the body must be a JSON object, got an array");

  const auto body = Body::parse(
      R"({"prompt":"x","n":2.0,"temperature":0,"top_p":null,"seed":-3,"unknown":{},"n":3})", fields);
  ASSERT_TRUE(body) << body.error().message;
  EXPECT_EQ(body->integer("n"), 3);  // of two the last
  EXPECT_EQ(body->number("temperature"), 0);
  EXPECT_EQ(body->number("top_p"), std::nullopt);
  EXPECT_EQ(body->integer("seed"), -3);
}

TEST(Json, TokenIds) {
  EXPECT_EQ(token_list(Json::parse("[0,9]"), "prompt", 10).value(), (std::vector<int32_t>{0, 9}));
  for (const char* text :
       {"[0,10]", "[0,-1]", "[0,1.5]", "[0,\"1\"]", "[0,18446744073709551615]", "[0,4294967296]"}) {
    const auto list = token_list(Json::parse(text), "prompt", 10);
    ASSERT_FALSE(list) << text;
    EXPECT_TRUE(list.error().message.starts_with("prompt[1]: must be a token id between 0 and 9, got "));
  }
}

TEST(Json, ErrorsHaveTwoShapes) {
  const ApiError error{ApiErrorKind::context_length, "too long", "prompt"};
  EXPECT_EQ(error_body(error, ErrorStyle::native), R"({"error":"too long","code":"BAD_REQUEST"})");
  EXPECT_EQ(
      error_body(error, ErrorStyle::openai),
      R"({"error":{"message":"too long","type":"invalid_request_error","param":"prompt","code":"context_length_exceeded"}})");
}

}  // namespace
}  // namespace quern
