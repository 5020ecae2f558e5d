#include "kv/prefix_cache.h"

#include <algorithm>
#include <random>

#include "core/check.h"

namespace quern {
namespace {

uint64_t mix(uint64_t x) {  // splitmix64's finalizer
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
  return x ^ (x >> 31);
}

}  // namespace

PrefixCache::PrefixCache(int64_t blocks)
    : entries_(static_cast<size_t>(blocks)), index_(0, Hash{this}, Equal{this}) {
  std::random_device device;
  salt_ = (uint64_t{device()} << 32) | device();
}

size_t PrefixCache::Hash::operator()(const Key& key) const {
  uint64_t hash = cache->salt_ ^ mix(key.parent);
  for (const int32_t token : key.tokens)
    hash = mix(hash + 0x9e3779b97f4a7c15u + static_cast<uint32_t>(token));
  return hash;
}

bool PrefixCache::Equal::operator()(const Key& a, const Key& b) const {
  return a.parent == b.parent && std::ranges::equal(a.tokens, b.tokens);
}

int32_t PrefixCache::find(uint64_t parent, std::span<const int32_t> tokens) const {
  const auto found = index_.find(Key{parent, tokens});
  return found == index_.end() ? -1 : *found;
}

uint64_t PrefixCache::insert(uint64_t parent, std::span<const int32_t> tokens, int32_t block) {
  Entry& entry = entries_[static_cast<size_t>(block)];
  QUERN_DCHECK(entry.node == kRoot);
  entry.node = next_node_++;
  entry.parent = parent;
  entry.tokens.assign(tokens.begin(), tokens.end());
  const bool added = index_.insert(block).second;
  QUERN_DCHECK(added);
  (void)added;
  return entry.node;
}

void PrefixCache::erase(int32_t block) {
  index_.erase(block);
  Entry& entry = entries_[static_cast<size_t>(block)];
  entry.node = kRoot;
  entry.tokens.clear();
}

}  // namespace quern
