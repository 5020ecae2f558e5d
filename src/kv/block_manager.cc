#include "kv/block_manager.h"

#include <algorithm>

#include "core/check.h"

namespace quern {

BlockManager::BlockManager(int64_t blocks, int64_t block_size, bool prefix_caching)
    : block_size_(block_size),
      prefix_caching_(prefix_caching),
      references_(static_cast<size_t>(blocks)),
      position_(static_cast<size_t>(blocks)),
      prefixes_(blocks) {
  QUERN_CHECK(block_size >= 1);
  unused_.reserve(static_cast<size_t>(blocks));
  for (int64_t block = blocks; block-- > 0;) unused_.push_back(static_cast<int32_t>(block));
}

int32_t BlockManager::take() {
  int32_t block;
  if (!unused_.empty()) {
    block = unused_.back();
    unused_.pop_back();
  } else {
    block = cached_.front();
    cached_.pop_front();
    prefixes_.erase(block);
  }
  references_[static_cast<size_t>(block)] = 1;
  return block;
}

void BlockManager::hold(int32_t block) {
  if (references_[static_cast<size_t>(block)]++ == 0) cached_.erase(position_[static_cast<size_t>(block)]);
}

void BlockManager::drop(int32_t block) {
  QUERN_DCHECK(references_[static_cast<size_t>(block)] > 0);
  if (--references_[static_cast<size_t>(block)] > 0) return;
  if (prefixes_.contains(block))
    position_[static_cast<size_t>(block)] = cached_.insert(cached_.end(), block);
  else
    unused_.push_back(block);
}

int64_t BlockManager::attach(BlockTable& table, std::span<const int32_t> tokens) {
  const int64_t most = tokens.empty() ? 0 : (static_cast<int64_t>(tokens.size()) - 1) / block_size_;
  while (prefix_caching_ && table.sealed < most) {
    const auto content =
        tokens.subspan(static_cast<size_t>(table.sealed * block_size_), static_cast<size_t>(block_size_));
    const int32_t block = prefixes_.find(table.node, content);
    if (block < 0) break;
    hold(block);
    if (table.sealed < static_cast<int64_t>(table.blocks.size())) {
      int32_t& reserved = table.blocks[static_cast<size_t>(table.sealed)];
      drop(reserved);
      reserved = block;
    } else {
      table.blocks.push_back(block);
    }
    table.node = prefixes_.node(block);
    ++table.sealed;
  }
  return table.sealed * block_size_;
}

bool BlockManager::grow(BlockTable& table, int64_t tokens) {
  const int64_t missing = blocks_for(tokens) - static_cast<int64_t>(table.blocks.size());
  if (missing > free()) return false;
  for (int64_t i = 0; i < missing; ++i) table.blocks.push_back(take());
  return true;
}

void BlockManager::shrink(BlockTable& table, int64_t tokens) {
  QUERN_DCHECK(blocks_for(tokens) >= table.sealed);
  while (static_cast<int64_t>(table.blocks.size()) > blocks_for(tokens)) {
    drop(table.blocks.back());
    table.blocks.pop_back();
  }
}

void BlockManager::seal(BlockTable& table, std::span<const int32_t> tokens, int64_t computed) {
  if (!prefix_caching_) return;
  while ((table.sealed + 1) * block_size_ <= computed) {
    const auto content =
        tokens.subspan(static_cast<size_t>(table.sealed * block_size_), static_cast<size_t>(block_size_));
    int32_t& own = table.blocks[static_cast<size_t>(table.sealed)];
    // Taking the block that is there already keeps an invariant: who holds a node holds its ancestors, so a
    // prefix is never forgotten while something that builds on it is in use.
    if (const int32_t same = prefixes_.find(table.node, content); same >= 0) {
      hold(same);
      drop(own);
      own = same;
      table.node = prefixes_.node(same);
    } else {
      table.node = prefixes_.insert(table.node, content, own);
    }
    ++table.sealed;
  }
}

void BlockManager::release(BlockTable& table) {
  // From the end, so that the end of a prefix is older in the cache than its beginning and is evicted first.
  for (size_t i = table.blocks.size(); i-- > 0;) drop(table.blocks[i]);
  table = {};
}

}  // namespace quern
