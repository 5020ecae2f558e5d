#include "quantize/imatrix.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>

#include "formats/safetensors_for_test.h"
#include "models/random_model.h"
#include "models/runner.h"
#include "quantize/imatrix_collect.h"

namespace quern {
namespace {

using namespace quern::testing;

TEST(ImportanceMatrix, IsReadAsItWasWritten) {
  const TestFolder folder("imatrix");
  ImportanceMatrix matrix;
  matrix.datasets = {"a.txt", "b.txt"};
  matrix.chunks = 12;
  matrix.chunk_tokens = 512;
  matrix.entries["blk.0.attn_q.weight"] = {{1, 2, 3, 4}, {8}};
  matrix.entries["blk.0.ffn_up_exps.weight"] = {{1, 2, 3, 4, 5, 6}, {8, 0, 2}};
  const auto path = folder.path() / "x.imatrix";
  ASSERT_TRUE(write_imatrix(matrix, path));
  const auto read = read_imatrix(path);
  ASSERT_TRUE(read) << read.error().message;
  EXPECT_EQ(read->datasets, matrix.datasets);
  EXPECT_EQ(read->chunks, 12);
  EXPECT_EQ(read->chunk_tokens, 512);
  ASSERT_EQ(read->entries.size(), 2u);
  for (const auto& [name, entry] : matrix.entries) {
    EXPECT_EQ(read->find(name)->squares, entry.squares);
    EXPECT_EQ(read->find(name)->counts, entry.counts);
  }
  const auto& experts = *read->find("blk.0.ffn_up_exps.weight");
  EXPECT_EQ(experts.mean(0, 2), (std::vector<float>{0.125f, 0.25f}));
  EXPECT_EQ(experts.mean(1, 2), (std::vector<float>{1, 1})) << "no token came here";
  EXPECT_EQ(experts.mean(2, 2), (std::vector<float>{2.5f, 3}));
}

/// llama.cpp's form before GGUF.
struct OldForm {
  std::string bytes;
  OldForm& number(int32_t value) {
    bytes.append(reinterpret_cast<const char*>(&value), 4);
    return *this;
  }
  OldForm& text(std::string_view value) {
    number(static_cast<int32_t>(value.size()));
    bytes += value;
    return *this;
  }
  OldForm& floats(const std::vector<float>& values) {
    number(static_cast<int32_t>(values.size()));
    bytes.append(reinterpret_cast<const char*>(values.data()), 4 * values.size());
    return *this;
  }
};

TEST(ImportanceMatrix, ReadsTheOlderForm) {
  const TestFolder folder("imatrix");
  OldForm old;
  old.number(2).text("blk.0.attn_q.weight").number(4).floats({4, 8, 12});
  old.text("output.weight").number(1).floats({0.5f, 1.5f});
  folder.write("short", old.bytes);  // as the first versions wrote it
  old.number(4).text("wiki.txt");
  folder.write("long", old.bytes);
  for (const char* name : {"short", "long"}) {
    const auto read = read_imatrix(folder.path() / name);
    ASSERT_TRUE(read) << read.error().message;
    EXPECT_EQ(read->find("blk.0.attn_q.weight")->mean(0, 3), (std::vector<float>{1, 2, 3}));
    EXPECT_EQ(read->find("output.weight")->mean(0, 2), (std::vector<float>{0.5f, 1.5f}));
  }
  EXPECT_EQ(read_imatrix(folder.path() / "long")->datasets, std::vector<std::string>{"wiki.txt"});
}

TEST(ImportanceMatrix, WhatIsBrokenIsSaid) {
  const TestFolder folder("imatrix");
  const auto error = [&](const std::string& bytes) {
    folder.write("x", bytes);
    const auto read = read_imatrix(folder.path() / "x");
    return read ? std::string("it was read") : read.error().message;
  };
  const std::string good = OldForm().number(1).text("w").number(1).floats({1, 2}).number(1).text("t").bytes;
  for (size_t n = 0; n < good.size(); ++n) {
    if (n == good.size() - 9) continue;  // the first versions' end
    EXPECT_NE(error(good.substr(0, n)).find("not an importance matrix"), std::string::npos) << n;
  }
  EXPECT_NE(error(OldForm().number(-1).bytes).find("a count of -1"), std::string::npos);
  EXPECT_NE(error(OldForm().number(1).number(1 << 30).bytes).find("a count of"), std::string::npos);
  const float nan = std::numeric_limits<float>::quiet_NaN();
  EXPECT_NE(error(OldForm().number(1).text("w").number(1).floats({1, nan}).bytes).find("w: unusable"),
            std::string::npos);
  EXPECT_NE(error(OldForm().number(1).text("w").number(1).floats({-1}).bytes).find("w: unusable"),
            std::string::npos);
  EXPECT_NE(error("GGUF").find('x'), std::string::npos);
}

TEST(ImportanceMatrix, SeesWhatGoesIntoEachMatrix) {
  for (const bool single : {false, true}) {
    ModelSpec spec{.layers = 1, .experts = 4, .experts_used = 2, .single_experts = single};
    const auto model = random_model(spec);
    auto backend = *make_cpu_backend({.threads = 1});
    const auto tokens = random_tokens(70, spec.vocab);
    const auto matrix = collect_imatrix(*backend, *model, tokens, 32, -1);
    ASSERT_TRUE(matrix) << matrix.error().message;
    EXPECT_EQ(matrix->chunks, 2);
    // The first layer's queries see the norm of the embedding: computed here by hand.
    const auto embedding = model->values("token_embd.weight"), gain = model->values("blk.0.attn_norm.weight");
    std::vector<double> expected(64);
    for (int i = 0; i < 64; ++i) {
      const float* x = embedding.data() + tokens[static_cast<size_t>(i)] * 64;
      double mean = 0;
      for (int k = 0; k < 64; ++k) mean += x[k] * x[k] / 64.0;
      for (int k = 0; k < 64; ++k) {
        const double y = x[k] / std::sqrt(mean + 1e-5) * gain[static_cast<size_t>(k)];
        expected[static_cast<size_t>(k)] += y * y;
      }
    }
    const auto* q = matrix->find("blk.0.attn_q.weight");
    ASSERT_NE(q, nullptr);
    EXPECT_EQ(q->counts, std::vector<float>{64});
    for (size_t k = 0; k < 64; ++k) EXPECT_NEAR(q->squares[k], expected[k], 1e-4 * expected[k]);
    // Two of four experts each time, all under the stack's name.
    const auto* experts = matrix->find("blk.0.ffn_down_exps.weight");
    ASSERT_NE(experts, nullptr);
    ASSERT_EQ(experts->counts.size(), 4u);
    EXPECT_EQ(experts->squares.size(), static_cast<size_t>(4 * spec.ffn));
    EXPECT_EQ(std::accumulate(experts->counts.begin(), experts->counts.end(), 0.0f), 128);
    EXPECT_EQ(matrix->find("output.weight")->counts, std::vector<float>{64});
  }
}

TEST(ImportanceMatrix, ATextMayBeTooShort) {
  const auto model = random_model({});
  auto backend = *make_cpu_backend({.threads = 1});
  EXPECT_FALSE(collect_imatrix(*backend, *model, random_tokens(31, 50), 32, -1));
}

}  // namespace
}  // namespace quern
