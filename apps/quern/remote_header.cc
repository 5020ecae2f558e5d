#include "remote_header.h"

#include <cstdlib>
#include <fstream>

#include "formats/gguf.h"
#include "formats/safetensors.h"
#include "models/checkpoint.h"
#include "models/hf_config.h"

namespace quern {
namespace {

namespace fs = std::filesystem;

/// Most headers are smaller; those with a large vocabulary take one or two rounds more.
constexpr uint64_t kFirst = 2 << 20;
/// No header is larger than this (bytes).
constexpr uint64_t kMost = 256 << 20;

/// Of a checkpoint's shard; most headers are smaller.
constexpr uint64_t kFirstOfShard = 128 << 10;

/// A message about the model, not about where its headers lie for now.
std::string without(std::string message, const fs::path& folder) {
  for (const std::string& prefix : {folder.string() + "/", folder.string() + ": "})
    if (message.starts_with(prefix)) message.erase(0, prefix.size());
  return message;
}

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
  QUERN_TRY_VOID(model.checkpoint ? header.open_checkpoint_headers(hub, model)
                                  : header.open_gguf_header(hub, model));
  return header;
}

Result<> RemoteHeader::open_gguf_header(const Hub& hub, const RemoteModel& model) {
  std::vector<uint64_t> have(model.files.size(), 0);
  for (uint64_t wanted = kFirst;; wanted *= 4) {
    uint64_t all = 0, fetched = 0;
    for (size_t i = 0; i < model.files.size(); ++i) {
      // Parts behind the first have no vocabulary.
      const HubFile& file = model.files[i];
      const uint64_t count = std::min(file.size, i == 0 ? wanted : std::max(kFirst / 2, wanted / 16));
      const fs::path path = folder_ / fs::path(file.name).filename();
      if (count > have[i]) QUERN_TRY_VOID(extend(hub, model, file, path, have[i], count));
      have[i] = std::max(have[i], count);
      all += file.size;
      fetched += have[i];
    }
    auto source = open_gguf(folder_ / fs::path(model.files.front().name).filename());
    const bool everything = fetched == all || wanted >= kMost;
    // What is neither a tensor's data nor fetched would be a part of the header that was read as zeros.
    if (source && (everything || all - (*source)->bytes() <= fetched)) {
      source_ = *std::move(source);
      return {};
    }
    if (everything)
      return fail(source ? ErrorCode::corrupt : source.error().code, "{}/{}: {}", model.repo,
                  model.files.front().name, source ? "its header has no end" : source.error().message);
  }
}

Result<> RemoteHeader::open_checkpoint_headers(const Hub& hub, const RemoteModel& model) {
  // The model's name is its folder's.
  const fs::path folder = folder_ / fs::path(model.repo).filename();
  std::error_code error;
  fs::create_directory(folder, error);
  QUERN_TRY(const std::string config, hub.read(model, {"config.json"}, 0, kMaxHfConfigBytes + 1));
  std::ofstream(folder / "config.json", std::ios::binary) << config;
  for (const std::string& beside : model.quantization_files) {
    QUERN_TRY(const std::string text, hub.read(model, {beside}, 0, kMaxHfConfigBytes + 1));
    std::ofstream(folder / beside, std::ios::binary) << text;
  }
  for (const HubFile& file : model.files) {
    const fs::path path = folder / fs::path(file.name).filename();
    const uint64_t first = std::min(file.size, kFirstOfShard);
    QUERN_TRY_VOID(extend(hub, model, file, path, 0, first));
    uint64_t length = 0;
    std::ifstream(path, std::ios::binary).read(reinterpret_cast<char*>(&length), sizeof length);
    // What is longer, the reader refuses.
    const uint64_t end = std::min(length, safetensors::kMaxHeaderBytes) + sizeof length;
    if (end > first && end <= file.size) QUERN_TRY_VOID(extend(hub, model, file, path, first, end));
  }
  auto source = open_checkpoint(folder, {});
  if (!source)
    return fail(source.error().code, "{}: {}", model.repo, without(source.error().message, folder));
  source_ = *std::move(source);
  return {};
}

}  // namespace quern
