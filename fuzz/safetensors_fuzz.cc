// The reader of safetensors files over arbitrary bytes; of what it accepts, every tensor's data is in the
// file and of the size that its shape needs.
#include <sys/stat.h>

#include <cstdlib>

#include "formats/safetensors.h"
#include "formats/safetensors_for_test.h"
#include "quant/quant.h"

/// Puts seeds into the corpus, the first folder named.
extern "C" int LLVMFuzzerInitialize(int* argc, char*** argv) {
  for (int i = 1; i < *argc; ++i) {
    struct stat info {};
    if (stat((*argv)[i], &info) != 0 || !S_ISDIR(info.st_mode)) continue;
    const std::filesystem::path folder = (*argv)[i];
    quern::testing::SafetensorsBuilder b;
    b.add("w", "F32", {2, 2}, std::string(16, '\1')).add("x", "BF16", {3}, std::string(6, '\2'));
    b.add("y", "I64", {}, std::string(8, '\3')).add("z", "F16", {0, 4}, std::string());
    std::ofstream(folder / "seed", std::ios::binary) << b.str();
    break;
  }
  return 0;
}

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace quern;
  const auto bytes = std::as_bytes(std::span(data, size));
  const auto parsed = safetensors::parse(bytes, "fuzz");
  if (!parsed) {
    // One line that a terminal can show.
    for (const char c : parsed.error().message) {
      if (static_cast<unsigned char>(c) < 0x20) std::abort();
    }
    return 0;
  }
  const auto inside = [&](std::span<const std::byte> part) {
    return part.empty() ||
           (part.data() >= bytes.data() && part.data() + part.size() <= bytes.data() + bytes.size());
  };
  for (const RawTensor& tensor : parsed->tensors) {
    if (!inside(tensor.data)) std::abort();
    for (const int64_t n : tensor.shape) {
      if (n < 0) std::abort();
    }
    if (tensor.data.empty()) continue;
    if (static_cast<uint64_t>(tensor.elements()) * find_quant(tensor.dtype)->bytes != tensor.data.size())
      std::abort();
    float last = 0;
    const RawTensor flat{tensor.name, tensor.dtype, {tensor.elements(), 1}, tensor.data};
    decode_rows(flat, flat.rows() - 1, 1, &last);
  }
  for (const auto& tensor : parsed->foreign) {
    if (!inside(tensor.data)) std::abort();
  }
  return 0;
}
