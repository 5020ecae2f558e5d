#include "config/config.h"

#include <gtest/gtest.h>

#include <fstream>

#include "config/nearest.h"
#include "core/source_dir.h"

namespace quern {
namespace {

using Values = std::map<std::string, std::string>;

Values parsed(std::string_view text) {
  auto values = parse_dotenv(text);
  EXPECT_TRUE(values) << values.error().message;
  return values ? *values : Values{};
}

std::string parse_error(std::string_view text) {
  auto values = parse_dotenv(text);
  EXPECT_FALSE(values);
  return values ? "" : values.error().message;
}

TEST(Dotenv, TakesEveryFormThatUsersWrite) {
  const Values values = parsed(
      "\xef\xbb\xbf# a comment\r\n"
      "PLAIN=value\r\n"
      "export EXPORTED=yes\n"
      "  SPACED  =  two words   \n"
      "COMMENTED=value # not part of it\n"
      "HASH=abc#def\n"
      "EMPTY=\n"
      "ONLY_COMMENT= # nothing\n"
      "DOUBLE=\"a # b\\n\\\"c\\\"\" # comment\n"
      "SINGLE='a \\n \"b\" $c'\n"
      "ESCAPED=\\\"quoted once too often\\\"\n"
      "YAML: style\n"
      "MULTI=\"first\r\nsecond\"\n"
      "BACKTICK=`it's \"fine\"`\n"
      "WINDOWS=C:\\models\n"
      "URL=http://localhost:8091/v1?a=b\n"
      "PLAIN=later\n"
      "exported=export");
  const Values expected = {{"PLAIN", "later"},
                           {"EXPORTED", "yes"},
                           {"SPACED", "two words"},
                           {"COMMENTED", "value"},
                           {"HASH", "abc#def"},
                           {"EMPTY", ""},
                           {"ONLY_COMMENT", ""},
                           {"DOUBLE", "a # b\n\"c\""},
                           {"SINGLE", "a \\n \"b\" $c"},
                           {"ESCAPED", "quoted once too often"},
                           {"YAML", "style"},
                           {"MULTI", "first\nsecond"},
                           {"BACKTICK", "it's \"fine\""},
                           {"WINDOWS", "C:\\models"},
                           {"URL", "http://localhost:8091/v1?a=b"},
                           {"exported", "export"}};
  EXPECT_EQ(values, expected);
}

TEST(Dotenv, ErrorsNameTheLine) {
  EXPECT_EQ(parse_error("A=1\n\nno equals sign\n"), "line 3: \"no equals sign\": NAME=value expected");
  EXPECT_EQ(parse_error("A=\"1\nB=2\nC=3\n"), "line 1: A: the opening \" has no closing one");
  EXPECT_EQ(parse_error("A=\"1\n2\"\n=x\n"), "line 3: \"=x\": NAME=value expected");
  EXPECT_EQ(parse_error("A='1' 2\n"), "line 1: A: text after the closing quote");
  EXPECT_EQ(parse_error("1A=2"), "line 1: \"1A=2\": NAME=value expected");
  EXPECT_EQ(parse_error(std::string_view("A=\0", 3)), "contains a NUL byte: is this a text file?");
}

TEST(Dotenv, AnyPrefixOfAFileEndsInAValueOrAnError) {
  const std::string text = "export A=\\\"x\\\" # c\nB=\"\\\\\\n\"\r\nC='x'\nD: `q`\n";
  for (size_t n = 0; n <= text.size(); ++n) {
    const auto values = parse_dotenv(std::string_view(text).substr(0, n));
    if (values) continue;
    EXPECT_TRUE(values.error().message.starts_with("line ")) << values.error().message;
  }
}

Result<LoadedConfig> load(const Values& environment, const Values& flags = {}) {
  return load_config("", false, environment, flags);
}

std::string load_error(const std::string& name, const std::string& value) {
  auto loaded = load({{name, value}});
  EXPECT_FALSE(loaded) << name << "=" << value;
  return loaded ? "" : loaded.error().message;
}

TEST(Config, DefaultsAreThoseOfTheReadme) {
  const auto loaded = load({});
  ASSERT_TRUE(loaded);
  const Config& c = loaded->config;
  EXPECT_EQ(c.allowed_models, std::vector<std::string>{"quern/guide"});
  EXPECT_EQ(c.hostname, "127.0.0.1");
  EXPECT_EQ(c.port, 8091);
  EXPECT_EQ(c.max_concurrent_requests, 10);
  EXPECT_EQ(c.max_queued_requests, 100);
  EXPECT_EQ(c.queue_timeout_ms, 30000);
  EXPECT_EQ(c.max_tokens_limit, 4096);
  EXPECT_EQ(c.block_size, 32);
  EXPECT_FALSE(c.default_temperature || c.default_top_p || c.default_max_tokens);
  EXPECT_TRUE(loaded->warnings.empty());
}

TEST(Config, EveryVariableIsRead) {
  const auto loaded = load({{"LLM_ALLOWED_MODELS", " a/b:Q8_0@c/d , quern/guide,,a/b:Q8_0@c/d"},
                            {"LLM_MODEL_PATH", "models"},
                            {"LLM_ENABLE_ISQ", "YES"},
                            {"LLM_ISQ_TYPE", "q5k"},
                            {"LLM_ISQ_CACHE", "off"},
                            {"LLM_ISQ_KEEP_SOURCE", "0"},
                            {"LLM_MAX_CONCURRENT_REQUESTS", "3"},
                            {"LLM_MAX_QUEUED_REQUESTS", "0"},
                            {"LLM_QUEUE_TIMEOUT_MS", "250"},
                            {"LLM_DEFAULT_TEMPERATURE", "0"},
                            {"LLM_DEFAULT_TOP_P", "0.5"},
                            {"LLM_DEFAULT_MAX_TOKENS", "7"},
                            {"LLM_MAX_TOKENS_LIMIT", "9"},
                            {"LLM_CONTEXT_SIZE", "2048"},
                            {"LLM_PAGED_CACHE_TYPE", "Q8_0"},
                            {"LLM_PAGED_ATTENTION_BLOCK_SIZE", "16"},
                            {"LLM_ENABLE_PREFIX_CACHING", "False"},
                            {"LLM_DEVICE", "CUDA:1"},
                            {"LLM_BATCH_INVARIANT", "on"},
                            {"LLM_THREADS", "2"},
                            {"LLM_MEMORY_LIMIT", "12GiB"},
                            {"LLM_INFERENCE_HOSTNAME", "0.0.0.0"},
                            {"LLM_INFERENCE_PORT", "0"},
                            {"LLM_API_KEYS", "one, two"},
                            {"CORS_ALLOWED_ORIGINS", "https://Example.org/, http://localhost:3000"},
                            {"SERVER_SSL_ENABLED", "true"},
                            {"TLS_SERVER_CERT_PATH", "cert.pem"},
                            {"TLS_SERVER_KEY_PATH", "key.pem"},
                            {"GPU_PRESSURE_THRESHOLD", "80"},
                            {"LOG_FORMAT", "JSON"},
                            {"LOG_LEVEL", "warning"},
                            {"SERVICE_NAME", "mine"},
                            {"HF_HUB_OFFLINE", "1"},
                            {"UNRELATED", "x"}});
  ASSERT_TRUE(loaded) << loaded.error().message;
  const Config& c = loaded->config;
  EXPECT_EQ(c.allowed_models, (std::vector<std::string>{"a/b:Q8_0@c/d", "quern/guide"}));
  EXPECT_EQ(c.model_path, "models");
  EXPECT_TRUE(c.enable_isq);
  EXPECT_EQ(c.isq_type, "Q5_K");
  EXPECT_FALSE(c.isq_cache || c.isq_keep_source || c.prefix_caching);
  EXPECT_EQ(c.max_concurrent_requests, 3);
  EXPECT_EQ(c.max_queued_requests, 0);
  EXPECT_EQ(c.queue_timeout_ms, 250);
  EXPECT_EQ(c.default_temperature, 0.0f);
  EXPECT_EQ(c.default_top_p, 0.5f);
  EXPECT_EQ(c.default_max_tokens, 7);
  EXPECT_EQ(c.max_tokens_limit, 9);
  EXPECT_EQ(c.context_size, 2048);
  EXPECT_EQ(c.kv_cache_type, "q8_0");
  EXPECT_EQ(c.block_size, 16);
  EXPECT_EQ(c.device, "cuda:1");
  EXPECT_TRUE(c.batch_invariant && c.tls);
  EXPECT_EQ(c.threads, 2);
  EXPECT_EQ(c.memory_limit, uint64_t{12} << 30);
  EXPECT_EQ(c.hostname, "0.0.0.0");
  EXPECT_EQ(c.port, 0);
  EXPECT_EQ(c.api_keys, (std::vector<std::string>{"one", "two"}));
  EXPECT_EQ(c.cors_origins, (std::vector<std::string>{"https://example.org", "http://localhost:3000"}));
  EXPECT_EQ(c.tls_cert + c.tls_key, "cert.pemkey.pem");
  EXPECT_EQ(c.gpu_pressure_threshold, 80);
  EXPECT_EQ(c.log_format, "json");
  EXPECT_EQ(c.log_level, log::Level::warn);
  EXPECT_EQ(c.service_name, "mine");
  EXPECT_EQ(loaded->passed_on, (Values{{"HF_HUB_OFFLINE", "1"}}));
}

TEST(Config, AWrongValueIsOneLineThatSaysWhatIsAllowed) {
  EXPECT_EQ(load_error("LLM_INFERENCE_PORT", "99999"),
            "LLM_INFERENCE_PORT: \"99999\" is not allowed: give a port from 0 to 65535 (0: any free one)");
  EXPECT_EQ(load_error("LLM_ENABLE_ISQ", "maybe"),
            "LLM_ENABLE_ISQ: \"maybe\" is not allowed: give true or false (also 1/0, yes/no, on/off)");
  EXPECT_EQ(load_error("LLM_DEFAULT_TEMPERATURE", "hot"),
            "LLM_DEFAULT_TEMPERATURE: \"hot\" is not allowed: give a number from 0 to 2");
  for (const auto& [name, value] :
       std::vector<std::pair<std::string, std::string>>{{"LLM_DEFAULT_TOP_P", "0"},
                                                        {"LLM_DEFAULT_TOP_P", "nan"},
                                                        {"LLM_DEFAULT_TEMPERATURE", "2.1"},
                                                        {"LLM_DEFAULT_TEMPERATURE", "1,5"},
                                                        {"LLM_MAX_TOKENS_LIMIT", "0"},
                                                        {"LLM_MAX_CONCURRENT_REQUESTS", "-1"},
                                                        {"LLM_MAX_CONCURRENT_REQUESTS", "1e3"},
                                                        {"LLM_THREADS", "99999999999999999999"},
                                                        {"LLM_CONTEXT_SIZE", "big"},
                                                        {"LLM_PAGED_ATTENTION_BLOCK_SIZE", "33"},
                                                        {"LLM_KV_CACHE_TYPE", "f64"},
                                                        {"LLM_ISQ_TYPE", "Q9_K"},
                                                        {"LLM_ISQ_TYPE", "F16"},
                                                        {"LLM_DEVICE", "tpu"},
                                                        {"LLM_DEVICE", "cpu:1"},
                                                        {"LLM_DEVICE", "cuda:"},
                                                        {"LLM_MEMORY_LIMIT", "12 parsecs"},
                                                        {"LLM_MEMORY_LIMIT", "0"},
                                                        {"LLM_API_KEYS", ","},
                                                        {"LLM_API_KEYS", "two words"},
                                                        {"LLM_ALLOWED_MODELS", " , "},
                                                        {"CORS_ALLOWED_ORIGINS", "example.org"},
                                                        {"CORS_ALLOWED_ORIGINS", "https://example.org/path"},
                                                        {"GPU_PRESSURE_THRESHOLD", "101"},
                                                        {"LOG_FORMAT", "xml"},
                                                        {"LOG_LEVEL", "loud"}}) {
    const std::string message = load_error(name, value);
    EXPECT_TRUE(message.starts_with(name + ": ")) << message;
    EXPECT_EQ(message.find('\n'), std::string::npos);
  }
  EXPECT_EQ(load_error("LLM_API_KEYS", "se cret").find("se cret"), std::string::npos);
  EXPECT_EQ(load_error("SERVER_SSL_ENABLED", "true"),
            "TLS_SERVER_CERT_PATH: not set: SERVER_SSL_ENABLED=true needs a PEM file");
}

TEST(Config, AnUnknownVariableIsAWarningWithTheNearestName) {
  const auto loaded = load({{"LLM_MAX_TOKEN_LIMIT", "1"}, {"LLM_THREAD", "2"}, {"OTHER_THREADS", "3"}});
  ASSERT_TRUE(loaded);
  EXPECT_EQ(loaded->warnings,
            (std::vector<std::string>{
                "LLM_MAX_TOKEN_LIMIT: unknown variable, ignored: did you mean LLM_MAX_TOKENS_LIMIT?",
                "LLM_THREAD: unknown variable, ignored: did you mean LLM_THREADS?"}));
}

TEST(Config, FlagsWinOverTheEnvironmentWhichWinsOverTheFile) {
  const auto path = std::filesystem::path(testing::TempDir()) / "quern_config_test.env";
  std::ofstream(path)
      << "LLM_THREADS=1\nLLM_INFERENCE_PORT=1\nLLM_CONTEXT_SIZE=1\nLLM_DEFAULT_TEMPERATURE=1\n";
  const auto loaded = load_config(
      path, true, {{"LLM_INFERENCE_PORT", "2"}, {"LLM_CONTEXT_SIZE", "2"}, {"LLM_DEFAULT_TEMPERATURE", ""}},
      {{"LLM_CONTEXT_SIZE", "3"}});
  ASSERT_TRUE(loaded) << loaded.error().message;
  EXPECT_EQ(loaded->config.threads, 1);
  EXPECT_EQ(loaded->config.port, 2);
  EXPECT_EQ(loaded->config.context_size, 3);
  EXPECT_FALSE(loaded->config.default_temperature);  // set, but to nothing: the default

  std::ofstream(path) << "LLM_THREADS=1\noops\n";
  const auto broken = load_config(path, false, {}, {});
  ASSERT_FALSE(broken);
  EXPECT_EQ(broken.error().message, path.string() + ": line 2: \"oops\": NAME=value expected");
  std::filesystem::remove(path);

  EXPECT_TRUE(load_config(path, false, {}, {}));
  const auto missing = load_config(path, true, {}, {});
  ASSERT_FALSE(missing);
  EXPECT_EQ(missing.error().message, path.string() + ": cannot read the file of settings");
  EXPECT_FALSE(load_config(testing::TempDir(), true, {}, {}));
}

TEST(Config, TheNewerNameOfTheCacheTypeWins) {
  const auto loaded = load({{"LLM_KV_CACHE_TYPE", "f16"}, {"LLM_PAGED_CACHE_TYPE", "q8_0"}});
  ASSERT_TRUE(loaded);
  EXPECT_EQ(loaded->config.kv_cache_type, "f16");
}

TEST(Config, EitherNameOfTheCacheTypeWinsOverTheFilesOther) {
  const auto path = std::filesystem::path(testing::TempDir()) / "quern_config_names.env";
  for (const auto& [in_file, outside] : {std::pair("LLM_KV_CACHE_TYPE", "LLM_PAGED_CACHE_TYPE"),
                                         std::pair("LLM_PAGED_CACHE_TYPE", "LLM_KV_CACHE_TYPE")}) {
    std::ofstream(path) << in_file << "=f16\n";
    EXPECT_EQ(load_config(path, true, {}, {})->config.kv_cache_type, "f16");
    EXPECT_EQ(load_config(path, true, {{outside, "q8_0"}}, {})->config.kv_cache_type, "q8_0");
    EXPECT_EQ(load_config(path, true, {{outside, ""}}, {})->config.kv_cache_type, "auto");
    EXPECT_EQ(load_config(path, true, {{in_file, "f8e4m3"}}, {{outside, "q8_0"}})->config.kv_cache_type,
              "q8_0");
    const auto wrong = load_config(path, true, {{outside, "q9"}}, {});
    ASSERT_FALSE(wrong);
    EXPECT_NE(wrong.error().message.find(outside), std::string::npos) << wrong.error().message;
  }
  std::filesystem::remove(path);
}

TEST(Config, Sizes) {
  EXPECT_EQ(parse_size("1024"), 1024u);
  EXPECT_EQ(parse_size("12GiB"), uint64_t{12} << 30);
  EXPECT_EQ(parse_size("512MB"), 512000000u);
  EXPECT_EQ(parse_size("1.5g"), uint64_t{3} << 29);
  EXPECT_EQ(parse_size(" 2 KiB "), 2048u);
  EXPECT_EQ(parse_size("7b"), 7u);
  for (const char* wrong : {"", "GiB", "-1", "1e3", "1.2.3", "1GiBs", "1x", "99999999999999999999", "0x10"})
    EXPECT_FALSE(parse_size(wrong)) << wrong;
}

TEST(Config, EditDistance) {
  EXPECT_EQ(edit_distance("kitten", "sitting"), 3u);
  EXPECT_EQ(edit_distance("", "abc"), 3u);
  EXPECT_EQ(edit_distance("abc", "abc"), 0u);
}

/// .env.example is what users copy: it must name every variable and parse to the defaults.
TEST(Config, TheExampleFileNamesEveryVariableAndChangesNothing) {
  std::ifstream file(QUERN_SOURCE_DIR "/.env.example");
  ASSERT_TRUE(file);
  std::string text{std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
  for (const auto name : known_variables())
    EXPECT_NE(text.find(std::string(name) + "="), std::string::npos) << name;
  EXPECT_TRUE(parsed(text).empty()) << "every line of the example is commented out";
  // Uncommented, every value is one that the server takes.
  std::string enabled;
  for (size_t at = 0; at < text.size();) {
    const size_t end = std::min(text.find('\n', at), text.size());
    std::string_view line = std::string_view(text).substr(at, end - at);
    if (line.starts_with("#") && !line.starts_with("# ") && line.size() > 1) line.remove_prefix(1);
    enabled += std::string(line) + "\n";
    at = end + 1;
  }
  const auto values = parse_dotenv(enabled);
  ASSERT_TRUE(values) << values.error().message;
  const auto loaded = load(*values);
  ASSERT_TRUE(loaded) << loaded.error().message;
  EXPECT_TRUE(loaded->warnings.empty());
}

}  // namespace
}  // namespace quern
