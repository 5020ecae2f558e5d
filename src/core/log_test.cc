#include "core/log.h"

#include <gtest/gtest.h>

namespace quern::log {
namespace {

std::string written(Format format, std::string_view message, std::string_view value) {
  init(format, Level::info);
  ::testing::internal::CaptureStderr();
  write(Level::info, message, {{"model", value}, {"seconds", 1.5}});
  return ::testing::internal::GetCapturedStderr();
}

// What a name may hold: a broken byte, half a character, a surrogate, controls of both kinds, an overlong
// slash.
constexpr std::string_view kOdd = "\"a\\\xff\xc3 \xed\xa0\x80\x1b[31m\xc2\x9b\x7f\xc0\xaf\xf0\x9f\xa6\x99";
#define BROKEN "\uFFFD"

TEST(Log, JsonIsJsonWhateverANameHolds) {
  const std::string line = written(Format::json, "ready\n", kOdd);
  EXPECT_NE(line.find("\"message\":\"ready\\u000a\""), std::string::npos) << line;
  EXPECT_NE(line.find("\"model\":\"\\\"a\\\\" BROKEN BROKEN " " BROKEN BROKEN BROKEN
                      "\\u001b[31m" BROKEN BROKEN "\\u007f" BROKEN BROKEN "\U0001F999\",\"seconds\":1.5}"),
            std::string::npos)
      << line;
}

TEST(Log, ATerminalIsOnlyWrittenOn) {
  const std::string line = written(Format::pretty, "ready\x1b]0;x", kOdd);
  EXPECT_NE(line.find("ready ]0;x  model=\"a\\" BROKEN BROKEN " " BROKEN BROKEN BROKEN " [31m" BROKEN BROKEN
                      " " BROKEN BROKEN "\U0001F999  seconds=1.5"),
            std::string::npos)
      << line;
}

}  // namespace
}  // namespace quern::log
