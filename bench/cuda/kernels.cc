// How fast the GPU multiplies: every form of weights on the matrices of Llama-3-8B and Llama-2-7B, and their
// sum over a layer, beside cuBLAS in bf16 (where its library is found) and the bandwidth of a plain copy.
//
// A measurement is one CUDA graph that multiplies by as many copies of the matrix as are needed to fill the
// L2 cache several times over, so that every matrix comes from memory; the median of its replays counts. What
// is timed is a whole op: activations to halves, the product, and adding up splits. usage: quern_cuda_bench
// [--types Q4_0,gptq-4-128,…] [--rows 1,16,32,64,128,256]
// [--part gate_up] [--cluster 1|2|4] [--most-shared] [--quick]
#include <cuda_runtime_api.h>
#include <dlfcn.h>
#include <fmt/format.h>

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <random>
#include <sstream>
#include <string>
#include <vector>

#include "backend/cuda/device.h"
#include "backend/cuda/queue.h"
#include "quant/grouped.h"
#include "quant/quant.h"

namespace quern {
namespace {

struct Shape {
  std::string_view model, part;
  int64_t rows, cols;
};
constexpr std::string_view kQuickModel = "llama-3-8b";
constexpr Shape kShapes[] = {
    {"llama-3-8b", "qkv", 6144, 4096},      {"llama-3-8b", "out", 4096, 4096},
    {"llama-3-8b", "gate_up", 28672, 4096}, {"llama-3-8b", "down", 4096, 14336},
    {"llama-2-7b", "qkv", 12288, 4096},     {"llama-2-7b", "out", 4096, 4096},
    {"llama-2-7b", "gate_up", 22016, 4096}, {"llama-2-7b", "down", 4096, 11008},
};
constexpr int kLayerParts = 4;

/// Groups of GPTQ checkpoints, by name.
struct Grouping {
  const char* name;
  int bits;
  int64_t size;
  bool symmetric, act_order;
};
constexpr Grouping kGroupings[] = {
    {"gptq-4-128", 4, 128, true, false},       {"gptq-4-32", 4, 32, true, false},
    {"gptq-4-128-asym", 4, 128, false, false}, {"gptq-4-128-act", 4, 128, true, true},
    {"gptq-8-128", 8, 128, true, false},       {"gptq-3-128", 3, 128, true, false},
    {"gptq-2-128", 2, 128, true, false}};

constexpr size_t kColdBytes = size_t{256} << 20;  // several times any L2
constexpr int kReplays = 15;

void check(cudaError_t error, const char* what) {
  if (error == cudaSuccess) return;
  fmt::print(stderr, "error: {}: {}\n", what, cudaGetErrorString(error));
  std::exit(1);
}

/// Microseconds of one of `count` equal pieces of work that `record` puts on the stream.
template <class Record>
double time_each(cudaStream_t stream, int count, const Record& record) {
  record();  // workspaces grow now, not while the graph is made
  check(cudaStreamSynchronize(stream), "a first run");
  cudaGraph_t graph;
  cudaGraphExec_t run;
  check(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal), "capturing");
  record();
  check(cudaStreamEndCapture(stream, &graph), "capturing");
  check(cudaGraphInstantiate(&run, graph, 0), "a graph");
  cudaEvent_t begin, end;
  check(cudaEventCreate(&begin), "an event");
  check(cudaEventCreate(&end), "an event");
  std::vector<float> times;
  for (int i = 0; i < kReplays + 2; ++i) {
    check(cudaEventRecord(begin, stream), "timing");
    check(cudaGraphLaunch(run, stream), "a replay");
    check(cudaEventRecord(end, stream), "timing");
    check(cudaEventSynchronize(end), "a replay");
    float milliseconds = 0;
    check(cudaEventElapsedTime(&milliseconds, begin, end), "timing");
    if (i >= 2) times.push_back(milliseconds);
  }
  std::ranges::nth_element(times, times.begin() + kReplays / 2);
  cudaEventDestroy(begin);
  cudaEventDestroy(end);
  cudaGraphExecDestroy(run);
  cudaGraphDestroy(graph);
  return times[kReplays / 2] * 1000.0 / count;
}

/// cuBLAS by its C interface, when a library is there (LD_LIBRARY_PATH).
class Cublas {
 public:
  explicit Cublas(cudaStream_t stream) {
    void* library = nullptr;
    for (const char* name : {"libcublas.so.13", "libcublas.so.12", "libcublas.so"})
      if (library == nullptr) library = dlopen(name, RTLD_NOW | RTLD_LOCAL);
    if (library == nullptr) return;
    auto* create = reinterpret_cast<int (*)(void**)>(dlsym(library, "cublasCreate_v2"));
    auto* set_stream = reinterpret_cast<int (*)(void*, cudaStream_t)>(dlsym(library, "cublasSetStream_v2"));
    auto* set_workspace =
        reinterpret_cast<int (*)(void*, void*, size_t)>(dlsym(library, "cublasSetWorkspace_v2"));
    gemm_ = reinterpret_cast<Gemm>(dlsym(library, "cublasGemmEx"));
    if (create == nullptr || set_stream == nullptr || gemm_ == nullptr || create(&handle_) != 0)
      handle_ = nullptr;
    if (handle_ == nullptr) return;
    set_stream(handle_, stream);
    constexpr size_t kWorkspace = 32 << 20;  // what NVIDIA advises on Hopper
    void* workspace = nullptr;
    check(cudaMalloc(&workspace, kWorkspace), "a workspace");
    if (set_workspace != nullptr) set_workspace(handle_, workspace, kWorkspace);
  }
  bool there() const { return handle_ != nullptr; }

