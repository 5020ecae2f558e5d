// Whether a file is what its etag says.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <stop_token>
#include <string>

#include "core/result.h"

namespace quern::hub {

/// The etag as huggingface_hub names a blob by it: without W/ and quotes. Empty when it cannot be a file's
/// name.
std::string normalize_etag(std::string_view header);

/// By the etag's form: 64 hexadecimal digits are the content's SHA-256 (large files); 40 are git's SHA-1 of a
/// blob (small files), or the content's. An etag of another form says nothing and matches. `progress` gets
/// the bytes read so far. corrupt: it does not match; cancelled: stopped.
Result<> check_hash(const std::filesystem::path& file, std::string_view etag, const std::stop_token& stop,
                    const std::function<void(uint64_t)>& progress = {});

}  // namespace quern::hub
