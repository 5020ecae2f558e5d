#include "quantize/quantizer.h"

#include <gtest/gtest.h>

#include "formats/gguf.h"
#include "models/checkpoint.h"
#include "models/hf_checkpoint_for_test.h"
#include "models/runner.h"
#include "quantize/imatrix_collect.h"

namespace quern {
namespace {

using namespace quern::testing;

/// One type for all matrices; vectors stay F32.
QuantizeOptions all_as(DType dtype) {
  QuantizeOptions options;
  options.recipe = single_recipe(*find_quant(dtype));
  options.threads = 3;
  return options;
}

const ModelSpec kSpec{
    .dim = 256, .ffn = 512, .heads = 4, .kv_heads = 2, .head_dim = 64, .layers = 2, .vocab = 300};

std::vector<std::byte> encoded(const MemorySource& source, const std::string& name, DType dtype,
                               const float* importance = nullptr) {
  const RawTensor& tensor = *source.find(name);
  const QuantInfo& info = *find_quant(dtype);
  const auto values = source.values(name);
  const auto cols = static_cast<size_t>(tensor.cols());
  std::vector<std::byte> bytes(values.size() / info.block * info.bytes);
  for (size_t r = 0; r < static_cast<size_t>(tensor.rows()); ++r)
    info.encode(values.data() + r * cols, bytes.data() + r * (cols / info.block * info.bytes), cols,
                importance);
  return bytes;
}

TEST(Quantizer, CheckpointsBecomeTheGgufOfTheSameWeights) {
  ModelSpec spec = kSpec;
  spec.dtype = DType::BF16;
  const auto model = random_model(spec);  // with GGUF's names and row order
  const TestFolder folder("quantize");
  write_checkpoint(folder, *model, spec, hf_config(spec), Shards::scattered);
  const auto checkpoint = open_checkpoint(folder.path(), {});
  ASSERT_TRUE(checkpoint) << checkpoint.error().message;
  for (const DType dtype : {DType::Q8_0, DType::Q4_K, DType::Q6_K, DType::F16, DType::BF16}) {
    const auto path = folder.path() / "out.gguf";
    const auto report = quantize(**checkpoint, path, all_as(dtype));
    ASSERT_TRUE(report) << report.error().message;
    const auto file = open_gguf(path);
    ASSERT_TRUE(file) << file.error().message;
    ASSERT_EQ((*file)->tensors().size(), model->tensors().size());
    for (const RawTensor& tensor : model->tensors()) {
      const RawTensor* written = (*file)->find(tensor.name);
      ASSERT_NE(written, nullptr) << tensor.name;
      const auto expected = encoded(*model, tensor.name, tensor.shape.size() == 1 ? DType::F32 : dtype);
      EXPECT_TRUE(std::ranges::equal(written->data, expected)) << tensor.name << " " << dtype_name(dtype);
    }
    EXPECT_EQ(report->bytes, (*file)->bytes());
    EXPECT_EQ(report->source_bytes, (*checkpoint)->bytes());
  }
}

TEST(Quantizer, OuterDimensionsOfOneSayNothing) {
  ModelSpec spec = kSpec;
  spec.biases = true;
  const auto model = random_model(spec);
  const auto shaped = random_model(spec);
  for (const RawTensor& tensor : model->tensors()) {
    std::vector<int64_t> shape = tensor.shape;
    shape.insert(shape.begin(), 1);
    shaped->add(tensor.name, shape, model->values(tensor.name), tensor.dtype);
  }
  const TestFolder folder("quantize");
  const auto converted = [&](const MemorySource& source, const std::string& name) {
    write_checkpoint(folder, source, spec, hf_config(spec));
    const auto checkpoint = open_checkpoint(folder.path(), {});
    EXPECT_TRUE(checkpoint) << checkpoint.error().message;
    const auto report = quantize(**checkpoint, folder.path() / name, all_as(DType::Q8_0));
    EXPECT_TRUE(report) << report.error().message;
    return *open_gguf(folder.path() / name);
  };
  const auto plain = converted(*model, "plain.gguf"), same = converted(*shaped, "same.gguf");
  for (const RawTensor& tensor : plain->tensors()) {
    const RawTensor* other = same->find(tensor.name);
    ASSERT_NE(other, nullptr) << tensor.name;
    EXPECT_EQ(other->shape, tensor.shape) << tensor.name;
    EXPECT_EQ(other->dtype, tensor.dtype) << tensor.name;
    EXPECT_TRUE(std::ranges::equal(other->data, tensor.data)) << tensor.name;
  }
}

TEST(Quantizer, TheReportIsKeptInTheFile) {
  const auto model = random_model(kSpec);
  const TestFolder folder("quantize");
  const auto path = folder.path() / "out.gguf";
  QuantizeOptions options = all_as(DType::Q4_0);
  options.extra.add("quern.test", uint64_t{7});
  const auto report = quantize(*model, path, options);
  ASSERT_TRUE(report) << report.error().message;
  const auto file = open_gguf(path);
  ASSERT_TRUE(file) << file.error().message;
  EXPECT_EQ((*file)->metadata().uint("quern.test"), 7u);
  EXPECT_EQ((*file)->metadata().uint("general.file_type"), 2u) << "llama.cpp's number of Q4_0";
  const auto kept = quantization_report(**file);
  ASSERT_EQ(kept.size(), report->tensors.size());
  for (size_t i = 0; i < kept.size(); ++i) {
    EXPECT_EQ(kept[i].name, report->tensors[i].name);
    EXPECT_EQ(kept[i].type.asked, report->tensors[i].type.asked);
    EXPECT_EQ(kept[i].type.used, report->tensors[i].type.used);
    EXPECT_EQ(kept[i].type.why, report->tensors[i].type.why);
    EXPECT_FLOAT_EQ(static_cast<float>(kept[i].error), static_cast<float>(report->tensors[i].error));
    if (kept[i].shape.size() == 1)
      EXPECT_EQ(kept[i].error, 0) << kept[i].name;
    else  // of Gaussian weights
      EXPECT_NEAR(kept[i].error, 0.09, 0.02) << kept[i].name;
  }
  // What a second quantizer finds is its own report alone.
  const auto again = quantize(**file, folder.path() / "again.gguf", all_as(DType::Q4_0));
  ASSERT_TRUE(again) << again.error().message;
  for (const QuantizedTensor& tensor : again->tensors)
    EXPECT_EQ(tensor.error, 0) << "the same type is copied";
}

TEST(Quantizer, ExpertsBecomeAStackAndHaveTheirOwnImportance) {
  ModelSpec spec{.dim = 256,
                 .ffn = 256,
                 .heads = 4,
                 .kv_heads = 2,
                 .head_dim = 64,
                 .layers = 1,
                 .vocab = 64,
                 .experts = 3,
                 .experts_used = 2,
                 .single_experts = true};
  const auto model = random_model(spec);
  const TestFolder folder("quantize");
  ImportanceMatrix importance;
  auto& entry = importance.entries["blk.0.ffn_up_exps.weight"];
  std::mt19937 random(3);
  for (int i = 0; i < 3 * 256; ++i) entry.squares.push_back(static_cast<float>(random() % 1000));
  entry.counts = {2, 5, 0};
  QuantizeOptions options = all_as(DType::Q4_K);
  options.importance = &importance;
  const auto path = folder.path() / "out.gguf";
  const auto report = quantize(*model, path, options);
  ASSERT_TRUE(report) << report.error().message;
  const auto file = *open_gguf(path);
  const RawTensor* stack = file->find("blk.0.ffn_up_exps.weight");
  ASSERT_NE(stack, nullptr);
  EXPECT_EQ(stack->shape, (std::vector<int64_t>{3, 256, 256}));
  const size_t each = stack->data.size() / 3;
  for (size_t e = 0; e < 3; ++e) {
    std::vector<float> mean(256, 1.0f);
    if (e < 2)
      for (size_t i = 0; i < 256; ++i) mean[i] = entry.squares[256 * e + i] / entry.counts[e];
    const auto expected = encoded(*model, fmt::format("blk.0.ffn_up.{}.weight", e), DType::Q4_K, mean.data());
    EXPECT_TRUE(std::ranges::equal(stack->data.subspan(e * each, each), expected)) << e;
  }
  entry.squares.pop_back();
  const auto wrong = quantize(*model, path, options);
  ASSERT_FALSE(wrong);
  EXPECT_NE(wrong.error().message.find("another model"), std::string::npos) << wrong.error().message;
}

TEST(Quantizer, FailsWholly) {
  const TestFolder folder("quantize");
  const auto path = folder.path() / "out.gguf";
  const auto model = random_model(kSpec);
  QuantizeOptions options = all_as(DType::Q4_K);
  int calls = 0;
  options.progress = [&](uint64_t done, uint64_t total) {
    EXPECT_LE(done, total);
    return ++calls < 3;
  };
  const auto cancelled = quantize(*model, path, options);
  ASSERT_FALSE(cancelled);
  EXPECT_EQ(cancelled.error().code, ErrorCode::cancelled);

  auto values = model->values("blk.1.ffn_up.weight");
  values[7 * 256 + 5] = std::numeric_limits<float>::infinity();
  model->add("blk.1.ffn_up.weight", {512, 256}, values, DType::F32);
  for (const DType type : {DType::Q4_K, DType::F16, DType::F32}) {
    const auto broken = quantize(*model, path, all_as(type));
    ASSERT_FALSE(broken);
    EXPECT_EQ(broken.error().code, ErrorCode::corrupt);
    EXPECT_NE(broken.error().message.find("blk.1.ffn_up.weight: row 7"), std::string::npos)
        << broken.error().message;
  }
  EXPECT_TRUE(std::filesystem::is_empty(folder.path()));
}

TEST(Quantizer, WhatF16CannotHoldIsRefused) {
  const TestFolder folder("quantize");
  const auto path = folder.path() / "out.gguf";
  ModelSpec spec = kSpec;
  spec.ffn = 528;  // ffn_down has rows that are no whole number of blocks: F16 stands in
  for (const DType stored : {DType::BF16, DType::F32}) {
    const auto model = random_model(spec);
    auto values = model->values("blk.1.ffn_down.weight");
    values[7 * 528 + 5] = 1e5f;
    model->add("blk.1.ffn_down.weight", {256, 528}, values, stored);
    for (const DType type : {DType::F16, DType::Q8_0}) {
      const auto report = quantize(*model, path, all_as(type));
      ASSERT_FALSE(report) << dtype_name(type);
      EXPECT_EQ(report.error().code, ErrorCode::unsupported);
      for (const char* part : {"blk.1.ffn_down.weight: row 7", "F16"})
        EXPECT_NE(report.error().message.find(part), std::string::npos) << report.error().message;
    }
    // Nor do scales of F16 hold this: another matrix, whose rows are whole blocks.
    values = model->values("blk.0.ffn_up.weight");
    values[3 * 256 + 5] = -3e7f;
    model->add("blk.0.ffn_up.weight", {528, 256}, values, stored);
    values = model->values("blk.1.ffn_down.weight");
    values[7 * 528 + 5] = 0;
    model->add("blk.1.ffn_down.weight", {256, 528}, values, stored);
    const auto report = quantize(*model, path, all_as(DType::Q8_0));
    ASSERT_FALSE(report);
    EXPECT_EQ(report.error().code, ErrorCode::unsupported);
    for (const char* part : {"blk.0.ffn_up.weight: row 3", "Q8_0", "-3"})
      EXPECT_NE(report.error().message.find(part), std::string::npos) << report.error().message;
    EXPECT_TRUE(std::filesystem::is_empty(folder.path()));
    EXPECT_TRUE(quantize(*model, path, all_as(DType::BF16)));
    std::filesystem::remove(path);
  }
}

}  // namespace
}  // namespace quern
