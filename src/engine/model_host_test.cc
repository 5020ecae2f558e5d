// The engine with real weights on the CPU, and the host that loads them.
#include "engine/model_host.h"

#include <gtest/gtest.h>
#include <stdlib.h>

#include <condition_variable>
#include <filesystem>
#include <fstream>
#include <map>
#include <mutex>
#include <thread>

#include "core/check.h"
#include "engine/embedded_guide.h"
#include "formats/gguf.h"
#include "models/random_model.h"

namespace quern {
namespace {

using namespace std::chrono_literals;
namespace fs = std::filesystem;

/// A folder that is gone when the test is over.
struct TemporaryFolder {
  fs::path path;
  TemporaryFolder() {
    std::string name = (fs::temp_directory_path() / "quern_engine_XXXXXX").string();
    QUERN_CHECK(mkdtemp(name.data()) != nullptr);
    path = name;
  }
  ~TemporaryFolder() {
    std::error_code ignored;
    fs::remove_all(path, ignored);
  }
};

/// SentencePiece with byte tokens and a few words: enough to encode and decode anything.
void add_vocabulary(testing::MemorySource& source, int64_t size) {
  std::vector<std::string> tokens{"<unk>", "<s>", "</s>"};
  std::vector<int64_t> types{2, 3, 3};
  for (int i = 0; i < 256; ++i) {
    tokens.push_back(fmt::format("<0x{:02X}>", i));
    types.push_back(6);
  }
  while (static_cast<int64_t>(tokens.size()) < size) {
    tokens.push_back(fmt::format("\xe2\x96\x81w{}", tokens.size()));
    types.push_back(1);
  }
  std::vector<double> scores;
  for (size_t i = 0; i < tokens.size(); ++i) scores.push_back(-static_cast<double>(i));
  source.set("tokenizer.ggml.model", std::string("llama"));
  source.set("tokenizer.ggml.tokens", Metadata::Array{tokens});
  source.set("tokenizer.ggml.scores", Metadata::Array{scores});
  source.set("tokenizer.ggml.token_type", Metadata::Array{types});
  source.set("tokenizer.ggml.bos_token_id", uint64_t{1});
  source.set("tokenizer.ggml.eos_token_id", uint64_t{2});
}

constexpr int64_t kVocab = 300;

void write_model(const fs::path& path, DType dtype, const std::string& chat_template = {}) {
  const auto source = testing::random_model({.vocab = kVocab, .context = 256, .dtype = dtype});
  add_vocabulary(*source, kVocab);
  if (!chat_template.empty()) source->set("tokenizer.chat_template", chat_template);
  std::vector<GgufTensor> tensors;
  for (const RawTensor& t : source->tensors()) tensors.push_back({t.name, t.dtype, t.shape});
  auto writer = GgufWriter::create(path, source->metadata(), tensors);
  ASSERT_TRUE(writer) << writer.error().message;
  for (const RawTensor& t : source->tensors()) {
    const auto written = (*writer)->write(t.data);
    ASSERT_TRUE(written) << written.error().message;
  }
  const auto finished = (*writer)->finish();
  ASSERT_TRUE(finished) << finished.error().message;
}

std::unique_ptr<Backend> cpu(int threads = 2) {
  auto backend = make_cpu_backend({.threads = threads});
  QUERN_CHECK(backend.has_value());
  return *std::move(backend);
}

struct Answer {
  std::string text;
  std::vector<int32_t> tokens;
  std::vector<float> logprobs, prompt_logprobs;
};

struct Pending {
  std::mutex mutex;
  std::condition_variable changed;
  Answer answer;
  std::optional<Finish> finish;
  bool ended = false;

