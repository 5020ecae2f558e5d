// Which KV block belongs to which sequence. Bookkeeping on the host; knows no tensors.
#pragma once

#include <cstdint>
#include <list>
#include <span>
#include <vector>

#include "kv/prefix_cache.h"

namespace quern {

/// One sequence's hold on blocks: position p lies in slot p % block_size of blocks[p / block_size]. Written
/// by BlockManager alone. The first `sealed` blocks are full, computed and shared through the prefix cache;
/// they are never written again. The others belong to this sequence alone.
struct BlockTable {
  std::vector<int32_t> blocks;
  int64_t sealed = 0;
  uint64_t node = PrefixCache::kRoot;  // of the sealed blocks: equal nodes mean equal sealed tokens
};

/// Blocks with reference counts. A sealed block that no sequence holds stays in the prefix cache until its
/// space is needed; the least recently used go first, and the end of a prefix before its beginning.
///
/// Not thread-safe.
class BlockManager {
 public:
  /// blocks ≥ 0, block_size ≥ 1.
  BlockManager(int64_t blocks, int64_t block_size, bool prefix_caching);

  int64_t total() const { return static_cast<int64_t>(references_.size()); }
  /// Held by no sequence; cached prefixes count as free.
  int64_t free() const { return static_cast<int64_t>(unused_.size() + cached_.size()); }
  /// Free blocks that hold a reusable prefix.
  int64_t cached() const { return static_cast<int64_t>(cached_.size()); }
  int64_t block_size() const { return block_size_; }
  bool prefix_caching() const { return prefix_caching_; }
  int64_t blocks_for(int64_t tokens) const { return (tokens + block_size_ - 1) / block_size_; }

  /// Continues the sealed part of `table` with cached blocks that hold the next of `tokens` (the sequence
  /// from its start), in place of blocks reserved for them. Nothing past the sealed part may have been
  /// computed. At least the last token stays to be computed, because its logits are not cached. Returns the
  /// tokens covered.
  int64_t attach(BlockTable& table, std::span<const int32_t> tokens);
  /// Holds blocks for `tokens` tokens in all; false, and nothing changed, when there are too few.
  bool grow(BlockTable& table, int64_t tokens);
  /// Gives back what is held beyond the blocks of `tokens` tokens; those must reach past the sealed part.
  void shrink(BlockTable& table, int64_t tokens);
  /// Shares the blocks that are full now that the first `computed` of `tokens` are in the cache. Where the
  /// same content is cached already, the table takes that block and gives its own back.
  void seal(BlockTable& table, std::span<const int32_t> tokens, int64_t computed);
  /// Gives all blocks back.
  void release(BlockTable& table);

 private:
  int32_t take();
  void hold(int32_t block);
  void drop(int32_t block);

  const int64_t block_size_;
  const bool prefix_caching_;
  std::vector<int32_t> references_;                     // by block
  std::vector<std::list<int32_t>::iterator> position_;  // in cached_, by block; valid for the blocks in it
  std::vector<int32_t> unused_;                         // a stack
  std::list<int32_t> cached_;                           // least recently used first
  PrefixCache prefixes_;
};

}  // namespace quern
