#include "formats/safetensors_writer.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <fstream>
#include <nlohmann/json.hpp>

#include "formats/safetensors.h"
#include "formats/safetensors_for_test.h"

namespace quern::safetensors {
namespace {

using namespace quern::testing;
namespace fs = std::filesystem;

std::vector<std::byte> counting(size_t n, int start) {
  std::vector<std::byte> bytes(n);
  for (size_t i = 0; i < n; ++i) bytes[i] = static_cast<std::byte>(start + static_cast<int>(i));
  return bytes;
}

const std::vector<NewTensor> kTensors = {{"a.g_idx", "U8", {3}},
                                         {"b", "F32", {2, 5}},
                                         {"c", "BF16", {7}},
                                         {"d", "I32", {1, 2}},
                                         {"empty", "F16", {0, 4}}};

Result<> write_all(CheckpointWriter& writer) {
  for (size_t i = 0; i < kTensors.size(); ++i) {
    const auto bytes = counting(*kTensors[i].bytes(), static_cast<int>(10 * i));
    const size_t half = bytes.size() / 2;  // the second first
    QUERN_TRY_VOID(writer.write_at(i, half, std::span(bytes).subspan(half)));
    QUERN_TRY_VOID(writer.write_at(i, 0, std::span(bytes).first(half)));
  }
  return {};
}

std::vector<std::string> names_in(const fs::path& folder) {
  std::vector<std::string> names;
  for (const auto& entry : fs::directory_iterator(folder)) names.push_back(entry.path().filename());
  std::ranges::sort(names);
  return names;
}

void expect_content(const fs::path& folder) {
  const auto read = open(folder);
  ASSERT_TRUE(read) << read.error().message;
  size_t found = 0;
  const auto check = [&](const std::string& name, const auto& shape, std::span<const std::byte> data) {
    const auto it = std::ranges::find(kTensors, name, &NewTensor::name);
    ASSERT_NE(it, kTensors.end()) << name;
    ++found;
    EXPECT_EQ(shape, it->shape);
    EXPECT_TRUE(
        std::ranges::equal(data, counting(data.size(), static_cast<int>(10 * (it - kTensors.begin())))));
    const auto address = reinterpret_cast<uintptr_t>(data.data());
    const size_t width = it->dtype.ends_with("32") ? 4 : it->dtype == "U8" ? 1 : 2;
    EXPECT_EQ(address % width, 0u) << name;
  };
  for (const auto& t : read->tensors) check(t.name, t.shape, t.data);
  for (const auto& t : read->foreign) {
    check(t.name, t.shape, t.data);
    EXPECT_EQ(t.dtype, std::ranges::find(kTensors, t.name, &NewTensor::name)->dtype);
  }
  EXPECT_EQ(found, kTensors.size());
}

TEST(SafetensorsWriter, OneFileIsReadAsItWasWritten) {
  const TestFolder folder("writer");
  const fs::path target = folder.path() / "model";
  {
    auto writer = CheckpointWriter::create(target.string() + "/", kTensors);
    ASSERT_TRUE(writer) << writer.error().message;
    ASSERT_TRUE(write_all(**writer));
    ASSERT_TRUE((*writer)->add_file("config.json", "{}"));
    EXPECT_FALSE(fs::exists(target)) << "before it is whole";
    const auto done = (*writer)->finish();
    ASSERT_TRUE(done) << done.error().message;
  }
  EXPECT_EQ(names_in(target), (std::vector<std::string>{"config.json", "model.safetensors"}));
  EXPECT_EQ(names_in(folder.path()), std::vector<std::string>{"model"});
  expect_content(target);
}

TEST(SafetensorsWriter, LargeOnesAreShards) {
  const TestFolder folder("writer");
  const fs::path target = folder.path() / "model";
  auto writer = CheckpointWriter::create(target, kTensors, {.shard_bytes = 30});
  ASSERT_TRUE(writer) << writer.error().message;
  ASSERT_TRUE(write_all(**writer));
  ASSERT_TRUE((*writer)->finish());
  EXPECT_EQ(names_in(target),
            (std::vector<std::string>{"model-00001-of-00003.safetensors", "model-00002-of-00003.safetensors",
                                      "model-00003-of-00003.safetensors", "model.safetensors.index.json"}));
  expect_content(target);
  std::ifstream file(target / "model.safetensors.index.json");
  const auto index = nlohmann::json::parse(file);
  EXPECT_EQ(index["metadata"]["total_size"], 3 + 40 + 14 + 8);
  EXPECT_EQ(index["weight_map"]["b"], "model-00002-of-00003.safetensors");
}

TEST(SafetensorsWriter, NothingStaysOfWhatIsNotFinished) {
  const TestFolder folder("writer");
  const fs::path target = folder.path() / "model";
  {
    auto writer = CheckpointWriter::create(target, kTensors);
    ASSERT_TRUE(writer);
    const auto unfinished = (*writer)->finish();
    ASSERT_FALSE(unfinished);
    EXPECT_NE(unfinished.error().message.find("a.g_idx"), std::string::npos);
    EXPECT_FALSE((*writer)->write_at(0, 2, counting(2, 0))) << "beyond the tensor";
    EXPECT_FALSE((*writer)->write_at(9, 0, counting(1, 0)));
  }
  EXPECT_TRUE(fs::is_empty(folder.path()));
}

TEST(SafetensorsWriter, WhatIsThereStays) {
  const TestFolder folder("writer");
  folder.write("file", "x");
  const auto error = [&](const fs::path& target, const std::vector<NewTensor>& tensors) {
    const auto writer = CheckpointWriter::create(target, tensors);
    return writer ? std::string("it was made") : writer.error().message;
  };
  EXPECT_NE(error(folder.path(), kTensors).find("it is there already"), std::string::npos);
  EXPECT_NE(error(folder.path() / "file", kTensors).find("it is there already"), std::string::npos);
  EXPECT_NE(error(folder.path() / "no" / "such", kTensors).find("make the folder"), std::string::npos);
  EXPECT_NE(error(folder.path() / "x", {{"a", "F32", {2}}, {"a", "F32", {2}}}).find("two of them"),
            std::string::npos);
  EXPECT_NE(error(folder.path() / "x", {{"a", "Q4_0", {2}}}).find("Q4_0"), std::string::npos);
  EXPECT_NE(error(folder.path() / "x", {{"a", "F32", {-2}}}).find("dimensions"), std::string::npos);
  EXPECT_NE(
      error(folder.path() / "x", {{"a", "F32", {int64_t{1} << 40, int64_t{1} << 40}}}).find("dimensions"),
      std::string::npos);
  EXPECT_NE(error(folder.path() / "x", {{"\xff", "F32", {2}}}).find("UTF-8"), std::string::npos);
  EXPECT_EQ(names_in(folder.path()), std::vector<std::string>{"file"});
  // An empty folder may be there.
  fs::create_directory(folder.path() / "empty");
  auto writer = CheckpointWriter::create(folder.path() / "empty", kTensors);
  ASSERT_TRUE(writer);
  ASSERT_TRUE(write_all(**writer));
  // Somebody else is faster.
  folder.write("empty/file", "y");
  EXPECT_FALSE((*writer)->finish());
  fs::remove(folder.path() / "empty/file");
  EXPECT_TRUE((*writer)->finish());
  expect_content(folder.path() / "empty");
}

}  // namespace
}  // namespace quern::safetensors
