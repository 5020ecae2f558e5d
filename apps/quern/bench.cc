// quern bench: prefill and decode speed of a model, beside what the machine could do.
#include <algorithm>
#include <chrono>
#include <cmath>
#include <nlohmann/json.hpp>
#include <numeric>

#include "backend/cpu/machine.h"
#include "command.h"
#include "fetch_model.h"
#include "models/gguf_tensors.h"
#include "models/model.h"
#include "quant/quant.h"

namespace quern {
namespace {

using Clock = std::chrono::steady_clock;

struct BenchFlags {
  CommonFlags common;
  std::string model;
  int64_t prompt = 512;
  int64_t generate = 128;
  std::vector<int64_t> batches = {1, 4, 8};
  int64_t depth = 0;
  int64_t repeats = 3;
  bool json = false;
};

/// What one run did, beside what the CPU could do right before or after it, whichever is more. The shares
/// mean something where the CPU did it.
struct Run {
  double tokens_per_second = 0;
  double gb_s = 0;  // 10^9 bytes of weights a second, each read once a step
  double gops = 0;  // 10^9 operations a second, 2 per weight and token
  double bandwidth_share = 0;
  double compute_share = 0;
};

struct Measured {
  std::string phase;
  int64_t batch = 1;
  int64_t tokens = 0;
  Run run;  // of each figure the median
};

/// What a run amounts to.
struct Work {
  double tokens = 0, bytes = 0, ops = 0;
};

/// Weights that one step reads: every matrix of the layers, and the head where logits are wanted.
struct WeightCount {
  double layer_bytes = 0, layer_weights = 0, head_bytes = 0, head_weights = 0;
};

Result<WeightCount> count_weights(const WeightSource& source, const ModelConfig& config) {
  WeightCount count;
  // By roles: files of both kinds name their tensors differently.
  QUERN_TRY(const auto tensors, gguf_tensors(source));
  const bool tied =
      std::ranges::none_of(tensors, [](const auto& tensor) { return tensor.role == Role::output; });
  for (const GgufTensorPlan& tensor : tensors) {
    double bytes = 0, weights = 0;
    for (const RawTensor* part : tensor.parts) {
      bytes += static_cast<double>(stored_bytes(*part));
      weights += static_cast<double>(part->elements());
    }
    if (tensor.role == Role::output || (tied && tensor.role == Role::token_embd)) {
      count.head_bytes += bytes;
      count.head_weights += weights;
    } else if (tensor.layer >= 0) {
      // Of a stack of experts a token uses some.
      const bool expert = tensor.role >= Role::experts_gate;
      const double used = expert && config.experts > 0
                              ? static_cast<double>(config.experts_used) / static_cast<double>(config.experts)
                              : 1.0;
      count.layer_bytes += bytes * used;
      count.layer_weights += weights * used;
    }
  }
  return count;
}

/// Rows of a prompt that go into one step.
int64_t chunk_of(const Backend& backend) { return std::max<int64_t>(backend.prompt_rows(), 512); }

/// Runs a model by itself: `sequences` sequences side by side, each in its own blocks.
class Runner {
 public:
  static Result<Runner> create(Backend& backend, Model& model, KvType type, int64_t sequences,
                               int64_t length) {
    Runner runner(model);
    const int64_t block_size = 32;
    runner.blocks_each_ = (length + block_size - 1) / block_size;
    QUERN_TRY(runner.cache_, KvCache::create(backend, model.kv_shape(block_size, type), model.config().layers,
                                             runner.blocks_each_ * sequences));
    runner.blocks_.resize(static_cast<size_t>(runner.blocks_each_ * sequences));
    std::iota(runner.blocks_.begin(), runner.blocks_.end(), 0);
    const auto logits = static_cast<size_t>(sequences * model.config().vocab);
    QUERN_TRY(runner.logits_memory_, backend.alloc_host(logits * sizeof(float)));
    runner.logits_ = {static_cast<float*>(runner.logits_memory_->data()), logits};
    return runner;
  }

  /// `count` more tokens for one sequence, logits of the last.
  Result<> prefill(int64_t sequence, int64_t start, int64_t count, int64_t chunk) {
    for (int64_t done = 0; done < count; done += chunk) {
      const int64_t rows = std::min(chunk, count - done);
      fill_tokens(rows, start + done);
      const SequenceSlice slice = {0, static_cast<int32_t>(rows), static_cast<int32_t>(start + done),
                                   blocks_of(sequence)};
      const int32_t last = static_cast<int32_t>(rows - 1);
      const size_t wanted = done + rows == count ? 1 : 0;
      QUERN_TRY_VOID(model_->forward({tokens_, {&slice, 1}, {&last, wanted}}, *cache_,
                                     {logits_.data(), wanted * vocab()}));
    }
    return {};
  }