  /// y[m, n] = x[m, k] · w[n, k]ᵀ, all bf16, summed in f32.
  void multiply(const void* w, const void* x, void* y, int n, int m, int k) const {
    constexpr int kBf16 = 14, kCompute32 = 68, kTransposed = 1, kPlain = 0, kDefault = -1;
    const float one = 1, zero = 0;
    if (gemm_(handle_, kTransposed, kPlain, n, m, k, &one, w, kBf16, k, x, kBf16, k, &zero, y, kBf16, n,
              kCompute32, kDefault) != 0)
      fmt::print(stderr, "error: cublasGemmEx failed\n");
  }

 private:
  using Gemm = int (*)(void*, int, int, int, int, int, const void*, const void*, int, int, const void*, int,
                       int, const void*, void*, int, int, int, int);
  void* handle_ = nullptr;
  Gemm gemm_ = nullptr;
};

void* device_memory(size_t bytes, const void* fill, size_t fill_bytes) {
  void* memory = nullptr;
  check(cudaMalloc(&memory, bytes), "memory");
  for (size_t at = 0; at < bytes; at += fill_bytes)
    check(cudaMemcpy(static_cast<std::byte*>(memory) + at, fill, std::min(fill_bytes, bytes - at),
                     cudaMemcpyHostToDevice),
          "memory");
  return memory;
}

/// Random bf16 numbers of about the size of activations: zeros would run faster.
std::vector<uint16_t> random_bf16(size_t n) {
  std::mt19937 random(1);
  std::normal_distribution<float> normal(0, 0.5f);
  std::vector<uint16_t> out(n);
  for (uint16_t& x : out) {
    const float value = normal(random);
    uint32_t bits;
    std::memcpy(&bits, &value, 4);
    x = static_cast<uint16_t>(bits >> 16);
  }
  return out;
}

double copy_bandwidth(cudaStream_t stream) {
  const std::vector<uint16_t> some = random_bf16(8 << 20);
  void* from = device_memory(size_t{2} << 30, some.data(), some.size() * 2);
  void* to = nullptr;
  check(cudaMalloc(&to, size_t{2} << 30), "memory");
  const double us = time_each(stream, 1, [&] {
    check(cudaMemcpyAsync(to, from, size_t{2} << 30, cudaMemcpyDeviceToDevice, stream), "a copy");
  });
  cudaFree(from);
  cudaFree(to);
  return 2 * static_cast<double>(size_t{2} << 30) / us * 1e6;
}

class Bench {
 public:
  Bench(Backend& backend, cudaStream_t stream) : backend_(backend), stream_(stream), cublas_(stream) {
    bandwidth_ = copy_bandwidth(stream);
    fmt::print("copy: {:.0f} GB/s (bytes read and written); cuBLAS: {}\n", bandwidth_ / 1e9,
               cublas_.there() ? "yes" : "not found");
  }

  void cublas(const Shape& s, std::span<const int> batches, std::vector<double>& us) const {
    us.assign(batches.size(), 0);
    if (!cublas_.there()) return;
    const size_t bytes = static_cast<size_t>(s.rows * s.cols) * 2;
    const int copies = static_cast<int>(kColdBytes / bytes) + 2;
    const std::vector<uint16_t> some = random_bf16(4 << 20);
    void* w = device_memory(bytes * static_cast<size_t>(copies), some.data(), some.size() * 2);
    void* x = device_memory(static_cast<size_t>(s.cols) * 512 * 2, some.data(), some.size() * 2);
    void* y = device_memory(static_cast<size_t>(s.rows) * 512 * 2, some.data(), some.size() * 2);
    for (size_t i = 0; i < batches.size(); ++i)
      us[i] = time_each(stream_, copies, [&] {
        for (int c = 0; c < copies; ++c)
          cublas_.multiply(static_cast<std::byte*>(w) + bytes * static_cast<size_t>(c), x, y,
                           static_cast<int>(s.rows), batches[i], static_cast<int>(s.cols));
      });
    cudaFree(w);
    cudaFree(x);
    cudaFree(y);
  }

