// Everything that a served model is made of, put together.
#include <algorithm>
#include <chrono>
#include <cmath>
#include <utility>

#include "core/log.h"
#include "engine/memory.h"
#include "engine/served_model.h"
#include "models/summary.h"

namespace quern {
namespace {

/// Of metadata and tokenizer, for each token. Measured: 140 for SentencePiece with 32,000 tokens, 170 for
/// byte-level BPE with 50,000.
constexpr uint64_t kTokenBytes = 200;

/// Where a template can come from when the model has none of its own.
constexpr std::string_view kOtherTemplate =
    "owner/repo@tokenizer-repo takes another repository's, or use a file with tokenizer.chat_template";

void choose_template(ServedModel& model) {
  const TemplateChoice choice = choose_chat_template(model.source->metadata(), model.source->name());
  if (choice.source.empty()) {
    model.chat_template_problem = "it is a base model or its template is not known";
    log::info("no chat template is known for this model: it answers completions, not chats",
              {{"model", model.id}, {"for another", kOtherTemplate}});
    return;
  }
  auto parsed = ChatTemplate::parse(choice.source);
  if (!parsed) {
    model.chat_template_problem =
        fmt::format("its template ({}) does not parse: {}", choice.origin, parsed.error().message);
    log::warn("the chat template does not parse: the model answers completions, not chats",
              {{"model", model.id},
               {"template", choice.origin},
               {"error", parsed.error().message},
               {"for another", kOtherTemplate}});
    return;
  }
  model.chat_template = *std::move(parsed);
  if (!choice.tool_source.empty()) {
    auto for_tools = ChatTemplate::parse(choice.tool_source);
    if (for_tools) {
      model.tool_template = *std::move(for_tools);
    } else {
      log::warn("the chat template for tools does not parse: the plain one is used",
                {{"model", model.id}, {"error", for_tools.error().message}});
    }
  }
  log::info("chat template chosen",
            {{"model", model.id}, {"template", choice.origin}, {"for another", kOtherTemplate}});
}

Result<> read_text_side(ServedModel& model) {
  std::vector<std::string> warnings;
  QUERN_TRY(model.tokenizer, Tokenizer::from_metadata(model.source->metadata(), &warnings));
  for (const std::string& warning : warnings) log::warn(warning, {{"model", model.id}});
  const Tokenizer& tokenizer = *model.tokenizer;
  if (tokenizer.bos() >= 0) model.bos_text = tokenizer.raw(tokenizer.bos());
  if (tokenizer.eos() >= 0) model.eos_text = tokenizer.raw(tokenizer.eos());
  choose_template(model);
  return {};
}

/// Most rows of one step.
int64_t batch_rows(const EngineOptions& engine, const ModelOptions& model) {
  return std::max(model.max_batch_rows, engine.max_running + engine.chunk_rows);
}

/// About what the metadata and the tokenizer made of it take.
uint64_t text_memory(const ModelConfig& config) { return static_cast<uint64_t>(config.vocab) * kTokenBytes; }

/// A conversation of this length has room even where several models share the memory.
constexpr int64_t kSharedContext = 4096;

void log_ready(const ServedModel& model, double seconds) {
  log::info("model ready", {{"model", model.id},
                            {"seconds", std::round(seconds * 100) / 100},
                            {"architecture", model.architecture},
                            {"quantization", model.quantization},
                            {"bytes", model.bytes},
                            {"context", model.engine->context()},
                            {"kv_blocks", model.engine->stats().kv_blocks_total},
                            {"device", model.device}});
}

}  // namespace

Result<MemoryPlan> plan_memory(const Backend& backend, const WeightSource& source,
                               const EngineOptions& engine, uint64_t limit, size_t models) {
  QUERN_TRY(const ModelConfig config, read_model_config(source, engine.context));
  const KvShape shape{config.kv_heads, config.head_dim, engine.block_size, engine.kv_type};
  const uint64_t block = backend.kv_block_bytes(shape) * static_cast<uint64_t>(config.layers);
  const int64_t context = engine.context > 0 ? std::min(engine.context, config.context) : config.context;
  const auto bytes_of = [&](int64_t tokens) {
    return static_cast<uint64_t>((tokens + engine.block_size - 1) / engine.block_size) * block;
  };
  MemoryPlan plan;
  plan.weights = model_memory(source, backend, config, batch_rows(engine, {})) + text_memory(config);
  if (plan.weights > limit || limit - plan.weights < block)
    return fail(
        ErrorCode::resource_exhausted,
        "{}: the weights take {} bytes and the smallest KV cache {}, but the limit is {} bytes: use a "
        "smaller quantization or raise LLM_MEMORY_LIMIT",
        source.name(), plan.weights, block, limit);
  const uint64_t left = limit - plan.weights, share = limit / std::max<size_t>(models, 1);
  uint64_t full = 0;
  if (__builtin_mul_overflow(bytes_of(context), static_cast<uint64_t>(engine.max_running), &full))
    full = left;
  if (engine.kv_bytes > 0) full = std::min(full, engine.kv_bytes);
  const uint64_t fair = share > plan.weights ? share - plan.weights : 0;
  plan.kv = std::min({full, left, std::max(fair, bytes_of(std::min(context, kSharedContext)))});
  return plan;
}

Result<std::shared_ptr<ServedModel>> open_model(Backend& backend, const std::string& id,
                                                std::unique_ptr<WeightSource> source, const MemoryPlan& plan,
                                                const EngineOptions& engine,
                                                const ModelOptions& model_options, EngineObserver* observer) {
  const auto start = std::chrono::steady_clock::now();
  auto model = std::make_shared<ServedModel>();
  model->id = id;
  model->source = std::move(source);
  QUERN_TRY_VOID(read_text_side(*model));

  EngineOptions engine_options = engine;
  engine_options.kv_bytes = plan.kv;
  ModelOptions load_options = model_options;
  load_options.max_batch_rows = batch_rows(engine, model_options);
  if (load_options.context == 0) load_options.context = engine_options.context;
  QUERN_TRY(auto weights, load_model(*model->source, backend, load_options));
  model->parameters = weights->parameters();
  model->architecture = weights->config().architecture;
  model->quantization = quantization_name(*model->source);
  model->device = backend.description();

  const uint64_t block_bytes =
      backend.kv_block_bytes(weights->kv_shape(engine_options.block_size, engine_options.kv_type)) *
      static_cast<uint64_t>(weights->config().layers);
  QUERN_TRY(model->engine,
            Engine::create(backend, std::move(weights), model->tokenizer, engine_options, observer));
  model->bytes = plan.weights + block_bytes * static_cast<uint64_t>(model->engine->stats().kv_blocks_total);
  log_ready(*model, std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count());
  return model;
}

Result<std::shared_ptr<ServedModel>> open_model(Backend& backend, const ModelFiles& files,
                                                const LoadOptions& options, EngineObserver* observer) {
  ServedSource served;
  QUERN_TRY(served.source, open_model_source(files, options.model_path));
  if (options.transform) {
    QUERN_TRY(served, options.transform(files.reference, std::move(served.source), {}, {}));
  }
  const uint64_t limit = options.memory_limit > 0 ? options.memory_limit : available_memory(backend) / 10 * 9;
  QUERN_TRY(const MemoryPlan plan, plan_memory(backend, *served.source, options.engine, limit, 1));
  if (served.fill) QUERN_TRY_VOID(served.fill({}, {}));
  return open_model(backend, files.reference, std::move(served.source), plan, options.engine, {}, observer);
}

}  // namespace quern
