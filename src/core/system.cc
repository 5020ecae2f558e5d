#include "core/system.h"

#include <sched.h>

#include <algorithm>
#include <fstream>
#include <limits>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

namespace quern {
namespace {

namespace fs = std::filesystem;

constexpr uint64_t kUnlimited = std::numeric_limits<uint64_t>::max();

/// The number after `key` in a file of "key number" lines; `key` empty: the file's first word ("max":
/// unlimited).
std::optional<uint64_t> read_number(const fs::path& path, std::string_view key = {}) {
  std::ifstream file(path);
  std::string word;
  while (file >> word) {
    if (!key.empty() && word != key) continue;
    if (!key.empty() && !(file >> word)) return std::nullopt;
    if (word == "max") return kUnlimited;
    try {
      return std::stoull(word);
    } catch (const std::exception&) {
      return std::nullopt;
    }
  }
  return std::nullopt;
}

/// Whether `names`, "cpu,cpuacct", has `name`.
bool lists(std::string_view names, std::string_view name) {
  while (!names.empty()) {
    const size_t comma = std::min(names.find(','), names.size());
    if (names.substr(0, comma) == name) return true;
    names.remove_prefix(std::min(comma + 1, names.size()));
  }
  return false;
}

/// The folders of the process's group for a controller and of all groups above it, below `mount`. From inside
/// a container the group's path may be one of the host's, which is not there: then the top is what there is.
std::vector<fs::path> folders_up(const fs::path& mount, const fs::path& group) {
  std::vector<fs::path> found{mount};
  fs::path folder = mount;
  for (const fs::path& part : group.relative_path()) {
    if (part == "..") break;
    folder /= part;
    std::error_code ignored;
    if (!fs::is_directory(folder, ignored)) break;
    found.push_back(folder);
  }
  return found;
}

struct Groups {
  std::vector<fs::path> v2, v1;
};

Groups groups_of(const fs::path& root, std::string_view controller) {
  const fs::path mount = root / "sys/fs/cgroup";
  Groups groups{.v2 = {mount}, .v1 = {mount / controller}};
  // "0::/path" is version 2; "4:cpu,cpuacct:/path" version 1.
  std::ifstream file(root / "proc/self/cgroup");
  for (std::string line; std::getline(file, line);) {
    const size_t first = line.find(':');
    const size_t second = first == std::string::npos ? first : line.find(':', first + 1);
    if (second == std::string::npos) continue;
    const std::string_view names = std::string_view(line).substr(first + 1, second - first - 1);
    const std::string path = line.substr(second + 1);
    if (names.empty()) groups.v2 = folders_up(mount, path);
    if (lists(names, controller)) groups.v1 = folders_up(mount / controller, path);
  }
  return groups;
}

struct MemoryFiles {
  const char *limit, *usage, *droppable[2];
};

/// What a group leaves. Pages of files can be dropped, those that were used more than once, too.
uint64_t left_in(const fs::path& group, const MemoryFiles& files) {
  const auto limit = read_number(group / files.limit), usage = read_number(group / files.usage);
  if (!limit || !usage || *limit >= kUnlimited / 4) return kUnlimited;
  uint64_t used = *usage;
  for (const char* key : files.droppable)
    used -= std::min(used, read_number(group / "memory.stat", key).value_or(0));
  return used < *limit ? *limit - used : 0;
}

/// Room for more processors than any machine has makes the call succeed.
std::vector<int> allowed_cpus() {
  for (int count = CPU_SETSIZE; count <= 1 << 20; count *= 2) {
    cpu_set_t* set = CPU_ALLOC(static_cast<size_t>(count));
    const size_t bytes = CPU_ALLOC_SIZE(static_cast<size_t>(count));
    std::vector<int> cpus;
    const bool done = set != nullptr && sched_getaffinity(0, bytes, set) == 0;
    for (int cpu = 0; done && cpu < count; ++cpu)
      if (CPU_ISSET_S(static_cast<size_t>(cpu), bytes, set)) cpus.push_back(cpu);
    CPU_FREE(set);
    if (done) return cpus;
  }
  return {};
}

}  // namespace

int physical_cores() {
  std::set<std::string> cores;
  for (const int cpu : allowed_cpus()) {
    std::ifstream siblings("/sys/devices/system/cpu/cpu" + std::to_string(cpu) +
                           "/topology/thread_siblings_list");
    std::string line;
    if (!std::getline(siblings, line)) line = std::to_string(cpu);
    cores.insert(line);
  }
  // Threads that wait for each other lose more by being stopped than by being few: a half core is none.
  const double paid = std::clamp(cpu_quota(), 1.0, 1e6);
  return std::max(1, std::min(static_cast<int>(cores.size()), static_cast<int>(paid)));
}

double cpu_quota(const fs::path& root) {
  const Groups groups = groups_of(root, "cpu");
  double quota = std::numeric_limits<double>::infinity();
  const auto limit = [&](double time, double period) {
    if (time > 0 && period > 0) quota = std::min(quota, time / period);
  };
  for (const fs::path& group : groups.v2) {
    std::ifstream file(group / "cpu.max");  // "max 100000" or "200000 100000"
    double time = 0, period = 0;
    if (file >> time >> period) limit(time, period);
  }
  for (const fs::path& group : groups.v1) {
    std::ifstream time(group / "cpu.cfs_quota_us"), period(group / "cpu.cfs_period_us");
    double t = 0, p = 0;
    if (time >> t && period >> p) limit(t, p);  // −1: none
  }
  return quota;
}

uint64_t available_memory(const fs::path& root) {
  uint64_t bytes = kUnlimited;
  if (const auto kib = read_number(root / "proc/meminfo", "MemAvailable:")) bytes = *kib * 1024;
  const Groups groups = groups_of(root, "memory");
  for (const fs::path& group : groups.v2)
    bytes =
        std::min(bytes, left_in(group, {"memory.max", "memory.current", {"inactive_file", "active_file"}}));
  for (const fs::path& group : groups.v1)
    bytes = std::min(bytes, left_in(group, {"memory.limit_in_bytes",
                                            "memory.usage_in_bytes",
                                            {"total_inactive_file", "total_active_file"}}));
  return bytes == kUnlimited ? uint64_t{4} << 30 : bytes;  // nothing says: a careful guess
}

}  // namespace quern
