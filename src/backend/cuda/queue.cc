#include "backend/cuda/queue.h"

#include <algorithm>
#include <cstring>

namespace quern::cuda {
namespace {

constexpr size_t kGraphs = 48;  // kept; a step of another number of sequences is another graph
constexpr size_t kSeen = 64;
constexpr size_t kAlign = 16;

bool same_call(const Call& a, const Call& b) {
  return a.kernel == b.kernel && a.grid.x == b.grid.x && a.grid.y == b.grid.y && a.grid.z == b.grid.z &&
         a.threads == b.threads && a.shared == b.shared && a.cluster == b.cluster &&
         a.arguments == b.arguments;
}

}  // namespace

bool Queue::Log::operator==(const Log& other) const {
  return std::ranges::equal(calls, other.calls, same_call) && sizes == other.sizes && bytes == other.bytes;
}

uint64_t Queue::Log::hash() const {
  uint64_t h = 1469598103934665603u;
  const auto mix = [&](uint64_t word) { h = (h ^ word) * 0x9e3779b97f4a7c15u, h ^= h >> 29; };
  for (const Call& call : calls) {
    mix(reinterpret_cast<uintptr_t>(call.kernel));
    mix(static_cast<uint64_t>(call.grid.x) << 32 | static_cast<uint32_t>(call.grid.y));
  }
  for (size_t i = 0; i + 8 <= bytes.size(); i += 8) {
    uint64_t word;
    std::memcpy(&word, &bytes[i], 8);
    mix(word);
  }
  return h;
}

Queue::~Queue() {
  for (Graph& graph : graphs_) cudaGraphExecDestroy(graph.run);
}

void Queue::launch(const Call& call, void** arguments, const uint32_t* sizes) {
  // More than 48 KiB must be asked for, once.
  if ((call.shared > 0 || most_shared_) && std::ranges::find(roomy_, call.kernel) == roomy_.end()) {
    note(cudaFuncSetAttribute(call.kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, call.shared));
    if (most_shared_)
      note(cudaFuncSetAttribute(call.kernel, cudaFuncAttributePreferredSharedMemoryCarveout,
                                cudaSharedmemCarveoutMaxShared));
    roomy_.push_back(call.kernel);
  }
  if (!collecting_) return start(call, arguments);
  log_.calls.push_back(call);
  for (int i = 0; i < call.arguments; ++i) {
    const size_t at = log_.bytes.size();
    log_.sizes.push_back(sizes[i]);
    log_.bytes.resize(at + (sizes[i] + kAlign - 1) / kAlign * kAlign);
    std::memcpy(&log_.bytes[at], arguments[i], sizes[i]);
  }
}

void Queue::run() {
  if (!collecting_) return;
  collecting_ = false;
  if (log_.calls.empty()) return;
  const uint64_t hash = log_.hash();
  auto graph = std::ranges::find_if(graphs_, [&](const Graph& g) { return g.hash == hash && g.log == log_; });
  Graph* found = graph != graphs_.end() ? &*graph : nullptr;
  if (found == nullptr) {
    const auto seen = std::ranges::find(seen_, hash, &Seen::hash);
    if (seen == seen_.end()) {
      if (seen_.size() == kSeen) seen_.erase(seen_.begin());
      seen_.push_back({hash});
    } else if (!seen->refused) {
      found = graph_of_log(hash);
      seen->refused = found == nullptr;
    }
  }
  if (found != nullptr) {
    found->used = ++turn_;
    note(cudaGraphLaunch(found->run, stream_));
  } else {
    start_all();
  }
  log_.clear();
}

cudaError_t Queue::take_error() {
  const cudaError_t error = error_;
  error_ = cudaSuccess;
  return error;
}

void Queue::start(const Call& call, void** arguments) {
  const auto size = [](int n) { return static_cast<unsigned>(n); };
  cudaLaunchAttribute attributes[2] = {};
  unsigned count = 0;
  if (overlap_) {
    attributes[count].id = cudaLaunchAttributeProgrammaticStreamSerialization;
    attributes[count++].val.programmaticStreamSerializationAllowed = 1;
  }
  if (call.cluster > 1) {
    attributes[count].id = cudaLaunchAttributeClusterDimension;
    attributes[count++].val.clusterDim = {size(call.cluster), 1, 1};
  }
  cudaLaunchConfig_t config{};
  config.gridDim = {size(call.grid.x), size(call.grid.y), size(call.grid.z)};
  config.blockDim = {size(call.threads), 1, 1};
  config.dynamicSmemBytes = static_cast<size_t>(call.shared);
  config.stream = stream_;
  config.attrs = attributes;
  config.numAttrs = count;
  note(cudaLaunchKernelExC(&config, call.kernel, arguments));
}

void Queue::start_all() {
  std::vector<void*> arguments;
  size_t at = 0, next = 0;
  for (const Call& call : log_.calls) {
    arguments.clear();
    for (int i = 0; i < call.arguments; ++i) {
      arguments.push_back(&log_.bytes[at]);
      at += (log_.sizes[next++] + kAlign - 1) / kAlign * kAlign;
    }
    start(call, arguments.data());
  }
}

Queue::Graph* Queue::graph_of_log(uint64_t hash) {
  cudaGraph_t made = nullptr;
  cudaGraphExec_t run = nullptr;
  const cudaError_t before = take_error();
  cudaError_t error = cudaStreamBeginCapture(stream_, cudaStreamCaptureModeThreadLocal);
  if (error == cudaSuccess) {
    start_all();
    error = cudaStreamEndCapture(stream_, &made);
    // A graph that lacks a launch which was refused must not run.
    if (const cudaError_t refused = take_error(); error == cudaSuccess) error = refused;
    if (error == cudaSuccess) error = cudaGraphInstantiate(&run, made, 0);
    if (made != nullptr) cudaGraphDestroy(made);
  }
  note(before);
  if (error != cudaSuccess) {
    cudaGetLastError();  // the step itself has not failed: it runs without a graph
    return nullptr;
  }
  if (graphs_.size() == kGraphs) {
    const auto oldest = std::ranges::min_element(graphs_, {}, &Graph::used);
    cudaGraphExecDestroy(oldest->run);
    graphs_.erase(oldest);
  }
  graphs_.push_back({hash, log_, run, 0});
  return &graphs_.back();
}

}  // namespace quern::cuda
