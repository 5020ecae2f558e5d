// Files that are changed under a loaded model.
#include <gtest/gtest.h>
#include <unistd.h>

#include <filesystem>

#include "formats/gguf.h"
#include "models/runner.h"

namespace quern {
namespace {

using namespace quern::testing;

/// A model of a few hundred KB with quantized matrices, written to a file of its own.
class ChangedFile : public ::testing::TestWithParam<const char*> {
 protected:
  ChangedFile() {
    ModelSpec spec{.dim = 256, .ffn = 512, .heads = 4, .kv_heads = 2, .head_dim = 64, .vocab = 500};
    spec.dtype = find_quant(GetParam())->dtype;
    write(*random_model(spec), path_);
  }
  ~ChangedFile() override { std::filesystem::remove(path_); }

  static void write(const WeightSource& model, const std::filesystem::path& path) {
    std::vector<GgufTensor> tensors;
    for (const RawTensor& t : model.tensors()) tensors.push_back({t.name, t.dtype, t.shape});
    auto writer = GgufWriter::create(path, model.metadata(), tensors);
    ASSERT_TRUE(writer.has_value()) << writer.error().message;
    for (const RawTensor& t : model.tensors()) ASSERT_TRUE((*writer)->write(t.data).has_value());
    ASSERT_TRUE((*writer)->finish().has_value());
  }

  /// One step of 20 tokens.
  static Result<> forward(Runner& runner, std::vector<float>& logits) {
    const auto tokens = random_tokens(20, 500);
    const std::vector<int32_t> blocks = {0, 1}, rows = {19};
    const SequenceSlice slice{0, 20, 0, blocks};
    logits.assign(500, 0);
    return runner.model().forward({tokens, {&slice, 1}, rows}, runner.cache(), logits);
  }

  const std::filesystem::path path_ =
      std::filesystem::temp_directory_path() / fmt::format("quern_changed_{}.gguf", getpid());
  std::vector<float> logits_;
};
INSTANTIATE_TEST_SUITE_P(All, ChangedFile, ::testing::Values("Q4_K", "F16"));

TEST_P(ChangedFile, CutShortItFailsStepsAndNothingElse) {
  for (const bool settled : {false, true}) {
    const auto source = *open_gguf(path_);
    Runner runner(*source);
    if (settled) runner.backend().settle();
    ASSERT_TRUE(forward(runner, logits_).has_value());
    const auto size = std::filesystem::file_size(path_);
    std::filesystem::copy_file(path_, path_.string() + ".kept");
    std::filesystem::resize_file(path_, size / 3);
    for (int i = 0; i < 3; ++i) {
      const auto done = forward(runner, logits_);
      ASSERT_FALSE(done.has_value());
      EXPECT_EQ(done.error().code, ErrorCode::io);
      EXPECT_NE(done.error().message.find("changed"), std::string::npos) << done.error().message;
    }
    EXPECT_FALSE(open_gguf(path_).has_value());
    std::filesystem::rename(path_.string() + ".kept", path_);
    // Loaded again, it works.
    const auto again = *open_gguf(path_);
    Runner fresh(*again);
    EXPECT_TRUE(forward(fresh, logits_).has_value());
  }
}

TEST_P(ChangedFile, RemovedOrReplacedItIsServedOn) {
  const auto source = *open_gguf(path_);
  Runner runner(*source);
  ASSERT_TRUE(forward(runner, logits_).has_value());
  const std::vector<float> before = logits_;
  write(*random_model({.seed = 9}), path_);  // another model takes its name
  ASSERT_TRUE(forward(runner, logits_).has_value());
  EXPECT_EQ(before, logits_);
  std::filesystem::remove(path_);
  runner.backend().settle();
  ASSERT_TRUE(forward(runner, logits_).has_value());
  EXPECT_EQ(before, logits_);
}

}  // namespace
}  // namespace quern
