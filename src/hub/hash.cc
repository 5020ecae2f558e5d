#include "hub/hash.h"

#include <fcntl.h>
#include <openssl/evp.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <memory>
#include <vector>

#include "core/file.h"

namespace quern::hub {
namespace {

struct DigestFree {
  void operator()(EVP_MD_CTX* context) const { EVP_MD_CTX_free(context); }
};

class Digest {
 public:
  explicit Digest(const EVP_MD* kind) : context_(EVP_MD_CTX_new()) {
    good_ = context_ && EVP_DigestInit_ex(context_.get(), kind, nullptr) == 1;
  }
  void add(const void* data, size_t size) {
    good_ = good_ && EVP_DigestUpdate(context_.get(), data, size) == 1;
  }
  /// In lower-case hexadecimal; empty when the library failed.
  std::string finish() {
    unsigned char bytes[EVP_MAX_MD_SIZE];
    unsigned size = 0;
    if (!good_ || EVP_DigestFinal_ex(context_.get(), bytes, &size) != 1) return {};
    std::string text;
    for (unsigned i = 0; i < size; ++i) text += fmt::format("{:02x}", static_cast<unsigned>(bytes[i]));
    return text;
  }

 private:
  std::unique_ptr<EVP_MD_CTX, DigestFree> context_;
  bool good_ = false;
};

bool is_hex(std::string_view text) {
  return std::ranges::all_of(text, [](char c) { return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f'); });
}

}  // namespace

std::string normalize_etag(std::string_view header) {
  if (header.starts_with("W/")) header.remove_prefix(2);
  while (header.starts_with('"')) header.remove_prefix(1);
  while (header.ends_with('"')) header.remove_suffix(1);
  if (header.empty() || header.size() > 128 || header.front() == '.') return {};
  for (const char c : header) {
    const bool plain = (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
    if (!plain && c != '-' && c != '_' && c != '.' && c != '+' && c != '=') return {};
  }
  // Names that mean something else beside a blob.
  for (const std::string_view ending : {".incomplete", ".lock", ".tmp", ".quern-part", ".quern-ranges"})
    if (header.ends_with(ending)) return {};
  return std::string(header);
}

Result<> check_hash(const std::filesystem::path& path, std::string_view etag, const std::stop_token& stop,
                    const std::function<void(uint64_t)>& progress) {
  const bool large = etag.size() == 64 && is_hex(etag), small = etag.size() == 40 && is_hex(etag);
  if (!large && !small) return {};
  const Descriptor file(open(path.c_str(), O_RDONLY | O_CLOEXEC));
  struct stat info {};
  if (!file || fstat(file.get(), &info) != 0) return io_error(path, "read", errno);
  Digest digest(large ? EVP_sha256() : EVP_sha1()), content(EVP_sha1());
  const std::string git_header = fmt::format("blob {}", info.st_size);
  if (small) digest.add(git_header.c_str(), git_header.size() + 1);  // with its NUL
  posix_fadvise(file.get(), 0, 0, POSIX_FADV_SEQUENTIAL);
  std::vector<char> buffer(1 << 20);
  uint64_t done = 0;
  while (true) {
    if (stop.stop_requested()) return fail(ErrorCode::cancelled, "stopped");
    const ssize_t n = read(file.get(), buffer.data(), buffer.size());
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return io_error(path, "read", errno);
    if (n == 0) break;
    digest.add(buffer.data(), static_cast<size_t>(n));
    if (small) content.add(buffer.data(), static_cast<size_t>(n));
    done += static_cast<uint64_t>(n);
    if (progress) progress(done);
  }
  const std::string found = digest.finish();
  if (found == etag || (small && content.finish() == etag)) return {};
  return fail(ErrorCode::corrupt, "its {} is {} where the hub says {}", large ? "SHA-256" : "SHA-1", found,
              etag);
}

}  // namespace quern::hub
