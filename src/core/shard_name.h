// How the files of one model say which of them they are: `prefix-00002-of-00005.gguf`.
#pragma once

#include <optional>
#include <string>
#include <string_view>

namespace quern {

struct ShardName {
  std::string prefix;              // with the folders, where the name had them
  unsigned number = 1, count = 1;  // 1 ≤ number ≤ count ≤ 99999
  std::string extension;           // as the name has it, with its dot

  /// The name of another shard of the model.
  std::string of(unsigned other) const;
};

/// A name of that form that ends in `extension` (in small letters; the name's may be others).
std::optional<ShardName> parse_shard_name(std::string_view name, std::string_view extension);

}  // namespace quern
