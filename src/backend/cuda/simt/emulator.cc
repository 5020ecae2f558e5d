#include "backend/cuda/simt/emulator.h"

#include <ucontext.h>

#include <array>
#include <memory>
#include <vector>

#include "core/check.h"

namespace quern::cuda {
namespace simt {
namespace {

constexpr size_t kStack = 128 << 10;
constexpr int kLaneBytes = 32;
constexpr int kMostThreads = 1024;

struct Copy {
  void* to;
  const void* from;
  int bytes;
};

struct Fiber {
  ucontext_t context;
  std::unique_ptr<std::byte[]> stack;
  Thread place;
  bool done = false;
  std::vector<std::vector<Copy>> groups;  // committed, oldest first
  std::vector<Copy> open;
};

/// Lanes that wait for each other; two buffers, because a lane may have gone on to the next exchange while
/// another still reads.
struct Warp {
  int arrived = 0;
  uint64_t round = 0;
  alignas(16) std::byte lanes[2][32 * kLaneBytes];
};

/// One block at a time, on one thread of the machine.
class Block {
 public:
  void run(Place grid, Place block, int threads, const std::function<void()>& body, int stride);

  Fiber& current() { return *fibers_[static_cast<size_t>(running_)]; }
  void wait_for_block();
  const std::byte* exchange(const void* mine, size_t bytes);

 private:
  static void enter();
  void yield();

