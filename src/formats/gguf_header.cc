// Tells a file that cannot be read from one that can, by its first bytes.
#include <cstring>
#include <string_view>

#include "formats/gguf_parse.h"

namespace quern::gguf {
namespace {

struct Lookalike {
  std::string_view magic;
  std::string_view what;
};

// What people name by mistake. The older ggml formats stored their magic as a little-endian number.
constexpr Lookalike kLookalikes[] = {
    {"version https://git-lfs",
     "a Git LFS pointer, not the file itself: run `git lfs pull`, or download it again"},
    {"<!DOCTYPE", "a web page: the download failed or asks for a login; download it again"},
    {"<!doctype", "a web page: the download failed or asks for a login; download it again"},
    {"<html", "a web page: the download failed or asks for a login; download it again"},
    {"PK\x03\x04", "a zip archive or a PyTorch checkpoint: convert it to GGUF, or use a safetensors model"},
    {"\x80\x02", "a Python pickle (an old PyTorch checkpoint): convert it to GGUF"},
    {"lmgg", "a GGML file from before 2023-03: convert the original model to GGUF"},
    {"fmgg", "a GGMF file from 2023-03: convert the original model to GGUF"},
    {"tjgg", "a GGJT file from before 2023-08: convert the original model to GGUF"},
    {"algg", "a GGLA adapter file: convert the original adapter to GGUF"},
    {"\x1f\x8b", "a gzip archive: unpack it first"},
};

/// safetensors: a JSON header's length in 8 bytes, then its opening brace.
bool looks_like_safetensors(std::span<const std::byte> bytes) {
  if (bytes.size() < 10 || bytes[8] != std::byte{'{'}) return false;
  uint64_t length;
  std::memcpy(&length, bytes.data(), sizeof(length));
  return length < (uint64_t{1} << 32);
}

std::string hex(std::span<const std::byte> bytes) {
  std::string out;
  for (const std::byte b : bytes) out += fmt::format("{}{:02x}", out.empty() ? "" : " ", static_cast<int>(b));
  return out;
}

}  // namespace

Result<> check_header(std::span<const std::byte> bytes, const std::string& name) {
  if (bytes.empty()) return fail(ErrorCode::corrupt, "{}: the file is empty: download it again", name);
  const std::string_view start(reinterpret_cast<const char*>(bytes.data()),
                               std::min<size_t>(bytes.size(), 64));
  if (!start.starts_with("GGUF")) {
    for (const Lookalike& other : kLookalikes) {
      if (start.starts_with(other.magic))
        return fail(ErrorCode::unsupported, "{}: not a GGUF file but {}", name, other.what);
    }
    if (looks_like_safetensors(bytes))
      return fail(ErrorCode::unsupported,
                  "{}: not a GGUF file but safetensors: name the folder with its config.json instead", name);
    return fail(ErrorCode::corrupt, "{}: not a GGUF file: it starts with {} instead of \"GGUF\"", name,
                hex(bytes.first(std::min<size_t>(bytes.size(), 4))));
  }
  if (bytes.size() < 24)
    return fail(ErrorCode::corrupt, "{}: truncated: {} bytes, but the header alone has 24: download it again",
                name, bytes.size());
  uint32_t version;
  std::memcpy(&version, bytes.data() + 4, sizeof(version));
  if (version == 2 || version == 3) return {};
  if ((version & 0xffff) == 0 && version != 0)
    return fail(ErrorCode::unsupported,
                "{}: a big-endian GGUF file (version {}): get the little-endian one, or convert it", name,
                __builtin_bswap32(version));
  if (version == 1)
    return fail(ErrorCode::unsupported,
                "{}: GGUF version 1, of which few files exist: convert the model again", name);
  return fail(ErrorCode::unsupported, "{}: GGUF version {}: versions 2 and 3 are supported", name, version);
}

}  // namespace quern::gguf
