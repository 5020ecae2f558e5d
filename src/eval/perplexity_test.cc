#include "eval/perplexity.h"

#include <gtest/gtest.h>

#include <cmath>
#include <numeric>

#include "backend/cpu/cpu_backend.h"
#include "models/random_model.h"

namespace quern {
namespace {

using testing::random_model;

constexpr int64_t kVocab = 50;

class Perplexity : public ::testing::Test {
 protected:
  void SetUp() override {
    backend_ = make_cpu_backend({.threads = 2}).value();
    tokens_.resize(1000);
    for (size_t i = 0; i < tokens_.size(); ++i) tokens_[i] = static_cast<int32_t>(i * 7919 % kVocab);
  }

  /// A model whose output head is `scale` times a random one: 0 makes every token equally likely.
  std::unique_ptr<Model> model(float scale, uint32_t seed = 1, int64_t vocab = kVocab) {
    auto source = random_model({.vocab = vocab, .seed = seed});
    auto head = source->values("output.weight");
    for (float& x : head) x *= scale;
    source->add("output.weight", {vocab, 64}, head, DType::F32);
    sources_.push_back(std::move(source));
    return load_model(*sources_.back(), *backend_).value();
  }

  Result<PerplexityReport> measure(Model& model, Model* reference, int64_t context, int32_t bos = -1) {
    return measure_perplexity(*backend_, model, reference, tokens_, {.context = context, .bos = bos});
  }

  std::unique_ptr<Backend> backend_;
  std::vector<std::unique_ptr<WeightSource>> sources_;
  std::vector<int32_t> tokens_;
};

TEST_F(Perplexity, OfAUniformModelIsTheVocabulary) {
  const auto uniform = model(0);
  const auto report = measure(*uniform, nullptr, 64).value();
  EXPECT_NEAR(report.perplexity.value, kVocab, 1e-9 * kVocab);
  EXPECT_NEAR(report.perplexity.error, 0, 1e-6);
  EXPECT_EQ(report.chunks, 15);  // 1000 / 64
  EXPECT_EQ(report.counted, 15 * 31);
  EXPECT_EQ(report.text_tokens, 1000);
}

TEST_F(Perplexity, AModelDoesNotDifferFromItself) {
  const auto one = model(1), same = model(1);
  const auto report = measure(*one, same.get(), 128).value();
  EXPECT_NEAR(report.kl_divergence.value, 0, 1e-12);
  EXPECT_EQ(report.same_top.value, 1);
  EXPECT_EQ(report.perplexity.value, report.reference_perplexity.value);
}

/// KL(p ‖ uniform) = ln V − H(p), and the mean over positions of the entropy of a model that knows nothing of
/// the text is its own; so the divergence must lie between 0 and ln V, and grow with the head's scale.
TEST_F(Perplexity, DivergenceFromASharperModelIsLarger) {
  const auto uniform = model(0), soft = model(0.5f), sharp = model(2);
  const double from_soft = measure(*uniform, soft.get(), 128)->kl_divergence.value;
  const double from_sharp = measure(*uniform, sharp.get(), 128)->kl_divergence.value;
  EXPECT_GT(from_soft, 0.01);
  EXPECT_GT(from_sharp, 2 * from_soft);
  EXPECT_LT(from_sharp, std::log(kVocab));
}

/// The second half of a chunk counts, and nothing before the chunk is seen: a change in the first chunk's
/// first half moves the figure, one in the part after the last whole chunk does not.
TEST_F(Perplexity, CountsWholeChunksAlone) {
  const auto random = model(1);
  const double before = measure(*random, nullptr, 300)->perplexity.value;
  tokens_[950] = (tokens_[950] + 1) % kVocab;  // 3 chunks of 300 end at 900
  EXPECT_EQ(measure(*random, nullptr, 300)->perplexity.value, before);
  tokens_[899] = (tokens_[899] + 1) % kVocab;  // the last that is predicted
  EXPECT_NE(measure(*random, nullptr, 300)->perplexity.value, before);
}

TEST_F(Perplexity, ABeginningReplacesEachChunksFirstToken) {
  const auto random = model(1);
  const double with_bos = measure(*random, nullptr, 100, 3)->perplexity.value;
  for (size_t i = 0; i < tokens_.size(); i += 100) tokens_[i] = 3;
  EXPECT_EQ(measure(*random, nullptr, 100)->perplexity.value, with_bos);
}

TEST_F(Perplexity, RefusesWhatCannotBeMeasured) {
  const auto random = model(1), other = model(1, 1, kVocab + 2);
  EXPECT_NE(measure(*random, nullptr, 501).error().message.find("two chunks of 501"), std::string::npos);
  EXPECT_NE(measure(*random, other.get(), 100).error().message.find("vocabularies of 50 and 52"),
            std::string::npos);
  EXPECT_EQ(measure_perplexity(*backend_, *random, nullptr, tokens_, {.context = 100},
                               [](const PerplexityReport& so_far, int64_t) { return so_far.chunks < 2; })
                .error()
                .code,
            ErrorCode::cancelled);
}

}  // namespace
}  // namespace quern
