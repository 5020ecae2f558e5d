// The engine with real weights on the CPU, and the host that loads them.
#include "engine/model_host.h"

#include <gtest/gtest.h>
#include <stdlib.h>

#include <atomic>
#include <condition_variable>
#include <filesystem>
#include <fstream>
#include <map>
#include <mutex>
#include <random>
#include <thread>

#include "core/check.h"
#include "engine/embedded_guide.h"
#include "engine/host_fixture.h"
#include "formats/gguf.h"

namespace quern {
namespace {

using namespace std::chrono_literals;
using namespace testing;
namespace fs = std::filesystem;

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
    LoadOptions options;
    options.engine = engine;
    auto model = open_model(device, path.string(), options);
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
  options.load.model_path = folder.path.string();
  options.load.engine.max_running = 2;
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
  EXPECT_EQ(model->engine->submit(request_number(1), [](const Event&) {}).error().code,
            ErrorCode::unavailable);
}

TEST(ModelHost, ABrokenTemplateIsKeptAsAReason) {
  TemporaryFolder folder;
  ASSERT_NO_FATAL_FAILURE(write_model(folder.path / "good.gguf", DType::F16, "{{ messages[0].content }}"));
  ASSERT_NO_FATAL_FAILURE(write_model(folder.path / "bad.gguf", DType::F16, "{% for x in %}"));
  const auto backend = cpu();
  LoadOptions options;
  options.engine.max_running = 1;
  const auto good = open_model(*backend, (folder.path / "good.gguf").string(), options);
  ASSERT_TRUE(good) << good.error().message;
  EXPECT_NE((*good)->chat_template, nullptr);
  const auto bad = open_model(*backend, (folder.path / "bad.gguf").string(), options);
  ASSERT_TRUE(bad) << bad.error().message;
  EXPECT_EQ((*bad)->chat_template, nullptr);
  EXPECT_NE((*bad)->chat_template_problem.find("does not parse"), std::string::npos);
}

TEST(ModelHost, MemoryIsALimit) {
  TemporaryFolder folder;
  const std::string path = (folder.path / "model.gguf").string();
  ASSERT_NO_FATAL_FAILURE(write_model(path, DType::F16));
  const auto backend = cpu();
  LoadOptions options;
  options.memory_limit = 1000;
  const auto refused = open_model(*backend, path, options);
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().code, ErrorCode::resource_exhausted);
  const auto source = open_model_source(path, "");
  ASSERT_TRUE(source);
  // Two blocks beside the weights: the context shrinks to them.
  const uint64_t block_bytes = backend->kv_block_bytes({.kv_heads = 2, .head_dim = 16, .block_size = 32}) * 2;
  const auto plan = plan_memory(*backend, **source, options.engine, uint64_t{1} << 30, 1);
  ASSERT_TRUE(plan) << plan.error().message;
  EXPECT_GT(plan->weights, (*source)->bytes()) << "activations count too";
  options.memory_limit = plan->weights + 2 * block_bytes + block_bytes / 2;
  const auto tight = open_model(*backend, path, options);
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

ModelStatus status_of(const ModelHost& host, const std::string& id) { return *host.status_of(id); }

/// A folder with three models, and options for a host whose memory holds two of them.
struct ThreeModels {
  TemporaryFolder folder;
  std::unique_ptr<Backend> backend = cpu(1);
  HostOptions options;
  uint64_t each = 0;  // bytes of one