  /// One token for each sequence at position `position`, of whose logits a greedy sampler's part is read.
  Result<> decode(int64_t sequences, int64_t position) {
    fill_tokens(sequences, position);
    std::vector<SequenceSlice> slices;
    std::vector<int32_t> rows(static_cast<size_t>(sequences));
    std::iota(rows.begin(), rows.end(), 0);
    for (int64_t s = 0; s < sequences; ++s)
      slices.push_back({static_cast<int32_t>(s), 1, static_cast<int32_t>(position), blocks_of(s)});
    const std::vector<float> scale(rows.size(), 1.0f);
    best_.assign(rows.size(), {});
    const BestWanted best{model_->config().vocab, scale, best_, [](size_t) { return true; }};
    return model_->forward({tokens_, slices, rows, &best}, *cache_, {logits_.data(), rows.size() * vocab()});
  }

 private:
  explicit Runner(Model& model) : model_(&model) {}
  size_t vocab() const { return static_cast<size_t>(model_->config().vocab); }
  void fill_tokens(int64_t count, int64_t salt) {
    tokens_.resize(static_cast<size_t>(count));
    for (int64_t i = 0; i < count; ++i)
      tokens_[static_cast<size_t>(i)] =
          static_cast<int32_t>((i * 7919 + salt * 104729 + 13) % model_->config().vocab);
  }
  std::span<const int32_t> blocks_of(int64_t sequence) const {
    return std::span(blocks_).subspan(static_cast<size_t>(sequence * blocks_each_),
                                      static_cast<size_t>(blocks_each_));
  }

  Model* model_;
  std::unique_ptr<KvCache> cache_;
  int64_t blocks_each_ = 0;
  std::vector<int32_t> blocks_, tokens_;
  std::vector<BestOfRow> best_;
  std::unique_ptr<DeviceBuffer> logits_memory_;
  std::span<float> logits_;
};

/// Of each figure the median.
Run median(const std::vector<Run>& runs) {
  const auto of = [&](double Run::*figure) {
    std::vector<double> values;
    for (const Run& run : runs) values.push_back(run.*figure);
    std::ranges::nth_element(values, values.begin() + static_cast<long>(values.size() / 2));
    return values[values.size() / 2];
  };
  return {of(&Run::tokens_per_second), of(&Run::gb_s), of(&Run::gops), of(&Run::bandwidth_share),
          of(&Run::compute_share)};
}

class Bench {
 public:
  Bench(Backend& backend, Model& model, Machine& machine, KvType type, const WeightCount& weights,
        const BenchFlags& flags)
      : backend_(backend), model_(model), machine_(machine), type_(type), weights_(weights), flags_(flags) {}

  Result<Measured> prefill() {
    const int64_t tokens = flags_.prompt, chunk = chunk_of(backend_);
    QUERN_TRY(Runner runner, Runner::create(backend_, model_, type_, 1, flags_.depth + tokens));
    QUERN_TRY_VOID(runner.prefill(0, 0, flags_.depth, chunk));
    const double chunks = std::ceil(static_cast<double>(tokens) / static_cast<double>(chunk));
    const Work work{static_cast<double>(tokens), chunks * weights_.layer_bytes + weights_.head_bytes,
                    2 * (weights_.layer_weights * static_cast<double>(tokens) + weights_.head_weights)};
    QUERN_TRY(const Run run, measure(work, [&] { return runner.prefill(0, flags_.depth, tokens, chunk); }));
    return Measured{"prefill", 1, tokens, run};
  }

  Result<Measured> decode(int64_t batch) {
    const int64_t steps = flags_.generate;
    QUERN_TRY(Runner runner, Runner::create(backend_, model_, type_, batch, flags_.depth + steps));
    for (int64_t s = 0; s < batch; ++s) QUERN_TRY_VOID(runner.prefill(s, 0, flags_.depth, 512));
    const double n = static_cast<double>(steps), tokens = n * static_cast<double>(batch);
    const Work work{tokens, n * (weights_.layer_bytes + weights_.head_bytes),
                    2 * tokens * (weights_.layer_weights + weights_.head_weights)};
    QUERN_TRY(const Run run, measure(work, [&]() -> Result<> {
                for (int64_t i = 0; i < steps; ++i) QUERN_TRY_VOID(runner.decode(batch, flags_.depth + i));
                return {};
              }));
    return Measured{"decode", batch, steps, run};
  }

  /// The highest limits that were met.
  const MachineLimits& limits() const { return limits_; }

 private:
  /// The median run; the first one warms up and does not count. Limits are measured before and after each:
  /// other work on the machine changes them within seconds, and one that is too low flatters.
  template <class Body>
  Result<Run> measure(const Work& work, const Body& body) {
    QUERN_TRY_VOID(body());
    std::vector<Run> runs;
    MachineLimits before = machine_.measure();
    for (int i = 0; i < flags_.repeats; ++i) {
      const auto begin = Clock::now();
      QUERN_TRY_VOID(body());
      const double seconds = std::chrono::duration<double>(Clock::now() - begin).count();
      MachineLimits after = machine_.measure();
      const MachineLimits limits = higher(before, after);
      limits_ = higher(limits_, limits);
      before = std::move(after);
      const double gb_s = work.bytes / seconds / 1e9, gops = work.ops / seconds / 1e9;
      runs.push_back({work.tokens / seconds, gb_s, gops, gb_s / limits.read_gb_s, gops / limits.int8_gops});
    }
    return median(runs);
  }

