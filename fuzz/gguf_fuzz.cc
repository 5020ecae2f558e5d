// The GGUF reader over arbitrary bytes; of what it accepts, every tensor's first and last block is decoded.
#include <sys/stat.h>

#include <cstdlib>

#include "formats/gguf.h"
#include "formats/gguf_builder_for_test.h"
#include "quant/affine.h"

namespace quern {
namespace {

/// One block of every format, with metadata around it.
std::string every_format() {
  const auto formats = all_quants();
  ByteBuilder b;
  b.header(formats.size(), 3);
  b.string_key("general.architecture", "llama");
  b.key("general.alignment", gguf::ValueType::u32).put(uint32_t{64});
  b.key("split.count", gguf::ValueType::u16).put(uint16_t{1});
  uint64_t offset = 0;
  for (const QuantInfo* info : formats) {
    b.tensor(info->name, {info->block, 1}, static_cast<uint32_t>(info->dtype), offset);
    offset += (info->bytes + 63) / 64 * 64;
  }
  b.pad(64);
  for (const QuantInfo* info : formats) b.raw(std::string(info->bytes, '\x3c')).pad(64);
  return b.str();
}

void decode_block(const QuantInfo& info, const std::byte* block) {
  float out[256];
  info.decode(block, out, info.block);
  if (info.unpack == nullptr) return;
  AffineBlock parts;
  info.unpack(block, parts);
  affine_decode(info, parts, out);
}

}  // namespace
}  // namespace quern

/// Puts seeds into the corpus, the first folder named.
extern "C" int LLVMFuzzerInitialize(int* argc, char*** argv) {
  for (int i = 1; i < *argc; ++i) {
    struct stat info {};
    if (stat((*argv)[i], &info) != 0 || !S_ISDIR(info.st_mode)) continue;
    const std::filesystem::path folder = (*argv)[i];
    std::ofstream(folder / "seed-v2", std::ios::binary) << quern::small_file(2).str();
    std::ofstream(folder / "seed-v3", std::ios::binary) << quern::small_file(3).str();
    std::ofstream(folder / "seed-formats", std::ios::binary) << quern::every_format();
    break;
  }
  return 0;
}

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace quern;
  const auto opened = open_gguf(std::as_bytes(std::span(data, size)), "fuzz");
  if (!opened) {
    // One line that a terminal can show.
    for (const char c : opened.error().message) {
      if (static_cast<unsigned char>(c) < 0x20) std::abort();
    }
    return 0;
  }
  for (const RawTensor& tensor : (*opened)->tensors()) {
    const QuantInfo* info = find_quant(tensor.dtype);
    if (info == nullptr || tensor.data.size() % info->bytes != 0) std::abort();
    if (static_cast<uint64_t>(tensor.elements()) / info->block * info->bytes != tensor.data.size())
      std::abort();
    if ((*opened)->find(tensor.name) != &tensor) std::abort();
    decode_block(*info, tensor.data.data());
    decode_block(*info, tensor.data.data() + tensor.data.size() - info->bytes);
  }
  return 0;
}
