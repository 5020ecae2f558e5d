// Which blocks hold which token prefixes, so that a later request with the same beginning need not compute it
// again. Bookkeeping on the host; knows no tensors.
#pragma once

#include <cstdint>
#include <span>
#include <unordered_set>
#include <vector>

namespace quern {

/// A tree of full blocks. A node is one block's content at its place: the tokens in it, after the prefix that
/// its parent node stands for. Node ids are never used twice and lookups compare the tokens themselves, so
/// equal ids mean equal prefixes: a hash collision costs time, never a wrong block.
class PrefixCache {
 public:
  /// The node of the empty prefix.
  static constexpr uint64_t kRoot = 0;

  /// For blocks 0 … blocks − 1.
  explicit PrefixCache(int64_t blocks);
  // The index refers to this object's own entries.
  PrefixCache(const PrefixCache&) = delete;
  PrefixCache& operator=(const PrefixCache&) = delete;

  /// The block that holds `tokens` after the prefix `parent`; −1: none.
  int32_t find(uint64_t parent, std::span<const int32_t> tokens) const;
  /// Remembers `block` as the holder of `tokens` after `parent`; returns the new node. Neither the block nor
  /// the content may be in the cache already.
  uint64_t insert(uint64_t parent, std::span<const int32_t> tokens, int32_t block);
  /// Forgets a block that is in the cache.
  void erase(int32_t block);

  bool contains(int32_t block) const { return entries_[static_cast<size_t>(block)].node != kRoot; }
  /// The node that a cached block stands for.
  uint64_t node(int32_t block) const { return entries_[static_cast<size_t>(block)].node; }
  size_t size() const { return index_.size(); }

 private:
  struct Entry {
    uint64_t node = kRoot;  // kRoot: the block is not in the cache
    uint64_t parent = kRoot;
    std::vector<int32_t> tokens;
  };
  struct Key {
    uint64_t parent;
    std::span<const int32_t> tokens;
  };
  struct Hash {
    using is_transparent = void;
    const PrefixCache* cache;
    size_t operator()(const Key& key) const;
    size_t operator()(int32_t block) const { return (*this)(cache->key(block)); }
  };
  struct Equal {
    using is_transparent = void;
    const PrefixCache* cache;
    bool operator()(const Key& a, const Key& b) const;
    bool operator()(int32_t a, const Key& b) const { return (*this)(cache->key(a), b); }
    bool operator()(const Key& a, int32_t b) const { return (*this)(a, cache->key(b)); }
    bool operator()(int32_t a, int32_t b) const { return a == b; }
  };
  Key key(int32_t block) const {
    const Entry& entry = entries_[static_cast<size_t>(block)];
    return {entry.parent, entry.tokens};
  }

  std::vector<Entry> entries_;  // by block
  std::unordered_set<int32_t, Hash, Equal> index_;
  uint64_t next_node_ = kRoot + 1;
  uint64_t salt_;  // random, so that nobody can choose prompts that collide
};

}  // namespace quern
