// The model against the reference decoder, and against itself: the same bits however a step is cut.
#include <gtest/gtest.h>

#include <cmath>

#include "models/reference_decoder.h"
#include "models/runner.h"

namespace quern {
namespace {

using testing::MemorySource;
using testing::ModelSpec;
using testing::random_model;
using testing::random_tokens;
using testing::ReferenceDecoder;
using testing::ReferenceRope;
using testing::Runner;

/// The largest difference, relative to the largest logit.
double difference(std::span<const float> logits, const std::vector<testing::Row>& reference) {
  double worst = 0, scale = 0;
  size_t i = 0;
  for (const auto& row : reference) {
    for (const double r : row) {
      worst = std::max(worst, std::abs(logits[i++] - r));
      scale = std::max(scale, std::abs(r));
    }
  }
  EXPECT_EQ(i, logits.size());
  return worst / scale;
}

void expect_reference(const MemorySource& source, const ModelSpec& spec, const ReferenceRope& rope,
                      int64_t context = 0) {
  const auto tokens = random_tokens(37, spec.vocab);
  Runner runner(source, {.max_batch_rows = 40, .context = context});
  const auto logits = runner.run(tokens);
  EXPECT_LT(difference(logits, ReferenceDecoder(source, spec, rope).run(tokens)), 1e-4);
}

void expect_reference(const ModelSpec& spec) {
  expect_reference(*random_model(spec), spec, testing::plain_rope(spec.head_dim));
}

// ---- each architecture and variant, F32 weights

TEST(Decoder, Llama) { expect_reference(ModelSpec{}); }
TEST(Decoder, LlamaWithoutGroups) { expect_reference(ModelSpec{.kv_heads = 4}); }
TEST(Decoder, LlamaWithBiases) { expect_reference(ModelSpec{.biases = true}); }
TEST(Decoder, LlamaTied) { expect_reference(ModelSpec{.tied = true}); }
TEST(Decoder, LlamaOfOddSizes) {
  expect_reference(
      ModelSpec{.dim = 84, .ffn = 101, .heads = 6, .kv_heads = 2, .head_dim = 14, .layers = 3, .vocab = 61});
}
TEST(Decoder, LlamaWithHeadsOfTheirOwnSize) {
  expect_reference(ModelSpec{.dim = 48, .heads = 3, .kv_heads = 1, .head_dim = 26});
}
TEST(Decoder, OneLayer) { expect_reference(ModelSpec{.layers = 1}); }
TEST(Decoder, Phi3) { expect_reference(ModelSpec{.arch = "phi3", .kv_heads = 4}); }
TEST(Decoder, Phi3WithGroups) { expect_reference(ModelSpec{.arch = "phi3", .tied = true}); }
TEST(Decoder, Qwen2) { expect_reference(ModelSpec{.arch = "qwen2", .biases = true}); }
TEST(Decoder, Qwen3) {
  expect_reference(ModelSpec{.arch = "qwen3", .dim = 48, .head_dim = 24, .tied = true});
}
TEST(Decoder, SlidingWindow) { expect_reference(ModelSpec{.window = 11}); }
TEST(Decoder, SlidingWindowOfOne) { expect_reference(ModelSpec{.window = 1}); }
TEST(Decoder, Mixtral) { expect_reference(ModelSpec{.ffn = 40, .experts = 5, .experts_used = 2}); }
TEST(Decoder, MixtralOneTensorPerExpert) {
  expect_reference(ModelSpec{.ffn = 40, .experts = 5, .experts_used = 3, .single_experts = true});
}

// ---- rope

TEST(DecoderRope, BaseFromTheFile) {
  const ModelSpec spec;
  const auto source = random_model(spec);
  source->set("llama.rope.freq_base", 5e5);
  expect_reference(*source, spec, testing::plain_rope(spec.head_dim, 5e5));
}

TEST(DecoderRope, PartOfAHead) {
  const ModelSpec spec{.arch = "phi3"};
  const auto source = random_model(spec);
  source->set("phi3.rope.dimension_count", uint64_t{10});
  auto rope = testing::plain_rope(10);
  rope.rotated = 10;
  expect_reference(*source, spec, rope);
}

TEST(DecoderRope, Llama3FactorsMultiplyTheFrequencies) {
  const ModelSpec spec;
  const auto source = random_model(spec);
  const std::vector<float> factors = {1, 1, 1.5f, 2, 3, 5, 8, 8};
  source->add("rope_freqs.weight", {8}, factors, DType::F32);
  const auto plain = testing::plain_rope(16);
  expect_reference(*source, spec, {[&](int64_t i, int64_t p) {
    return plain.angle(i, p) / factors[static_cast<size_t>(i)];
  }});
}

TEST(DecoderRope, LinearScalingByBothNames) {
  for (const char* key : {"llama.rope.scaling.factor", "llama.rope.scale_linear"}) {
    const ModelSpec spec;
    const auto source = random_model(spec);
    source->set(key, 4.0);
    const auto plain = testing::plain_rope(16);
    expect_reference(*source, spec, {[&](int64_t i, int64_t p) { return plain.angle(i, p) / 4; }});
    source->set("llama.rope.scaling.type", std::string("none"));
    expect_reference(*source, spec, plain);
  }
}

TEST(DecoderRope, Yarn) {
  const ModelSpec spec;
  const auto source = random_model(spec);
  source->set("llama.rope.scaling.type", std::string("yarn"));
  source->set("llama.rope.scaling.factor", 4.0);
  source->set("llama.rope.scaling.original_context_length", uint64_t{128});
  // The paper's ramp for 16 dimensions, base 10000, 128 tokens: dimension(turns) = 16 ln(128 / 2π turns) / 2
  // ln 10000; −0.39 for 32 turns and 2.62 for one, so it runs from 0 to 3.
  const auto plain = testing::plain_rope(16);
  const ReferenceRope yarn{[&](int64_t i, int64_t p) {
                             const double kept = i >= 3 ? 0 : 1 - static_cast<double>(i) / 3;
                             return plain.angle(i, p) * (kept + (1 - kept) / 4);
                           },
                           1 + 0.1 * std::log(4.0)};
  expect_reference(*source, spec, yarn);
}

TEST(DecoderRope, LongRopeFollowsTheContextInUse) {
  const ModelSpec spec{.arch = "phi3", .context = 512};
  const auto source = random_model(spec);
  std::vector<float> longer = {1, 1.2f, 2, 3, 4, 6, 8, 9}, shorter = {1, 1, 1, 1.1f, 1.1f, 1.2f, 1.3f, 1.4f};
  source->add("rope_factors_long.weight", {8}, longer, DType::F32);
  source->add("rope_factors_short.weight", {8}, shorter, DType::F32);
  source->set("phi3.rope.scaling.original_context_length", uint64_t{128});
  source->set("phi3.rope.scaling.attn_factor", 1.19);
  const auto plain = testing::plain_rope(16);
  const auto by = [&](const std::vector<float>& divisors) {
    return ReferenceRope{[&plain, &divisors](int64_t i, int64_t p) {
                           return plain.angle(i, p) / divisors[static_cast<size_t>(i)];
                         },
                         1.19};
  };
  expect_reference(*source, spec, by(shorter), 128);
  expect_reference(*source, spec, by(longer), 129);
  expect_reference(*source, spec, by(longer));  // the model's own context
}

// ---- the same bits, however a step is cut

class DecoderBits : public ::testing::TestWithParam<ModelSpec> {};

TEST_P(DecoderBits, ChunksAndSingleTokensAndOneStepAgree) {
  const auto source = random_model(GetParam());
  Runner runner(*source);
  const auto tokens = random_tokens(71, GetParam().vocab);
  const auto whole = runner.run(tokens);
  for (const float v : whole) ASSERT_TRUE(std::isfinite(v));
  const int64_t odd[] = {7, 32, 1, 30},
                ones[] = {1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1};
  EXPECT_EQ(whole, runner.run(tokens, odd));
  EXPECT_EQ(whole, runner.run(tokens, ones));
}

TEST_P(DecoderBits, ThreadsDoNotMatter) {
  const auto source = random_model(GetParam());
  const auto tokens = random_tokens(19, GetParam().vocab);
  EXPECT_EQ(Runner(*source).run(tokens), Runner(*source, {}, 3).run(tokens));
}

TEST_P(DecoderBits, SequencesTogetherAgreeWithEachAlone) {
  const auto source = random_model(GetParam());
  Runner runner(*source);
  const int64_t vocab = GetParam().vocab;
  const std::vector<std::vector<int32_t>> prompts = {random_tokens(1, vocab, 1), random_tokens(40, vocab, 2),
                                                     random_tokens(17, vocab, 3), random_tokens(5, vocab, 4)};
  std::vector<std::vector<float>> alone;
  for (const auto& prompt : prompts) alone.push_back(runner.run(prompt));
  std::vector<testing::TestSequence> sequences(prompts.size());
  std::vector<std::vector<float>> together(prompts.size());
  // Steps of unequal parts; each sequence joins one step later than the one before.
  std::vector<size_t> at(prompts.size(), 0);
  for (size_t step = 0;; ++step) {
    std::vector<Runner::Part> parts;
    std::vector<size_t> who;
    for (size_t i = 0; i < prompts.size() && i <= step; ++i) {
      const size_t count = std::min(prompts[i].size() - at[i], (step + i) % 9 + 1);
      if (count == 0) continue;
      parts.push_back({&sequences[i], std::span(prompts[i]).subspan(at[i], count)});
      who.push_back(i);
      at[i] += count;
    }
    if (parts.empty()) break;
    const auto logits = runner.step(parts);
    size_t next = 0;
    for (size_t k = 0; k < parts.size(); ++k) {
      const size_t n = parts[k].tokens.size() * static_cast<size_t>(vocab);
      together[who[k]].insert(together[who[k]].end(), logits.begin() + static_cast<int64_t>(next),
                              logits.begin() + static_cast<int64_t>(next + n));
      next += n;
    }
  }
  EXPECT_EQ(alone, together);
}

TEST_P(DecoderBits, SomeRowsOrNone) {
  const auto source = random_model(GetParam());
  Runner runner(*source);
  const auto tokens = random_tokens(33, GetParam().vocab);
  const auto vocab = static_cast<int64_t>(GetParam().vocab);
  const auto all = runner.run(tokens);
  testing::TestSequence sequence;
  runner.step({{&sequence, std::span(tokens).first(20)}}, std::vector<int32_t>{});
  const auto some = runner.step({{&sequence, std::span(tokens).subspan(20)}}, std::vector<int32_t>{0, 5, 12});
  std::vector<float> expected;
  for (const int64_t row : {20, 25, 32})
    expected.insert(expected.end(), all.begin() + row * vocab, all.begin() + (row + 1) * vocab);
  EXPECT_EQ(some, expected);
}

INSTANTIATE_TEST_SUITE_P(
    Specs, DecoderBits,
    ::testing::Values(ModelSpec{.dtype = DType::F32}, ModelSpec{.dtype = DType::F16},
                      ModelSpec{.ffn = 128, .dtype = DType::Q8_0},
                      ModelSpec{.dim = 256, .ffn = 512, .head_dim = 64, .dtype = DType::Q4_K},
                      ModelSpec{.dim = 256, .ffn = 256, .head_dim = 64, .window = 19, .dtype = DType::Q6_K},
                      ModelSpec{.ffn = 64, .experts = 4, .experts_used = 2, .dtype = DType::Q8_0},
                      ModelSpec{.arch = "phi3", .ffn = 96, .kv_heads = 4, .dtype = DType::Q4_0},
                      ModelSpec{.arch = "qwen2", .ffn = 96, .biases = true, .dtype = DType::BF16},
                      ModelSpec{
                          .arch = "qwen3", .ffn = 96, .head_dim = 32, .tied = true, .dtype = DType::Q5_1}));

// ---- equal models, stored in different ways

std::vector<float> logits_of(const WeightSource& source, int64_t vocab) {
  return Runner(source).run(random_tokens(29, vocab));
}

TEST(DecoderStorage, TiedHeadEqualsACopy) {
  const ModelSpec spec{.tied = true, .dtype = DType::F16};
  const auto tied = random_model(spec);
  const auto copied = random_model(spec);
  copied->add("output.weight", {spec.vocab, spec.dim}, copied->values("token_embd.weight"), DType::F16);
  EXPECT_EQ(logits_of(*tied, spec.vocab), logits_of(*copied, spec.vocab));
}

TEST(DecoderStorage, StackedExpertsEqualSingleOnes) {
  for (const DType dtype : {DType::F32, DType::F16, DType::Q8_0, DType::Q4_0}) {
    ModelSpec spec{.ffn = 64, .experts = 6, .experts_used = 2, .single_experts = true, .dtype = dtype};
    const auto single = random_model(spec);
    // The stack holds the very bytes of the single tensors, one after another.
    const auto stacked = random_model(spec);
    std::vector<std::vector<std::byte>> memory;
    memory.reserve(static_cast<size_t>(3 * spec.layers));
    for (int64_t layer = 0; layer < spec.layers; ++layer) {
      for (const std::string kind : {"ffn_gate", "ffn_up", "ffn_down"}) {
        const std::string p = "blk." + std::to_string(layer) + "." + kind;
        auto& bytes = memory.emplace_back();
        for (int64_t e = 0; e < spec.experts; ++e) {
          const auto one = stacked->find(p + "." + std::to_string(e) + ".weight")->data;
          bytes.insert(bytes.end(), one.begin(), one.end());
        }
        RawTensor* first = stacked->edit(p + ".0.weight");
        first->name = p + "_exps.weight";
        first->shape.insert(first->shape.begin(), spec.experts);
        first->data = bytes;
      }
    }
    EXPECT_EQ(logits_of(*single, spec.vocab), logits_of(*stacked, spec.vocab));
  }
}

TEST(DecoderStorage, AWindowBeyondTheSequenceChangesNothing) {
  const ModelSpec spec;
  const auto plain = random_model(spec);
  const auto wide = random_model(spec);
  wide->set("llama.attention.sliding_window", uint64_t{4096});
  EXPECT_EQ(logits_of(*plain, spec.vocab), logits_of(*wide, spec.vocab));
  wide->set("llama.attention.sliding_window", uint64_t{8});
  EXPECT_NE(logits_of(*plain, spec.vocab), logits_of(*wide, spec.vocab));
}

TEST(DecoderStorage, Phi3IgnoresItsWindowKeyAsLlamaCppDoes) {
  const ModelSpec spec{.arch = "phi3"};
  const auto plain = random_model(spec);
  const auto window = random_model(spec);
  window->set("phi3.attention.sliding_window", uint64_t{8});
  EXPECT_EQ(logits_of(*plain, spec.vocab), logits_of(*window, spec.vocab));
}

// GGUF's conversion of Llama puts row i of a head's halves at 2i and 2i + 1; a checkpoint has them at i and i
// + n/2.
std::vector<float> to_halves(const std::vector<float>& rows, int64_t cols, int64_t head_dim) {
  std::vector<float> out(rows.size());
  const int64_t count = static_cast<int64_t>(rows.size()) / cols;
  for (int64_t r = 0; r < count; ++r) {
    const int64_t head = r / head_dim * head_dim, i = r % head_dim;
    const int64_t to = head + i / 2 + (i % 2) * (head_dim / 2);
    std::copy_n(rows.begin() + r * cols, cols, out.begin() + to * cols);
  }
  return out;
}

TEST(DecoderStorage, HuggingFaceNamesAndRowOrder) {
  const ModelSpec spec{.layers = 1};
  const auto gguf = random_model(spec);
  const auto hf = random_model(spec);
  for (const char* name : {"blk.0.attn_q.weight", "blk.0.attn_k.weight"}) {
    const auto shape = hf->find(name)->shape;
    hf->add(name, shape, to_halves(gguf->values(name), spec.dim, spec.head_dim), DType::F32);
  }
  const std::pair<const char*, const char*> names[] = {
      {"token_embd.weight", "model.embed_tokens.weight"},
      {"output.weight", "lm_head.weight"},
      {"output_norm.weight", "model.norm.weight"},
      {"blk.0.attn_norm.weight", "model.layers.0.input_layernorm.weight"},
      {"blk.0.ffn_norm.weight", "model.layers.0.post_attention_layernorm.weight"},
      {"blk.0.attn_q.weight", "model.layers.0.self_attn.q_proj.weight"},
      {"blk.0.attn_k.weight", "model.layers.0.self_attn.k_proj.weight"},
      {"blk.0.attn_v.weight", "model.layers.0.self_attn.v_proj.weight"},
      {"blk.0.attn_output.weight", "model.layers.0.self_attn.o_proj.weight"},
      {"blk.0.ffn_gate.weight", "model.layers.0.mlp.gate_proj.weight"},
      {"blk.0.ffn_up.weight", "model.layers.0.mlp.up_proj.weight"},
      {"blk.0.ffn_down.weight", "model.layers.0.mlp.down_proj.weight"}};
  for (const auto& [from, to] : names) hf->rename(from, to);
  const auto a = logits_of(*gguf, spec.vocab), b = logits_of(*hf, spec.vocab);
  for (size_t i = 0; i < a.size(); ++i) ASSERT_NEAR(a[i], b[i], 1e-4) << i;
}

// ---- what a caller can get wrong

TEST(DecoderErrors, StepsThatCannotBeRun) {
  const auto source = random_model(ModelSpec{});
  Runner runner(*source, {.max_batch_rows = 4});
  std::vector<float> logits(5 * 50);
  const int32_t blocks[] = {0, 1}, rows[] = {0}, bad_rows[] = {2}, twice[] = {0, 0};
  const auto run = [&](std::vector<int32_t> tokens, SequenceSlice slice, std::span<const int32_t> wanted) {
    slice.count = static_cast<int32_t>(tokens.size());
    return runner.model().forward({tokens, {&slice, 1}, wanted}, runner.cache(), logits);
  };
  EXPECT_TRUE(run({1, 2}, {.blocks = blocks}, rows).has_value());
  EXPECT_EQ(run({1, 2, 3, 4, 5}, {.blocks = blocks}, rows).error().code, ErrorCode::invalid_argument);
  EXPECT_EQ(run({1, 50}, {.blocks = blocks}, rows).error().code, ErrorCode::invalid_argument);
  EXPECT_EQ(run({1, -1}, {.blocks = blocks}, rows).error().code, ErrorCode::invalid_argument);
  EXPECT_FALSE(run({1, 2}, {.start = 31, .blocks = blocks}, rows).has_value());
  EXPECT_FALSE(run({1, 2}, {.row = 1, .blocks = blocks}, rows).has_value());
  EXPECT_FALSE(run({1, 2}, {.blocks = blocks}, bad_rows).has_value());
  EXPECT_FALSE(run({1, 2}, {.blocks = blocks}, twice).has_value());
}

}  // namespace
}  // namespace quern