  void ours(const Shape& s, const QuantInfo& info, std::span<const int> batches,
            std::span<const double> peer) {
    // Random bytes are codes; as scales some would be NaN, which costs the same time.
    const size_t bytes = static_cast<size_t>(s.rows * s.cols) / info.block * info.bytes;
    std::vector<std::byte> stored(bytes);
    std::mt19937 random(2);
    for (size_t i = 0; i + 4 <= bytes; i += 4) {
      const uint32_t word = random() & 0x3bff3bff;  // no f16 above 1, so no infinities
      std::memcpy(&stored[i], &word, 4);
    }
    run(s, {"bench", info.dtype, {s.rows, s.cols}, stored}, info.name, batches, peer);
  }

  /// As GPTQ checkpoints have it.
  void grouped(const Shape& s, const Grouping& g, std::span<const int> batches,
               std::span<const double> peer) {
    std::mt19937 random(2);
    GroupedMatrix m{
        .bits = g.bits, .rows = s.rows, .cols = s.cols, .groups = s.cols / g.size, .group_size = g.size};
    std::vector<uint32_t> codes(static_cast<size_t>(s.rows * s.cols * g.bits / 32)),
        zeros(static_cast<size_t>(m.groups * m.zero_words()));
    std::vector<uint16_t> scales(static_cast<size_t>(m.groups * s.rows));
    for (uint32_t& word : codes) word = random();
    for (uint32_t& word : zeros) word = random();
    for (uint16_t& scale : scales)
      scale = static_cast<uint16_t>(0x1c00 + random() % 0x400);  // 0.004 to 0.008
    if (g.act_order) {
      for (int64_t k = 0; k < s.cols; ++k) m.group_of.push_back(static_cast<int32_t>(k / g.size));
      std::ranges::shuffle(m.group_of, random);
    }
    if (g.symmetric) m.zero = 1 << (g.bits - 1);
    m.codes = reinterpret_cast<const std::byte*>(codes.data());
    m.zeros = reinterpret_cast<const std::byte*>(zeros.data());
    m.scales = reinterpret_cast<const std::byte*>(scales.data());
    run(s, {"bench", DType::Grouped, {s.rows, s.cols}, std::as_bytes(std::span(codes)), &m}, g.name, batches,
        peer);
  }

  /// The sums of what was measured of each layer, where that was all of it.
  void print_layers(std::span<const int> batches) const {
    for (const Layer& layer : layers_) {
      if (layer.parts != kLayerParts) continue;
      for (size_t i = 0; i < batches.size(); ++i) {
        fmt::print("{:<11} layer    {:<18} M={:<4} {:8.2f} us", layer.model, layer.type, batches[i],
                   layer.us[i]);
        if (layer.peer[i] > 0)
          fmt::print("  cuBLAS {:8.2f} us  {:5.2f}x", layer.peer[i], layer.peer[i] / layer.us[i]);
        fmt::print("\n");
      }
    }
  }

 private:
  struct Layer {
    std::string_view model;
    std::string type;
    std::vector<double> us, peer;  // by number of rows
    int parts = 0;
  };
  Layer& layer_of(std::string_view model, std::string_view type, size_t batches) {
    for (Layer& layer : layers_)
      if (layer.model == model && layer.type == type) return layer;
    const std::vector<double> zeros(batches);
    return layers_.emplace_back(Layer{model, std::string(type), zeros, zeros});
  }

