#include "backend/cuda/simt/emulator.h"

#include <ucontext.h>

#include <algorithm>
#include <array>
#include <memory>
#include <numeric>
#include <vector>

#include "backend/cuda/simt/hopper_emulator.h"
#include "core/check.h"

namespace quern::cuda {
namespace simt {
namespace {

constexpr size_t kStack = 128 << 10;
constexpr int kLaneBytes = 32;
constexpr int kMostThreads = 1024;  // of a block
constexpr int kMostBlocks = 8;      // of a cluster

struct Copy {
  void* to;
  const void* from;
  int bytes;
};

struct BulkCopy {
  Copy copy;
  hopper::Barrier* barrier;
};

struct Product {
  float* d;
  const uint32_t* a;
  uint64_t right;
  int cols;
};

struct Fiber {
  ucontext_t context;
  std::unique_ptr<std::byte[]> stack;
  Thread place;
  size_t block = 0;  // of its cluster
  bool done = false;
  std::vector<std::vector<Copy>> groups;  // committed, oldest first
  std::vector<Copy> open;
  std::vector<std::vector<Product>> product_groups;
  std::vector<Product> open_products;
};

/// Lanes that wait for each other; two buffers, because a lane may have gone on to the next exchange while
/// another still reads.
struct Warp {
  int arrived = 0;
  uint64_t round = 0;
  alignas(16) std::byte lanes[2][32 * kLaneBytes];
};

/// Threads that wait for each other; those that have ended are not waited for, as on the device.
struct Meeting {
  int arrived = 0, left = 0;
  uint64_t round = 0;
  bool complete() const { return arrived >= left; }
  void end() { arrived = 0, ++round; }
};

/// One at a time, on one thread of the machine.
class Cluster {
 public:
  void run(Place grid, Place first, const BlockShape& shape, const std::function<void()>& body, int stride);

  Fiber& current() { return *fibers_[static_cast<size_t>(running_)]; }
  void wait_for_block() { meet(blocks_[current().block].meeting); }
  void wait_for_cluster() { meet(all_); }
  const std::byte* exchange(const void* mine, size_t bytes);
  void yield();
  void progress() { fruitless_ = 0; }

  uint8_t* dynamic() { return blocks_[current().block].shared; }
  /// What of block `rank` lies where `p` lies in this one's shared memory.
  void* in_block(void* p, int rank);
  void copy_bulk(const BulkCopy& copy);

 private:
  /// Dynamic shared memory begins at the same address in each block; the device promises no more than 16
  /// bytes of alignment.
  static constexpr size_t kPage = 1024, kSkew = 16;
  struct BlockState {
    Meeting meeting;
    std::vector<uint8_t> memory;
    uint8_t* shared = nullptr;
    int bytes = 0;
  };

  static void enter();
  void meet(Meeting& meeting);
  bool is_shared(const BlockState& block, const void* p, int bytes) const;

