#include "core/buffer.h"

#include <sys/mman.h>

#include <cstring>

namespace quern {
namespace {
constexpr size_t kHugePage = size_t{2} << 20;
constexpr size_t kPage = 4096;
}  // namespace

Result<Buffer> Buffer::allocate(size_t bytes) {
  if (bytes == 0) return Buffer();
  const size_t granule = bytes >= 2 * kHugePage ? kHugePage : kPage;
  if (bytes > SIZE_MAX - granule)
    return fail(ErrorCode::resource_exhausted, "cannot allocate {} bytes", bytes);
  const size_t mapped = (bytes + granule - 1) / granule * granule;
  // Over-map by one granule so that the start can be aligned, then give the ends back.
  const size_t reach = granule == kHugePage ? mapped + granule : mapped;
  void* raw = mmap(nullptr, reach, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (raw == MAP_FAILED)
    return fail(ErrorCode::resource_exhausted, "cannot allocate {} bytes: {}", bytes, std::strerror(errno));
  auto* begin = static_cast<std::byte*>(raw);
  auto* aligned = begin;
  if (granule == kHugePage) {
    const auto address = reinterpret_cast<uintptr_t>(begin);
    aligned = begin + ((granule - address % granule) % granule);
    if (aligned != begin) munmap(begin, static_cast<size_t>(aligned - begin));
    const size_t tail = reach - mapped - static_cast<size_t>(aligned - begin);
    if (tail != 0) munmap(aligned + mapped, tail);
    madvise(aligned, mapped, MADV_HUGEPAGE);
  }
  return Buffer(aligned, bytes, mapped);
}

void Buffer::Unmap::operator()(std::byte* p) const {
  if (p != nullptr) munmap(p, bytes);
}

}  // namespace quern
