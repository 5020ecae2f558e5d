#include "nn/moe.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <numeric>

namespace quern::nn {
namespace {

struct Pick {
  int32_t expert;
  float weight;
};

// The softmax over the picked logits alone equals the softmax over all, renormalized.
void pick(std::span<const float> logits, int64_t used, std::vector<int32_t>& order,
          std::vector<Pick>& picks) {
  order.resize(logits.size());
  std::iota(order.begin(), order.end(), 0);
  // A broken file can make NaN; it sorts last, so that the order stays an order.
  const auto value = [&](int32_t e) {
    const float l = logits[static_cast<size_t>(e)];
    return std::isnan(l) ? -std::numeric_limits<float>::infinity() : l;
  };
  std::partial_sort(order.begin(), order.begin() + used, order.end(), [&](int32_t a, int32_t b) {
    return value(a) > value(b) || (value(a) == value(b) && a < b);
  });
  const float largest = logits[static_cast<size_t>(order[0])];
  float sum = 0;
  picks.clear();
  for (int64_t i = 0; i < used; ++i) {
    const int32_t expert = order[static_cast<size_t>(i)];
    picks.push_back({expert, std::exp(logits[static_cast<size_t>(expert)] - largest)});
    sum += picks.back().weight;
  }
  for (Pick& p : picks) p.weight /= sum;
}

void run_stacked(Backend& backend, const MoeWeights& w, const Routing& routing, Tensor in, Tensor gate_up,
                 Tensor out) {
  const int64_t inner = gate_up.cols / 2;
  const Tensor gate = gate_up.slice_cols(0, inner), up = gate_up.slice_cols(inner, inner);
  std::vector<int32_t> own(routing.expert.size());
  std::iota(own.begin(), own.end(), 0);
  backend.matmul_experts(gate, *w.gate, in, routing.expert, routing.row);
  backend.matmul_experts(up, *w.up, in, routing.expert, routing.row);
  backend.silu_mul(gate, gate, up);
  backend.matmul_experts(out, *w.down, gate, routing.expert, own);
}

void run_single(Backend& backend, const MoeWeights& w, const Routing& routing, Tensor in, Tensor gathered,
                Tensor gate_up, Tensor out) {
  const int64_t inner = gate_up.cols / 2;
  const auto total = static_cast<int64_t>(routing.expert.size());
  for (int64_t first = 0, last = 0; first < total; first = last) {
    const int32_t expert = routing.expert[static_cast<size_t>(first)];
    while (last < total && routing.expert[static_cast<size_t>(last)] == expert) ++last;
    const int64_t count = last - first;
    const MlpWeights& mlp = w.single[static_cast<size_t>(expert)];
    const Tensor rows = gathered.slice_rows(0, count);
    const Tensor gate = gate_up.slice_rows(first, count).slice_cols(0, inner);
    const Tensor up = gate_up.slice_rows(first, count).slice_cols(inner, inner);
    backend.gather_rows(
        rows, in, std::span(routing.row).subspan(static_cast<size_t>(first), static_cast<size_t>(count)));
    backend.matmul_multi(std::array{mlp.gate.to(gate), mlp.up.to(up)}, rows);
    backend.silu_mul(gate, gate, up);
    mlp.down(backend, out.slice_rows(first, count), gate);
  }
}

}  // namespace

Routing route(std::span<const float> logits, int64_t experts, int64_t used) {
  const int64_t rows = static_cast<int64_t>(logits.size()) / experts;
  std::vector<std::vector<std::pair<int32_t, float>>> by_expert(static_cast<size_t>(experts));
  std::vector<int32_t> order;
  std::vector<Pick> picks;
  for (int64_t r = 0; r < rows; ++r) {
    pick(logits.subspan(static_cast<size_t>(r * experts), static_cast<size_t>(experts)), used, order, picks);
    for (const Pick& p : picks)
      by_expert[static_cast<size_t>(p.expert)].emplace_back(static_cast<int32_t>(r), p.weight);
  }
  Routing routing;
  for (size_t e = 0; e < by_expert.size(); ++e) {
    for (const auto& [row, weight] : by_expert[e]) {
      routing.expert.push_back(static_cast<int32_t>(e));
      routing.row.push_back(row);
      routing.weight.push_back(weight);
    }
  }
  return routing;
}

void moe(Backend& backend, const MoeWeights& weights, int64_t used, Tensor residual, Tensor in,
         MoeScratch scratch) {
  const Tensor router_logits = scratch.logits.slice_rows(0, in.rows);
  backend.matmul(router_logits, *weights.router, in);
  std::vector<float> logits(static_cast<size_t>(router_logits.rows * router_logits.cols));
  backend.read(logits.data(), router_logits);
  const Routing routing = route(logits, router_logits.cols, used);

  const auto entries = static_cast<int64_t>(routing.expert.size());
  const Tensor gate_up = scratch.gate_up.slice_rows(0, entries);
  const Tensor out = scratch.out.slice_rows(0, entries);
  if (weights.gate) {
    run_stacked(backend, weights, routing, in, gate_up, out);
  } else {
    run_single(backend, weights, routing, in, scratch.gathered, gate_up, out);
  }
  backend.scatter_add(residual, out, routing.row, routing.weight);
}

}  // namespace quern::nn
