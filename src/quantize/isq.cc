#include "quantize/isq.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

#include <algorithm>
#include <cctype>
#include <set>

#include "core/file.h"
#include "core/file_lock.h"
#include "core/mapped_file.h"
#include "formats/gguf.h"
#include "formats/safetensors.h"
#include "quant/quant.h"

namespace quern {
namespace {

namespace fs = std::filesystem;

/// To be raised when an encoder's results change: older results are made anew then.
constexpr int kEncoderVersion = 1;
constexpr std::string_view kId = "quern.isq.id", kType = "quern.isq.type";
constexpr size_t kSmallFile = 64 << 20, kBeginning = 1 << 20;

std::string hex_digest(std::string_view bytes) {
  const XXH128_hash_t hash = XXH3_128bits(bytes.data(), bytes.size());
  return fmt::format("{:016x}{:016x}", hash.high64, hash.low64);
}

bool is_hash(std::string_view name) {
  return (name.size() == 40 || name.size() == 64) &&
         std::ranges::all_of(name, [](unsigned char c) { return std::isxdigit(c) != 0; });
}

/// The files beside the weights that make a difference to what the model is, each where it is there.
constexpr const char* kModelFiles[] = {"config.json", "generation_config.json"};
constexpr const char* kTextFiles[] = {
    "tokenizer.json",    "tokenizer_config.json", "tokenizer.model",   "special_tokens_map.json",
    "added_tokens.json", "chat_template.jinja",   "chat_template.json"};

constexpr const char* kTemplates = "additional_chat_templates";

/// "owner/repo:main" → "owner--repo-main".
std::string file_name(std::string_view id) {
  std::string name;
  for (const char c : id) {
    if (c == '/')
      name += "--";
    else
      name += std::isalnum(static_cast<unsigned char>(c)) != 0 || c == '.' || c == '_' ? c : '-';
  }
  return name.substr(name.size() > 100 ? name.size() - 100 : 0);
}

/// A use is a new time of access, whatever the file system does about that.
void touch(const fs::path& path) {
  const timespec times[2] = {{.tv_sec = 0, .tv_nsec = UTIME_NOW}, {.tv_sec = 0, .tv_nsec = UTIME_OMIT}};
  utimensat(AT_FDCWD, path.c_str(), times, 0);
}

/// Empty when it is not there or cannot be used (then it is made anew).
std::unique_ptr<WeightSource> open_result(const fs::path& path) {
  std::error_code ignored;
  if (!fs::exists(path, ignored)) return nullptr;
  auto opened = open_gguf(path);
  if (!opened || !(*opened)->metadata().contains(kType)) return nullptr;
  touch(path);
  return *std::move(opened);
}

}  // namespace

bool is_full_precision(const WeightSource& source) {
  return std::ranges::all_of(source.tensors(), [](const RawTensor& tensor) {
    return tensor.dtype == DType::F32 || tensor.dtype == DType::F16 || tensor.dtype == DType::BF16;
  });
}

Result<std::string> file_identity(const fs::path& path) {
  std::error_code error;
  const fs::path target = fs::canonical(path, error);
  if (error) return fail(ErrorCode::io, "{}: cannot be read: {}", path.string(), error.message());
  if (target.parent_path().filename() == "blobs" && is_hash(target.filename().string()))
    return target.filename().string();
  QUERN_TRY(const MappedFile file, MappedFile::open(target));
  const auto bytes = file.bytes();
  const std::string_view text(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  if (bytes.size() <= kSmallFile) return hex_digest(text);
  struct stat info {};
  if (stat(target.c_str(), &info) != 0) return io_error(target, "be looked at", errno);
  return fmt::format("{}.{}.{}.{}", bytes.size(), info.st_mtim.tv_sec, info.st_mtim.tv_nsec,
                     hex_digest(text.substr(0, kBeginning)));
}

Result<std::string> content_key(const IsqContent& content) {
  std::string all;
  std::error_code ignored;
  const auto add = [&](const fs::path& folder, const char* name) -> Result<> {
    if (!fs::exists(folder / name, ignored)) return {};
    QUERN_TRY(const std::string what, file_identity(folder / name));
    all += fmt::format("{}={}\n", name, what);
    return {};
  };
  for (const char* name : kModelFiles) QUERN_TRY_VOID(add(content.folder, name));
  const bool other = !content.tokenizer_folder.empty();
  if (other) {  // its own: which tokens have a role, how many there are
    all += "tokenizer:\n";
    for (const char* name : kModelFiles) QUERN_TRY_VOID(add(content.tokenizer_folder, name));
  }
  for (const char* name : kTextFiles)
    QUERN_TRY_VOID(add(other ? content.tokenizer_folder : content.folder, name));
  std::set<std::string> templates;
  const fs::path text_folder = other ? content.tokenizer_folder : content.folder;
  for (const auto& entry : fs::directory_iterator(text_folder / kTemplates, ignored))
    if (entry.path().extension() == ".jinja")
      templates.insert(fmt::format("{}/{}", kTemplates, entry.path().filename().string()));
  for (const std::string& name : templates) QUERN_TRY_VOID(add(text_folder, name.c_str()));
  // A tokenizer of its own may lie in a GGUF file.
  std::set<std::string> vocabularies;
  for (const auto& entry : fs::directory_iterator(content.tokenizer_folder, ignored))
    if (entry.path().extension() == ".gguf") vocabularies.insert(entry.path().filename());
  for (const std::string& name : vocabularies) QUERN_TRY_VOID(add(content.tokenizer_folder, name.c_str()));
  std::map<std::string, std::string> weights = content.weights;
  if (weights.empty()) {
    QUERN_TRY(const auto names, safetensors::weight_files(content.folder));
    for (const std::string& name : names) {
      QUERN_TRY(weights[name], file_identity(content.folder / name));
    }
  }
  for (const auto& [name, what] : weights) all += fmt::format("{}={}\n", name, what);
  return hex_digest(all);
}

QuantizeOptions isq_quantize_options(const IsqOptions& options, const std::stop_token& stop) {
  QuantizeOptions result;
  result.recipe = promoted_recipe(*find_quant(options.type));
  result.threads = options.threads;
  result.background = true;
  result.progress = [&options, stop](uint64_t done, uint64_t total) {
    return !stop.stop_requested() && (!options.progress || options.progress(done, total));
  };
  result.extra.add(std::string(kId), options.id);
  result.extra.add(std::string(kType), dtype_name(options.type));
  return result;
}

Result<IsqResult> quantize_in_situ(const std::function<Result<IsqSource>()>& open, const std::string& content,
                                   const IsqOptions& options, const std::stop_token& stop) {
  const std::string type = dtype_name(options.type);
  const std::string key = hex_digest(fmt::format("{} {} {}", content, type, kEncoderVersion)).substr(0, 16);
  const fs::path path = options.cache / fmt::format("{}.{}.{}.gguf", file_name(options.id), type, key);
  IsqResult result;
  result.from_cache = true;
  result.source = open_result(path);
  if (result.source != nullptr) return result;
  QUERN_TRY_VOID(make_folders(options.cache));
  QUERN_TRY(const FileLock lock, FileLock::take(path.string() + ".lock", stop, options.waiting));
  result.source = open_result(path);  // another process may have been first
  if (result.source != nullptr) return result;
  QUERN_TRY(const IsqSource source, open());
  QuantizeOptions how = isq_quantize_options(options, stop);
  how.arrivals = source.arrivals;
  QUERN_TRY(const QuantizeReport report, quantize(*source.weights, path, how));
  result.from_cache = false;
  result.encode_seconds = report.encode_seconds;
  result.total_seconds = report.total_seconds;
  QUERN_TRY(result.source, open_gguf(path));
  return result;
}

std::vector<IsqEntry> list_isq_cache(const fs::path& cache) {
  std::vector<IsqEntry> entries;
  std::error_code error;
  for (const auto& file : fs::directory_iterator(cache, error)) {
    if (file.path().extension() != ".gguf") continue;
    const auto source = open_gguf(file.path());
    if (!source) continue;
    const std::string* id = (*source)->metadata().string(kId);
    const std::string* type = (*source)->metadata().string(kType);
    struct stat info {};
    if (id == nullptr || type == nullptr || stat(file.path().c_str(), &info) != 0) continue;
    entries.push_back({file.path(), *id, *type, static_cast<uint64_t>(info.st_size), info.st_atim.tv_sec});
  }
  std::ranges::sort(entries, std::greater(), &IsqEntry::last_used);
  return entries;
}

uint64_t remove_from_isq_cache(const fs::path& cache, std::string_view id) {
  uint64_t freed = 0;
  for (const IsqEntry& entry : list_isq_cache(cache)) {
    std::error_code error;
    if (entry.id != id || !fs::remove(entry.path, error)) continue;
    fs::remove(entry.path.string() + ".lock", error);
    freed += entry.bytes;
  }
  return freed;
}

}  // namespace quern
