// The stream that kernels go to. While a step is collected, launches are written down instead; when it runs,
// a step that has been seen before, launch for launch and argument for argument, goes out as one CUDA graph:
// of the small kernels of a decode step, launching would take longer than running.
#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>
#include <vector>

#include "backend/cuda/launch.h"

namespace quern::cuda {

/// A kernel's launch, but its arguments.
struct Call {
  const void* kernel = nullptr;
  Grid grid;
  int threads = 0, shared = 0;  // shared: bytes of dynamic shared memory
  int cluster = 1;              // blocks, neighbours in x
  int arguments = 0;
};

class Queue {
 public:
  /// `overlap`: kernels may be set up while the one before still runs (wait_for_previous in simt/device.cuh).
  Queue(cudaStream_t stream, bool overlap) : stream_(stream), overlap_(overlap) {}
  ~Queue();
  Queue(const Queue&) = delete;
  Queue& operator=(const Queue&) = delete;

  cudaStream_t stream() const { return stream_; }

  void launch(const Call& call, void** arguments, const uint32_t* sizes);
  /// Kernels that are launched for the first time from here on want as much shared memory, and as little
  /// first cache, as there can be.
  void want_most_shared() { most_shared_ = true; }
  void collect() { collecting_ = true; }
  /// What was collected goes to the stream; launches do so at once from here on.
  void run();
  /// The first error since the last call.
  cudaError_t take_error();

 private:
  /// Launches as written down: their arguments one behind another, each on 16 bytes, and the arguments'
  /// sizes.
  struct Log {
    std::vector<Call> calls;
    std::vector<uint32_t> sizes;
    std::vector<std::byte> bytes;
    void clear() { calls.clear(), sizes.clear(), bytes.clear(); }
    bool operator==(const Log& other) const;
    uint64_t hash() const;
  };
  /// A step that ran without a graph.
  struct Seen {
    uint64_t hash = 0;
    bool refused = false;  // no graph can be made of it
  };
  struct Graph {
    uint64_t hash = 0;
    Log log;
    cudaGraphExec_t run = nullptr;
    uint64_t used = 0;
  };

  void start(const Call& call, void** arguments);
  void start_all();
  /// Null when it cannot be made.
  Graph* graph_of_log(uint64_t hash);
  void note(cudaError_t error) {
    if (error_ == cudaSuccess) error_ = error;
  }

  cudaStream_t stream_;
  bool overlap_, collecting_ = false, most_shared_ = false;
  Log log_;
  std::vector<Graph> graphs_;
  std::vector<Seen> seen_;          // the last ones
  std::vector<const void*> roomy_;  // kernels that have been allowed their shared memory
  uint64_t turn_ = 0;
  cudaError_t error_ = cudaSuccess;
};

}  // namespace quern::cuda
