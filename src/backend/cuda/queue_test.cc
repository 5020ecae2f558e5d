// Graphs that cannot be made, with a CUDA runtime that does what the tests say: no GPU, and no library of
// CUDA's, is needed.
#include "backend/cuda/queue.h"

#include <gtest/gtest.h>

#include <string>
#include <utility>

namespace {

/// What the runtime was asked for, and which of its calls fail.
struct Runtime {
  std::string failing;       // the name of a call
  int failing_launches = 0;  // the next ones
  int launches = 0;          // outside of captures
  int captures = 0, replays = 0, graphs = 0;
  bool capturing = false;
  cudaError_t last = cudaSuccess;

  cudaError_t answer(const char* call) {
    return failing == call ? last = cudaErrorNotSupported : cudaSuccess;
  }
};
Runtime runtime;

}  // namespace

cudaError_t cudaLaunchKernelExC(const cudaLaunchConfig_t*, const void*, void**) {
  if (runtime.failing_launches > 0) {
    --runtime.failing_launches;
    return runtime.last = cudaErrorInvalidConfiguration;
  }
  if (!runtime.capturing) ++runtime.launches;
  return cudaSuccess;
}
cudaError_t cudaFuncSetAttribute(const void*, cudaFuncAttribute, int) { return cudaSuccess; }
cudaError_t cudaStreamBeginCapture(cudaStream_t, cudaStreamCaptureMode) {
  ++runtime.captures;
  const cudaError_t error = runtime.answer("begin");
  runtime.capturing = error == cudaSuccess;
  return error;
}
cudaError_t cudaStreamEndCapture(cudaStream_t, cudaGraph_t* graph) {
  runtime.capturing = false;
  const cudaError_t error = runtime.answer("end");
  *graph = nullptr;
  if (error != cudaSuccess) return error;
  ++runtime.graphs;
  *graph = reinterpret_cast<cudaGraph_t>(&runtime);
  return error;
}
cudaError_t cudaGraphInstantiate(cudaGraphExec_t* run, cudaGraph_t, unsigned long long) {
  *run = reinterpret_cast<cudaGraphExec_t>(&runtime);
  return runtime.answer("instantiate");
}
cudaError_t cudaGraphDestroy(cudaGraph_t) {
  --runtime.graphs;
  return cudaSuccess;
}
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t) { return cudaSuccess; }
cudaError_t cudaGraphLaunch(cudaGraphExec_t, cudaStream_t) {
  ++runtime.replays;
  return cudaSuccess;
}
cudaError_t cudaGetLastError() { return std::exchange(runtime.last, cudaSuccess); }

namespace quern::cuda {
namespace {

class QueueTest : public ::testing::Test {
 protected:
  void SetUp() override { runtime = {}; }

  /// A step of two launches, always the same ones.
  static void step(Queue& queue) {
    queue.collect();
    for (int i = 0; i < 2; ++i) {
      void* arguments[] = {&i};
      const uint32_t sizes[] = {sizeof i};
      queue.launch({.kernel = &runtime, .grid = {}, .threads = 32, .arguments = 1}, arguments, sizes);
    }
    queue.run();
  }
};

TEST_F(QueueTest, AStepThatWasSeenBeforeIsAGraph) {
  Queue queue(nullptr, true);
  for (int i = 0; i < 3; ++i) step(queue);
  EXPECT_EQ(runtime.launches, 2);
  EXPECT_EQ(runtime.captures, 1);
  EXPECT_EQ(runtime.replays, 2);
  EXPECT_EQ(runtime.graphs, 0);
  EXPECT_EQ(queue.take_error(), cudaSuccess);
}

TEST_F(QueueTest, AStepRunsWithoutTheGraphThatCannotBeMade) {
  for (const char* failing : {"begin", "end", "instantiate", "launch"}) {
    runtime = {};
    Queue queue(nullptr, true);
    step(queue);
    const bool launch = failing == std::string("launch");
    runtime.failing = failing;
    runtime.failing_launches = launch ? 1 : 0;
    step(queue);
    EXPECT_EQ(runtime.captures, 1) << failing;
    EXPECT_EQ(runtime.replays, 0) << failing;
    EXPECT_EQ(runtime.launches, 4) << failing;
    EXPECT_EQ(runtime.graphs, 0) << failing;
    EXPECT_EQ(queue.take_error(), cudaSuccess) << failing;
    EXPECT_EQ(cudaGetLastError(), cudaSuccess) << failing;
    step(queue);
    EXPECT_EQ(runtime.captures, 1) << failing << ": tried again";
    EXPECT_EQ(runtime.launches, 6) << failing;
  }
}

TEST_F(QueueTest, WhatFailedBeforeTheGraphIsStillTold) {
  Queue queue(nullptr, true);
  step(queue);
  runtime.failing_launches = 1;
  void* arguments[] = {&runtime};
  const uint32_t sizes[] = {sizeof(int)};
  queue.launch({.kernel = &runtime, .grid = {}, .threads = 32, .arguments = 1}, arguments, sizes);
  step(queue);
  EXPECT_EQ(runtime.replays, 1);
  EXPECT_EQ(queue.take_error(), cudaErrorInvalidConfiguration);
}

}  // namespace
}  // namespace quern::cuda
