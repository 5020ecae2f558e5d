// Any text as each of the hub's answers and as a reference: refused or read, in time and within bounds.
#include <cstdint>
#include <cstdlib>

#include "hub/hash.h"
#include "hub/reference.h"
#include "hub/repo_listing.h"
#include "hub/select.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace quern;
  if (size == 0) return 0;
  const std::string_view text(reinterpret_cast<const char*>(data) + 1, size - 1);
  switch (data[0] % 6) {
    case 0:
      if (const auto listing = hub::parse_listing(text)) {
        for (const std::string& file : listing->files)
          if (file.starts_with('/') || ("/" + file + "/").find("/../") != std::string::npos) std::abort();
        ModelReference reference;
        (void)hub::select_files(reference, listing->files);
        (void)hub::tokenizer_files(listing->files);
      }
      break;
    case 1:
      (void)hub::parse_refs(text);
      break;
    case 2:
      (void)hub::parse_shards(text);
      break;
    case 3:
      (void)hub::quantization_method(text);
      break;
    case 4:
      if (hub::normalize_etag(text).find('/') != std::string::npos) std::abort();
      break;
    default:
      (void)parse_reference(text);
  }
  return 0;
}