  std::vector<std::unique_ptr<Fiber>> fibers_;
  std::vector<Warp> warps_;
  std::array<BlockState, kMostBlocks> blocks_;
  Meeting all_;
  std::vector<BulkCopy> late_;
  ucontext_t outside_;
  const std::function<void()>* body_ = nullptr;
  int count_ = 0, running_ = 0, stride_ = 1;  // fibers
  unsigned copies_ = 0;
  int fruitless_ = 0;  // turns since something that fibers wait for came
};

thread_local Cluster cluster;

void Cluster::enter() {
  (*cluster.body_)();
  Fiber& fiber = cluster.current();
  QUERN_CHECK(fiber.open.empty() && fiber.open_products.empty() && fiber.product_groups.empty());
  fiber.done = true;
  cluster.progress();
  --cluster.blocks_[fiber.block].meeting.left;
  --cluster.all_.left;
  cluster.yield();
}

void complete_bytes(const BulkCopy& bulk);

/// To the next fiber that has not ended.
void Cluster::yield() {
  const int from = running_;
  if (++fruitless_ > 2 * count_ && !late_.empty()) {  // all have waited: one copy comes
    const BulkCopy copy = late_.back();
    late_.pop_back();
    complete_bytes(copy);
  }
  QUERN_CHECK(fruitless_ < 1 << 20);  // threads wait for one that will not come
  if (all_.left == 0) {
    QUERN_CHECK(late_.empty());
    swapcontext(&fibers_[static_cast<size_t>(from)]->context, &outside_);
    return;
  }
  do running_ = (running_ + stride_) % count_;
  while (fibers_[static_cast<size_t>(running_)]->done);
  if (running_ == from) return;
  swapcontext(&fibers_[static_cast<size_t>(from)]->context, &fibers_[static_cast<size_t>(running_)]->context);
}

void Cluster::run(Place grid, Place first, const BlockShape& shape, const std::function<void()>& body,
                  int stride) {
  QUERN_CHECK(shape.threads % 32 == 0 && shape.threads <= kMostThreads && shape.cluster <= kMostBlocks);
  body_ = &body;
  count_ = shape.threads * shape.cluster;
  while (std::gcd(stride, count_) != 1) ++stride;  // every fiber has its turn
  stride_ = stride % count_;
  running_ = fruitless_ = 0;
  all_ = {0, count_, all_.round};
  for (int i = 0; i < shape.cluster; ++i) {
    BlockState& block = blocks_[static_cast<size_t>(i)];
    block.meeting = {0, shape.threads, block.meeting.round};
    block.memory.assign(kPage + kSkew + static_cast<size_t>(shape.shared), 0xff);
    const auto address = reinterpret_cast<uintptr_t>(block.memory.data());
    block.shared = block.memory.data() + (kPage - address % kPage) + kSkew;
    block.bytes = shape.shared;
  }
  warps_.resize(static_cast<size_t>(count_ / 32));
  for (Warp& warp : warps_) warp.arrived = 0;
  while (static_cast<int>(fibers_.size()) < count_) {
    fibers_.push_back(std::make_unique<Fiber>());
    fibers_.back()->stack = std::make_unique_for_overwrite<std::byte[]>(kStack);
  }
  for (int i = 0; i < count_; ++i) {
    Fiber& fiber = *fibers_[static_cast<size_t>(i)];
    const int of_cluster = i / shape.threads;
    fiber.block = static_cast<size_t>(of_cluster);
    fiber.place = {i % shape.threads, shape.threads, {first.x + of_cluster, first.y, first.z}, grid};
    fiber.done = false;
    fiber.groups.clear();
    getcontext(&fiber.context);
    fiber.context.uc_stack.ss_sp = fiber.stack.get();
    fiber.context.uc_stack.ss_size = kStack;
    fiber.context.uc_link = nullptr;
    makecontext(&fiber.context, &Cluster::enter, 0);
  }
  swapcontext(&outside_, &fibers_[0]->context);
}

void Cluster::meet(Meeting& meeting) {
  const uint64_t round = meeting.round;
  ++meeting.arrived;
  while (meeting.round == round) {
    if (meeting.complete()) {
      meeting.end();
      progress();
    } else {
      yield();
    }
  }
}

const std::byte* Cluster::exchange(const void* mine, size_t bytes) {
  QUERN_CHECK(bytes <= kLaneBytes);
  Warp& warp = warps_[static_cast<size_t>(running_ / 32)];
  std::byte* lanes = warp.lanes[warp.round % 2];
  std::memcpy(lanes + static_cast<ptrdiff_t>(running_ % 32) * kLaneBytes, mine, bytes);
  const uint64_t round = warp.round;
  if (++warp.arrived == 32) {
    warp.arrived = 0;
    ++warp.round;
    progress();
  }
  while (warp.round == round) yield();
  return lanes;
}

bool Cluster::is_shared(const BlockState& block, const void* p, int bytes) const {
  const auto* at = static_cast<const uint8_t*>(p);
  return at >= block.shared && at + bytes <= block.shared + block.bytes;
}

void* Cluster::in_block(void* p, int rank) {
  const BlockState& own = blocks_[current().block];
  QUERN_CHECK(is_shared(own, p, 1) && rank < count_ / current().place.threads);
  return blocks_[static_cast<size_t>(rank)].shared + (static_cast<uint8_t*>(p) - own.shared);
}

/// Every second one at once, the others as late as may be, the last first.
void Cluster::copy_bulk(const BulkCopy& bulk) {
  const auto aligned = [](const void* p) { return reinterpret_cast<uintptr_t>(p) % 16 == 0; };
  QUERN_CHECK(aligned(bulk.copy.to) && aligned(bulk.copy.from) && bulk.copy.bytes % 16 == 0);
  QUERN_CHECK(std::ranges::any_of(
      blocks_, [&](const BlockState& block) { return is_shared(block, bulk.copy.to, bulk.copy.bytes); }));
  if (copies_++ % 2 == 0)
    complete_bytes(bulk);
  else
    late_.push_back(bulk);
}

void execute(std::vector<Copy>& copies) {
  for (const Copy& copy : copies) std::memcpy(copy.to, copy.from, static_cast<size_t>(copy.bytes));
  copies.clear();
}

void end_phase_if_complete(hopper::Barrier& barrier) {
  if (barrier.pending > 0 || barrier.bytes != 0) return;
  barrier.phase ^= 1;
  barrier.pending = barrier.arrivals;
  cluster.progress();
}

void complete_bytes(const BulkCopy& bulk) {
  std::memcpy(bulk.copy.to, bulk.copy.from, static_cast<size_t>(bulk.copy.bytes));
  bulk.barrier->bytes -= bulk.copy.bytes;
  cluster.progress();
  end_phase_if_complete(*bulk.barrier);
}

/// d += a · b as wgmma defines it (hopper.cuh), for this lane's numbers.
void multiply(const Product& p) {
  const std::byte* all = exchange(p.a, 16);
  // A descriptor is an address as a number. NOLINTNEXTLINE(performance-no-int-to-ptr)
  const auto* base = reinterpret_cast<const std::byte*>(p.right * 16 & ~uint64_t{1023});
  const int first_part = static_cast<int>(p.right % 8), lane = self().index % 32;
  float left[2][16];
  for (int half = 0; half < 2; ++half)
    for (int k = 0; k < 16; ++k) {
      uint32_t pair;
      const int owner = lane / 4 * 4 + k % 8 / 2;
      std::memcpy(&pair, all + static_cast<ptrdiff_t>(kLaneBytes * owner + 4 * (half + k / 8 * 2)), 4);
      left[half][k] = half_value(static_cast<uint16_t>(pair >> (16 * (k % 2))));
    }
  for (int j = 0; j < p.cols / 8; ++j)
    for (int i = 0; i < 2; ++i) {
      const int col = 8 * j + 2 * (lane % 4) + i;
      float sum[2] = {0, 0};
      for (int k = 0; k < 16; ++k) {
        uint16_t half;
        const int part = first_part + k / 8;
        std::memcpy(&half, base + 128 * col + (part ^ col % 8) * 16 + 2 * (k % 8), 2);
        const float right = half_value(half);
        sum[0] += left[0][k] * right;
        sum[1] += left[1][k] * right;
      }
      p.d[4 * j + i] += sum[0];
      p.d[4 * j + 2 + i] += sum[1];
    }
}

}  // namespace

const Thread& self() { return cluster.current().place; }

void run(Place grid, const BlockShape& shape, const std::function<void()>& body) {
  static constexpr int kStrides[] = {1, 31, 7, 1023, 5};
  static thread_local unsigned launches = 0;
  const int stride = kStrides[launches++ % std::size(kStrides)];
  QUERN_CHECK(grid.x % shape.cluster == 0);
  for (int z = 0; z < grid.z; ++z)
    for (int y = 0; y < grid.y; ++y)
      for (int x = 0; x < grid.x; x += shape.cluster) cluster.run(grid, {x, y, z}, shape, body, stride);
}

uint8_t* dynamic_shared() { return cluster.dynamic(); }
void wait_for_block() { cluster.wait_for_block(); }
const std::byte* exchange(const void* mine, size_t bytes) { return cluster.exchange(mine, bytes); }

void copy_later(void* to, const void* from, int bytes) {
  const auto size = static_cast<uintptr_t>(bytes);
  QUERN_CHECK(reinterpret_cast<uintptr_t>(to) % size == 0 && reinterpret_cast<uintptr_t>(from) % size == 0);
  cluster.current().open.push_back({to, from, bytes});
}
void close_copies() {
  Fiber& fiber = cluster.current();
  fiber.groups.push_back(std::move(fiber.open));
  fiber.open.clear();
}
void finish_copies(int but_last) {
  auto& groups = cluster.current().groups;
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

namespace hopper {

using simt::cluster;

void init(Barrier* barrier, int arrivals) {
  const auto count = static_cast<uint8_t>(arrivals);
  *barrier = {.bytes = 0, .pending = count, .arrivals = count, .phase = 0};
}
void arrive(Barrier* barrier) {
  QUERN_CHECK(barrier->pending > 0);
  --barrier->pending;
  simt::end_phase_if_complete(*barrier);
}
void arrive_expecting(Barrier* barrier, int bytes) {
  barrier->bytes += bytes;
  arrive(barrier);
}
void wait(Barrier* barrier, int parity) {
  while (barrier->phase == parity) cluster.yield();
}
void copy_bulk(void* shared, const void* global, int bytes, Barrier* barrier) {
  cluster.copy_bulk({{shared, global, bytes}, barrier});
}

void sync_cluster() { cluster.wait_for_cluster(); }
void arrive_at(Barrier* barrier, int rank) { arrive(static_cast<Barrier*>(cluster.in_block(barrier, rank))); }
void copy_bulk_to_all(void* shared, const void* global, int bytes, Barrier* barrier, int blocks) {
  for (int i = 0; i < blocks; ++i)
    copy_bulk(cluster.in_block(shared, i), global, bytes,
              static_cast<Barrier*>(cluster.in_block(barrier, i)));
}

void product_later(float* d, const uint32_t* a, uint64_t right, int cols) {
  cluster.current().open_products.push_back({d, a, right, cols});
}
void wgmma_commit() {
  simt::Fiber& fiber = cluster.current();
  fiber.product_groups.push_back(std::move(fiber.open_products));
  fiber.open_products.clear();
}
void finish_products(int but_last) {
  auto& groups = cluster.current().product_groups;
  while (static_cast<int>(groups.size()) > but_last) {
    for (const simt::Product& product : groups.front())
      if (!products_are_lost) simt::multiply(product);
    groups.erase(groups.begin());
    simt::exchange("", 1);  // a warp's product is done for all its lanes at once
  }
}

}  // namespace hopper

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