  ThreeModels() {
    for (int i = 0; i < 3; ++i) {
      options.models.push_back(fmt::format("{}.gguf", i));
      write_model(folder.path / options.models.back(), DType::F16);
    }
    options.load.model_path = folder.path.string();
    options.load.engine.max_running = 1;  // then a model wants no less for being one of several
    options.patience = 20ms;
    options.retry_pause = 50ms;
    const auto source = open_model_source("0.gguf", options.load.model_path);
    each = plan_memory(*backend, **source, options.load.engine, uint64_t{1} << 30, 1)->total();
    options.load.memory_limit = 2 * each + each / 2;
  }
};

uint64_t bytes_in_memory(const ModelHost& host) {
  uint64_t bytes = 0;
  for (const ModelStatus& status : host.status()) bytes += status.bytes;
  return bytes;
}

TEST(ModelHost, UnloadsTheLeastRecentlyUsedIdleModel) {
  ThreeModels models;
  const auto host = ModelHost::start(*models.backend, models.options);
  ASSERT_NE(await_model(*host, "0.gguf"), nullptr);
  ASSERT_NE(await_model(*host, "1.gguf"), nullptr);
  EXPECT_EQ(status_of(*host, "2.gguf").state, ModelState::absent) << "nobody goes for what nobody asked for";
  ASSERT_NE(await_model(*host, "2.gguf"), nullptr);
  EXPECT_EQ(status_of(*host, "0.gguf").state, ModelState::absent);
  EXPECT_EQ(status_of(*host, "1.gguf").state, ModelState::ready);
  ASSERT_NE(await_model(*host, "1.gguf"), nullptr);  // used again: 2 is older now
  ASSERT_NE(await_model(*host, "0.gguf"), nullptr);
  EXPECT_EQ(status_of(*host, "2.gguf").state, ModelState::absent);
  EXPECT_EQ(status_of(*host, "2.gguf").bytes, 0u);
  EXPECT_LE(bytes_in_memory(*host), models.options.load.memory_limit);
}

TEST(ModelHost, AModelInUseStaysUntilItIsDrained) {
  ThreeModels models;
  models.options.load.memory_limit = models.each + models.each / 2;
  const auto host = ModelHost::start(*models.backend, models.options);
  auto held = await_model(*host, "0.gguf");
  ASSERT_NE(held, nullptr);
  EXPECT_EQ(*host->get("1.gguf"), nullptr);
  // It is wanted, and the other one is to go: no new users for that.
  std::shared_ptr<ServedModel> again = held;
  for (int i = 0; i < 1000 && again != nullptr; ++i, std::this_thread::sleep_for(10ms))
    again = *host->get("0.gguf");
  EXPECT_EQ(again, nullptr);
  EXPECT_EQ(status_of(*host, "0.gguf").state, ModelState::ready) << "it is still in use";
  held.reset();
  EXPECT_NE(await_model(*host, "1.gguf"), nullptr);
  EXPECT_NE(await_model(*host, "0.gguf"), nullptr) << "and its turn comes again";
}

TEST(ModelHost, RequestsAtRandomAmongMoreModelsThanFit) {
  ThreeModels models;
  std::vector<std::string> alone;
  for (const std::string& id : models.options.models) {
    const auto model = *open_model(*models.backend, id, models.options.load);
    Pending pending;
    ASSERT_TRUE(model->engine->submit(request_number(0), pending.sink()));
    ASSERT_NO_FATAL_FAILURE(pending.wait());
    alone.push_back(pending.answer.text);
  }
  const auto host = ModelHost::start(*models.backend, models.options);
  std::atomic<int> right{0};
  constexpr int kUsers = 4, kRequests = 25;
  {
    std::vector<std::jthread> users;
    for (int user = 0; user < kUsers; ++user)
      users.emplace_back([&, user] {
        std::mt19937 random(static_cast<unsigned>(user));
        for (int i = 0; i < kRequests; ++i) {
          const size_t which = random() % 3;
          const auto model = await_model(*host, models.options.models[which]);
          if (model == nullptr) continue;
          EXPECT_LE(bytes_in_memory(*host), models.options.load.memory_limit);
          Pending pending;
          if (!model->engine->submit(request_number(0), pending.sink())) continue;
          pending.wait();
          right += pending.answer.text == alone[which] ? 1 : 0;
        }
      });
  }
  EXPECT_EQ(right, kUsers * kRequests);
  EXPECT_GE(host->totals().generated_tokens, static_cast<uint64_t>(kUsers * kRequests * 20))
      << "unloaded ones count";
}

TEST(ModelHost, WhatCanNeverFitSaysBothNumbers) {
  ThreeModels models;
  models.options.load.memory_limit = 1000;
  const auto host = ModelHost::start(*models.backend, models.options);
  const auto status = settled(*host)["0.gguf"];
  EXPECT_EQ(status.state, ModelState::failed);
  EXPECT_NE(status.error.find("1000 bytes"), std::string::npos) << status.error;
  const auto source = *open_model_source("0.gguf", models.folder.path.string());
  const auto plan = plan_memory(*models.backend, *source, models.options.load.engine, uint64_t{1} << 30, 1);
  EXPECT_NE(status.error.find(std::to_string(plan->weights)), std::string::npos) << status.error;
}

TEST(ModelHost, AFailedModelIsTriedAgainAfterAPause) {
  TemporaryFolder folder;
  const std::string path = (folder.path / "late.gguf").string();
  const auto backend = cpu();
  HostOptions options;
  options.models = {path};
  options.load.engine.max_running = 1;
  options.retry_pause = 300ms;
  const auto host = ModelHost::start(*backend, options);
  EXPECT_EQ(settled(*host)[path].state, ModelState::failed);
  ASSERT_NO_FATAL_FAILURE(write_model(path, DType::F16));
  const auto refused = host->get(path);
  EXPECT_TRUE(!refused || *refused == nullptr);  // the pause may be over already
  std::this_thread::sleep_for(300ms);
  EXPECT_NE(await_model(*host, path), nullptr);
  EXPECT_EQ(status_of(*host, path).error, "");
}

TEST(ModelHost, AFileChangedOnDiskIsLoadedAgain) {
  TemporaryFolder folder;
  const std::string path = (folder.path / "model.gguf").string();
  write_model(path, DType::F16);
  const auto backend = cpu();
  HostOptions options;
  options.models = {path};
  options.load.engine.max_running = 1;
  options.retry_pause = 50ms;
  const auto host = ModelHost::start(*backend, options);
  auto first = await_model(*host, path);
  ASSERT_NE(first, nullptr);
  EXPECT_EQ(await_model(*host, path), first);

  const auto size = fs::file_size(path);
  fs::copy_file(path, path + ".whole");
  fs::resize_file(path, size / 2);
  EXPECT_EQ(*host->get(path), nullptr) << "nobody gets what is broken";
  std::this_thread::sleep_for(100ms);
  EXPECT_EQ(status_of(*host, path).state, ModelState::ready) << "as long as somebody holds it";
  first.reset();
  for (int i = 0; i < 1000 && status_of(*host, path).state != ModelState::failed; ++i)
    std::this_thread::sleep_for(10ms);
  EXPECT_EQ(status_of(*host, path).state, ModelState::failed) << "half a file";

  fs::rename(path + ".whole", path);
  std::shared_ptr<ServedModel> second;
  for (int i = 0; i < 1000 && second == nullptr; ++i, std::this_thread::sleep_for(10ms))
    if (const auto answer = host->get(path)) second = *answer;
  ASSERT_NE(second, nullptr);
  Pending pending;
  ASSERT_TRUE(second->engine->submit(request_number(0), pending.sink()));
  pending.wait();
}

TEST(ModelHost, FetchesWhatIsNotHere) {
  TemporaryFolder folder;
  const fs::path stored = folder.path / "stored.gguf";
  ASSERT_NO_FATAL_FAILURE(write_model(stored, DType::F16));
  const auto backend = cpu();
  HostOptions options;
  options.models = {"owner/gone", "owner/repo:Q8_0"};
  options.load.engine.max_running = 1;
  std::atomic<bool> seen{false}, go{false};
  options.fetch = [&](const std::string& reference, const FetchProgress& progress,
                      const std::stop_token&) -> Result<std::string> {
    if (reference == "owner/gone") return fail(ErrorCode::not_found, "owner/gone: no such repository");
    for (int i = 0; !go; i = (i + 1) % 100) {
      if (!progress(static_cast<uint64_t>(i), 100, ModelState::downloading))
        return fail(ErrorCode::cancelled, "cancelled");
      seen = true;
      std::this_thread::sleep_for(1ms);
    }
    return stored.string();
  };
  const auto host = ModelHost::start(*backend, options);
  while (!seen) std::this_thread::sleep_for(1ms);
  const ModelStatus status = status_of(*host, "owner/repo");
  EXPECT_EQ(status.state, ModelState::downloading);
  EXPECT_EQ(status.bytes_total, 100u);
  EXPECT_EQ(status_of(*host, "owner/gone").error, "owner/gone: no such repository");
  EXPECT_EQ(*host->get("owner/repo"), nullptr);
  go = true;
  const auto model = await_model(*host, "owner/repo");
  ASSERT_NE(model, nullptr);
  EXPECT_EQ(model->id, "owner/repo:Q8_0");
}

TEST(ModelHost, AFetchThatThrowsIsAFailedModel) {
  TemporaryFolder folder;
  const fs::path stored = folder.path / "stored.gguf";
  ASSERT_NO_FATAL_FAILURE(write_model(stored, DType::F16));
  const auto backend = cpu();
  HostOptions options;
  options.models = {"owner/large", "owner/broken", "owner/repo"};
  options.load.engine.max_running = 1;
  options.fetch = [&](const std::string& reference, const FetchProgress&,
                      const std::stop_token&) -> Result<std::string> {
    if (reference == "owner/large") throw std::bad_alloc();
    if (reference == "owner/broken") throw fs::filesystem_error("no disk", std::error_code());
    return stored.string();
  };
  const auto host = ModelHost::start(*backend, options);
  auto status = settled(*host);
  EXPECT_EQ(status["owner/large"].state, ModelState::failed);
  EXPECT_TRUE(status["owner/large"].error.starts_with("cannot be fetched: ")) << status["owner/large"].error;
  EXPECT_NE(status["owner/broken"].error.find("no disk"), std::string::npos) << status["owner/broken"].error;
  EXPECT_EQ(status["owner/repo"].state, ModelState::ready) << status["owner/repo"].error;
}

TEST(ModelHost, WhatIsHereDoesNotWaitForADownload) {
  TemporaryFolder folder;
  ASSERT_NO_FATAL_FAILURE(write_model(folder.path / "here.gguf", DType::F16));
  const auto backend = cpu();
  HostOptions options;
  options.models = {"owner/repo", "here.gguf", (folder.path / "here.gguf").string()};
  options.load.model_path = folder.path.string();
  options.load.engine.max_running = 1;
  options.fetch = [&](const std::string& reference, const FetchProgress& progress,
                      const std::stop_token&) -> Result<std::string> {
    EXPECT_EQ(reference, "owner/repo");
    while (progress(1, 2, ModelState::downloading)) std::this_thread::sleep_for(1ms);
    return fail(ErrorCode::cancelled, "cancelled");
  };
  const auto host = ModelHost::start(*backend, options);
  EXPECT_NE(await_model(*host, options.models[1]), nullptr);
  EXPECT_NE(await_model(*host, options.models[2]), nullptr);
  while (status_of(*host, "owner/repo").state == ModelState::absent)  // its thread may be late
    std::this_thread::sleep_for(1ms);
  EXPECT_EQ(status_of(*host, "owner/repo").state, ModelState::downloading);
}

TEST(ModelHost, GoesAwayWhileFetching) {
  const auto backend = cpu();
  HostOptions options;
  options.models = {"owner/repo"};
  options.fetch = [&](const std::string&, const FetchProgress& progress,
                      const std::stop_token&) -> Result<std::string> {
    while (progress(1, 2, ModelState::downloading)) std::this_thread::sleep_for(1ms);
    return fail(ErrorCode::cancelled, "cancelled");
  };
  const auto host = ModelHost::start(*backend, options);
  while (status_of(*host, "owner/repo").bytes_done == 0) std::this_thread::sleep_for(1ms);
}

TEST(EmbeddedGuide, IsAModelOrIsNotThere) {
  if (embedded_guide().empty()) {
    const auto source = open_model_source("quern/guide", "");
    ASSERT_FALSE(source);
    EXPECT_NE(source.error().message.find("built without the bundled model"), std::string::npos);
    GTEST_SKIP() << "this build has no bundled model";
  }
  const auto backend = cpu();
  LoadOptions options;
  const auto model = open_model(*backend, "quern/guide", options);
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
