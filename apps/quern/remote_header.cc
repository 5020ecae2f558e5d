#include "remote_header.h"

#include <cstdlib>
#include <fstream>

#include "formats/gguf.h"

namespace quern {
namespace {

namespace fs = std::filesystem;

/// Most headers are smaller; those with a large vocabulary take one or two rounds more.
constexpr uint64_t kFirst = 2 << 20;
/// No header is larger than this (bytes).
constexpr uint64_t kMost = 256 << 20;

/// Makes `file` at least `count` bytes of the hub's, the rest a hole.
Result<> extend(const Hub& hub, const RemoteModel& model, const HubFile& file, const fs::path& path,
                uint64_t have, uint64_t count) {
  QUERN_TRY(const std::string bytes, hub.read(model, file, have, count - have));
  std::fstream out(path, std::ios::binary | std::ios::in | std::ios::out);
  if (!out) out.open(path, std::ios::binary | std::ios::out);
  out.seekp(static_cast<std::streamoff>(have));
  out.write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
  out.close();
  std::error_code error;
  fs::resize_file(path, file.size, error);
  if (!out || error)
    return fail(ErrorCode::io, "{}: cannot write the header that was fetched", path.string());
  return {};
}

}  // namespace

RemoteHeader::RemoteHeader(RemoteHeader&& other) noexcept
    : folder_(std::move(other.folder_)), source_(std::move(other.source_)) {
  other.folder_.clear();
}

RemoteHeader::~RemoteHeader() {
  std::error_code ignored;
  if (!folder_.empty()) fs::remove_all(folder_, ignored);
}

Result<RemoteHeader> RemoteHeader::open(const Hub& hub, const RemoteModel& model) {
  RemoteHeader header;
  std::error_code error;
  std::string folder = (fs::temp_directory_path(error) / "quern-inspect-XXXXXX").string();
  if (error || mkdtemp(folder.data()) == nullptr)
    return fail(ErrorCode::io,
                "{}: cannot make a folder for the header: set TMPDIR to one that can be written", folder);
  header.folder_ = folder;
  std::vector<uint64_t> have(model.files.size(), 0);
  for (uint64_t wanted = kFirst;; wanted *= 4) {
    uint64_t all = 0, fetched = 0;
    for (size_t i = 0; i < model.files.size(); ++i) {
      // Parts behind the first have no vocabulary.
      const HubFile& file = model.files[i];
      const uint64_t count = std::min(file.size, i == 0 ? wanted : std::max(kFirst / 2, wanted / 16));
      const fs::path path = header.folder_ / fs::path(file.name).filename();
      if (count > have[i]) QUERN_TRY_VOID(extend(hub, model, file, path, have[i], count));
      have[i] = std::max(have[i], count);
      all += file.size;
      fetched += have[i];
    }
    auto source = open_gguf(header.folder_ / fs::path(model.files.front().name).filename());
    const bool everything = fetched == all || wanted >= kMost;
    // What is neither a tensor's data nor fetched would be a part of the header that was read as zeros.
    if (source && (everything || all - (*source)->bytes() <= fetched)) {
      header.source_ = *std::move(source);
      return header;
    }
    if (everything)
      return fail(source ? ErrorCode::corrupt : source.error().code, "{}/{}: {}", model.repo,
                  model.files.front().name, source ? "its header has no end" : source.error().message);
  }
}

}  // namespace quern
