#include <gtest/gtest.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <csignal>
#include <filesystem>
#include <fstream>
#include <numeric>
#include <thread>
#include <vector>

#include "core/buffer.h"
#include "core/mapped_file.h"
#include "core/metadata.h"
#include "core/source_dir.h"
#include "core/thread_pool.h"

namespace quern {
namespace {

TEST(Buffer, IsAlignedZeroedAndWritableToTheLastByte) {
  for (const size_t bytes : {size_t{1}, size_t{4097}, size_t{3} << 20, (size_t{9} << 20) + 5}) {
    auto buffer = Buffer::allocate(bytes);
    ASSERT_TRUE(buffer);
    EXPECT_EQ(buffer->size(), bytes);
    EXPECT_EQ(reinterpret_cast<uintptr_t>(buffer->data()) % 64, 0u);
    EXPECT_EQ(buffer->data()[0], std::byte{0});
    buffer->data()[bytes - 1] = std::byte{7};
    Buffer moved = std::move(*buffer);
    EXPECT_EQ(moved.data()[bytes - 1], std::byte{7});
  }
}

TEST(Buffer, RefusesWhatNoMachineHas) {
  const auto buffer = Buffer::allocate(SIZE_MAX - 100);
  ASSERT_FALSE(buffer);
  EXPECT_EQ(buffer.error().code, ErrorCode::resource_exhausted);
  EXPECT_FALSE(Buffer::allocate(size_t{1} << 60));
}

TEST(MappedFile, RefusesAPipeInsteadOfWaitingForItsWriter) {
  const std::string path = ::testing::TempDir() + "/quern_pipe";
  unlink(path.c_str());
  ASSERT_EQ(mkfifo(path.c_str(), 0600), 0);
  const auto file = MappedFile::open(path);
  ASSERT_FALSE(file);
  EXPECT_NE(file.error().message.find("not a regular file"), std::string::npos) << file.error().message;
  unlink(path.c_str());
}

TEST(MappedFile, APlaceIsFilledAndVacatedUnderItsViews) {
  const std::string path = ::testing::TempDir() + "/quern_reserved_file";
  std::string content(10'000, 'x');
  content.replace(0, 4, "head");
  std::ofstream(path) << content;
  const auto bytes = [](const std::string& text) { return std::as_bytes(std::span(text)); };
  auto file = MappedFile::reserve(content.size(), bytes("head"), "a file");
  ASSERT_TRUE(file) << file.error().message;
  const auto view = file->bytes().subspan(5000, 10);
  EXPECT_EQ(std::to_integer<char>(file->bytes()[3]), 'd');
  ASSERT_TRUE(file->check());
  ASSERT_TRUE(file->fill(path));
  EXPECT_EQ(std::to_integer<char>(view[9]), 'x');
  ASSERT_TRUE(file->vacate());
  EXPECT_TRUE(file->check());

  auto other = MappedFile::reserve(content.size(), bytes("tail"), "a file");
  ASSERT_TRUE(other);
  EXPECT_EQ(other->fill(path).error().code, ErrorCode::corrupt);
  auto longer = MappedFile::reserve(content.size() + 1, bytes("head"), "a file");
  ASSERT_TRUE(longer);
  EXPECT_EQ(longer->fill(path).error().code, ErrorCode::corrupt);
  EXPECT_EQ(longer->fill("/no/such/file").error().code, ErrorCode::not_found);
  EXPECT_EQ(MappedFile::reserve(2, bytes("head"), "a file").error().code, ErrorCode::invalid_argument);
  EXPECT_EQ(MappedFile::reserve(uint64_t{1} << 62, {}, "a file").error().code, ErrorCode::resource_exhausted);

  auto written = MappedFile::reserve(content.size(), {}, "a file");
  ASSERT_TRUE(written && written->fill(path));
  std::ofstream(path, std::ios::app) << "more";
  EXPECT_EQ(written->vacate().error().code, ErrorCode::io) << "what was read may be anything";
  std::filesystem::remove(path);
}

TEST(MappedFile, SaysWhatIsWrong) {
  EXPECT_EQ(MappedFile::open("/no/such/file").error().code, ErrorCode::not_found);
  EXPECT_EQ(MappedFile::open("/").error().code, ErrorCode::io);
}

TEST(MappedFile, OutlivesWhatBecomesOfTheFile) {
  const auto folder = std::filesystem::temp_directory_path();
  const std::string path = folder / fmt::format("quern_mapped_{}", getpid());
  const auto write = [&](const std::string& name, char fill) {
    std::ofstream(name, std::ios::binary) << std::string(100000, fill);
  };
  write(path, 'a');
  const auto cut = MappedFile::open(path), kept = MappedFile::open(path);
  ASSERT_TRUE(cut.has_value() && kept.has_value());
  EXPECT_TRUE(cut->check().has_value());

  // Cut short: zeros from the page of the new end on, and it is known.
  std::filesystem::resize_file(path, 5000);
  std::vector<std::jthread> readers;
  for (int i = 0; i < 3; ++i)
    readers.emplace_back([&] {
      EXPECT_EQ(cut->bytes()[4999], std::byte{'a'});
      for (size_t at = 8192; at < 100000; at += 1000) EXPECT_EQ(cut->bytes()[at], std::byte{0});
    });
  readers.clear();
  ASSERT_FALSE(cut->check().has_value());
  EXPECT_EQ(cut->check().error().code, ErrorCode::io);
  std::filesystem::resize_file(path, 100000);
  EXPECT_FALSE(cut->check().has_value());   // what it showed once stays
  EXPECT_FALSE(kept->check().has_value());  // this one read nothing meanwhile, but it was written to

  // Replaced by another, as a careful writer does it, or removed: nobody notices.
  write(path, 'b');
  const auto old = MappedFile::open(path);
  write(path + ".new", 'c');
  std::filesystem::rename(path + ".new", path);
  EXPECT_EQ(old->bytes()[99999], std::byte{'b'});
  EXPECT_TRUE(old->check().has_value());
  std::filesystem::remove(path);
  EXPECT_EQ(old->bytes()[50000], std::byte{'b'});
  EXPECT_TRUE(old->check().has_value());
}

TEST(MappedFileDeathTest, OtherBusErrorsEndTheProcess) {
  EXPECT_EXIT(
      {
        const auto file = MappedFile::open(QUERN_SOURCE_DIR "/CMakeLists.txt");
        raise(SIGBUS);
      },
      [](int status) { return !WIFEXITED(status) || WEXITSTATUS(status) != 0; },  // AddressSanitizer: exits
      "");
}

TEST(MappedFile, MapsAnEmptyFileAndAFullOne) {
  const auto path = std::filesystem::temp_directory_path() / ("quern_core_test_" + std::to_string(getpid()));
  std::ofstream(path).close();
  EXPECT_TRUE(MappedFile::open(path)->bytes().empty());
  std::ofstream(path) << "quern";
  const auto file = MappedFile::open(path);
  ASSERT_TRUE(file);
  EXPECT_EQ(std::string(reinterpret_cast<const char*>(file->bytes().data()), file->bytes().size()), "quern");
  std::filesystem::remove(path);
}

TEST(Metadata, ConvertsOnlyWhatFits) {
  Metadata metadata;
  EXPECT_TRUE(metadata.add("u", uint64_t{7}));
  EXPECT_FALSE(metadata.add("u", uint64_t{8})) << "the first value stays";
  metadata.add("big", ~uint64_t{0});
  metadata.add("i", int64_t{-1});
  metadata.add("d", 0.5);
  metadata.add("s", std::string("text"));
  metadata.add("a", Metadata::Array{std::vector<uint64_t>{1, 2}});
  EXPECT_EQ(metadata.integer("u"), 7);
  EXPECT_EQ(metadata.number("u"), 7.0);
  EXPECT_EQ(metadata.integer("big"), std::nullopt);
  EXPECT_EQ(metadata.uint("i"), std::nullopt);
  EXPECT_EQ(metadata.uint("d"), std::nullopt);
  EXPECT_EQ(metadata.string("u"), nullptr);
  EXPECT_EQ(*metadata.string("s"), "text");
  EXPECT_EQ(metadata.integers("a"), (std::vector<int64_t>{1, 2}));
  EXPECT_EQ(metadata.strings("a"), nullptr);
  EXPECT_EQ(metadata.find("missing"), nullptr);
}

TEST(ThreadPool, EveryPartRunsOnce) {
  for (const int threads : {1, 2, 4}) {
    ThreadPool pool(threads);
    for (int round = 0; round < 3000; ++round) {
      std::vector<int> calls(static_cast<size_t>(round % 37), 0);
      std::vector<int> by_thread(4, 0);
      pool.for_parts(round % 37, [&](int thread, int64_t part) {
        ++calls[static_cast<size_t>(part)];
        ++by_thread.at(static_cast<size_t>(thread));
      });
      ASSERT_EQ(calls, std::vector<int>(calls.size(), 1));
      ASSERT_EQ(std::accumulate(by_thread.begin(), by_thread.end(), 0), round % 37);
    }
  }
}

TEST(ThreadPool, SeveralThreadsTakePartAlsoAfterSleeping) {
  ThreadPool pool(3);
  for (int round = 0; round < 5; ++round) {
    // Ends only when three threads are in it together.
    std::atomic<int> in{0};
    pool.for_parts(3, [&](int, int64_t) {
      in.fetch_add(1);
      while (in.load() < 3) std::this_thread::yield();
    });
    std::this_thread::sleep_for(std::chrono::milliseconds(20));
  }
}

TEST(ThreadPool, NobodyWaitsForAWorkerThatDoesNotCome) {
  // Many more threads than cores, all with work of their own at times: each job still ends soon after its
  // parts.
  ThreadPool pool(64);
  std::atomic<int64_t> sum{0};
  for (int round = 0; round < 500; ++round)
    pool.for_parts(8, [&](int, int64_t part) { sum.fetch_add(part); });
  EXPECT_EQ(sum.load(), 500 * 28);
}

TEST(ThreadPool, MoreJobsAndPartsThanItsNumbersReach) {
  // Jobs are numbered in 20 bits, parts in 22: no part may be lost where either begins anew.
  ThreadPool pool(2);
  for (int round = 0; round < (1 << 20) + 1000; ++round) {
    std::atomic<int> seen{0};
    const int parts = round % 5;
    pool.for_parts(parts, [&](int, int64_t part) { seen.fetch_add(1 << (4 * part)); });
    ASSERT_EQ(seen.load(), ((1 << (4 * parts)) - 1) / 15) << round;
  }
  constexpr int64_t kMany = 2 * (int64_t{1} << 22) + 5;
  std::atomic<int64_t> sum{0};
  pool.for_parts(kMany, [&](int, int64_t part) { sum.fetch_add(part, std::memory_order_relaxed); });
  EXPECT_EQ(sum.load(), kMany * (kMany - 1) / 2);
}

TEST(ThreadPool, ParallelForCoversEveryIndexOnce) {
  for (const int threads : {1, 2, 3, 5}) {
    ThreadPool pool(threads);
    for (const int64_t count : {0, 1, 2, 15, 16, 17, 100}) {
      for (const int64_t granule : {1, 3, 16}) {
        std::vector<int> seen(static_cast<size_t>(count), 0);
        pool.parallel_for(count, granule, [&](int64_t begin, int64_t end) {
          EXPECT_EQ(begin % granule, 0);
          for (int64_t i = begin; i < end; ++i) ++seen[static_cast<size_t>(i)];
        });
        EXPECT_EQ(seen, std::vector<int>(static_cast<size_t>(count), 1))
            << threads << " " << count << " " << granule;
      }
    }
  }
}

}  // namespace
}  // namespace quern
