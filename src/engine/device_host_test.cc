// Models on a GPU (its emulator): several at once, and a GPU that fails under them.
#include <gtest/gtest.h>

#include <thread>

#include "backend/device_for_test.h"
#include "engine/host_fixture.h"

#ifdef QUERN_CUDA_EMULATED
namespace quern {
namespace {

using namespace std::chrono_literals;
using namespace testing;

/// Two models on one GPU.
struct TwoModels {
  TemporaryFolder folder;
  std::shared_ptr<std::atomic<bool>> broken = std::make_shared<std::atomic<bool>>(false);
  std::unique_ptr<Backend> backend = breakable_backend(broken, {.batch_invariant = true});
  HostOptions options;
  std::unique_ptr<ModelHost> host;

  TwoModels() {
    options.models = {"f16.gguf", "q4.gguf"};
    write_model(folder.path / "f16.gguf", DType::F16);
    write_model(folder.path / "q4.gguf", DType::Q4_0);
    options.load.model_path = folder.path.string();
    options.load.engine.max_running = 3;
    options.load.engine.block_size = 16;
    host = ModelHost::start(*backend, options);
  }
};

Request short_request(uint32_t number) {
  Request request = request_number(number);
  request.prompt.resize(20);
  request.max_tokens = 8;
  request.prompt_logprobs = false;
  return request;
}

/// The model's answers to requests [0, count), asked at once.
std::vector<Answer> ask(ModelHost& host, const std::string& id, uint32_t count) {
  const auto model = await_model(host, id);
  std::vector<Pending> pending(count);
  if (model == nullptr) {
    ADD_FAILURE() << id << " does not come";
    return {};
  }
  for (uint32_t i = 0; i < count; ++i)
    EXPECT_TRUE(model->engine->submit(short_request(i), pending[i].sink()));
  std::vector<Answer> answers;
  for (Pending& p : pending) {
    p.wait();
    answers.push_back(p.answer);
  }
  return answers;
}

void expect_equal(const std::vector<Answer>& a, const std::vector<Answer>& b) {
  ASSERT_EQ(a.size(), b.size());
  for (size_t i = 0; i < a.size(); ++i) {
    EXPECT_EQ(a[i].tokens, b[i].tokens) << i;
    EXPECT_EQ(a[i].logprobs, b[i].logprobs) << i;
  }
}

TEST(DeviceHost, ModelsThatShareAGpuAnswerAsAlone) {
  TwoModels models;
  const auto one = ask(*models.host, "f16.gguf", 3), two = ask(*models.host, "q4.gguf", 3);
  std::vector<Answer> again[2];
  {
    std::jthread beside([&] { again[0] = ask(*models.host, "f16.gguf", 3); });
    again[1] = ask(*models.host, "q4.gguf", 3);
  }
  expect_equal(again[0], one);
  expect_equal(again[1], two);
}

TEST(DeviceHost, AGpuThatFailsEndsRequestsAndItsModelsComeBack) {
  TwoModels models;
  const auto one = ask(*models.host, "f16.gguf", 2), two = ask(*models.host, "q4.gguf", 2);
  {
    const auto model = await_model(*models.host, "f16.gguf");
    ASSERT_NE(model, nullptr);
    // In the midst of an answer, with others running and in the queue.
    std::vector<Pending> pending(5);
    for (uint32_t i = 0; i < pending.size(); ++i) {
      Request request = short_request(i);
      request.max_tokens = 100;
      EventSink sink = pending[i].sink();
      if (i == 0)
        sink = [sink, &models](Event event) {
          if (std::holds_alternative<Delta>(event)) *models.broken = true;
          sink(std::move(event));
        };
      ASSERT_TRUE(model->engine->submit(std::move(request), sink));
    }
    for (Pending& p : pending) {
      std::unique_lock lock(p.mutex);
      ASSERT_TRUE(p.changed.wait_for(lock, 60s, [&] { return p.ended; }));
      ASSERT_TRUE(p.error.has_value());
      EXPECT_NE(p.error->message.find("failed"), std::string::npos) << p.error->message;
    }
    const auto refused = model->engine->submit(short_request(0), [](const Event&) {});
    ASSERT_FALSE(refused);
    EXPECT_EQ(refused.error().code, ErrorCode::unavailable);
    EXPECT_EQ(*models.host->get("f16.gguf"), nullptr) << "it is to be loaded again";
  }
  expect_equal(ask(*models.host, "f16.gguf", 2), one);
  EXPECT_FALSE(*models.broken);
  expect_equal(ask(*models.host, "q4.gguf", 2), two);
}

// Nobody was asking anything when it failed.
TEST(DeviceHost, AnIdleGpuThatFailsIsRestartedForTheNextRequest) {
  TwoModels models;
  const auto two = ask(*models.host, "q4.gguf", 2);
  ASSERT_NE(await_model(*models.host, "f16.gguf"), nullptr);
  *models.broken = true;
  expect_equal(ask(*models.host, "q4.gguf", 2), two);
}

}  // namespace
}  // namespace quern
#endif
