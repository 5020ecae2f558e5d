#include "core/buffer.h"

#include <sys/mman.h>

#include <cstring>

namespace quern {
namespace {
constexpr size_t kHugePage = size_t{2} << 20;
constexpr size_t kPage = 4096;

constexpr size_t round_up(size_t bytes, size_t page) { return (bytes + page - 1) / page * page; }
}  // namespace

Result<Buffer> Buffer::allocate(size_t bytes) {
  if (bytes == 0) return Buffer();
  const bool huge = bytes >= kHugePage;
  if (bytes > SIZE_MAX - 2 * kHugePage)
    return fail(ErrorCode::resource_exhausted, "cannot allocate {} bytes", bytes);
  // The last page is a huge one, too, where that takes next to no memory beyond what is counted.
  const size_t rounded = round_up(bytes, kHugePage);
  const size_t mapped = huge && rounded - bytes <= bytes / 64 ? rounded : round_up(bytes, kPage);
  // Over-map by one huge page so that the start can be aligned, then give the ends back.
  const size_t reach = huge ? mapped + kHugePage : mapped;
  void* raw = mmap(nullptr, reach, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (raw == MAP_FAILED)
    return fail(ErrorCode::resource_exhausted, "cannot allocate {} bytes: {}", bytes, std::strerror(errno));
  auto* begin = static_cast<std::byte*>(raw);
  auto* aligned = begin;
  if (huge) {
    const auto address = reinterpret_cast<uintptr_t>(begin);
    aligned = begin + (round_up(address, kHugePage) - address);
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
