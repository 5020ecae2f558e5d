#include "http/metrics.h"

#include <prometheus/counter.h>
#include <prometheus/family.h>
#include <prometheus/histogram.h>
#include <prometheus/registry.h>
#include <prometheus/text_serializer.h>

#include <cmath>

#include "engine/model_host.h"

namespace quern {
namespace {

using prometheus::ClientMetric;
using prometheus::MetricFamily;
using prometheus::MetricType;
using Labels = std::vector<std::pair<std::string, std::string>>;

using Buckets = prometheus::Histogram::BucketBoundaries;
const Buckets kTokenBuckets = {0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075,
                               0.1,   0.15,   0.2,   0.3,  0.5,   1,    2.5};
const Buckets kRequestBuckets = {0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300};

MetricFamily family(std::string name, std::string help, MetricType type) {
  MetricFamily out;
  out.name = std::move(name);
  out.help = std::move(help);
  out.type = type;
  return out;
}

void add(MetricFamily& out, double value, const Labels& labels = {}) {
  ClientMetric metric;
  for (const auto& [name, text] : labels) metric.label.push_back({name, text});
  if (out.type == MetricType::Counter)
    metric.counter.value = value;
  else
    metric.gauge.value = value;
  out.metric.push_back(std::move(metric));
}

struct Named {
  ModelState state;
  const char* name;
};
constexpr Named kStates[] = {{ModelState::absent, "absent"},
                             {ModelState::downloading, "downloading"},
                             {ModelState::loading, "loading"},
                             {ModelState::ready, "ready"},
                             {ModelState::failed, "failed"}};

/// What the host says now, all models together where a model is no label.
void add_host(const ModelHost& host, int waiting, std::vector<MetricFamily>& out) {
  auto state = family("quern_model_state", "1 for the state that a model is in.", MetricType::Gauge);
  auto bytes = family("quern_model_bytes", "Memory of a model, weights and KV cache.", MetricType::Gauge);
  auto progress = family("quern_model_progress_bytes",
                         "Of a model's download or load: bytes done and in all.", MetricType::Gauge);
  auto eta = family("quern_model_eta_seconds", "Time left of a model's download or load; NaN: not known.",
                    MetricType::Gauge);
  for (const ModelStatus& status : host.status()) {
    for (const auto& [value, name] : kStates)
      add(state, status.state == value ? 1 : 0, {{"model", status.id}, {"state", name}});
    add(bytes, static_cast<double>(status.bytes), {{"model", status.id}});
    add(progress, static_cast<double>(status.bytes_done), {{"model", status.id}, {"kind", "done"}});
    add(progress, static_cast<double>(status.bytes_total), {{"model", status.id}, {"kind", "total"}});
    add(eta, status.eta_s < 0 ? std::nan("") : status.eta_s, {{"model", status.id}});
  }
  EngineStats sum = host.totals();
  sum.waiting += waiting;
  const auto single = [&](const char* name, const char* help, MetricType type, auto value) {
    out.push_back(family(name, help, type));
    add(out.back(), static_cast<double>(value));
  };
  single("quern_requests_running", "Requests that generate now.", MetricType::Gauge, sum.running);
  single("quern_requests_waiting", "Requests in the queue.", MetricType::Gauge, sum.waiting);
  single("quern_kv_blocks_free", "KV blocks that no request holds.", MetricType::Gauge, sum.kv_blocks_free);
  single("quern_kv_blocks_total", "KV blocks.", MetricType::Gauge, sum.kv_blocks_total);
  single("quern_preemptions_total", "Requests put back because KV blocks ran out.", MetricType::Counter,
         sum.preemptions);
  single("quern_steps_total", "Steps of the engines.", MetricType::Counter, sum.steps);
  auto tokens = family("quern_tokens_total",
                       "Tokens by kind: of prompts, of those found in the prefix cache, generated.",
                       MetricType::Counter);
  add(tokens, static_cast<double>(sum.prompt_tokens), {{"kind", "prompt"}});
  add(tokens, static_cast<double>(sum.cached_tokens), {{"kind", "cached"}});
  add(tokens, static_cast<double>(sum.generated_tokens), {{"kind", "generated"}});
  out.push_back(std::move(tokens));
  auto drafts =
      family("quern_draft_tokens_total",
             "Tokens guessed from a request's own text and computed beside its next one, and those of "
             "them that came true.",
             MetricType::Counter);
  add(drafts, static_cast<double>(sum.drafts_proposed), {{"kind", "proposed"}});
  add(drafts, static_cast<double>(sum.drafts_accepted), {{"kind", "accepted"}});
  out.push_back(std::move(drafts));
  if (const auto memory = host.device_memory()) {
    auto device = family("quern_device_memory_bytes", "Memory of the GPU: in use, by anybody, and in all.",
                         MetricType::Gauge);
    add(device, static_cast<double>(memory->total - memory->free), {{"kind", "used"}});
    add(device, static_cast<double>(memory->total), {{"kind", "total"}});
    out.push_back(std::move(device));
  }
  if (const auto busy = host.device_utilization()) {
    auto device = family("quern_device_utilization",
                         "Share of the last moments in which the GPU was busy, with anybody's work.",
                         MetricType::Gauge);
    add(device, *busy);
    out.push_back(std::move(device));
  }
  out.push_back(std::move(state));
  out.push_back(std::move(bytes));
  out.push_back(std::move(progress));
  out.push_back(std::move(eta));
}

class MetricsImpl final : public Metrics {
 public:
  MetricsImpl()
      : first_token_(histogram("quern_time_to_first_token_seconds",
                               "From a request's arrival to its first token.", kRequestBuckets)),
        output_token_(histogram("quern_time_per_output_token_seconds", "Between two tokens of an answer.",
                                kTokenBuckets)),
        queued_(histogram("quern_queue_seconds", "Waiting before a request begins.", kRequestBuckets)),
        finished_(histogram("quern_request_seconds",
                            "From a request's arrival to its last token, or to what ended it.",
                            kRequestBuckets)),
        finish_reasons_(prometheus::BuildCounter()
                            .Name("quern_requests_finished_total")
                            .Help("Requests that an engine has ended, by reason.")
                            .Register(registry_)),
        http_requests_(prometheus::BuildCounter()
                           .Name("quern_http_requests_total")
                           .Help("HTTP requests by route and status.")
                           .Register(registry_)),
        http_seconds_(prometheus::BuildHistogram()
                          .Name("quern_http_request_seconds")
                          .Help("HTTP requests from their headers to the end of the answer, by route.")
                          .Register(registry_)) {}

