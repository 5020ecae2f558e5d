// Quantizing shards as they come: whatever their order, the file is that of the whole checkpoint.
#include "quantize/shard_arrivals.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <fstream>
#include <set>

#include "core/mapped_file.h"
#include "models/hf_checkpoint_for_test.h"
#include "quant/quant.h"

namespace quern {
namespace {

namespace fs = std::filesystem;
using namespace quern::testing;

ModelSpec mixtral() {
  ModelSpec spec{
      .dim = 256, .ffn = 512, .heads = 4, .kv_heads = 2, .head_dim = 64, .layers = 2, .vocab = 300};
  spec.dtype = DType::BF16;
  spec.experts = 4;
  spec.experts_used = 2;
  spec.single_experts = true;  // as checkpoints have them
  return spec;
}

QuantizeOptions to_q4k(Arrivals* arrivals) {
  QuantizeOptions options;
  options.recipe = promoted_recipe(*find_quant(DType::Q4_K));
  options.threads = 3;
  options.arrivals = arrivals;
  return options;
}

std::string content(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

/// A checkpoint whose shards lie elsewhere, as at a hub, while its folder has all the rest.
struct Remote {
  explicit Remote(const ModelSpec& spec, Shards shards) {
    const auto model = random_model(spec);
    write_checkpoint(hub, *model, spec, hf_config(spec), shards);
    const std::string index = content(hub.path() / "model.safetensors.index.json");
    for (const auto& entry : fs::directory_iterator(hub.path())) {
      const fs::path& path = entry.path();
      if (path.extension() != ".safetensors")
        fs::copy_file(path, here.path() / path.filename());
      else if (index.find(path.filename()) != std::string::npos)  // what it does not name is not fetched
        names.push_back(path.filename());
    }
    std::ranges::sort(names);
  }
  safetensors::AbsentShard head(const std::string& name) const {
    const std::string bytes = content(hub.path() / name);
    return {name, bytes.size(), bytes.substr(0, *safetensors::head_bytes(bytes, name))};
  }
  void bring(const std::string& name) const { fs::copy_file(hub.path() / name, here.path() / name); }
  std::string whole() const {  // what quantizing gives with everything in place
    const auto checkpoint = open_checkpoint(hub.path(), {});
    EXPECT_TRUE(checkpoint) << checkpoint.error().message;
    const auto report = quantize(**checkpoint, hub.path() / "whole.gguf", to_q4k(nullptr));
    EXPECT_TRUE(report) << report.error().message;
    return content(hub.path() / "whole.gguf");
  }

  TestFolder hub{"remote"}, here{"folder"};
  std::vector<std::string> names;
};

/// Quantizes with the shards of `order` coming in that order, and the others there from the start.
Result<std::string> run(const Remote& remote, const std::vector<std::string>& order,
                        std::set<std::string>& done, const ShardArrivals::Fetch& fetch) {
  std::vector<safetensors::AbsentShard> absent;
  std::vector<std::string> there;
  for (const std::string& name : remote.names) {
    if (std::ranges::find(order, name) != order.end()) {
      absent.push_back(remote.head(name));
      continue;
    }
    remote.bring(name);
    there.push_back(name);
  }
  QUERN_TRY(const auto checkpoint, open_arriving_checkpoint(remote.here.path(), {}, absent));
  std::mutex mutex;
  ShardArrivals arrivals(*checkpoint, there, fetch, [&](const std::string& shard) {
    const std::lock_guard lock(mutex);
    EXPECT_TRUE(done.insert(shard).second) << shard << " is done twice";
    fs::remove(remote.here.path() / shard);
  });
  const fs::path path = remote.here.path() / "out.gguf";
  const auto report = quantize(*checkpoint, path, to_q4k(&arrivals));
  if (!report) {
    EXPECT_FALSE(fs::exists(path));
    return fail(report.error());
  }
  return content(path);
}

/// general.name is the folder's, and of the same length for both.
std::string without_names(std::string file, const Remote& remote) {
  for (const TestFolder* folder : {&remote.hub, &remote.here}) {
    const std::string name = folder->path().filename();
    for (size_t at; (at = file.find(name)) != std::string::npos;) file.replace(at, name.size(), "*");
  }
  return file;
}

TEST(ShardArrivals, AnyOrderOfShardsGivesTheSameFile) {
  for (const Shards shards : {Shards::scattered, Shards::one_each}) {
    for (int order = 0; order < 4; ++order) {
      const Remote remote(mixtral(), shards);
      std::vector<std::string> coming = remote.names;
      if (order == 1) std::ranges::reverse(coming);
      if (order >= 2) std::rotate(coming.begin(), coming.begin() + 1, coming.end());
      if (order == 3) coming.resize(coming.size() / 2);  // the others are there already
      std::set<std::string> done;
      const auto fetch = [&](const auto& arrived, const std::stop_token&) -> Result<> {
        for (const std::string& name : coming) {
          remote.bring(name);
          QUERN_TRY_VOID(arrived(name));
        }
        return {};
      };
      const auto result = run(remote, coming, done, fetch);
      ASSERT_TRUE(result) << result.error().message;
      EXPECT_EQ(without_names(*result, remote).size(), without_names(remote.whole(), remote).size());
      EXPECT_TRUE(without_names(*result, remote) == without_names(remote.whole(), remote)) << order;
      EXPECT_EQ(done.size(), remote.names.size());
    }
  }
}

TEST(ShardArrivals, WorkIsDoneWhileShardsAreStillToCome) {
  const Remote remote(mixtral(), Shards::one_each);
  std::set<std::string> done;
  std::atomic<size_t> finished{0};
  std::vector<safetensors::AbsentShard> absent;
  for (const std::string& name : remote.names) absent.push_back(remote.head(name));
  const auto checkpoint = open_arriving_checkpoint(remote.here.path(), {}, absent);
  ASSERT_TRUE(checkpoint) << checkpoint.error().message;
  const auto fetch = [&](const auto& arrived, const std::stop_token& stop) -> Result<> {
    for (size_t i = 0; i < remote.names.size(); ++i) {
      // Each only when all before it are quantized and closed: a disk with room for one.
      while (finished < i && !stop.stop_requested()) std::this_thread::yield();
      remote.bring(remote.names[i]);
      QUERN_TRY_VOID(arrived(remote.names[i]));
    }
    return {};
  };
  ShardArrivals arrivals(**checkpoint, {}, fetch, [&](const std::string& shard) {
    fs::remove(remote.here.path() / shard);
    ++finished;
  });
  const auto report = quantize(**checkpoint, remote.here.path() / "out.gguf", to_q4k(&arrivals));
  ASSERT_TRUE(report) << report.error().message;
  EXPECT_EQ(finished, remote.names.size());
}

TEST(ShardArrivals, NothingIsMadeOfWhatIsNotWhatWasAnnounced) {
  const auto attempt = [](const std::function<void(const Remote&, const std::string&)>& bring) {
    const Remote remote(mixtral(), Shards::scattered);
    std::set<std::string> done;
    return run(remote, remote.names, done, [&](const auto& arrived, const std::stop_token&) -> Result<> {
      for (const std::string& name : remote.names) {
        bring(remote, name);
        QUERN_TRY_VOID(arrived(name));
      }
      return {};
    });
  };
  const auto other_header = attempt([](const Remote& remote, const std::string& name) {
    std::string bytes = content(remote.hub.path() / name);
    bytes[20] ^= 1;
    remote.here.write(name, bytes);
  });
  EXPECT_EQ(other_header.error().code, ErrorCode::corrupt);
  const auto shorter = attempt([](const Remote& remote, const std::string& name) {
    const std::string bytes = content(remote.hub.path() / name);
    remote.here.write(name, bytes.substr(0, bytes.size() - 1));
  });
  EXPECT_EQ(shorter.error().code, ErrorCode::corrupt);
  const auto gone = attempt([](const Remote&, const std::string&) {});
  EXPECT_EQ(gone.error().code, ErrorCode::not_found);
}

TEST(ShardArrivals, AFailedDownloadEndsTheQuantizing) {
  const Remote remote(mixtral(), Shards::scattered);
  std::set<std::string> done;
  const auto result =
      run(remote, remote.names, done, [&](const auto& arrived, const std::stop_token&) -> Result<> {
        remote.bring(remote.names[1]);
        QUERN_TRY_VOID(arrived(remote.names[1]));
        return fail(ErrorCode::unavailable, "the hub is gone");
      });
  EXPECT_EQ(result.error().message, "the hub is gone");
}

TEST(ShardArrivals, AFailedQuantizingEndsTheDownload) {
  const Remote remote(mixtral(), Shards::scattered);
  std::vector<safetensors::AbsentShard> absent;
  for (const std::string& name : remote.names) absent.push_back(remote.head(name));
  const auto checkpoint = open_arriving_checkpoint(remote.here.path(), {}, absent);
  ASSERT_TRUE(checkpoint) << checkpoint.error().message;
  std::atomic<bool> ended{false};
  ShardArrivals arrivals(
      **checkpoint, {},
      [&](const auto& arrived, const std::stop_token& stop) -> Result<> {
        remote.bring(remote.names[0]);
        QUERN_TRY_VOID(arrived(remote.names[0]));
        while (!stop.stop_requested()) std::this_thread::yield();  // a download that takes for ever
        ended = true;
        return fail(ErrorCode::cancelled, "stopped");
      },
      [](const std::string&) {});
  QuantizeOptions options = to_q4k(&arrivals);
  options.progress = [](uint64_t, uint64_t) { return false; };
  const auto report = quantize(**checkpoint, remote.here.path() / "out.gguf", options);
  EXPECT_EQ(report.error().message, "quantizing was cancelled");
  while (!ended) std::this_thread::yield();
}

TEST(ShardArrivals, HostileHeadersAreErrors) {
  const Remote remote(mixtral(), Shards::scattered);
  const auto open = [&](const std::function<void(safetensors::AbsentShard&)>& change) {
    std::vector<safetensors::AbsentShard> absent;
    for (const std::string& name : remote.names) absent.push_back(remote.head(name));
    change(absent[0]);
    const auto opened = open_arriving_checkpoint(remote.here.path(), {}, absent);
    return opened ? ErrorCode::internal : opened.error().code;
  };
  EXPECT_EQ(open([](auto& shard) { shard.head.clear(); }), ErrorCode::corrupt);
  EXPECT_EQ(open([](auto& shard) { shard.head.pop_back(); }), ErrorCode::corrupt);
  EXPECT_EQ(open([](auto& shard) { shard.head[7] = '\x7f'; }), ErrorCode::corrupt);
  EXPECT_EQ(open([](auto& shard) { shard.size = 10; }), ErrorCode::corrupt);
  EXPECT_EQ(open([](auto& shard) { shard.size /= 2; }), ErrorCode::corrupt);
  EXPECT_EQ(open([](auto& shard) { shard.size = uint64_t{1} << 62; }), ErrorCode::resource_exhausted);
}

}  // namespace
}  // namespace quern