  EventSink sink() {
    return [this](Event event) {
      const std::lock_guard lock(mutex);
      if (auto* info = std::get_if<PromptInfo>(&event)) {
        for (const TokenInfo& token : info->tokens) answer.prompt_logprobs.push_back(token.logprob);
      } else if (auto* delta = std::get_if<Delta>(&event)) {
        answer.text += delta->text;
        for (const TokenInfo& token : delta->tokens) {
          answer.tokens.push_back(token.token);
          answer.logprobs.push_back(token.logprob);
        }
      } else {
        if (auto* f = std::get_if<Finish>(&event)) finish = *f;
        ended = true;
      }
      changed.notify_all();
    };
  }
  void wait() {
    std::unique_lock lock(mutex);
    ASSERT_TRUE(changed.wait_for(lock, 120s, [&] { return ended; }));
    ASSERT_TRUE(finish) << "ended with an error";
  }
};

Request request_number(uint32_t i) {
  std::mt19937 random(i);
  Request request;
  // Every third shares a beginning, of more than one block.
  std::mt19937 shared(i % 3);
  for (int n = 0; n < 40; ++n) request.prompt.push_back(static_cast<int32_t>(shared() % kVocab));
  for (unsigned n = 1 + random() % 40; n-- > 0;)
    request.prompt.push_back(static_cast<int32_t>(random() % kVocab));
  request.sampling.temperature = i % 2 == 0 ? 0.0f : 0.8f;
  request.sampling.seed = i;
  request.max_tokens = static_cast<int32_t>(20 + random() % 40);
  request.top_logprobs = 1;
  request.prompt_logprobs = i % 4 == 0;
  request.ignore_eos = true;
  return request;
}

class RealModel : public ::testing::TestWithParam<DType> {};

// The promise that everything else relies on, with real kernels: to the bit, whatever runs beside, whatever
// is found in the prefix cache, however often a request is put back.
TEST_P(RealModel, AnswersDoNotDependOnWhatElseRuns) {
  constexpr uint32_t kRequests = 12;
  TemporaryFolder folder;
  const fs::path path = folder.path / "model.gguf";
  ASSERT_NO_FATAL_FAILURE(write_model(path, GetParam()));
  const auto backend = cpu(), single = cpu(1);

  const auto open = [&](EngineOptions engine, Backend& device) {
    HostOptions options;
    options.engine = engine;
    auto model = open_model(device, path.string(), options, {});
    EXPECT_TRUE(model) << model.error().message;
    return *std::move(model);
  };
  std::vector<Answer> alone;
  {
    const auto model = open({.max_running = 1, .block_size = 16, .prefix_caching = false}, *single);
    for (uint32_t i = 0; i < kRequests; ++i) {
      Pending pending;
      ASSERT_TRUE(model->engine->submit(request_number(i), pending.sink()));
      ASSERT_NO_FATAL_FAILURE(pending.wait());
      EXPECT_EQ(pending.answer.tokens.size(), static_cast<size_t>(request_number(i).max_tokens));
      alone.push_back(pending.answer);
    }
  }
  const auto model = open({.max_running = 8, .block_size = 16, .chunk_rows = 24}, *backend);
  // One context and no more: 256 tokens.
  const uint64_t block_bytes = backend->kv_block_bytes({.kv_heads = 2, .head_dim = 16, .block_size = 16}) * 2;
  const auto tight =
      open({.max_running = 8, .kv_bytes = 16 * block_bytes, .block_size = 16, .chunk_rows = 24}, *backend);
  for (const auto& served : {model, model, tight}) {
    SCOPED_TRACE(served == tight ? "few blocks" : "enough blocks");
    std::vector<Pending> pending(kRequests);
    {
      const std::lock_guard hold(backend->step_mutex);  // no step before all are there
      for (uint32_t i = 0; i < kRequests; ++i)
        ASSERT_TRUE(served->engine->submit(request_number(i), pending[i].sink()));
    }
    for (uint32_t i = 0; i < kRequests; ++i) {
      ASSERT_NO_FATAL_FAILURE(pending[i].wait());
      SCOPED_TRACE(i);
      EXPECT_EQ(pending[i].answer.text, alone[i].text);
      EXPECT_EQ(pending[i].answer.tokens, alone[i].tokens);
      EXPECT_EQ(pending[i].answer.logprobs, alone[i].logprobs);
      EXPECT_EQ(pending[i].answer.prompt_logprobs, alone[i].prompt_logprobs);
    }
    const EngineStats stats = served->engine->stats();
    EXPECT_EQ(stats.kv_blocks_free, stats.kv_blocks_total);
  }
  EXPECT_GT(model->engine->stats().cached_tokens, 0u);
  EXPECT_GT(tight->engine->stats().preemptions, 0u);
}

INSTANTIATE_TEST_SUITE_P(Types, RealModel, ::testing::Values(DType::F16, DType::Q8_0, DType::Q4_0));

/// Waits until no model is on its way any more.
std::map<std::string, ModelStatus> settled(const ModelHost& host) {
  for (int i = 0; i < 6000; ++i) {
    std::map<std::string, ModelStatus> result;
    bool busy = false;
    for (const ModelStatus& status : host.status()) {
      result[status.id] = status;
      busy |= status.state != ModelState::ready && status.state != ModelState::failed;
    }
    if (!busy) return result;
    std::this_thread::sleep_for(10ms);
  }
  ADD_FAILURE() << "models are still loading after a minute";
  return {};
}

TEST(ModelHost, LoadsWhatReferencesMean) {
  TemporaryFolder folder;
  fs::create_directories(folder.path / "one");
  fs::create_directories(folder.path / "two");
  fs::create_directories(folder.path / "none");
  for (const char* name : {"plain.gguf", "one/only.gguf", "two/a.gguf", "two/b.gguf"})
    ASSERT_NO_FATAL_FAILURE(write_model(folder.path / name, DType::F16));
  std::ofstream(folder.path / "broken.gguf") << "GGUF, but not really";
  const std::string absolute = (folder.path / "plain.gguf").string();

  const auto backend = cpu();
  HostOptions options;
  options.models = {"one",        absolute,      "two",          "none",
                    "plain.gguf", "broken.gguf", "missing.gguf", "owner/repo:Q4_K_M"};
  options.model_path = folder.path.string();
  options.engine.max_running = 2;
  const auto host = ModelHost::start(*backend, options);
  EXPECT_EQ(host->status().size(), options.models.size());
  auto status = settled(*host);
  for (const char* id : {"one", "plain.gguf"})
    EXPECT_EQ(status[id].state, ModelState::ready) << status[id].error;
  EXPECT_EQ(status[absolute].state, ModelState::ready);
  EXPECT_EQ(status["one"].context, 256);
  EXPECT_EQ(status["one"].architecture, "llama");
  EXPECT_EQ(status["one"].bytes_done, status["one"].bytes_total);
  EXPECT_GT(status["one"].bytes, 0u);
  EXPECT_GT(status["one"].parameters, 0);
  const auto failed_with = [&](const char* id, const char* text) {
    EXPECT_EQ(status[id].state, ModelState::failed) << id;
    EXPECT_NE(status[id].error.find(text), std::string::npos) << status[id].error;
  };
  failed_with("two", "a.gguf, b.gguf");
  failed_with("none", "no .gguf file");
  failed_with("broken.gguf", "broken.gguf");
  failed_with("missing.gguf", "no such file");
  failed_with("owner/repo:Q4_K_M", "give the path");

  EXPECT_EQ((*host->get(""))->id, "one") << "the first is the default";
  EXPECT_EQ((*host->get("plain.gguf"))->id, "plain.gguf");
  const auto unknown = host->get("gpt-4");
  EXPECT_EQ(unknown.error().code, ErrorCode::not_found);
  EXPECT_NE(unknown.error().message.find("plain.gguf"), std::string::npos) << "names what is served";
  const auto failed = host->get("owner/repo");
  EXPECT_EQ(failed.error().code, ErrorCode::unavailable) << "found without its selector";
  EXPECT_NE(failed.error().message.find("give the path"), std::string::npos);

  const auto model = *host->get("one");
  EXPECT_EQ(model->bos_text, "<s>");
  EXPECT_EQ(model->eos_text, "</s>");
  host->stop(1s);
  EXPECT_EQ(model->engine->submit(request_number(1), [](Event) {}).error().code, ErrorCode::unavailable);
}

TEST(ModelHost, ABrokenTemplateIsKeptAsAReason) {
  TemporaryFolder folder;
  ASSERT_NO_FATAL_FAILURE(write_model(folder.path / "good.gguf", DType::F16, "{{ messages[0].content }}"));
  ASSERT_NO_FATAL_FAILURE(write_model(folder.path / "bad.gguf", DType::F16, "{% for x in %}"));
  const auto backend = cpu();
  HostOptions options;
  options.engine.max_running = 1;
  const auto good = open_model(*backend, (folder.path / "good.gguf").string(), options, {});
  ASSERT_TRUE(good) << good.error().message;
  EXPECT_NE((*good)->chat_template, nullptr);
  const auto bad = open_model(*backend, (folder.path / "bad.gguf").string(), options, {});
  ASSERT_TRUE(bad) << bad.error().message;
  EXPECT_EQ((*bad)->chat_template, nullptr);
  EXPECT_NE((*bad)->chat_template_problem.find("does not parse"), std::string::npos);
}

TEST(ModelHost, MemoryIsALimit) {
  TemporaryFolder folder;
  const std::string path = (folder.path / "model.gguf").string();
  ASSERT_NO_FATAL_FAILURE(write_model(path, DType::F16));
  const auto backend = cpu();
  HostOptions options;
  options.memory_limit = 1000;
  const auto refused = open_model(*backend, path, options, {});
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, ErrorCode::resource_exhausted);
  const auto source = open_model_source(path, "");
  ASSERT_TRUE(source);
  // Two blocks beside the weights: the context shrinks to them.
  const uint64_t block_bytes = backend->kv_block_bytes({.kv_heads = 2, .head_dim = 16, .block_size = 32}) * 2;
  options.memory_limit = (*source)->bytes() + 2 * block_bytes + block_bytes / 2;
  const auto tight = open_model(*backend, path, options, {});
  ASSERT_TRUE(tight) << tight.error().message;
  EXPECT_EQ((*tight)->engine->context(), 64);
  EXPECT_LE((*tight)->bytes, options.memory_limit);
}

TEST(ModelHost, GoesAwayWhileLoading) {
  TemporaryFolder folder;
  const std::string path = (folder.path / "model.gguf").string();
  ASSERT_NO_FATAL_FAILURE(write_model(path, DType::F16));
  const auto backend = cpu();
  HostOptions options;
  options.models = {path, "nothing.gguf", path};
  for (int i = 0; i < 5; ++i) {
    const auto host = ModelHost::start(*backend, options);
    std::this_thread::sleep_for(std::chrono::milliseconds(i));
    if (i % 2 == 0) host->stop(0ms);
  }
}

TEST(EmbeddedGuide, IsAModelOrIsNotThere) {
  if (embedded_guide().empty()) {
    const auto source = open_model_source("quern/guide", "");
    ASSERT_FALSE(source);
    EXPECT_NE(source.error().message.find("built without the bundled model"), std::string::npos);
    GTEST_SKIP() << "this build has no bundled model";
  }
  const auto backend = cpu();
  HostOptions options;
  const auto model = open_model(*backend, "quern/guide", options, {});
  ASSERT_TRUE(model) << model.error().message;
  EXPECT_NE((*model)->chat_template, nullptr);
  Pending pending;
  Request request;
  request.prompt = (*model)->tokenizer->encode("What is Quern?");
  request.sampling.temperature = 0;
  request.max_tokens = 8;
  ASSERT_TRUE((*model)->engine->submit(request, pending.sink()));
  ASSERT_NO_FATAL_FAILURE(pending.wait());
  EXPECT_FALSE(pending.answer.text.empty());
}

}  // namespace
}  // namespace quern