  std::vector<std::unique_ptr<Fiber>> fibers_;
  std::array<Warp, kMostThreads / 32> warps_;
  ucontext_t outside_;
  const std::function<void()>* body_ = nullptr;
  int threads_ = 0, running_ = 0, left_ = 0, stride_ = 1;
  int arrived_ = 0;
  uint64_t round_ = 0;
  int fruitless_ = 0;  // turns since a barrier or an exchange was completed
};

thread_local Block block;

void Block::enter() {
  (*block.body_)();
  Fiber& fiber = block.current();
  QUERN_CHECK(fiber.open.empty());
  fiber.done = true;
  block.fruitless_ = 0;
  --block.left_;
  block.yield();
}

/// To the next fiber that has not ended.
void Block::yield() {
  const int from = running_;
  QUERN_CHECK(++fruitless_ < 1 << 20);  // threads wait for one that will not come
  if (left_ == 0) {
    swapcontext(&fibers_[static_cast<size_t>(from)]->context, &outside_);
    return;
  }
  do running_ = (running_ + stride_) % threads_;
  while (fibers_[static_cast<size_t>(running_)]->done);
  if (running_ == from) return;
  swapcontext(&fibers_[static_cast<size_t>(from)]->context, &fibers_[static_cast<size_t>(running_)]->context);
}

void Block::run(Place grid, Place place, int threads, const std::function<void()>& body, int stride) {
  QUERN_CHECK(threads >= 32 && (threads & (threads - 1)) == 0 && threads <= kMostThreads);
  body_ = &body;
  threads_ = left_ = threads;
  stride_ = stride % threads;
  running_ = arrived_ = fruitless_ = 0;
  for (Warp& warp : warps_) warp.arrived = 0;
  while (static_cast<int>(fibers_.size()) < threads) {
    fibers_.push_back(std::make_unique<Fiber>());
    fibers_.back()->stack = std::make_unique_for_overwrite<std::byte[]>(kStack);
  }
  for (int i = 0; i < threads; ++i) {
    Fiber& fiber = *fibers_[static_cast<size_t>(i)];
    fiber.place = {i, threads, place, grid};
    fiber.done = false;
    fiber.groups.clear();
    getcontext(&fiber.context);
    fiber.context.uc_stack.ss_sp = fiber.stack.get();
    fiber.context.uc_stack.ss_size = kStack;
    fiber.context.uc_link = nullptr;
    makecontext(&fiber.context, &Block::enter, 0);
  }
  swapcontext(&outside_, &fibers_[0]->context);
}

void Block::wait_for_block() {
  const uint64_t round = round_;
  // Threads that have ended are not waited for, as on the device.
  if (++arrived_ >= left_) {
    arrived_ = fruitless_ = 0;
    ++round_;
    return;
  }
  while (round_ == round) {
    yield();
    if (arrived_ >= left_ && round_ == round) {  // the others ended instead of arriving
      arrived_ = 0;
      ++round_;
    }
  }
}

const std::byte* Block::exchange(const void* mine, size_t bytes) {
  QUERN_CHECK(bytes <= kLaneBytes);
  Warp& warp = warps_[static_cast<size_t>(running_ / 32)];
  std::byte* lanes = warp.lanes[warp.round % 2];
  std::memcpy(lanes + static_cast<ptrdiff_t>(running_ % 32) * kLaneBytes, mine, bytes);
  const uint64_t round = warp.round;
  if (++warp.arrived == 32) {
    warp.arrived = fruitless_ = 0;
    ++warp.round;
  }
  while (warp.round == round) yield();
  return lanes;
}

void execute(std::vector<Copy>& copies) {
  for (const Copy& copy : copies) std::memcpy(copy.to, copy.from, static_cast<size_t>(copy.bytes));
  copies.clear();
}

}  // namespace

const Thread& self() { return block.current().place; }

void run(Place grid, int threads, const std::function<void()>& body) {
  // Odd, so that every fiber of a power of two has its turn.
  static constexpr int kStrides[] = {1, 31, 7, 1023, 5};
  static thread_local unsigned launches = 0;
  const int stride = kStrides[launches++ % std::size(kStrides)];
  for (int z = 0; z < grid.z; ++z)
    for (int y = 0; y < grid.y; ++y)
      for (int x = 0; x < grid.x; ++x) block.run(grid, {x, y, z}, threads, body, stride);
}

void wait_for_block() { block.wait_for_block(); }
const std::byte* exchange(const void* mine, size_t bytes) { return block.exchange(mine, bytes); }

void copy_later(void* to, const void* from, int bytes) {
  const auto size = static_cast<uintptr_t>(bytes);
  QUERN_CHECK(reinterpret_cast<uintptr_t>(to) % size == 0 && reinterpret_cast<uintptr_t>(from) % size == 0);
  block.current().open.push_back({to, from, bytes});
}
void close_copies() {
  Fiber& fiber = block.current();
  fiber.groups.push_back(std::move(fiber.open));
  fiber.open.clear();
}
void finish_copies(int but_last) {
  auto& groups = block.current().groups;
  while (static_cast<int>(groups.size()) > but_last) {
    execute(groups.front());
    groups.erase(groups.begin());
  }
}

float half_value(uint16_t h) {
  static const std::vector<float> table = [] {
    std::vector<float> values(1 << 16);
    for (uint32_t i = 0; i < values.size(); ++i) values[i] = f16_to_f32(static_cast<uint16_t>(i));
    return values;
  }();
  return table[h];
}

}  // namespace simt

/// By the definition in the PTX ISA (see device.cuh), from all lanes' parts.
void mma(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  const uint32_t mine[6] = {a[0], a[1], a[2], a[3], b0, b1};
  const std::byte* all = simt::exchange(mine, sizeof(mine));
  const auto part = [&](int lane, int word) {
    uint32_t value;
    std::memcpy(&value, all + static_cast<ptrdiff_t>(32 * lane + 4 * word), sizeof(value));
    return value;
  };
  const int lane = thread_x() % 32;
  for (int i = 0; i < 4; ++i) {
    const int row = lane / 4 + 8 * (i / 2), column = 2 * (lane % 4) + i % 2;
    float sum = 0;
    for (int k = 0; k < 16; ++k) {
      const int owner = k % 8 / 2;  // t of the lane that holds k
      const uint32_t x = part(4 * (row % 8) + owner, row / 8 + 2 * (k / 8));
      const uint32_t y = part(4 * column + owner, 4 + k / 8);
      sum += half_at(x, 16 * (k % 2)) * half_at(y, 16 * (k % 2));
    }
    d[i] += sum;
  }
}

}  // namespace quern::cuda
