// Runs a model over token ids and writes logits, for the comparison with llama.cpp (compare.mjs).
//
// usage: quern_logits MODEL TOKENS.json OUT.f32 [--context N] [--prompt N] [--first N] [--chunk N]
// [--threads N]
//
// TOKENS.json is one array of ids. The first --prompt of them run in steps of --chunk rows, the others one by
// one, as an engine would. OUT gets vocab floats for each position from --first on; standard output gets one
// line of JSON.
#include <fmt/format.h>

#include <charconv>
#include <cstdio>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>
#include <numeric>
#include <string>

#include "formats/gguf.h"
#include "models/checkpoint.h"
#include "models/model.h"

namespace quern {
namespace {

struct Arguments {
  std::string model, tokens, out;
  std::map<std::string, int64_t> numbers = {
      {"--context", 0}, {"--prompt", 0}, {"--first", 0}, {"--chunk", 128}, {"--threads", 0}};
};

Result<Arguments> parse(int argc, char** argv) {
  Arguments a;
  std::vector<std::string> names;
  for (int i = 1; i < argc; ++i) {
    const std::string word = argv[i];
    const auto number = a.numbers.find(word);
    if (number == a.numbers.end()) {
      names.push_back(word);
      continue;
    }
    const std::string_view value = ++i < argc ? argv[i] : "";
    if (std::from_chars(value.data(), value.data() + value.size(), number->second).ec != std::errc())
      return fail(ErrorCode::invalid_argument, "{} wants a number", word);
  }
  if (names.size() != 3)
    return fail(ErrorCode::invalid_argument, "usage: quern_logits MODEL TOKENS.json OUT.f32");
  a.model = names[0];
  a.tokens = names[1];
  a.out = names[2];
  return a;
}

Result<std::vector<int32_t>> read_tokens(const std::string& path) {
  std::ifstream file(path);
  const auto json = nlohmann::json::parse(file, nullptr, /*allow_exceptions=*/false);
  if (!json.is_array() || json.empty()) return fail(ErrorCode::io, "{}: not an array of token ids", path);
  std::vector<int32_t> tokens;
  for (const auto& id : json) {
    if (!id.is_number_integer()) return fail(ErrorCode::io, "{}: not an array of token ids", path);
    tokens.push_back(id.get<int32_t>());
  }
  return tokens;
}

Result<> run(const Arguments& a) {
  QUERN_TRY(const auto tokens, read_tokens(a.tokens));
  const auto count = static_cast<int64_t>(tokens.size());
  QUERN_TRY(const auto backend, make_cpu_backend({.threads = static_cast<int>(a.numbers.at("--threads"))}));
  const bool folder = std::filesystem::is_directory(a.model);
  QUERN_TRY(const auto source, folder ? open_checkpoint(a.model, {}) : open_gguf(a.model));
  const int64_t chunk = a.numbers.at("--chunk");
  QUERN_TRY(const auto model,
            load_model(*source, *backend, {.max_batch_rows = chunk, .context = a.numbers.at("--context")}));
  const ModelConfig& config = model->config();
  const int64_t block_size = 32, blocks = (count + block_size - 1) / block_size;
  QUERN_TRY(const auto cache,
            KvCache::create(*backend, model->kv_shape(block_size, KvType::f16), config.layers, blocks));
  std::vector<int32_t> table(static_cast<size_t>(blocks));
  std::iota(table.rbegin(), table.rend(), 0);  // any order of blocks will do: backwards

  const int64_t prompt = std::min(count, a.numbers.at("--prompt")), first = a.numbers.at("--first");
  std::ofstream out(a.out, std::ios::binary);
  std::vector<float> logits;
  std::vector<int32_t> rows;
  for (int64_t at = 0, n = 0; at < count; at += n) {
    n = at < prompt ? std::min(chunk, prompt - at) : 1;
    rows.clear();
    for (int64_t i = std::max(at, first); i < at + n; ++i) rows.push_back(static_cast<int32_t>(i - at));
    logits.resize(rows.size() * static_cast<size_t>(config.vocab));
    const SequenceSlice slice{0, static_cast<int32_t>(n), static_cast<int32_t>(at), table};
    const auto part = std::span(tokens).subspan(static_cast<size_t>(at), static_cast<size_t>(n));
    QUERN_TRY_VOID(model->forward({part, {&slice, 1}, rows}, *cache, logits));
    out.write(reinterpret_cast<const char*>(logits.data()),
              static_cast<std::streamsize>(logits.size() * sizeof(float)));
  }
  if (!out.flush()) return fail(ErrorCode::io, "{}: cannot be written", a.out);
  fmt::print("{}\n", nlohmann::json{{"architecture", config.architecture},
                                    {"vocab", config.vocab},
                                    {"positions", count - first},
                                    {"backend", backend->description()}}
                         .dump());
  return {};
}

}  // namespace
}  // namespace quern

int main(int argc, char** argv) {
  const auto arguments = quern::parse(argc, argv);
  const auto done = arguments ? quern::run(*arguments) : quern::Result<>(quern::fail(arguments.error()));
  if (!done) {
    fmt::print(stderr, "error: {}\n", done.error().message);
    return 1;
  }
  return 0;
}