  Backend& backend_;
  Model& model_;
  Machine& machine_;
  KvType type_;
  const WeightCount& weights_;
  const BenchFlags& flags_;
  MachineLimits limits_;
};

/// "83.1%"
std::string percent(double share) { return fmt::format("{:.1f}%", 100 * share); }

void print_table(const std::string& model, const Backend& backend, const MachineLimits& limits,
                 const std::vector<Measured>& results) {
  const bool on_cpu = backend.name() == "cpu";
  fmt::print("{} on {}", model, backend.description());
  if (on_cpu)
    fmt::print(": reads up to {:.1f} GB/s, int8 peak {:.0f} GOPS", limits.read_gb_s, limits.int8_gops);
  fmt::print("\n\n{:<8} {:>6} {:>7} {:>10} {:>8} {:>9} {:>8} {:>8}\n", "phase", "batch", "tokens", "tokens/s",
             "GB/s", "of reads", "GOPS", "of peak");
  for (const Measured& m : results)
    fmt::print("{:<8} {:>6} {:>7} {:>10.2f} {:>8.1f} {:>9} {:>8.0f} {:>8}\n", m.phase, m.batch, m.tokens,
               m.run.tokens_per_second, m.run.gb_s, on_cpu ? percent(m.run.bandwidth_share) : "-", m.run.gops,
               on_cpu ? percent(m.run.compute_share) : "-");
}

void print_report(const Backend& backend, const MachineLimits& limits, const std::vector<Measured>& results) {
  const auto share = [&](double value) {
    return backend.name() == "cpu" ? nlohmann::ordered_json(value) : nlohmann::ordered_json();
  };
  nlohmann::ordered_json report;
  report["machine"] = {{"cpu", limits.cpu},
                       {"isa", limits.isa},
                       {"threads", limits.threads},
                       {"device", backend.name()},
                       {"read_gb_s", limits.read_gb_s},
                       {"int8_gops", limits.int8_gops}};
  report["results"] = nlohmann::ordered_json::array();
  for (const Measured& m : results)
    report["results"].push_back({{"phase", m.phase},
                                 {"batch", m.batch},
                                 {"tokens", m.tokens},
                                 {"tokens_per_second", m.run.tokens_per_second},
                                 {"gb_s", m.run.gb_s},
                                 {"gops", m.run.gops},
                                 {"bandwidth_share", share(m.run.bandwidth_share)},
                                 {"compute_share", share(m.run.compute_share)}});
  print_json(report);
}

Result<> bench(const BenchFlags& flags) {
  QUERN_TRY(const Config config, flags.common.load(true));
  QUERN_TRY(const ModelFiles files, local_model(flags.common, config, model_or_default(flags.model, config)));
  QUERN_TRY(const auto source, open_model_source(files, config.model_path));
  QUERN_TRY(const auto backend, backend_of(config));
  QUERN_TRY(const KvType kv_type, kv_type_of(config, *backend));
  ModelOptions options;
  options.max_batch_rows = chunk_of(*backend);
  options.context = flags.depth + std::max(flags.prompt, flags.generate);
  QUERN_TRY(const auto model, load_model(*source, *backend, options));
  backend->settle();  // what is measured is the speed that stays
  QUERN_TRY(const WeightCount weights, count_weights(*source, model->config()));
  QUERN_TRY(Machine machine, Machine::open(config.threads));
  Bench bench(*backend, *model, machine, kv_type, weights, flags);
  std::vector<Measured> results;
  if (flags.prompt > 0) {
    QUERN_TRY(Measured prefill, bench.prefill());
    results.push_back(std::move(prefill));
  }
  if (flags.generate > 0) {
    for (const int64_t batch : flags.batches) {
      QUERN_TRY(Measured decode, bench.decode(batch));
      results.push_back(std::move(decode));
    }
  }
  if (flags.json)
    print_report(*backend, bench.limits(), results);
  else
    print_table(files.reference, *backend, bench.limits(), results);
  return {};
}

}  // namespace

void add_bench(CommandLine& line) {
  auto flags = std::make_shared<BenchFlags>();
  Arguments command = line.add("bench", "prefill and decode speed, beside the machine's limits",
                               [flags] { return status_of(bench(*flags)); });
  command.text("MODEL", flags->model, "model reference (default: the first allowed model)");
  command.number("-p,--prompt", flags->prompt, {0, 1 << 20}, "tokens of the prefill; 0: none");
  command.number("-n,--generate", flags->generate, {0, 1 << 20}, "tokens of the decode; 0: none");
  command.numbers("-b,--batch", flags->batches, {1, 256}, "sequences decoded at once");
  command.number("-d,--depth", flags->depth, {0, 1 << 20}, "tokens in the cache before");
  command.number("-r,--repeats", flags->repeats, {1, 100}, "runs; the median counts");
  command.flag("--json", flags->json, "print a JSON report");
  flags->common.add_to(command);
}

}  // namespace quern
