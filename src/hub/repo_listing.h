// The hub's answers as JSON, read as what they are: input from a stranger.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "core/result.h"

namespace quern::hub {

/// Answers larger than this are not read at all.
inline constexpr size_t kMaxListingBytes = size_t{32} << 20;

/// What `/api/models/{repo}/revision/{rev}` says.
struct RepoListing {
  std::string commit;              // 40 hexadecimal digits
  std::vector<std::string> files;  // safe as paths below a folder, sorted, none twice
  bool gated = false;              // access must be asked for
};

/// Checks everything: the size, the nesting, the commit, every file name (no empty, absolute, `.`, `..` or
/// overlong part, no backslash, no control character). One bad name makes the listing an error: who sends
/// such a name has nothing that we want.
Result<RepoListing> parse_listing(std::string_view json);

/// The names in `/api/models/{repo}/refs`: branches, then tags.
Result<std::vector<std::string>> parse_refs(std::string_view json);

/// The shards in a `*.safetensors.index.json`, sorted; names are checked as in a listing.
Result<std::vector<std::string>> parse_shards(std::string_view json);

/// `quant_method` of a config.json's `quantization_config`: "gptq", "awq" …; empty when there is none.
Result<std::string> quantization_method(std::string_view config_json);

/// A path as a repo may hold it, safe below a folder.
Result<> check_file_name(std::string_view name);

}  // namespace quern::hub
