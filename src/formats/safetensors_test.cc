#include "formats/safetensors.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include "formats/safetensors_for_test.h"

namespace quern {
namespace {

using testing::safetensors_file;
using testing::SafetensorsBuilder;
using testing::TestFolder;

Result<safetensors::Tensors> parse(const std::string& file) {
  return safetensors::parse(std::as_bytes(std::span(file)), "t.safetensors");
}

SafetensorsBuilder small() {
  SafetensorsBuilder b;
  b.add("a", "F32", {2, 3}, std::string(24, '\1'))
      .add("step", "I64", {}, std::string(8, '\2'))
      .add("b", "BF16", {5}, std::string(10, '\3'))
      .add("none", "F16", {0, 7}, std::string())
      .add("packed", "F4", {3}, std::string(2, '\4'));
  return b;
}

TEST(Safetensors, ReadsWhatIsThere) {
  for (const size_t skew : {0, 1}) {
    const std::string file = small().str(skew);
    const auto parsed = parse(file);
    ASSERT_TRUE(parsed.has_value()) << parsed.error().message;
    ASSERT_EQ(parsed->tensors.size(), 3u);
    const RawTensor& a = parsed->tensors[0];
    EXPECT_EQ(a.name, "a");
    EXPECT_EQ(a.dtype, DType::F32);
    EXPECT_EQ(a.shape, (std::vector<int64_t>{2, 3}));
    EXPECT_EQ(std::string(reinterpret_cast<const char*>(a.data.data()), a.data.size()),
              std::string(24, '\1'));
    for (const RawTensor& t : parsed->tensors)
      EXPECT_EQ(t.data.size(), static_cast<size_t>(t.elements()) * (t.dtype == DType::F32 ? 4 : 2));
    ASSERT_EQ(parsed->foreign.size(), 2u);
    EXPECT_EQ(parsed->foreign[0].dtype, "I64");
    EXPECT_EQ(parsed->foreign[1].data.size(), 2u);
  }
}

TEST(Safetensors, AFileWithoutTensorsIsFine) {
  ASSERT_TRUE(parse(safetensors_file("{}")).has_value());
  ASSERT_TRUE(parse(safetensors_file(R"({"__metadata__":{"format":"pt"}}  )")).has_value());
}

TEST(Safetensors, CutAtEveryByteItIsRefused) {
  const std::string whole = small().str();
  for (size_t n = 0; n < whole.size(); ++n) {
    const auto parsed = parse(whole.substr(0, n));
    ASSERT_FALSE(parsed.has_value()) << n;
    EXPECT_EQ(parsed.error().code, ErrorCode::corrupt);
  }
}

struct Bad {
  const char* name;
  std::string file;
  std::string says;
};

std::string entry(const std::string& fields) {
  return safetensors_file("{\"w\":{" + fields + "}}", "12345678");
}

const Bad bad_files[] = {
    {"Huge", safetensors_file("{}", "", uint64_t{1} << 63), "9223372036854775808"},
    {"AllOnes", safetensors_file("{}", "", ~uint64_t{0}), "header"},
    {"LongerThanTheFile", safetensors_file("{}", "", 3), "is it whole"},
    {"NotJson", safetensors_file("hello"), "not valid JSON"},
    {"Array", safetensors_file("[1]"), "not a JSON object"},
    {"Number", safetensors_file("1"), "not a JSON object"},
    {"Empty", safetensors_file(""), "not valid JSON"},
    {"NotUtf8", safetensors_file("{\"\xff\":{}}"), "not valid JSON"},
    {"EntryIsAList", safetensors_file("{\"w\":[1,2]}"), "list"},
    {"EntryIsANumber", safetensors_file("{\"w\":7}"), "w is no object"},
    {"Deep", safetensors_file("{\"w\":{\"x\":" + std::string(100000, '[') + std::string(100000, ']') + "}}"),
     "nested deeper"},
    {"DeepAtOnce", safetensors_file(std::string(200000, '[')), "not a JSON object"},
    {"DeepObjects",
     safetensors_file("{\"w\":{\"x\":" + std::string(7, ' ') +
                      [] {
                        std::string s;
                        for (int i = 0; i < 100000; ++i) s += "{\"a\":";
                        return s;
                      }()),
     "nested deeper"},
    {"NoDtype", entry(R"("shape":[2],"data_offsets":[0,8])"), "no dtype"},
    {"NoShape", entry(R"("dtype":"F32","data_offsets":[0,8])"), "no shape"},
    {"NoOffsets", entry(R"("dtype":"F32","shape":[2])"), "no data_offsets"},
    {"OneOffset", entry(R"("dtype":"F32","shape":[2],"data_offsets":[0])"), "no data_offsets"},
    {"ThreeOffsets", entry(R"("dtype":"F32","shape":[2],"data_offsets":[0,8,8])"), "more than two"},
    {"NegativeShape", entry(R"("dtype":"F32","shape":[-2],"data_offsets":[0,8])"), "no list of sizes"},
    {"FloatShape", entry(R"("dtype":"F32","shape":[2.0],"data_offsets":[0,8])"), "no list of sizes"},
    {"NestedShape", entry(R"("dtype":"F32","shape":[[2]],"data_offsets":[0,8])"), "no list of sizes"},
    {"TextShape", entry(R"("dtype":"F32","shape":"2","data_offsets":[0,8])"), "no list of sizes"},
    {"ShapeTwice", entry(R"("dtype":"F32","shape":[2],"shape":[2],"data_offsets":[0,8])"), "twice"},
    {"NumberDtype", entry(R"("dtype":32,"shape":[2],"data_offsets":[0,8])"), "no text"},
    {"NegativeOffset", entry(R"("dtype":"F32","shape":[2],"data_offsets":[-8,0])"), "no list of positions"},
    {"Backwards", entry(R"("dtype":"F32","shape":[0],"data_offsets":[8,0])"), "bytes 8 to 0"},
    {"Beyond", entry(R"("dtype":"F32","shape":[3],"data_offsets":[0,12])"), "bytes 0 to 12 of 8"},
    {"FarBeyond",
     entry(R"("dtype":"F32","shape":[2],"data_offsets":[18446744073709551608,18446744073709551615])"),
     "of 8"},
    {"MoreThan64Bits", entry(R"("dtype":"F32","shape":[2],"data_offsets":[0,99999999999999999999])"),
     "no list of positions"},
    {"WrongSize", entry(R"("dtype":"F32","shape":[3],"data_offsets":[0,8])"), "needs 12"},
    {"WrongSizeOfAForeignType", entry(R"("dtype":"I64","shape":[2],"data_offsets":[0,8])"), "needs 16"},
    {"Product", entry(R"("dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,0])"),
     "more than there can be"},
    {"Dimension", entry(R"("dtype":"F32","shape":[9223372036854775808],"data_offsets":[0,8])"), "absurd"},
    {"ManyDimensions",
     entry(R"("dtype":"F32","shape":[1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,2],"data_offsets":[0,8])"),
     "more than 16 dimensions"},
    {"Overlap",
     safetensors_file(R"({"v":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},)"
                      R"("w":{"dtype":"I8","shape":[4],"data_offsets":[3,7]}})",
                      "12345678"),
     "lie over each other"},
    {"SamePlace",
     safetensors_file(R"({"v":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},)"
                      R"("w":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}})",
                      "12345678"),
     "lie over each other"},
    {"TwoOfAName",
     safetensors_file(R"({"w":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},)"
                      R"("w":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}})",
                      "12345678"),
     "w is there twice"},
};

class SafetensorsBad : public ::testing::TestWithParam<Bad> {};
TEST_P(SafetensorsBad, IsRefusedInOneLine) {
  const auto parsed = parse(GetParam().file);
  ASSERT_FALSE(parsed.has_value());
  EXPECT_EQ(parsed.error().code, ErrorCode::corrupt);
  EXPECT_NE(parsed.error().message.find(GetParam().says), std::string::npos) << parsed.error().message;
  EXPECT_EQ(parsed.error().message.find('\n'), std::string::npos);
  EXPECT_LT(parsed.error().message.size(), 400u);
}
INSTANTIATE_TEST_SUITE_P(Files, SafetensorsBad, ::testing::ValuesIn(bad_files),
                         [](const auto& info) { return std::string(info.param.name); });

// ---- folders

std::string one(const std::string& name) { return SafetensorsBuilder().add(name, "F32", {1}, "1234").str(); }

std::string index_of(const std::vector<std::pair<std::string, std::string>>& map) {
  std::string items;
  for (const auto& [tensor, file] : map)
    items += fmt::format(R"({}"{}":"{}")", items.empty() ? "" : ",", tensor, file);
  return R"({"metadata":{"total_size":8},"weight_map":{)" + items + "}}";
}

void expect_names(const TestFolder& folder, const std::vector<std::string>& names) {
  const auto opened = safetensors::open(folder.path());
  ASSERT_TRUE(opened.has_value()) << opened.error().message;
  std::vector<std::string> found;
  for (const RawTensor& t : opened->tensors) found.push_back(t.name);
  EXPECT_EQ(found, names);
  EXPECT_TRUE(opened->check().has_value());
}

void expect_error(const TestFolder& folder, std::initializer_list<std::string> says) {
  const auto opened = safetensors::open(folder.path());
  ASSERT_FALSE(opened.has_value());
  for (const std::string& part : says)
    EXPECT_NE(opened.error().message.find(part), std::string::npos) << opened.error().message;
  EXPECT_EQ(opened.error().message.find('\n'), std::string::npos);
}

/// Before the rest is read: what follows is not even JSON.
TEST(Safetensors, AHeaderOfTooManyNamesIsRefusedAtOnce) {
  std::string names = "{", tensors = "{";
  for (int i = 0; i < 100'000; ++i) names += R"("":{},)";
  for (size_t i = 0; i <= safetensors::kMaxTensors; ++i)
    tensors += R"("":{"dtype":"U8","shape":[0],"data_offsets":[0,0]},)";
  for (const auto& [header, says] : {std::pair(names, "no dtype"), {tensors, "more than 1000000 tensors"}}) {
    const auto parsed = parse(safetensors_file(header + "]"));
    ASSERT_FALSE(parsed.has_value());
    EXPECT_NE(parsed.error().message.find(says), std::string::npos) << parsed.error().message;
  }
}

TEST(SafetensorsFolder, TheIndexSaysWhichFiles) {
  const TestFolder folder("shards");
  folder.write("x.safetensors", one("a"));
  folder.write("y.safetensors", one("b"));
  folder.write("consolidated.safetensors", one("other"));
  folder.write("empty.safetensors", safetensors_file("{}"));
  folder.write("model.safetensors.index.json", index_of({{"b", "y.safetensors"}, {"a", "x.safetensors"}}));
  expect_names(folder, {"b", "a"});
}

TEST(SafetensorsFolder, WithoutAnIndexTheNamesDo) {
  const TestFolder folder("noindex");
  folder.write("z.safetensors", one("z"));
  folder.write("a.safetensors", one("a"));
  expect_names(folder, {"a", "z"});
  folder.write("model-00001-of-00002.safetensors", one("m1"));
  expect_error(folder, {"model-00002-of-00002.safetensors is missing"});
  folder.write("model-00002-of-00002.safetensors", one("m2"));
  expect_names(folder, {"m1", "m2"});
  folder.write("model.safetensors", one("m"));
  expect_names(folder, {"m"});
}

TEST(SafetensorsFolder, WhatIsMissingIsNamed) {
  const TestFolder folder("missing");
  expect_error(folder, {"no .safetensors file"});
  folder.write("x.safetensors", one("a"));
  folder.write("model.safetensors.index.json", index_of({{"a", "x.safetensors"}, {"b", "y.safetensors"}}));
  expect_error(folder, {"1 of 2 shards are missing: y.safetensors"});
  folder.write("y.safetensors", one("c"));
  expect_error(folder, {"tensor b is not in y.safetensors"});
  folder.write("y.safetensors", one("a"));
  expect_error(folder, {"tensor a is in x.safetensors and in y.safetensors"});
  folder.write("y.safetensors", "");
  expect_error(folder, {"y.safetensors", "is it whole"});
}

TEST(SafetensorsFolder, AnIndexCannotLeadElsewhere) {
  const TestFolder folder("hostile");
  folder.write("x.safetensors", one("a"));
  for (const char* name : {"../x.safetensors", "/etc/passwd", "sub/x.safetensors", "..\\\\x.safetensors",
                           "..", "", ".hidden.safetensors", "x\\u0000.safetensors", "x.bin"}) {
    folder.write("model.safetensors.index.json", index_of({{"a", name}}));
    expect_error(folder, {"is no name of a shard"});
  }
  for (const char* json :
       {"[]", "{}", R"({"weight_map":[]})", R"({"weight_map":{"a":1}})", R"({"weight_map":7})",
        R"({"weight_map":{"a":{"b":"x.safetensors"}}})", R"({"weight_map":{"a":"x.safetensors")",
        R"({"weight_map":{"a":"x.safetensors","a":"x.safetensors"}})"}) {
    folder.write("model.safetensors.index.json", json);
    expect_error(folder, {"index.json: "});
  }
  folder.write("model.safetensors.index.json", "{\"weight_map\":" + std::string(100000, '['));
  expect_error(folder, {"index.json: "});
  std::vector<std::pair<std::string, std::string>> many;
  for (int i = 0; i < 1000000; ++i) many.emplace_back(std::to_string(i), std::to_string(i) + ".safetensors");
  folder.write("model.safetensors.index.json", index_of(many));
  expect_error(folder, {"more than 4096 shards"});
}

TEST(SafetensorsFolder, AChangedFileIsNoticed) {
  const TestFolder folder("changed");
  folder.write("model.safetensors", one("a"));
  const auto opened = safetensors::open(folder.path());
  ASSERT_TRUE(opened.has_value());
  std::filesystem::resize_file(folder.path() / "model.safetensors", 20);
  const auto checked = opened->check();
  ASSERT_FALSE(checked.has_value());
  EXPECT_EQ(checked.error().code, ErrorCode::io);
}

}  // namespace
}  // namespace quern
