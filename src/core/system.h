// What this process may use of the machine: processors and memory, as affinity and control groups leave them.
#pragma once

#include <cstdint>
#include <filesystem>

namespace quern {

/// Physical cores that this process may run on, but no more than cpu_quota() pays for; at least 1.
int physical_cores();

/// Processors' worth of time that the process's control groups allow: its own and all above it, version 1 and
/// 2. Infinity: no limit. `root` holds proc and sys.
double cpu_quota(const std::filesystem::path& root = "/");

/// Bytes that this process can still take without swapping, the limits of its control groups respected; page
/// cache counts as free.
uint64_t available_memory(const std::filesystem::path& root = "/");

}  // namespace quern