  void first_token(double seconds) override { first_token_.Observe(seconds); }
  void output_token(double seconds) override { output_token_.Observe(seconds); }
  void queued(double seconds) override { queued_.Observe(seconds); }
  void finished(double seconds, FinishReason reason) override {
    static constexpr const char* kNames[] = {"length", "stop", "eos", "cancelled"};
    ended(seconds, kNames[static_cast<size_t>(reason)]);
  }
  void failed(double seconds) override { ended(seconds, "failed"); }

  void http_request(std::string_view route, int status, double seconds) override {
    const std::string name(route);
    http_requests_.Add({{"route", name}, {"status", std::to_string(status)}}).Increment();
    http_seconds_.Add({{"route", name}}, kRequestBuckets).Observe(seconds);
  }

  std::string expose(const ModelHost* host, int waiting) override {
    std::vector<MetricFamily> families = registry_.Collect();
    if (host != nullptr) add_host(*host, waiting, families);
    return prometheus::TextSerializer().Serialize(families);
  }

 private:
  void ended(double seconds, const char* reason) {
    finished_.Observe(seconds);
    finish_reasons_.Add({{"reason", reason}}).Increment();
  }
  prometheus::Histogram& histogram(const char* name, const char* help, const Buckets& buckets) {
    return prometheus::BuildHistogram().Name(name).Help(help).Register(registry_).Add({}, buckets);
  }

  prometheus::Registry registry_;
  prometheus::Histogram& first_token_;
  prometheus::Histogram& output_token_;
  prometheus::Histogram& queued_;
  prometheus::Histogram& finished_;
  prometheus::Family<prometheus::Counter>& finish_reasons_;
  prometheus::Family<prometheus::Counter>& http_requests_;
  prometheus::Family<prometheus::Histogram>& http_seconds_;
};

}  // namespace

std::unique_ptr<Metrics> Metrics::create() { return std::make_unique<MetricsImpl>(); }

}  // namespace quern
