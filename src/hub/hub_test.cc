// What the hub does without a network: settings, addresses, waiting, hashes, partial files, the cache.
#include "hub/hub.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <fstream>

#include "core/file.h"
#include "core/file_lock.h"
#include "hub/cache.h"
#include "hub/hash.h"
#include "hub/http.h"
#include "hub/partial_file.h"
#include "hub/retry.h"
#include "hub/scan.h"
#include "hub/weights.h"

namespace quern::hub {
namespace {

namespace fs = std::filesystem;

class Folder {
 public:
  Folder() {
    std::string name = (fs::temp_directory_path() / "quern-hub-test-XXXXXX").string();
    path = mkdtemp(name.data());
  }
  ~Folder() { fs::remove_all(path); }
  fs::path path;
};

void write(const fs::path& path, std::string_view text) {
  fs::create_directories(path.parent_path());
  std::ofstream(path, std::ios::binary) << text;
}

std::span<const std::byte> bytes(std::string_view text) { return std::as_bytes(std::span(text)); }

TEST(HubOptions, TheCacheIsWherePythonHasIt) {
  const auto cache = [](const std::map<std::string, std::string>& variables) {
    return HubOptions::from(variables).value().cache.string();
  };
  EXPECT_EQ(cache({{"HOME", "/h"}}), "/h/.cache/huggingface/hub");
  EXPECT_EQ(cache({{"HOME", "/h"}, {"XDG_CACHE_HOME", "/x"}}), "/x/huggingface/hub");
  EXPECT_EQ(cache({{"HOME", "/h"}, {"XDG_CACHE_HOME", "/x"}, {"HF_HOME", "~/hf"}}), "/h/hf/hub");
  EXPECT_EQ(cache({{"HOME", "/h"}, {"HF_HOME", "/hf"}, {"HUGGINGFACE_HUB_CACHE", "/old"}}), "/old");
  EXPECT_EQ(cache({{"HF_HUB_CACHE", "/c"}, {"HUGGINGFACE_HUB_CACHE", "/old"}}), "/c");
  EXPECT_FALSE(HubOptions::from({}).has_value());
}

TEST(HubOptions, EndpointTokenOffline) {
  Folder folder;
  write(folder.path / "token", "hf_file\n");
  const std::string home = folder.path.string();
  EXPECT_EQ(HubOptions::from({{"HF_HOME", home}})->token, "hf_file");
  EXPECT_EQ(HubOptions::from({{"HF_HOME", home}, {"HF_TOKEN", " hf_env "}})->token, "hf_env");
  EXPECT_EQ(HubOptions::from({{"HF_HOME", home}, {"HF_HUB_DISABLE_IMPLICIT_TOKEN", "1"}})->token, "");
  EXPECT_FALSE(HubOptions::from({{"HF_HOME", home}, {"HF_TOKEN", "a\r\nX-Evil: 1"}}));
  EXPECT_EQ(HubOptions::from({{"HF_HOME", home}, {"HF_ENDPOINT", "http://mirror:8080//"}})->endpoint,
            "http://mirror:8080");
  EXPECT_FALSE(HubOptions::from({{"HF_HOME", home}, {"HF_ENDPOINT", "file:///etc"}}));
  for (const char* yes : {"1", "true", "YES", "on"})
    EXPECT_TRUE(HubOptions::from({{"HF_HOME", home}, {"HF_HUB_OFFLINE", yes}})->offline) << yes;
  EXPECT_FALSE(HubOptions::from({{"HF_HOME", home}, {"HF_HUB_OFFLINE", "0"}})->offline);
}

TEST(Url, OriginAndRedirects) {
  EXPECT_EQ(origin_of("HTTPS://Hub.Example/a?b"), "https://hub.example:443");
  EXPECT_EQ(origin_of("http://hub.example:80/"), "http://hub.example:80");
  EXPECT_NE(origin_of("https://hub.example.evil/"), origin_of("https://hub.example/"));
  EXPECT_NE(origin_of("http://hub.example:443/"), origin_of("https://hub.example/"));
  EXPECT_EQ(origin_of("https://hub.example@evil/"), "https://evil:443");
  EXPECT_EQ(origin_of("ftp://x/"), "");
  EXPECT_EQ(resolve_url("https://h/a/b", "/c?d=1"), "https://h/c?d=1");
  EXPECT_EQ(resolve_url("https://h/a/b", "//other/c"), "https://other/c");
  EXPECT_EQ(resolve_url("https://h/a/b", "file:///etc/passwd"), "");
  EXPECT_EQ(percent_encode("refs/pr/1 ü%", false), "refs%2Fpr%2F1%20%C3%BC%25");
}

TEST(Retry, WhatAndHowLong) {
  HttpReply reply;
  for (const int status : {408, 429, 500, 502, 503, 504}) {
    reply.status = status;
    EXPECT_TRUE(worth_retrying(reply)) << status;
  }
  for (const int status : {200, 400, 401, 403, 404, 416, 501}) {
    reply.status = status;
    EXPECT_FALSE(worth_retrying(reply)) << status;
  }
  EXPECT_EQ(retry_delay(1, reply, 0.5, 0).count(), 500);
  EXPECT_EQ(retry_delay(3, reply, 0.5, 0).count(), 2000);
  EXPECT_EQ(retry_delay(50, reply, 0.5, 0).count(), 30'000);
  EXPECT_EQ(retry_delay(1, reply, 0, 0).count(), 375);
  reply.headers["retry-after"] = "7";
  EXPECT_EQ(retry_delay(1, reply, 0.5, 0).count(), 7000);
  reply.headers["retry-after"] = "99999999";
  EXPECT_EQ(retry_delay(1, reply, 0.5, 0).count(), 300'000);
  EXPECT_EQ(retry_after("Thu, 01 Jan 1970 00:01:40 GMT", 90)->count(), 10);
  EXPECT_EQ(retry_after("Thu, 01 Jan 1970 00:01:40 GMT", 200)->count(), 0);
  EXPECT_FALSE(retry_after("soon", 0));
}

TEST(Etag, NamesABlobOrNothing) {
  EXPECT_EQ(normalize_etag("\"abc\""), "abc");
  EXPECT_EQ(normalize_etag("W/\"abc-1\""), "abc-1");
  for (const char* bad : {"", "\"\"", "\"../x\"", "a/b", ".hidden", "a b", "x.incomplete", "x.quern-part"})
    EXPECT_EQ(normalize_etag(bad), "") << bad;
  EXPECT_EQ(normalize_etag(std::string(200, 'a')), "");
}

TEST(Hash, LargeSmallAndUnknown) {
  Folder folder;
  const fs::path file = folder.path / "f";
  write(file, "hello\n");
  // git hash-object, sha256sum and sha1sum of "hello\n".
  EXPECT_TRUE(check_hash(file, "ce013625030ba8dba906f756967f9e9ca394464a", {}));
  EXPECT_TRUE(check_hash(file, "5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03", {}));
  EXPECT_TRUE(check_hash(file, "f572d396fae9206628714fb2ce00f72e94f2258f", {}));
  EXPECT_TRUE(check_hash(file, "some-other-etag", {}));
  EXPECT_EQ(check_hash(file, std::string(64, '0'), {}).error().code, ErrorCode::corrupt);
  EXPECT_EQ(check_hash(file, std::string(40, '0'), {}).error().code, ErrorCode::corrupt);
}

TEST(PartialFile, ContinuesInAnyOrder) {
  Folder folder;
  const fs::path blob = folder.path / "5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03";
  {
    auto file = PartialFile::open(blob, 6).value();
    EXPECT_EQ(file.missing(), (std::vector<ByteRange>{{0, 6}}));
    ASSERT_TRUE(file.write(4, bytes("o\n")));
    EXPECT_FALSE(file.finish({}, {})) << "not all of it is there";
  }
  // Small pieces are written to the journal with the next megabyte only: as if killed, they are gone.
  write(folder.path / (blob.filename().string() + ".quern-ranges"),
        "quern-ranges 1 6 another-boot\n4 6\nsync\n0 2\n0 9");
  auto file = PartialFile::open(blob, 6).value();
  EXPECT_TRUE(file.continued());
  EXPECT_EQ(file.missing(), (std::vector<ByteRange>{{0, 4}}))
      << "after a new start only what was synced counts";
  ASSERT_TRUE(file.write(0, bytes("hell")));
  EXPECT_FALSE(fs::exists(blob));
  ASSERT_TRUE(file.finish({}, {}));
  EXPECT_EQ(read_small_file(blob, 100), "hello\n");
  EXPECT_EQ(std::distance(fs::directory_iterator(folder.path), fs::directory_iterator()), 1);
}

TEST(PartialFile, BadJournalsAndWrongBytesStartOver) {
  Folder folder;
  const fs::path blob = folder.path / std::string(64, 'a');
  for (const char* journal :
       {"", "nonsense", "quern-ranges 1 7 x\n0 6\nsync\n", "quern-ranges 1 6 x\n0 7\nsync\n",
        "quern-ranges 1 6 x\n5 1\nsync\n", "quern-ranges 1 6 x\n0 6\n"}) {
    write(blob.string() + ".quern-part", "wrong!");
    write(blob.string() + ".quern-ranges", journal);
    EXPECT_EQ(PartialFile::open(blob, 6)->bytes_done(), 0U) << journal;
  }
  auto file = PartialFile::open(blob, 6).value();
  ASSERT_TRUE(file.write(0, bytes("wrong!")));
  EXPECT_EQ(file.finish({}, {}).error().code, ErrorCode::corrupt);
  EXPECT_EQ(file.bytes_done(), 0U);
  EXPECT_FALSE(fs::exists(blob));
  // A part that is a link: not written through.
  PartialFile::discard(blob);
  write(folder.path / "outside", "keep");
  fs::create_symlink(folder.path / "outside", blob.string() + ".quern-part");
  ASSERT_TRUE(PartialFile::open(blob, 6));
  EXPECT_EQ(read_small_file(folder.path / "outside", 100), "keep");
}

TEST(PartialFile, TakesOverAPrefixOfHuggingfaceHub) {
  Folder folder;
  const fs::path blob = folder.path / "5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03";
  write(blob.string() + ".incomplete", "hel");
  auto file = PartialFile::open(blob, 6).value();
  EXPECT_EQ(file.missing(), (std::vector<ByteRange>{{3, 6}}));
  ASSERT_TRUE(file.write(3, bytes("lo\n")));
  ASSERT_TRUE(file.finish({}, {}));
  EXPECT_FALSE(fs::exists(blob.string() + ".incomplete"));
}

TEST(FileLock, IsHeldOnceAndLetGo) {
  Folder folder;
  const fs::path path = folder.path / "x.lock";
  {
    const auto held = FileLock::try_take(path).value();
    ASSERT_TRUE(held.has_value());
    EXPECT_FALSE(FileLock::try_take(path)->has_value());
    std::stop_source stop;
    stop.request_stop();
    bool told = false;
    EXPECT_EQ(FileLock::take(path, stop.get_token(), [&] { told = true; }).error().code,
              ErrorCode::cancelled);
    EXPECT_TRUE(told);
  }
  EXPECT_TRUE(FileLock::try_take(path)->has_value());
}

constexpr const char* kCommit = "0123456789abcdef0123456789abcdef01234567";

TEST(Cache, LinksAreRelativeAndBelowTheSnapshot) {
  Folder folder;
  const Cache cache(folder.path);
  ASSERT_TRUE(cache.prepare("a/b"));
  write(cache.blob("a/b", "e1"), "one");
  ASSERT_TRUE(cache.link("a/b", kCommit, "x/y/z.gguf", "e1"));
  ASSERT_TRUE(cache.link("a/b", kCommit, "x/y/z.gguf", "e1")) << "again";
  const fs::path link = folder.path / "models--a--b/snapshots" / kCommit / "x/y/z.gguf";
  EXPECT_EQ(fs::read_symlink(link), "../../../../blobs/e1");
  EXPECT_EQ(read_small_file(link, 10), "one");
  ASSERT_TRUE(cache.link("a/b", kCommit, "gone.gguf", "e2"));
  EXPECT_EQ(cache.files("a/b", kCommit), std::vector<std::string>{"x/y/z.gguf"});
  ASSERT_TRUE(cache.write_ref("a/b", "refs/pr/1", kCommit));
  EXPECT_EQ(read_small_file(folder.path / "models--a--b/refs/refs/pr/1", 100), kCommit);
  EXPECT_EQ(cache.commit_of("a/b", "refs/pr/1"), kCommit);
  EXPECT_FALSE(cache.commit_of("a/b", "../../../etc/passwd"));
  EXPECT_FALSE(cache.write_ref("a/b", "../evil", kCommit));
}

TEST(Hub, FindsWhatIsHereWithoutANetwork) {
  Folder folder;
  const Cache cache(folder.path / "hub");
  ASSERT_TRUE(cache.prepare("a/b"));
  for (const char* quant : {"Q8_0", "Q2_K"}) {
    write(cache.blob("a/b", quant), quant);
    ASSERT_TRUE(cache.link("a/b", kCommit, fmt::format("m.{}.gguf", quant), quant));
  }
  ASSERT_TRUE(cache.write_ref("a/b", "main", kCommit));
  write(folder.path / "mine/own-Q4_0-00001-of-00002.gguf", "x");
  write(folder.path / "mine/own-Q4_0-00002-of-00002.gguf", "y");
  HubOptions options;
  options.cache = folder.path / "hub";
  options.model_path = folder.path.string();
  options.offline = true;
  const Hub hub(options);
  EXPECT_EQ(hub.find("a/b:Q2_K")->files.front().filename(), "m.Q2_K.gguf");
  EXPECT_EQ(hub.fetch("a/b")->quantization, "Q8_0") << "offline, the best of what is here";
  EXPECT_EQ(hub.find("a/b:Q2_K")->commit, kCommit);
  EXPECT_EQ(hub.find("a/b:Q6_K").error().code, ErrorCode::not_found);
  EXPECT_NE(hub.fetch("a/b:Q6_K").error().message.find("HF_HUB_OFFLINE=0 quern pull a/b:Q6_K"),
            std::string::npos);
  EXPECT_EQ(hub.find("mine")->files.size(), 2U);
  EXPECT_EQ(hub.find("mine/own-Q4_0-00002-of-00002.gguf")->files.size(), 2U);
  EXPECT_EQ(hub.find("mine")->quantization, "Q4_0");
  EXPECT_EQ(hub.find("quern/guide")->kind, LocalModel::Kind::guide);
  EXPECT_EQ(hub.find("not/there/x.gguf").error().code, ErrorCode::not_found);
}

TEST(Hub, WhyACachedModelCannotBeUsedIsSaid) {
  Folder folder;
  const Cache cache(folder.path / "hub");
  ASSERT_TRUE(cache.prepare("a/b"));
  write(cache.blob("a/b", "config"), "{}");
  write(cache.blob("a/b", "bin"), "x");
  ASSERT_TRUE(cache.link("a/b", kCommit, "config.json", "config"));
  ASSERT_TRUE(cache.link("a/b", kCommit, "pytorch_model.bin", "bin"));
  ASSERT_TRUE(cache.write_ref("a/b", "main", kCommit));
  HubOptions options;
  options.cache = folder.path / "hub";
  options.offline = true;
  for (const auto& found : {Hub(options).find("a/b"), Hub(options).fetch("a/b")}) {
    ASSERT_FALSE(found);
    EXPECT_EQ(found.error().code, ErrorCode::unsupported);
    EXPECT_NE(found.error().message.find("pickled"), std::string::npos) << found.error().message;
  }
}

TEST(Hub, ShardsWithoutAnIndexAreOneModel) {
  Folder folder;
  const Cache cache(folder.path / "hub");
  ASSERT_TRUE(cache.prepare("a/b"));
  for (const char* name :
       {"config.json", "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"}) {
    write(cache.blob("a/b", name), "{}");
    ASSERT_TRUE(cache.link("a/b", kCommit, name, name));
  }
  ASSERT_TRUE(cache.write_ref("a/b", "main", kCommit));
  HubOptions options;
  options.cache = folder.path / "hub";
  options.offline = true;
  const auto model = Hub(options).find("a/b");
  ASSERT_TRUE(model) << model.error().message;
  EXPECT_EQ(model->files.size(), 2u);
  const auto checkpoint = Hub(options).checkpoint("a/b");
  ASSERT_TRUE(checkpoint && *checkpoint);
  EXPECT_EQ((*checkpoint)->weights.size(), 2u);
}

const std::string kOther(40, 'b'), kEtag(64, 'e');

/// A checkpoint in two commits of a cache, with the same weights.
void write_checkpoints(const Cache& cache) {
  ASSERT_TRUE(cache.prepare("o/r"));
  write(cache.blob("o/r", kEtag), "weights");
  write(cache.blob("o/r", "config"), "{}");
  for (const std::string& commit : {std::string(kCommit), kOther}) {
    ASSERT_TRUE(cache.link("o/r", commit, "config.json", "config"));
    ASSERT_TRUE(cache.link("o/r", commit, "model.safetensors", kEtag));
  }
  ASSERT_TRUE(cache.write_ref("o/r", "main", kCommit));
}

TEST(Drop, TakesAFileAndItsBlobWhenNoOtherHasIt) {
  Folder folder;
  const Cache cache(folder.path);
  ASSERT_NO_FATAL_FAILURE(write_checkpoints(cache));
  EXPECT_EQ(drop_file(cache, "o/r", kCommit, "model.safetensors"), 0u);
  EXPECT_FALSE(fs::exists(fs::symlink_status(cache.snapshot("o/r", kCommit) / "model.safetensors")));
  EXPECT_TRUE(cache.has("o/r", kOther, "model.safetensors"));
  {
    const auto lock = FileLock::try_take(cache.lock("o/r", kEtag));
    ASSERT_TRUE(lock && *lock);
    EXPECT_EQ(drop_file(cache, "o/r", kOther, "model.safetensors"), 0u) << "another process fetches it";
    EXPECT_TRUE(cache.has("o/r", kOther, "model.safetensors"));
  }
  EXPECT_EQ(drop_file(cache, "o/r", kOther, "model.safetensors"), 7u);
  EXPECT_FALSE(fs::exists(cache.blob("o/r", kEtag)));
  EXPECT_TRUE(cache.has("o/r", kOther, "config.json"));
  EXPECT_EQ(drop_file(cache, "o/r", kOther, "model.safetensors"), 0u);

  // No link, and a link that leads elsewhere.
  write(cache.snapshot("o/r", kOther) / "own.safetensors", "mine");
  write(folder.path / "outside", "mine");
  fs::create_symlink(folder.path / "outside", cache.snapshot("o/r", kOther) / "out.safetensors");
  for (const char* name : {"own.safetensors", "out.safetensors"}) {
    EXPECT_EQ(drop_file(cache, "o/r", kOther, name), 0u);
    EXPECT_TRUE(cache.has("o/r", kOther, name)) << name;
  }
}

TEST(Hub, WhatDroppedWeightsWereIsKnown) {
  Folder folder;
  const Cache cache(folder.path);
  ASSERT_NO_FATAL_FAILURE(write_checkpoints(cache));
  HubOptions options;
  options.cache = folder.path;
  options.offline = true;
  const Hub hub(options);
  const auto whole = hub.checkpoint("o/r");
  ASSERT_TRUE(whole && *whole);
  ASSERT_EQ((*whole)->weights.size(), 1u);
  EXPECT_TRUE((*whole)->weights[0].here);
  EXPECT_EQ((*whole)->weights[0].etag, kEtag);
  ASSERT_TRUE(remember_checkpoint(options, **whole, true));
  drop_weights(options, **whole, 0);
  const auto without = hub.checkpoint("o/r");
  ASSERT_TRUE(without && *without);
  EXPECT_FALSE((*without)->weights[0].here);
  EXPECT_EQ((*without)->weights[0].etag, kEtag);
  EXPECT_EQ((*without)->weights[0].size, 7u);
  EXPECT_NE(hub.find("o/r").error().message.find("LLM_ISQ_KEEP_SOURCE"), std::string::npos);
  EXPECT_EQ(list_cache(cache).size(), 1u) << "the other commit alone";

  for (const std::string& text :
       {std::string("no line"), kEtag + " x model.safetensors\n", kEtag + " 7 ../../escape\n",
        std::string("../up 7 model.safetensors\n"), std::string(5000, ' ')}) {
    write(cache.absent_file("o/r", kCommit), text);
    EXPECT_TRUE(cache.absent("o/r", kCommit).empty()) << text;
  }
  EXPECT_FALSE(*hub.checkpoint("o/r"));
  ASSERT_TRUE(remember_checkpoint(options, **whole, false));
  EXPECT_FALSE(fs::exists(cache.absent_file("o/r", kCommit)));
  ASSERT_TRUE(remove_cached(cache, "o/r"));
  EXPECT_FALSE(fs::exists(cache.repo_folder("o/r")));
}

TEST(Remove, KeepsWhatOthersUseAndWhatLiesOutside) {
  Folder folder;
  const Cache cache(folder.path / "hub");
  ASSERT_TRUE(cache.prepare("a/b"));
  write(folder.path / "outside/keep", "keep");
  const std::string other(40, 'b');
  for (const std::string& commit : {std::string(kCommit), other}) {
    write(cache.blob("a/b", "shared"), "12345");
    ASSERT_TRUE(cache.link("a/b", commit, "m.Q8_0.gguf", "shared"));
  }
  write(cache.blob("a/b", "own"), "123");
  write(cache.blob("a/b", "later.quern-part"), "12");
  ASSERT_TRUE(cache.link("a/b", kCommit, "m.Q2_K.gguf", "own"));
  fs::create_symlink(folder.path / "outside", cache.snapshot("a/b", kCommit) / "folder");
  // A blob that an absolute link leads to, as some tools make them.
  write(cache.blob("a/b", "absolute"), "1234");
  fs::create_symlink(cache.blob("a/b", "absolute"), cache.snapshot("a/b", other) / "m.Q6_K.gguf");
  ASSERT_TRUE(cache.write_ref("a/b", "main", kCommit));
  EXPECT_EQ(remove_cached(cache, "a/b:main")->bytes, 3U);
  EXPECT_TRUE(fs::exists(cache.snapshot("a/b", other) / "m.Q8_0.gguf"));
  EXPECT_TRUE(fs::exists(cache.snapshot("a/b", other) / "m.Q6_K.gguf"));
  EXPECT_TRUE(fs::exists(cache.blob("a/b", "later.quern-part"))) << "an interrupted download may go on";
  EXPECT_FALSE(fs::exists(cache.snapshot("a/b", kCommit)));
  EXPECT_TRUE(remove_cached(cache, "a/b"));
  EXPECT_FALSE(fs::exists(cache.repo_folder("a/b")));
  EXPECT_EQ(read_small_file(folder.path / "outside/keep", 10), "keep");
  EXPECT_EQ(remove_cached(cache, "a/b").error().code, ErrorCode::not_found);
}

}  // namespace
}  // namespace quern::hub
