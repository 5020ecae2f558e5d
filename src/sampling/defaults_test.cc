#include "sampling/defaults.h"

#include <gtest/gtest.h>

#include <cmath>

namespace quern {
namespace {

TEST(ModelDefaults, AreTakenWhereTheyMakeSense) {
  Metadata metadata;
  metadata.add("general.sampling.temp", 0.6);
  metadata.add("general.sampling.top_p", 0.95);
  metadata.add("general.sampling.top_k", int64_t{20});
  metadata.add("general.sampling.penalty_repeat", 1.05);
  metadata.add("quern.generation.max_new_tokens", uint64_t{2048});
  SamplingParams params;
  take_model_defaults(metadata, params);
  EXPECT_FLOAT_EQ(params.temperature, 0.6f);
  EXPECT_FLOAT_EQ(params.top_p, 0.95f);
  EXPECT_EQ(params.top_k, 20);
  EXPECT_FLOAT_EQ(params.min_p, 0.0f);  // not said: as it was
  EXPECT_FLOAT_EQ(params.repetition_penalty, 1.05f);
  EXPECT_EQ(model_max_tokens(metadata), 2048);
}

TEST(ModelDefaults, NonsenseIsLeftOut) {
  Metadata metadata;
  metadata.add("general.sampling.temp", std::nan(""));
  metadata.add("general.sampling.top_p", 0.0);
  metadata.add("general.sampling.top_k", int64_t{-1});
  metadata.add("general.sampling.min_p", std::string("much"));
  metadata.add("general.sampling.penalty_repeat", 0.0);
  metadata.add("quern.generation.max_new_tokens", uint64_t{1} << 40);
  SamplingParams params;
  take_model_defaults(metadata, params);
  EXPECT_FLOAT_EQ(params.temperature, 0.7f);
  EXPECT_FLOAT_EQ(params.top_p, 0.9f);
  EXPECT_EQ(params.top_k, 0);
  EXPECT_FLOAT_EQ(params.min_p, 0.0f);
  EXPECT_FLOAT_EQ(params.repetition_penalty, 1.0f);
  EXPECT_EQ(model_max_tokens(metadata), std::nullopt);
}

}  // namespace
}  // namespace quern
