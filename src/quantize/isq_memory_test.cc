// A result in memory: planned before it is made, and gone once nobody reads it.
#include "quantize/isq_memory.h"

#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include "formats/gguf.h"
#include "models/checkpoint.h"
#include "models/hf_checkpoint_for_test.h"
#include "models/model.h"
#include "models/quantization_report.h"
#include "models/runner.h"
#include "quant/quant.h"

namespace quern {
namespace {

namespace fs = std::filesystem;
using namespace quern::testing;

ModelSpec spec(bool tied) {
  ModelSpec spec{
      .dim = 256, .ffn = 1024, .heads = 4, .kv_heads = 2, .head_dim = 64, .layers = 3, .vocab = 1000};
  spec.dtype = DType::BF16;
  spec.tied = tied;
  return spec;
}

IsqOptions options() {
  IsqOptions options;
  options.type = DType::Q4_K;
  options.threads = 2;
  return options;
}

/// Memory that the system has given to the only memfd of this process.
uint64_t memory_taken() {
  for (const auto& entry : fs::directory_iterator("/proc/self/fd")) {
    std::error_code error;
    const fs::path target = fs::read_symlink(entry.path(), error);
    struct stat info {};
    if (!error && target.string().find("memfd:quern-isq") != std::string::npos &&
        stat(entry.path().c_str(), &info) == 0)
      return static_cast<uint64_t>(info.st_blocks) * 512;
  }
  ADD_FAILURE() << "no file in memory";
  return 0;
}

TEST(IsqInMemory, IsTheFileThatTheCacheWouldHold) {
  const auto model = random_model(spec(false));
  const TestFolder folder("isq_memory");
  write_checkpoint(folder, *model, spec(false), hf_config(spec(false)), Shards::scattered);
  auto checkpoint = open_checkpoint(folder.path(), {});
  ASSERT_TRUE(checkpoint) << checkpoint.error().message;
  const fs::path path = folder.path() / "file.gguf";
  ASSERT_TRUE(quantize(**checkpoint, path, isq_quantize_options(options(), {})));
  const auto file = open_gguf(path);
  ASSERT_TRUE(file);

  const uint64_t source_bytes = (*checkpoint)->bytes();
  auto memory = IsqInMemory::lay_out(*std::move(checkpoint), options());
  ASSERT_TRUE(memory) << memory.error().message;
  EXPECT_LT(memory_taken(), 64u << 10) << "a layout takes no memory for the tensors";
  EXPECT_EQ((*memory)->bytes(), (*file)->bytes());
  ASSERT_EQ((*memory)->tensors().size(), (*file)->tensors().size());
  const auto report = (*memory)->fill(options(), {});
  ASSERT_TRUE(report) << report.error().message;
  EXPECT_EQ(report->source_bytes, source_bytes);
  for (const RawTensor& tensor : (*file)->tensors()) {
    const RawTensor* other = (*memory)->find(tensor.name);
    ASSERT_NE(other, nullptr) << tensor.name;
    EXPECT_EQ(other->dtype, tensor.dtype);
    EXPECT_EQ(other->shape, tensor.shape);
    EXPECT_TRUE(std::ranges::equal(other->data, tensor.data)) << tensor.name;
  }
  EXPECT_EQ(quantization_report(**memory).front().error, quantization_report(**file).front().error);
}

TEST(IsqInMemory, GivesBackWhatTheBackendHasPacked) {
  for (const bool tied : {false, true}) {
    const auto model = random_model(spec(tied));
    const TestFolder folder("isq_memory");
    write_checkpoint(folder, *model, spec(tied), hf_config(spec(tied)));
    auto checkpoint = open_checkpoint(folder.path(), {});
    ASSERT_TRUE(checkpoint) << checkpoint.error().message;
    auto memory = IsqInMemory::lay_out(*std::move(checkpoint), options());
    ASSERT_TRUE(memory) << memory.error().message;
    ASSERT_TRUE((*memory)->fill(options(), {}));
    const uint64_t before = memory_taken(), embedding = (*memory)->find("token_embd.weight")->data.size();
    EXPECT_GE(before, (*memory)->bytes());

    Runner runner(**memory, {}, 2);
    const auto tokens = random_tokens(20, 1000);
    TestSequence first, second;
    const auto expected = runner.step({{&first, tokens}});
    runner.backend().settle();
    EXPECT_TRUE(runner.model().release_source());
    // What stays: the embedding, the float vectors, and the pages that tensors share with them.
    const size_t tensors = (*memory)->tensors().size();
    EXPECT_LE(memory_taken(), embedding + (tensors + 1) * 2 * 4096 + (64 << 10)) << tied;
    EXPECT_LT(memory_taken(), before / 2);
    EXPECT_EQ(runner.step({{&second, tokens}}), expected) << "the same to the bit";
  }
}

TEST(IsqInMemory, APlanCountsTheEmbeddingThatStays) {
  const auto backend = make_cpu_backend({.threads = 1});
  ASSERT_TRUE(backend);
  const auto model = random_model(spec(true));
  const TestFolder folder("isq_memory");
  write_checkpoint(folder, *model, spec(true), hf_config(spec(true)));
  auto checkpoint = open_checkpoint(folder.path(), {});
  ASSERT_TRUE(checkpoint);
  const fs::path path = folder.path() / "file.gguf";
  ASSERT_TRUE(quantize(**checkpoint, path, isq_quantize_options(options(), {})));
  const auto file = open_gguf(path);
  ASSERT_TRUE(file);
  auto memory = IsqInMemory::lay_out(*std::move(checkpoint), options());
  ASSERT_TRUE(memory);
  const auto config = read_model_config(**file);
  ASSERT_TRUE(config);
  EXPECT_EQ(model_memory(**memory, **backend, *config, 8),
            model_memory(**file, **backend, *config, 8) + (*memory)->find("token_embd.weight")->data.size());
}

}  // namespace
}  // namespace quern
