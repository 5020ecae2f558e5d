#include <gtest/gtest.h>
#include <sys/stat.h>

#include "formats/gguf.h"
#include "formats/gguf_builder_for_test.h"

namespace quern {
namespace {

using gguf::ValueType;

std::string read_file(const std::filesystem::path& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

size_t files_in(const std::filesystem::path& folder) {
  return static_cast<size_t>(std::distance(std::filesystem::directory_iterator(folder), {}));
}

std::span<const std::byte> bytes_of(std::string_view text) { return std::as_bytes(std::span(text)); }

TEST(GgufWriter, WritesTheBytesOfTheFormat) {
  const TemporaryFolder folder;
  Metadata m;
  m.add("general.architecture", std::string("llama"));
  m.add("count", uint64_t{7});
  m.add("large", uint64_t{1} << 40);
  m.add("negative", int64_t{-7});
  m.add("eps", 1e-5);
  m.add("flag", true);
  m.add("types", Metadata::Array{std::vector<int64_t>{1, -3}});
  m.add("counts", Metadata::Array{std::vector<uint64_t>{1, uint64_t{1} << 33}});
  m.add("scores", Metadata::Array{std::vector<double>{0.5}});
  auto writer =
      GgufWriter::create(folder.path() / "w.gguf", m, {{"a", DType::Q8_0, {2, 32}}, {"b", DType::F32, {3}}});
  ASSERT_TRUE(writer) << writer.error().message;
  // In pieces that end nowhere in particular.
  ASSERT_TRUE((*writer)->write(bytes_of(std::string(50, 'x'))));
  ASSERT_TRUE((*writer)->write(bytes_of(std::string(20, 'y') + std::string(10, 'z'))));
  ASSERT_TRUE((*writer)->finish());

  ByteBuilder b;
  b.header(2, 9).string_key("general.architecture", "llama");
  b.key("count", ValueType::u32).put(uint32_t{7});
  b.key("large", ValueType::u64).put(uint64_t{1} << 40);
  b.key("negative", ValueType::i32).put(int32_t{-7});
  b.key("eps", ValueType::f32).put(1e-5f);
  b.key("flag", ValueType::boolean).put(uint8_t{1});
  b.key("types", ValueType::array).type(ValueType::i32).put(uint64_t{2}).put(int32_t{1}).put(int32_t{-3});
  b.key("counts", ValueType::array)
      .type(ValueType::u64)
      .put(uint64_t{2})
      .put(uint64_t{1})
      .put(uint64_t{1} << 33);
  b.key("scores", ValueType::array).type(ValueType::f32).put(uint64_t{1}).put(0.5f);
  b.tensor("a", {32, 2}, 8, 0).tensor("b", {3}, 0, 96).pad();
  b.raw(std::string(50, 'x')).raw(std::string(18, 'y')).pad().raw("yy").raw(std::string(10, 'z')).pad();
  EXPECT_EQ(read_file(folder.path() / "w.gguf"), b.str());
  EXPECT_EQ(files_in(folder.path()), 1u);
}

TEST(GgufWriter, CopiesWhatTheReaderRead) {
  const TemporaryFolder folder;
  const std::string original = small_file().str();
  const auto source = open_gguf(bytes_of(original), "small");
  ASSERT_TRUE(source);
  std::vector<GgufTensor> tensors;
  for (const RawTensor& t : (*source)->tensors()) tensors.push_back({t.name, t.dtype, t.shape});
  auto writer = GgufWriter::create(folder.path() / "copy.gguf", (*source)->metadata(), tensors);
  ASSERT_TRUE(writer) << writer.error().message;
  for (const RawTensor& t : (*source)->tensors()) ASSERT_TRUE((*writer)->write(t.data));
  ASSERT_TRUE((*writer)->finish());
  const auto copy = open_gguf(folder.path() / "copy.gguf");
  ASSERT_TRUE(copy) << copy.error().message;
  ASSERT_EQ((*copy)->metadata().entries().size(), (*source)->metadata().entries().size());
  for (const auto& [key, value] : (*source)->metadata().entries()) {
    ASSERT_TRUE((*copy)->metadata().contains(key)) << key;
    EXPECT_EQ((*copy)->metadata().find(key)->index(), value.index()) << key;
  }
  EXPECT_EQ((*copy)->metadata().uint("u64"), ~uint64_t{0});
  EXPECT_EQ(*(*copy)->metadata().strings("strings"), *(*source)->metadata().strings("strings"));
  for (const RawTensor& t : (*source)->tensors()) {
    const RawTensor* same = (*copy)->find(t.name);
    ASSERT_NE(same, nullptr);
    EXPECT_EQ(same->shape, t.shape);
    EXPECT_TRUE(std::equal(same->data.begin(), same->data.end(), t.data.begin(), t.data.end()));
  }
}

TEST(GgufWriter, LeavesNothingBehindUnlessFinished) {
  const TemporaryFolder folder;
  const auto path = folder.path() / "w.gguf";
  {
    auto writer = GgufWriter::create(path, Metadata(), {{"a", DType::F32, {3}}});
    ASSERT_TRUE(writer);
    ASSERT_TRUE((*writer)->write(bytes_of("12345678")));
    EXPECT_FALSE(std::filesystem::exists(path));
    const auto finished = (*writer)->finish();
    ASSERT_FALSE(finished);
    EXPECT_CONTAINS(finished.error().message, "tensor a was not written in full");
    EXPECT_FALSE((*writer)->write(bytes_of("12345")));
  }
  EXPECT_EQ(files_in(folder.path()), 0u);
}

TEST(GgufWriter, TensorsMayComeInAnyOrderAndNumbersInTheEnd) {
  const TemporaryFolder folder;
  const auto path = folder.path() / "w.gguf";
  const auto metadata = [](double error) {
    Metadata m;
    m.add("errors", Metadata::Array{std::vector<double>{error, 2 * error}});
    return m;
  };
  auto writer = GgufWriter::create(path, metadata(0), {{"a", DType::F32, {3}}, {"b", DType::F32, {2}}});
  ASSERT_TRUE(writer) << writer.error().message;
  ASSERT_TRUE((*writer)->write_at(1, 4, bytes_of("5678")));
  ASSERT_TRUE((*writer)->write_at(0, 0, bytes_of("abcdefghijkl")));
  EXPECT_FALSE((*writer)->finish()) << "a part of b is missing";
  ASSERT_TRUE((*writer)->write_at(1, 0, bytes_of("1234")));
  EXPECT_FALSE((*writer)->write_at(1, 5, bytes_of("1234")));
  EXPECT_FALSE((*writer)->write_at(2, 0, bytes_of("1")));
  Metadata longer = metadata(1);
  longer.add("more", uint64_t{1});
  EXPECT_FALSE((*writer)->replace_metadata(longer));
  ASSERT_TRUE((*writer)->replace_metadata(metadata(0.25)));
  const auto finished = (*writer)->finish();
  ASSERT_TRUE(finished) << finished.error().message;
  const auto file = open_gguf(path);
  ASSERT_TRUE(file) << file.error().message;
  EXPECT_EQ((*file)->metadata().numbers("errors"), (std::vector<double>{0.25, 0.5}));
  const auto text = [&](const char* name) {
    const auto data = (*file)->find(name)->data;
    return std::string(reinterpret_cast<const char*>(data.data()), data.size());
  };
  EXPECT_EQ(text("a"), "abcdefghijkl");
  EXPECT_EQ(text("b"), "12345678");
}

TEST(GgufWriter, ReplacesAFileOnlyWhenWhole) {
  const TemporaryFolder folder;
  const auto path = folder.write("w.gguf", "old");
  auto writer = GgufWriter::create(path, Metadata(), {});
  ASSERT_TRUE(writer);
  EXPECT_EQ(read_file(path), "old");
  ASSERT_TRUE((*writer)->finish());
  EXPECT_TRUE(open_gguf(path));
}

TEST(GgufWriter, RefusesWhatNoFileCanHold) {
  const TemporaryFolder folder;
  const auto path = folder.path() / "w.gguf";
  const auto error = [&](std::vector<GgufTensor> tensors) {
    const auto writer = GgufWriter::create(path, Metadata(), std::move(tensors));
    return writer ? std::string("it was created") : writer.error().message;
  };
  EXPECT_CONTAINS(error({{"a", DType::Q4_K, {2, 100}}}), "tensor a cannot be stored as Q4_K");
  EXPECT_CONTAINS(error({{"a", static_cast<DType>(16), {256}}}), "IQ2_XXS");
  EXPECT_CONTAINS(error({{"a", DType::F32, {}}}), "0 dimensions");
  EXPECT_CONTAINS(error({{"a", DType::F32, {1, -1}}}), "impossible");
  EXPECT_CONTAINS(error({{"a", DType::F32, {1}}, {"a", DType::F32, {1}}}), "twice");
  EXPECT_CONTAINS(error({{"a", DType::F32, {int64_t{1} << 40, int64_t{1} << 40}}}), "cannot be stored");
  Metadata odd;
  odd.add("general.alignment", uint64_t{33});
  EXPECT_FALSE(GgufWriter::create(path, odd, {}));
  const auto nowhere = GgufWriter::create(folder.path() / "no" / "w.gguf", Metadata(), {});
  ASSERT_FALSE(nowhere);
  EXPECT_EQ(nowhere.error().code, ErrorCode::io);
  EXPECT_EQ(files_in(folder.path()), 0u);
}

}  // namespace
}  // namespace quern