  void run(const Shape& s, const RawTensor& tensor, std::string_view name, std::span<const int> batches,
           std::span<const double> peer) {
    std::vector<std::unique_ptr<Weight>> weights;
    do {
      auto weight = backend_.prepare(tensor);
      if (!weight) return void(fmt::print(stderr, "error: {}\n", weight.error().message));
      weights.push_back(*std::move(weight));
    } while (weights.size() * weights[0]->bytes() < kColdBytes || weights.size() < 2);
    const auto memory = [&](int64_t cols) { return *backend_.alloc(static_cast<size_t>(512 * cols) * 4); };
    const auto in = memory(s.cols), out = memory(s.rows);
    std::vector<float> x(static_cast<size_t>(512 * s.cols));
    for (size_t i = 0; i < x.size(); ++i) x[i] = static_cast<float>(i * 2654435761u % 1000) / 500 - 1;
    backend_.write({static_cast<float*>(in->data()), 512, s.cols, s.cols}, x.data());
    Layer& layer = layer_of(s.model, name, batches.size());
    for (size_t i = 0; i < batches.size(); ++i) {
      const Tensor from{static_cast<float*>(in->data()), batches[i], s.cols, s.cols};
      const Tensor to{static_cast<float*>(out->data()), batches[i], s.rows, s.rows};
      const double us = time_each(stream_, static_cast<int>(weights.size()), [&] {
        for (const auto& weight : weights) backend_.matmul(to, *weight, from);
      });
      const double rate = static_cast<double>(weights[0]->bytes()) / us * 1e6;
      fmt::print("{:<11} {:<8} {:<18} M={:<4} {:8.2f} us  {:6.0f} GB/s  {:5.1f} % of copy  {:7.1f} TFLOP/s",
                 s.model, s.part, name, batches[i], us, rate / 1e9, 100 * rate / bandwidth_,
                 2e-6 * static_cast<double>(s.rows * s.cols * batches[i]) / us);
      if (peer[i] > 0) fmt::print("  cuBLAS {:8.2f} us  {:5.2f}x", peer[i], peer[i] / us);
      fmt::print("\n");
      std::fflush(stdout);
      layer.us[i] += us;
      layer.peer[i] += peer[i];
    }
    ++layer.parts;
    if (auto done = backend_.end_step(); !done) fmt::print(stderr, "error: {}\n", done.error().message);
  }

  Backend& backend_;
  cudaStream_t stream_;
  Cublas cublas_;
  double bandwidth_ = 0;
  std::vector<Layer> layers_;
};

std::vector<std::string> split(const std::string& text) {
  std::vector<std::string> parts;
  std::stringstream stream(text);
  for (std::string part; std::getline(stream, part, ',');) parts.push_back(part);
  return parts;
}

int run(std::span<char*> arguments) {
  std::string types = "gptq-4-128,Q4_0,Q4_K,Q6_K,Q8_0,F16", rows = "1,16,32,64,128,256", part;
  bool quick = false, most_shared = false;
  GpuOptions options;
  for (size_t i = 1; i < arguments.size(); ++i) {
    const std::string argument = arguments[i];
    if (argument == "--quick")
      quick = true;
    else if (argument == "--types" && i + 1 < arguments.size())
      types = arguments[++i];
    else if (argument == "--rows" && i + 1 < arguments.size())
      rows = arguments[++i];
    else if (argument == "--part" && i + 1 < arguments.size())
      part = arguments[++i];
    else if (argument == "--most-shared")
      most_shared = true;
    else if (argument == "--cluster" && i + 1 < arguments.size())
      options.hopper_cluster = std::stoi(arguments[++i]);
    else
      return fmt::print(
                 stderr,
                 "usage: quern_cuda_bench [--types …] [--rows …] [--part …] [--cluster …] [--most-shared] "
                 "[--quick]\n"),
             2;
  }
  if (const int n = options.hopper_cluster; n != 1 && n != 2 && n != 4)
    return fmt::print(stderr, "error: --cluster {}: 1, 2 or 4\n", n), 2;
  auto device = cuda::open_device(0);
  if (!device) return fmt::print(stderr, "error: {}\n", device.error().message), 1;
  if (most_shared) (*device)->stream()->want_most_shared();
  cudaStream_t stream = (*device)->stream()->stream();
  auto backend = cuda::make_device_backend(*std::move(device), options);
  if (!backend) return fmt::print(stderr, "error: {}\n", backend.error().message), 1;
  fmt::print("{}\n", (*backend)->description());
  Bench bench(**backend, stream);
  std::vector<int> batches;
  for (const std::string& part : split(rows)) batches.push_back(std::stoi(part));
  for (const Shape& shape : kShapes) {
    if ((quick && shape.model != kQuickModel) || (!part.empty() && part != shape.part)) continue;
    std::vector<double> peer;
    bench.cublas(shape, batches, peer);
    for (const std::string& type : split(types)) {
      if (const auto* g = std::ranges::find(kGroupings, type, &Grouping::name); g != std::end(kGroupings)) {
        bench.grouped(shape, *g, batches, peer);
        continue;
      }
      const QuantInfo* info = find_quant(type);
      if (info == nullptr) return fmt::print(stderr, "error: {}: no such type\n", type), 2;
      bench.ours(shape, *info, batches, peer);
    }
  }
  bench.print_layers(batches);
  return 0;
}

}  // namespace
}  // namespace quern

int main(int argc, char** argv) { return quern::run(std::span(argv, static_cast<size_t>(argc))); }
