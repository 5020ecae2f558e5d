#include "core/system.h"

#include <fmt/format.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cmath>
#include <fstream>

namespace quern {
namespace {

namespace fs = std::filesystem;

/// A machine's proc and sys with the files that a test writes.
class System : public ::testing::Test {
 protected:
  System() : root_(fs::path(::testing::TempDir()) / ("quern_system_" + std::to_string(getpid()))) {
    fs::remove_all(root_);
    write("proc/meminfo", "MemTotal: 9000000 kB\nMemAvailable: 8388608 kB\n");
  }
  ~System() override { fs::remove_all(root_); }
  void write(const std::string& name, const std::string& text) const {
    fs::create_directories((root_ / name).parent_path());
    std::ofstream(root_ / name) << text;
  }
  void group_memory(const std::string& group, uint64_t limit, uint64_t usage, uint64_t inactive,
                    uint64_t active) const {
    write(group + "/memory.max", std::to_string(limit));
    write(group + "/memory.current", std::to_string(usage));
    write(group + "/memory.stat",
          fmt::format("anon 1\ninactive_file {}\nactive_file {}\n", inactive, active));
  }

  fs::path root_;
  static constexpr uint64_t kGiB = uint64_t{1} << 30;
};

TEST_F(System, WithoutGroupsThereIsNoLimit) {
  EXPECT_TRUE(std::isinf(cpu_quota(root_)));
  EXPECT_EQ(available_memory(root_), 8 * kGiB);
  write("proc/self/cgroup", "0::/\n");
  write("sys/fs/cgroup/cpu.max", "max 100000\n");
  write("sys/fs/cgroup/memory.max", "max\n");
  EXPECT_TRUE(std::isinf(cpu_quota(root_)));
  EXPECT_EQ(available_memory(root_), 8 * kGiB);
}

TEST_F(System, TheGroupsOfAContainerAreItsRoot) {
  // The path is one of the host's.
  write("proc/self/cgroup", "0::/../../docker/abc\n");
  write("sys/fs/cgroup/cpu.max", "50000 100000\n");
  group_memory("sys/fs/cgroup", 4 * kGiB, 3 * kGiB, kGiB / 2, kGiB / 4);
  EXPECT_EQ(cpu_quota(root_), 0.5);
  EXPECT_EQ(available_memory(root_), kGiB + kGiB / 2 + kGiB / 4);
}

TEST_F(System, AServicesOwnGroupCountsAndThoseAboveIt) {
  write("proc/self/cgroup", "0::/system.slice/quern.service\n");
  write("sys/fs/cgroup/system.slice/cpu.max", "300000 100000\n");
  write("sys/fs/cgroup/system.slice/quern.service/cpu.max", "800000 100000\n");
  EXPECT_EQ(cpu_quota(root_), 3);
  group_memory("sys/fs/cgroup/system.slice/quern.service", 2 * kGiB, kGiB, 0, kGiB);
  EXPECT_EQ(available_memory(root_), 2 * kGiB);
  group_memory("sys/fs/cgroup/system.slice", kGiB, 2 * kGiB, 0, 0);
  EXPECT_EQ(available_memory(root_), 0);
}

TEST_F(System, VersionOneOfControlGroups) {
  write("proc/self/cgroup", "5:memory:/quern\n4:cpu,cpuacct:/quern\n1:name=systemd:/x\n");
  write("sys/fs/cgroup/cpu/cpu.cfs_quota_us", "-1\n");
  write("sys/fs/cgroup/cpu/cpu.cfs_period_us", "100000\n");
  EXPECT_TRUE(std::isinf(cpu_quota(root_)));
  write("sys/fs/cgroup/cpu/quern/cpu.cfs_quota_us", "250000\n");
  write("sys/fs/cgroup/cpu/quern/cpu.cfs_period_us", "100000\n");
  EXPECT_EQ(cpu_quota(root_), 2.5);
  write("sys/fs/cgroup/memory/quern/memory.limit_in_bytes", std::to_string(3 * kGiB));
  write("sys/fs/cgroup/memory/quern/memory.usage_in_bytes", std::to_string(2 * kGiB));
  write("sys/fs/cgroup/memory/quern/memory.stat", "total_inactive_file 0\ntotal_active_file 1073741824\n");
  EXPECT_EQ(available_memory(root_), 2 * kGiB);
}

TEST_F(System, CountsAtLeastOneCore) { EXPECT_GE(physical_cores(), 1); }

}  // namespace
}  // namespace quern
