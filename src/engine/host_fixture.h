// Small models in files, and what asks them: for tests of the host and its engines with real weights.
#pragma once

#include <gtest/gtest.h>
#include <stdlib.h>

#include <chrono>
#include <condition_variable>
#include <filesystem>
#include <memory>
#include <mutex>
#include <optional>
#include <random>
#include <string>
#include <vector>

#include "core/check.h"
#include "engine/model_host.h"
#include "formats/gguf.h"
#include "models/random_model.h"

namespace quern::testing {

/// A folder that is gone when the test is over.
struct TemporaryFolder {
  std::filesystem::path path;
  TemporaryFolder() {
    std::string name = (std::filesystem::temp_directory_path() / "quern_engine_XXXXXX").string();
    QUERN_CHECK(mkdtemp(name.data()) != nullptr);
    path = name;
  }
  ~TemporaryFolder() {
    std::error_code ignored;
    std::filesystem::remove_all(path, ignored);
  }
};

/// SentencePiece with byte tokens and a few words: enough to encode and decode anything.
inline void add_vocabulary(MemorySource& source, int64_t size) {
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

inline void write_model(const std::filesystem::path& path, DType dtype, const std::string& chat_template = {},
                        const std::string& tool_template = {}) {
  const auto source = random_model({.vocab = kVocab, .context = 256, .dtype = dtype});
  add_vocabulary(*source, kVocab);
  if (!chat_template.empty()) source->set("tokenizer.chat_template", chat_template);
  if (!tool_template.empty()) source->set("tokenizer.chat_template.tool_use", tool_template);
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

inline std::unique_ptr<Backend> cpu(int threads = 2) {
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
  std::optional<Error> error;
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
        if (auto* e = std::get_if<Error>(&event)) error = *e;
        ended = true;
      }
      changed.notify_all();
    };
  }
  void wait() {
    std::unique_lock lock(mutex);
    ASSERT_TRUE(changed.wait_for(lock, std::chrono::seconds(120), [&] { return ended; }));
    ASSERT_TRUE(finish) << "ended with an error: " << (error ? error->message : "");
  }
};

inline Request request_number(uint32_t i) {
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

/// Asks until the model is there, as a connection does; null when it takes a minute.
inline std::shared_ptr<ServedModel> await_model(ModelHost& host, const std::string& id) {
  std::mutex mutex;
  std::condition_variable changed;
  bool look = true;
  const uint64_t watcher = host.watch([&] {
    const std::lock_guard lock(mutex);
    look = true;
    changed.notify_all();
  });
  std::shared_ptr<ServedModel> model;
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(60);
  while (model == nullptr && std::chrono::steady_clock::now() < deadline) {
    {
      std::unique_lock lock(mutex);
      if (!changed.wait_until(lock, deadline, [&] { return look; })) break;
      look = false;
    }
    auto answer = host.get(id);
    if (answer)
      model = *std::move(answer);
    else
      EXPECT_EQ(answer.error().code, ErrorCode::unavailable) << answer.error().message;
  }
  host.unwatch(watcher);
  return model;
}

}  // namespace quern::testing
