// Templates and messages that are meant to do harm: each ends soon, with an error or bounded text.
#include <gtest/gtest.h>

#include <chrono>

#include "text/jinja/jinja_test_data.h"

namespace quern::jinja {
namespace {

std::string repeated(std::string_view piece, size_t count) {
  std::string text;
  text.reserve(piece.size() * count);
  for (size_t i = 0; i < count; ++i) text += piece;
  return text;
}

bool fails(std::string_view source, std::string_view reason, const Limits& limits = {}) {
  const std::string text = rendered(source, test_variables(), limits);
  const bool as_said = text.starts_with("error: ") && text.find(reason) != std::string::npos;
  if (!as_said) ADD_FAILURE() << source.substr(0, 100) << " gave " << text.substr(0, 200);
  return as_said;
}

TEST(Hostile, NestingIsBounded) {
  constexpr size_t kMany = 3'000;
  const std::string deep = "nested deeper than";
  fails("{{ " + repeated("(", 100'000) + "1" + repeated(")", 100'000) + " }}", deep);
  const std::pair<const char*, const char*> pairs[] = {
      {"(", ")"},        {"[", "]"},    {"{1:", "}"},         {"f(", ")"}, {"a[", "]"},  {"(1,", ")"},
      {"x is eq(", ")"}, {"a|f(", ")"}, {"a if b else ", ""}, {"-", ""},   {"not ", ""}, {"a[1:", "]"}};
  for (const auto& [open, close] : pairs) {
    fails("{{ " + repeated(open, 3'000) + "1" + repeated(close, 3'000) + " }}", deep);
  }
  for (const char* after : {".a", "[0]", "()", "|f", " is f", "|f(1)"}) {
    fails("{{ a" + repeated(after, kMany) + " }}", deep);
  }
  for (const char* tag : {"{% if a %}", "{% for a in b %}", "{% macro a() %}", "{% filter upper %}",
                          "{% set a %}", "{% call a() %}", "{% with %}", "{% if a %}x{% else %}{% if b %}"}) {
    fails(repeated(tag, kMany), deep);
  }
  fails("{% for " + repeated("(", kMany) + "a" + repeated(")", kMany) + " in b %}", deep);
  fails("{% set " + repeated("(", kMany) + "a" + repeated(")", kMany) + " = b %}", deep);
}

TEST(Hostile, LongIsNotDeep) {
  constexpr size_t kMany = 10'000;
  EXPECT_EQ(rendered("{{ 0" + repeated(" + 1", kMany) + " }}"), std::to_string(kMany));
  EXPECT_EQ(rendered("{{ ''" + repeated(" ~ 'x'", kMany) + " }}"), repeated("x", kMany));
  EXPECT_EQ(rendered("{{ 0" + repeated(" or 0", kMany) + " }}"), "0");
  EXPECT_EQ(rendered("{{ 1" + repeated(" == 1", kMany) + " }}"), "True");
  EXPECT_EQ(rendered("{% if no %}" + repeated("{% elif no %}", kMany) + "{% else %}x{% endif %}"), "x");
  EXPECT_EQ(rendered(repeated("{{ n }}", kMany)), repeated("5", kMany));
  EXPECT_EQ(rendered("{{ [" + repeated("1,", kMany) + "] | length }}"), std::to_string(kMany));
  EXPECT_EQ(rendered(repeated("x", 500'000)).size(), 500'000u);
  fails(repeated("x", kMaxSource + 1), "at most 1048576 are read");
}

TEST(Hostile, RecursionIsBounded) {
  const std::string deep = "evaluation is nested deeper than";
  fails("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}", deep);
  fails("{% macro a() %}{{ b() }}{% endmacro %}{% macro b() %}{{ a() }}{% endmacro %}{{ a() }}", deep);
  fails("{% macro m() %}{% call m() %}x{% endcall %}{% endmacro %}{{ m() }}", deep);
  fails("{% macro m(x=m()) %}{% endmacro %}{{ m() }}", deep);
  fails(
      "{% macro m() %}{% for i in [1] %}{% if 1 %}{% set x %}{% filter upper %}{{ (1 + (2 ~ m())) }}"
      "{% endfilter %}{% endset %}{% endif %}{% endfor %}{% endmacro %}{{ m() }}",
      deep);
  fails("{% for x in [1] recursive %}{{ loop([1]) }}{% endfor %}", deep);
  fails(
      "{% for x in [1] recursive %}"
      "{% set s %}{% filter upper %}{% with %}{{ (1 ~ (2 ~ loop([x]))) }}{% endwith %}{% endfilter %}"
      "{% endset %}{% endfor %}",
      deep);
  fails("{% set x = [] %}{% do x.append(x) %}{% for y in x recursive %}{{ loop(y) }}{% endfor %}", deep);
}

TEST(Hostile, SizesAreBounded) {
  for (const char* source :
       {"{{ 'x' * 10**9 }}",
        "{{ 'xy' * 10**18 }}",
        "{{ [1] * 10**9 }}",
        "{{ [1, 2] * 10**18 }}",
        "{{ range(10**9) }}",
        "{{ range(0, -(10**12), -1) }}",
        "{{ 10 ** 1000 }}",
        "{{ 2 ** 64 }}",
        "{{ 2.0 ** 5000 }}",
        "{{ '%999999999d' % 1 }}",
        "{{ '%.999999999f' % 1 }}",
        "{{ '{:999999999}'.format(1) }}",
        "{{ '{:.999999999f}'.format(1.5) }}",
        "{{ 'a'.center(10**12) }}",
        "{{ 'a'.ljust(10**18) }}",
        "{{ 'a'.zfill(10**10) }}",
        "{{ 'a' | center(10**10) }}",
        "{{ 'a\nb' | indent(10**10) }}",
        "{{ d | tojson(indent=10**10) }}",
        "{{ [1] | batch(10**10, 'x') | list }}",
        "{{ [1] | slice(10**10) }}",
        "{{ 5 | round(10**6) }}",
        "{{ strftime_now('%Y' * 5000) }}",
        "{{ (1).__class__.__mro__ }}",
        "{% set ns = namespace(x='ab') %}{% for i in range(100) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}",
        "{% set ns = namespace(x=[1]) %}{% for i in range(100) %}{% set ns.x = ns.x + ns.x %}{% endfor %}",
        "{% set n=namespace(x='ab') %}{% for i in range(99) %}{% set n.x=n.x.replace('a',n.x) %}{% endfor %}",
        "{% set x = 'ab' * 100000 %}{% for i in range(100000) %}{{ x }}{% endfor %}"}) {
    EXPECT_TRUE(rendered(source, test_variables(), {.bytes = size_t{16} << 20}).starts_with("error: "))
        << source;
  }
}

TEST(Hostile, StepsAreBounded) {
  const std::string steps = "the template takes more than";
  fails("{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}", "more than");
  // The rest with fewer steps, for the test's sake.
  const Limits few{.steps = 300'000};
  fails("{% macro m(n) %}{% if n > 0 %}{{ m(n - 1) }}{{ m(n - 1) }}{% endif %}{% endmacro %}{{ m(40) }}",
        steps, few);
  fails("{% for n in [40] recursive %}{{ loop([n - 1, n - 1]) if n > 0 }}{% endfor %}", steps, few);
  fails("{% for i in range(90000) %}{% if i in range(90000) | list %}{% endif %}{% endfor %}", "more than",
        few);
  fails("{{ range(90000) | unique | length }}", steps, few);
  // Lists that share their parts: 2^60 items to print or compare, in 60 lists.
  const std::string shared =
      "{% set ns = namespace(x=[1], y=[1]) %}{% for i in range(60) %}{% set ns.x = [ns.x, ns.x] %}"
      "{% set ns.y = [ns.y, ns.y] %}{% endfor %}";
  for (const char* use : {"{{ ns.x }}", "{{ ns.x | tojson }}", "{{ ns.x == ns.y }}", "{{ ns.x < ns.y }}"}) {
    fails(shared + use, steps, few);
  }
}

TEST(Hostile, WalkingTextTakesSteps) {
  const Limits few{.bytes = size_t{16} << 20, .steps = 60'000};
  const auto hundred_times = [](const std::string& use) {
    return "{% set s = 'a' * 1000000 %}{% set b = ' ' * 1000000 %}{% set n = '1' * 1000000 %}"
           "{% set k = {n: 1} %}{% for i in range(100) %}{% if " +
           use + " %}{% endif %}{% endfor %}";
  };
  for (const char* use : {"s | length",
                          "s is lower",
                          "s is upper",
                          "s | wordcount",
                          "b | trim",
                          "s | trim('a')",
                          "n | int",
                          "n | float",
                          "s | center(1)",
                          "s[-1]",
                          "s[9:]",
                          "s.strip('a')",
                          "b.lstrip()",
                          "b.rstrip()",
                          "s.isalpha()",
                          "s.isalnum()",
                          "n.isdigit()",
                          "b.isspace()",
                          "s.islower()",
                          "s.isupper()",
                          "s.istitle()",
                          "s.isascii()",
                          "s.count('b')",
                          "s.partition('b')",
                          "s.rpartition('b')",
                          "s.splitlines()",
                          "s.ljust(1)",
                          "s.startswith(s)",
                          "s.endswith(('b', s))",
                          "s.removeprefix(s)",
                          "s.removesuffix(s)",
                          "k[s]",
                          "'b' in s"}) {
    fails(hundred_times(use), "the template takes more than", few);
  }
  // What looks at one end or at the type is as cheap for a long text.
  for (const char* use : {"s is string", "s is defined", "s", "s.startswith('b')", "s.endswith('b')",
                          "s | trim", "s.strip('b\n')", "s | default('x')"}) {
    EXPECT_EQ(rendered(hundred_times(use), test_variables(), few), "") << use;
  }
}

TEST(Hostile, ValuesMayHoldThemselves) {
  const std::string self = "{% set x = [1] %}{% do x.append(x) %}{% set y = [1] %}{% do y.append(y) %}";
  fails(self + "{{ x }}", "a value is nested deeper than");
  fails(self + "{{ x | tojson }}", "a value is nested deeper than");
  fails(self + "{{ x == y }}", "a value is nested deeper than");
  fails(self + "{{ x < y }}", "a value is nested deeper than");
  EXPECT_EQ(rendered(self + "{{ x == x }}{{ x | length }}"), "True2");
  EXPECT_EQ(
      rendered(
          "{% set ns = namespace() %}{% for i in [1, 2] %}{% set ns.l = loop %}{% endfor %}{{ ns.l.index }}"
          "{{ ns.l.previtem }}"),
      "21");
  EXPECT_EQ(rendered("{% set d = {'a': 1} %}{% do d.update(d) %}{% do d.update({'d': d}) %}{{ d | length }}"),
            "2");
  EXPECT_EQ(
      rendered("{% set x = [1, 2] %}{% for i in x %}{% if loop.length < 3 and i < 3 %}{% do x.append(i) %}"
               "{% endif %}{% endfor %}{{ x }}"),
      "[1, 2, 1, 2]");
}

TEST(Hostile, DeepVariablesAreRefused) {
  nlohmann::ordered_json deep = 1;
  for (int i = 0; i < 100'000; ++i) {
    auto outer = nlohmann::ordered_json::array();
    outer.push_back(std::move(deep));
    deep = std::move(outer);
  }
  const std::string text = rendered("{{ x }}", {{"x", std::move(deep)}});
  EXPECT_NE(text.find("a value is nested deeper than 128 levels"), std::string::npos) << text.substr(0, 200);
}

TEST(Hostile, LongMessagesTakeLinearTime) {
  const nlohmann::ordered_json variables = {{"a", repeated("ab", 200'000) + "c"},
                                            {"b", repeated("ab", 100'000) + "d"}};
  const auto start = std::chrono::steady_clock::now();
  EXPECT_EQ(
      rendered(
          "{{ b in a }}{{ a.find(b) }}{{ a.count(b) }}{{ a.split(b) | length }}{{ a.replace(b, '') == a }}"
          "{{ a.startswith(b) }}{{ a[:-1] | length }}{{ a[::-1] | length }}{{ a | upper | "
          "length }}",
          variables),
      "False-101TrueFalse400000400001400001");
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(5));
}

TEST(Hostile, BytesThatAreNotUtf8AreKept) {
  const std::string bad = "\xff\xc3(\xed\xa0\x80\xf0\x9f";
  EXPECT_EQ(rendered(bad + "{{ '" + bad + "' }}"), bad + bad);
  EXPECT_EQ(rendered("{{ '" + bad + "' | length }}"), "8");
  EXPECT_EQ(rendered("{{ '" + bad + "' | reverse | reverse }}"), bad);
  EXPECT_EQ(rendered("{{ '" + bad + "'.strip().upper()[0] }}"), "\xff");
  EXPECT_EQ(rendered("{{ '" + bad + "' | tojson }}"), "\"" + bad + "\"");
}

TEST(Hostile, LimitsAreTheCallersToSet) {
  const auto with = [](std::string_view source, const Limits& limits) {
    return rendered(source, test_variables(), limits);
  };
  EXPECT_EQ(with("{{ 'x' * 5000 }}", {.output = 4096}),
            "error: the prompt is larger than 0 MiB (chat template, line 1, column 4)");
  EXPECT_TRUE(with("{% for i in range(100) %}x{% endfor %}", {.steps = 100})
                  .starts_with("error: the template takes more than"));
  EXPECT_TRUE(with("{{ ((((1)))) + (2 * (3 + 4)) }}", {.depth = 3})
                  .starts_with("error: evaluation is nested deeper"));
  EXPECT_TRUE(with("{{ 'x' * 100000 }}", {.bytes = 90000}).starts_with("error: "));
}

}  // namespace
}  // namespace quern::jinja
