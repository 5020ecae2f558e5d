#include "http/parser.h"

#include <gtest/gtest.h>

namespace quern {
namespace {

using namespace std::string_literals;

using State = RequestParser::State;

struct Parsed {
  State state = State::more;
  HttpRequest request;
  ApiError error;
  size_t left = 0;
};

/// Feeds `text` in steps of `step` bytes, as a connection would.
Parsed parse(std::string_view text, size_t step, ServerLimits limits = {}) {
  RequestParser parser(limits);
  std::string input;
  Parsed out;
  for (size_t at = 0; at < text.size() && out.state != State::done && out.state != State::failed;) {
    const size_t n = std::min(step, text.size() - at);
    input.append(text.substr(at, n));
    at += n;
    for (bool again = true; again;) {
      size_t consumed = 0;
      out.state = parser.feed(input, consumed);
      input.erase(0, consumed);
      again = out.state == State::head;
    }
    out.left = input.size() + text.size() - at;
  }
  out.request = parser.request();
  out.error = parser.error();
  return out;
}

TEST(Parser, TakesARequestInPiecesOfAnySize) {
  const std::string text =
      "POST /v1/models/a%2Fb?x=1 HTTP/1.1\r\nHost: h\r\nX-Thing:  some text \r\nTransfer-Encoding: "
      "chunked\r\n\r\n"
      "5;ext=1\r\nhello\r\n6\r\n world\r\n0\r\nTrailer: x\r\n\r\nGET /next";
  for (size_t step = 1; step <= text.size(); ++step) {
    const Parsed parsed = parse(text, step);
    ASSERT_EQ(parsed.state, State::done) << step << " " << parsed.error.message;
    EXPECT_EQ(parsed.request.method, "POST");
    EXPECT_EQ(parsed.request.path, "/v1/models/a/b");
    EXPECT_EQ(parsed.request.header("x-thing"), "some text");
    EXPECT_EQ(parsed.request.header("trailer"), "");
    EXPECT_EQ(parsed.request.body, "hello world");
    EXPECT_EQ(parsed.left, 9u);
  }
}

TEST(Parser, AnEmptyChunkedBodyMayComeInPieces) {
  const std::string text =
      "POST /x HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /next";
  for (size_t step = 1; step <= text.size(); ++step) {
    const Parsed parsed = parse(text, step);
    ASSERT_EQ(parsed.state, State::done) << step << " " << parsed.error.message;
    EXPECT_EQ(parsed.request.body, "");
    EXPECT_EQ(parsed.left, 9u);
  }
}

TEST(Parser, RefusesWhatIsNoRequest) {
  ServerLimits limits;
  limits.header_bytes = 2000;
  limits.header_fields = 10;
  limits.body_bytes = 100;
  const auto kind = [&](const std::string& text) {
    const Parsed whole = parse(text, text.size(), limits), bytewise = parse(text, 1, limits);
    EXPECT_EQ(whole.state, State::failed) << text.substr(0, 100);
    EXPECT_EQ(bytewise.state, State::failed) << text.substr(0, 100);
    EXPECT_EQ(http_status(whole.error.kind), http_status(bytewise.error.kind)) << text.substr(0, 100);
    return http_status(whole.error.kind);
  };
  const std::string start = "POST / HTTP/1.1\r\nHost: h\r\n";
  EXPECT_EQ(kind("\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"s + std::string(50, 'x')), 400);  // TLS
  EXPECT_EQ(kind("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"), 505);
  EXPECT_EQ(kind("GET / HTTP/1.1\r\n\r\n"), 400);  // no Host
  EXPECT_EQ(kind("GET / HTTP/1.1\r\nHost: h\r\nHost: h\r\n\r\n"), 400);
  EXPECT_EQ(kind("GET /%zz HTTP/1.1\r\nHost: h\r\n\r\n"), 400);
  EXPECT_EQ(kind("GET /%00 HTTP/1.1\r\nHost: h\r\n\r\n"), 400);
  EXPECT_EQ(kind("GET /%ff HTTP/1.1\r\nHost: h\r\n\r\n"), 400);
  EXPECT_EQ(kind("GET nowhere HTTP/1.1\r\nHost: h\r\n\r\n"), 400);
  EXPECT_EQ(kind("GET / HTTP/1.1\r\nHost: h\r\nBad Name: x\r\n\r\n"), 400);
  EXPECT_EQ(kind("GET / HTTP/1.1\r\nHost: h\r\nA: x\x01y\r\n\r\n"), 400);
  EXPECT_EQ(kind("GET / HTTP/1.1\r\nHost: h\r\nA: " + std::string(3000, 'x') + "\r\n\r\n"), 431);
  std::string many = "GET / HTTP/1.1\r\nHost: h\r\n";
  for (int i = 0; i < 20; ++i) many += "A: x\r\n";
  EXPECT_EQ(kind(many + "\r\n"), 431);
  EXPECT_EQ(kind(start + "Content-Length: 101\r\n\r\n"), 413);
  EXPECT_EQ(kind(start + "Content-Length: 99999999999999999999999\r\n\r\n"), 400);
  EXPECT_EQ(kind(start + "Content-Length: -1\r\n\r\n"), 400);
  EXPECT_EQ(kind(start + "Content-Length: 5\r\nContent-Length: 6\r\n\r\n"), 400);
  EXPECT_EQ(kind(start + "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n"), 400);
  EXPECT_EQ(kind(start + "Transfer-Encoding: chunked\r\n\r\nzz\r\nhello\r\n"), 400);
  for (const char* coding : {"xchunked", "gzip", "identity", "", "gzip, chunked", "chunked, gzip",
                             "chunked, chunked", "chunked;a=b", "gzip\r\nTransfer-Encoding: chunked"})
    EXPECT_EQ(kind(fmt::format("{}Transfer-Encoding: {}\r\n\r\n0\r\n\r\n", start, coding)), 400) << coding;
  EXPECT_EQ(kind("POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"), 400);
  EXPECT_EQ(kind(start + "Transfer-Encoding: chunked\r\n\r\n5\r\nhelloworld\r\n0\r\n\r\n"), 400);
  EXPECT_EQ(kind(start + "Transfer-Encoding: chunked\r\n\r\n60\r\n" + std::string(0x60, 'x') + "\r\n60\r\n" +
                 std::string(0x60, 'x') + "\r\n0\r\n\r\n"),
            413);
  EXPECT_EQ(kind(start + "Transfer-Encoding: chunked\r\n\r\nffffffffffffffffff\r\n"), 400);
}

TEST(Parser, EndlessLinesDoNotGrowWithoutBound) {
  const std::string start = "POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n";
  for (const std::string& endless :
       {"5;" + std::string(200000, 'x'), "0\r\nA: " + std::string(200000, 'x')}) {
    const Parsed parsed = parse(start + endless, 1000);
    EXPECT_EQ(parsed.state, State::failed);
    EXPECT_GT(parsed.left, 100000u);
  }
  EXPECT_EQ(parse(std::string(200000, 'A'), 1000).state, State::failed);
}

TEST(Parser, AnyPrefixOfARequestIsUnfinishedOrFailed) {
  const std::string text = "POST /x HTTP/1.1\r\nHost: h\r\nContent-Length: 4\r\n\r\nbody";
  for (size_t n = 0; n < text.size(); ++n) EXPECT_EQ(parse(text.substr(0, n), 7).state, State::more) << n;
}

}  // namespace
}  // namespace quern
