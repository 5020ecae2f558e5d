#include "quantize/isq_memory.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "formats/gguf.h"

namespace quern {

Result<std::unique_ptr<IsqInMemory>> IsqInMemory::lay_out(std::unique_ptr<WeightSource> source,
                                                          const IsqOptions& options) {
  const std::string name = source->name();
  std::unique_ptr<IsqInMemory> memory(new IsqInMemory(std::move(source), name));
  memory->file_ = Descriptor(memfd_create("quern-isq", MFD_CLOEXEC));
  if (!memory->file_) return io_error("a file in memory", "create", errno);
  QUERN_TRY_VOID(write_layout(*memory->source_, memory->file_.get(), isq_quantize_options(options, {})));
  QUERN_TRY_VOID(memory->open());
  return memory;
}

/// Reads what the header says now.
Result<> IsqInMemory::open() {
  if (data_ == nullptr) {
    struct stat info {};
    if (fstat(file_.get(), &info) != 0) return io_error("a file in memory", "look at", errno);
    size_ = static_cast<size_t>(info.st_size);
    void* data = mmap(nullptr, size_, PROT_READ, MAP_SHARED, file_.get(), 0);
    if (data == MAP_FAILED) return io_error("a file in memory", "map", errno);
    data_ = static_cast<std::byte*>(data);
  }
  QUERN_TRY(result_, open_gguf({data_, size_}, name_));
  return {};
}

Result<QuantizeReport> IsqInMemory::fill(const IsqOptions& options, const std::stop_token& stop) {
  QUERN_TRY(QuantizeReport report, quantize_into(*source_, file_.get(), isq_quantize_options(options, stop)));
  source_.reset();
  QUERN_TRY_VOID(open());
  return report;
}

void IsqInMemory::forget(std::span<const std::byte> data) const {
  if (data.data() < data_ || data.data() + data.size() > data_ + size_) return;
  static const auto page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
  const auto offset = static_cast<size_t>(data.data() - data_);
  const size_t begin = (offset + page - 1) / page * page, end = (offset + data.size()) / page * page;
  if (begin < end)
    fallocate(file_.get(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, static_cast<off_t>(begin),
              static_cast<off_t>(end - begin));
}

IsqInMemory::~IsqInMemory() {
  result_.reset();
  if (data_ != nullptr) munmap(data_, size_);
}

}  // namespace quern
