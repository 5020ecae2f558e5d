// Tags and white space. Every text here is what Python's jinja2 3.1 renders, set up as transformers does.
#include <gtest/gtest.h>

#include "text/jinja/jinja_test_data.h"

namespace quern::jinja {
namespace {

struct Case {
  const char* source;
  const char* text;
};

TEST(Statements, RenderWhatPythonRenders) {
  static constexpr Case kCases[] = {
      {"{% for k, v in d.items() %}{{ k }}={{ v }};{% endfor %}{% for k in d %}{{ k }}{% endfor %}{% for c "
       "in 'héy' %}[{{ c }}]{% endfor %}",
       "b=1;a={'x': [1, 2, {'y': None}]};c=q\"uo'te;bac[h][é][y]"},
      {"{% for x in l %}{{ loop.index }}{{ loop.index0 }}{{ loop.revindex }}{{ loop.revindex0 }}{{ "
       "loop.first }}{{ loop.last }}{{ loop.length }}{{ loop.previtem }}{{ loop.nextitem }}{{ "
       "loop.cycle('a','b') }}{{ loop.depth }}{{ loop.changed(1) }} {% endfor %}",
       "1032TrueFalse31a1True 2121FalseFalse332b1False 3210FalseTrue31a1False "},
      {"{% for x in l if x > 1 %}{{ x }}{{ loop.index }}/{{ loop.length }} {% else %}none{% endfor %}{% for "
       "x in [] %}a{% else %}empty{% endfor %}{% for x in undefinedthing %}a{% else %}undef{% endfor %}",
       "31/2 22/2 emptyundef"},
      {"{% for x in l %}{% if x == 1 %}{% continue %}{% endif %}{{ x }}{% if loop.last %}{% break %}{% endif "
       "%}{% endfor %}",
       "32"},
      {"{% set y = 1 %}{% for x in l %}{% set y = y + 1 %}{{ y }}{% endfor %}{{ y }}", "2221"},
      {"{% set ns = namespace(y=1) %}{% for x in l %}{% set ns.y = ns.y + x %}{% endfor %}{{ ns.y }}", "7"},
      {"{% set a, b = 1, 2 %}{{ a }}{{ b }}{% set a, b = b, a %}{{ a }}{{ b }}{% set (a, b) = [5, 6] %}{{ a "
       "}}{{ b }}",
       "122156"},
      {"{% set x %}block {{ n }}{% endset %}[{{ x }}]{% set x | upper %}abc{% endset %}{{ x }}",
       "[block 5]ABC"},
      {"{% for (a, b), c in [((1,2),3)] %}{{ a }}{{ b }}{{ c }}{% endfor %}", "123"},
      {"{% macro m(a, b=2, c='x') %}[{{ a }}{{ b }}{{ c }}]{% endmacro %}{{ m(1) }}{{ m(1, c=5) }}{{ m(a=3, "
       "b=4) }}{{ m() }}",
       "[12x][125][34x][2x]"},
      {"{% macro m(a) %}{{ a }}{{ varargs }}{{ kwargs }}{% endmacro %}{{ m(1, 2, 3, z=4) }}",
       "1(2, 3){'z': 4}"},
      {"{% macro m(a) %}<{{ caller(a) }}>{% endmacro %}{% call(x) m(5) %}got {{ x }}{% endcall %}",
       "<got 5>"},
      {"{% macro m() %}<{{ caller() }}>{% endmacro %}{% call m() %}plain {{ n }}{% endcall %}", "<plain 5>"},
      {"{% macro fact(n) %}{{ 1 if n <= 1 else n * (fact(n - 1)|int) }}{% endmacro %}{{ fact(5) }}", "120"},
      {"{% filter upper %}abc {{ s }}{% endfilter %}{% filter replace('a','b')|upper %}aaa{% endfilter %}",
       "ABC HELLO, WORLDBBB"},
      {"{% with a = 1, b = 2 %}{{ a + b }}{% endwith %}{{ a is defined }}", "3False"},
      {"{% generation %}gen {{ n }}{% endgeneration %}!", "gen 5!"},
      {"{% raw %}{{ not }} {% parsed %}{% endraw %}", "{{ not }} {% parsed %}"},
      {"a {#- comment -#} b {# c #} d", "ab  d"},
      {"  {% if t %}\n  yes\n  {% endif %}\n  x", "  yes\n  x"},
      {"{% if t -%}  a  {%- endif %} b {{- ' c ' -}} d", "a b c d"},
      {"a\n  {%+ if t %}b{% endif +%}\n c", "a\n  b\n c"},
      {"{%- if no %}a{% elif n > 3 %}b{% else %}c{% endif %}", "b"},
      {"x{% if t %}\n\ny{% endif %}\n\nz", "x\ny\nz"},
      {"{{ 'a' }}\n{{ 'b' }}\n", "a\nb"},
      {"{# c #}\nnext\n  {# d #}  \nx", "next\n  \nx"},
      {"{{ [1,2,3,4,5]|batch(2)|list }} {{ [1,2,3]|batch(2,'x')|list }} {{ [1,2,3,4,5]|slice(2)|list }} {{ "
       "[1,2,3]|slice(2,'f')|list }} {% for g in msgs|groupby('role') %}{{ g.grouper }}:{{ g.list|length }} "
       "{% endfor %}{% for r, m in msgs|groupby('role') %}{{ r }}{{ m|map(attribute='content')|join }}{% "
       "endfor %}",
       "[[1, 2], [3, 4], [5]] [[1, 2], [3, 'x']] [[1, 2, 3], [4, 5]] [[1, 2], [3, 'f']] assistant:1 user:2 "
       "assistantyouserhibye"},
      {"{{ namespace(a=1).a }} {{ dict(a=1, b=2) }} {{ dict([('a', 1)]) }} {% set j = joiner('; ') %}{{ j() "
       "}}a{{ j() }}b{{ j() }}c",
       "1 {'a': 1, 'b': 2} {'a': 1} a; b; c"},
      {"{% set c = cycler('a', 'b', 'c') %}{{ c.current }}{% for i in range(4) %}{{ c.next() }}{% endfor %}"
       "{{ c.current }}{% set _ = c.reset() %}{{ c.next() }}{{ c.next() }}",
       "aabcabab"},
      {"{%- set z = 'a' if n > 3 else 'b' -%}  {{ z }} {% set q = l + [4] %}{{ q }}{{ l }}",
       "a [3, 1, 2, 4][3, 1, 2]"},
      {"{% set items = [] %}{% for x in l %}{% set items = items + [x] %}{% endfor %}{{ items }}", "[]"},
      {"{% for a in [1,2] %}{% for b in [3,4] %}{{ loop.index }}{% endfor %}{{ loop.index }}{% endfor %}",
       "121122"},
      {"{% for a in [1,2] %}{% set outer = loop %}{% for b in [3,4] %}{{ outer.index }}{{ loop.index }} {% "
       "endfor %}{% endfor %}",
       "11 12 21 22 "},
      {"{% for m in msgs %}{% if loop.first %}{% set fst = m.content %}{% endif %}{{ fst }}|{% endfor %}",
       "hi|||"},
      {"{% if t %}{% set inif = 5 %}{% endif %}{{ inif }}", "5"},
      {"{% macro m() %}{% set inner = 1 %}{{ outerv }}{% endmacro %}{% set outerv = 'O' %}{{ m() }}{{ inner "
       "is defined }}",
       "OFalse"},
      {"{% for i in [1] %}{% macro mm() %}{{ i }}{% endmacro %}{{ mm() }}{% endfor %}", "1"},
      {"{% do l %}ok", "ok"},
      {"{{ s|length }}{{ u|length }} {{ u|count }} {{ [1,[2,[3]]]|string }} {{ 'abc'|first }} {{ 'abc'|last "
       "}} {{ 'abc'|list }} {{ d|first }} {{ d.items()|first }}",
       "129 9 [1, [2, [3]]] a c ['a', 'b', 'c'] b ('b', 1)"},
      {"{% set a = 'x' %}{% block foo %}{{ a }}{% endblock %}{% autoescape false %}{{ '<' }}{% endautoescape "
       "%}",
       "x<"},
      {"{% if n == 5 and (s is string or t) and not no %}ok{% endif %}{% if 'a' == 'a' != 'b' %}chain{% "
       "endif %}",
       "okchain"},
      {"{{ m }}{% macro m() %}{% endmacro %}", ""},
      {"{%- for x in [1,2] -%}\n {{ x }}\n{%- endfor -%}\nend", "12end"},
      {"{% for x in [1,2] %}\n{{ x }}\n{% endfor %}\nend", "1\n2\nend"},
      {"\n{{ 1 }}\n\n", "\n1\n"},
      {"b\" }}", "b\" }}"},
      {"{% for a in [1,2,3] %}{% for b in 'xy' %}{{ loop.index }}{{ b }}{% if b == 'x' and a == 2 %}{% break "
       "%}{% endif %}{% endfor %};{% endfor %}",
       "1x2y;1x;1x2y;"},
      {"{% for i in [1,2,3,4] %}{% if i is even %}{% continue %}{% endif %}{{ i }}{% else %}none{% endfor %}",
       "13"},
      {"{% set ns = namespace() %}{% set ns.a = 1 %}{% for i in [1,2] %}{% set ns.a = ns.a + i %}{% endfor "
       "%}{{ ns.a }}{{ ns.b is defined }}",
       "4False"},
      {"{% set ns = namespace(**{'a': 1}) %}{{ ns.a }}{% set ns = namespace({'q': 2}, r=3) %}{{ ns.q }}{{ "
       "ns.r }}",
       "123"},
      {"{% macro m(a, b='d') %}{{ a }}{{ b }}{% endmacro %}{{ m(*[1, 2]) }}{{ m(*[1]) }}{{ m(**{'a': 5}) "
       "}}{{ m(1, **{'b': 6}) }}",
       "121d5d16"},
      {"{% macro list(items) %}{% for i in items %}{{ caller(i, loop.index) }}{% endfor %}{% endmacro %}{% "
       "call(x, k=0) list(['a','b']) %}<{{ x }}{{ k }}>{% endcall %}",
       "<a1><b2>"},
      {"{% macro outer() %}{% macro inner(x) %}[{{ x }}]{% endmacro %}{{ inner(1) ~ inner(2) }}{% endmacro "
       "%}{{ outer() }}",
       "[1][2]"},
      {"{% macro f(x) %}{% if x > 0 %}{{ x }}{{ f(x - 1) }}{% endif %}{% endmacro %}{{ f(3) }}", "321"},
      {"{% macro f(x=n, y=x) %}{{ x }}{{ y }}{% endmacro %}{{ f() }}|{{ f(1) }}", "55|11"},
      {"{% set x = 'outer' %}{% with x = 'inner', y = x %}{{ x }}{{ y }}{% endwith %}{{ x }}",
       "innerouterouter"},
      {"{% set x %}{% for i in [1,2] %}{{ i }},{% endfor %}{% endset %}{{ x | length }}{{ x }}", "41,2,"},
      {"{% filter trim | upper %}  abc {{ s }} {% endfilter %}", "ABC HELLO, WORLD"},
      {"{%- if n == 1 -%} a {%- elif n == 5 -%} b {%- else -%} c {%- endif -%}", "b"},
      {"  {% set a = 1 %}\n  {% set b = 2 %}\n{{ a }}{{ b }}", "12"},
      {"a  {%- set q = 1 -%}  b", "ab"},
      {"a\n  {{- 1 -}}  \nb", "a1b"},
      {"   {{ 1 }}   \n   {% if t %}   \nx{% endif %}", "   1   \n   \nx"},
      {"\n\n{% if t %}\n\nx\n\n{% endif %}\n\ny\n\n", "\n\n\nx\n\n\ny\n"},
      {"{% for i in [1,2] -%}\n   {{ i }}\n{%- endfor %}\nz", "12z"},
      {"{#- a -#}  x  {#- b -#}", "x"},
      {"x{# multi\nline\ncomment #}\ny", "xy"},
      {"{% raw -%}  {{ a }}  {%- endraw %}|{%- raw %}{% b %}{% endraw -%}  c", "{{ a }}|{% b %}c"},
      {"{{ '{% raw %}' }}{{ \"}}\" }}{{ '#}' }}", "{% raw %}}}#}"},
      {"a\r\nb\r\n{% if t %}\r\nc{% endif %}\r\n", "a\nb\nc"},
      {"{% if t %}{# c #}{% endif %}x", "x"},
      {"\t{% if t %}tab{% endif %}", "tab"},
      {"text { not a tag } {x} % } #", "text { not a tag } {x} % } #"},
      {"{%+ if t %}x{%+ endif %}", "x"},
      {"{%    if   t   %}spaces{%endif%}", "spaces"},
      {"{% if not no and (n > 3 or undefinedthing.x) %}short{% endif %}", "short"},
      {"{% for k, v in d|items %}{{ k }}:{{ v|string|length }} {% endfor %}{% for k, v in "
       "d|dictsort(reverse=true) %}{{ k }}{% endfor %}",
       "b:1 a:26 c:7 cba"},
      {"{% for m in msgs if m.role == 'user' and not loop is defined %}{{ loop.index }}{{ m.content }}{{ "
       "loop.last }} {% endfor %}",
       "1hiFalse 2byeTrue "},
      {"{% for a, (b, c) in [(1, (2, 3)), [4, [5, 6]]] %}{{ a }}{{ b }}{{ c }} {% endfor %}", "123 456 "},
      {"{% for x in [[1, 2], [3]] %}{% for y in x %}{{ y }}{{ loop.last }}{% endfor %}{{ loop.last }}{% "
       "endfor %}",
       "1False2TrueFalse3TrueTrue"},
      {"{% for x in l|sort %}{{ loop.previtem|default('-') }}{{ x }}{{ loop.nextitem|default('-') }} {% "
       "endfor %}",
       "-12 123 23- "},
      {"{% for x in [1,1,2] %}{{ 'c' if loop.changed(x) }}{{ loop.cycle('o', 'e') }} {% endfor %}",
       "co e co "},
      {"{% set x = 1, %}{{ x }}{% set (x) = 2 %}{{ x }}", "(1,)2"},
      {"{% if 1 %}{% if 0 %}a{% else %}{% if 1 %}b{% endif %}{% endif %}{% endif %}", "b"},
      {"{% generation %}{% set inner = 5 %}{{ inner }}{% endgeneration %}{{ inner is defined }}", "5False"},
      {"{% set messages = msgs[1:] %}{% for messages in messages %}{{ messages.content }}{% endfor %}{{ "
       "messages|length }}",
       "yobye2"},
      {"joined\" }}", "joined\" }}"},
      {"{% for s in s.split(', ') %}{{ s }}{{ loop.index }}{% endfor %}{{ s }}", "Hello1World2Hello, World"},
      {"{% macro a() %}{{ b() }}{% endmacro %}{% macro b() %}B{% endmacro %}{{ a() }}", "B"},
      {"{% macro m(kind) %}{{ kind is none }}{{ kind is defined }}{% endmacro %}{{ m() }}{{ m(none) }}",
       "FalseFalseTrueTrue"},
      {"{% do [1] %}{% block x %}in block {{ n }}{% endblock x %}", "in block 5"},
  };
  for (const Case& c : kCases) EXPECT_EQ(rendered(c.source), c.text) << c.source;
}

TEST(Statements, LoopsThatCallThemselves) {
#define TREE \
  "{% set tree = [{'n': 'a', 'c': [{'n': 'b'}, {'n': 'c', 'c': [{'n': 'd', 'c': []}]}]}, {'n': 'e'}] %}"
  static constexpr Case kCases[] = {
      {TREE "{% for x in tree recursive %}{{ x.n }}{% if x.c %}({{ loop(x.c) }}){% endif %}{% endfor %}",
       "a(bc(d))e"},
      {TREE "{% for x in tree recursive %}{{ loop.depth }}{{ loop.depth0 }}{{ loop.index }}/{{ loop.length "
            "}}{{ x.n }}{{ loop.previtem.n if loop.previtem }} {{ loop(x.c) if x.c }}{{ loop.index }}{{ x.n "
            "}} {% endfor %}",
       "101/2a 211/2b 1b 212/2cb 321/1d 1d 2c 1a 102/2ea 2e "},
      {TREE "{% for x in tree recursive %}{{ x.n }}{{ loop(x.c) }}{% else %}-{% endfor %}", "ab-cd-e-"},
      {TREE "{% for x in tree if x.n != 'c' recursive %}{{ x.n }}{{ loop.length }}{{ loop(x.c) }}{% else "
            "%}none{% endfor %}",
       "a2b1nonee2none"},
      {TREE "{% for x in tree if x.n != loop recursive %}{{ x.n }}{{ loop(x.c) }}{% endfor %}", "abcde"},
      {TREE "{% for x in tree if x.n not in ('b', 'e') recursive %}{{ x.n }}[{{ loop(x.c) | upper | "
            "replace('[', '<') }}]{% endfor %}",
       "a[C<D<]]]"},
      {"{% for x in [[1, [2]], [3]] recursive %}{% if x is iterable %}<{{ loop(x) }}>{% else %}{{ x }}{% "
       "endif %}{% endfor %}",
       "<1<2>><3>"},
      {"{% for x in [[1, [2, 9, 4]], [3]] recursive %}{% if x is iterable %}<{{ loop(x) }}>{% elif x == 9 "
       "%}{% break %}{% else %}{{ x }}{% endif %}{% endfor %}",
       "<1<2>><3>"},
      {"{% for x in [[1, 2, 3], [2, 4]] recursive %}{% if x is iterable %}<{{ loop(x) }}>{% continue %}{% "
       "endif %}{{ x }}{% if x == 2 %}{% continue %}{% endif %};{% endfor %}",
       "<1;23;><24;>"},
      {TREE "{% for x in tree recursive %}{% set outer = loop %}{% for k in x.c or [] %}{{ x.n }}{{ k.n }}{{ "
            "outer.depth }}{{ loop.depth }}({{ outer([k]) }}){% endfor %}{% endfor %}",
       "ab11()ac11(cd21())"},
      {"{% for x in [1] recursive %}{{ loop(iterable=[]) }}|{{ loop(undefinedthing) }}{% else %}e{% endfor "
       "%}",
       "e|e"},
      {"{% for k, v in {'a': {'b': {}}, 'c': {}}.items() recursive %}{{ k }}{{ loop(v.items()) }}{% else "
       "%}.{% endfor %}",
       "ab.c."},
      {"{% set y = 'top' %}{% for x in [[[]]] recursive %}{{ y }}{% set y = 'in' %}{{ y }}{{ loop(x) }}{% "
       "endfor %}{{ y }}",
       "topintopintop"},
      {"{% for o in 'pq' %}{% for x in [[[]]] recursive %}{{ o }}{{ loop(x) }}{% endfor %}{{ loop.index }}{% "
       "endfor %}",
       "pp1qq2"},
      {"{% macro m(t) %}{% for x in t recursive %}({{ loop(x) }}){% endfor %}{% endmacro %}{{ m([[], [[]]]) "
       "}}",
       "()(())"},
      {"{% for x in [[], [[]]] recursive %}{% macro m(t) %}{{ loop(t) }}{{ loop.depth }}{% endmacro %}({{ "
       "m(x) }}){% endfor %}",
       "(1)((2)1)"},
      {"{% for x in [[], [[]]] recursive %}{% set z %}{{ loop(x) }}{% endset %}[{{ z | length }}{{ z }}]{% "
       "endfor %}",
       "[0][3[0]]"},
      {"{% set ns = namespace(l=none) %}{% for x in [1, 2] recursive %}{% set ns.l = loop %}{{ x }}{% endfor "
       "%}{{ ns.l([7, 8]) }}{{ ns.l.index }}",
       "12782"},
      {"{% for x in [1] %}{{ loop is callable }}{% endfor %}{% for x in [1] recursive %}{{ loop is callable "
       "}}{{ loop is defined }}{% endfor %}",
       "TrueTrueTrue"},
      {"{% for x in [0, 1] %}{% for y in [] %}{% else %}{{ x }}{% break %}{% endfor %}{% endfor %}", "0"},
      {"{% for x in [[1], [[2], 3]] recursive %}{{ loop.changed(loop.depth) }}{{ loop.cycle('a', 'b') }}{{ "
       "loop(x) if x is sequence }}{% endfor %}",
       "TrueaTrueaFalsebTrueaTrueaFalseb"},
      {"{% for x in l|sort recursive %}{{ x }}{% endfor %}", "123"},
      {"{% for x in [[1, 2], []] recursive -%}\n  {{ x }}{{ loop(x) if x is sequence }}\n{%- endfor %}",
       "[1, 2]12[]"},
      {"{% for x in [[]] recursive %}{% filter upper %}a{{ loop(x) }}{% endfilter %}{% else %}b{% endfor %}",
       "AB"},
      {"{% for x in [['q']] recursive %}{% with loop = loop %}{{ loop(x) if x is not string else x }}{% "
       "endwith %}{% endfor %}",
       "q"},
      {"{% for x in [['q']] recursive %}{% with y = loop %}{{ y(x) if x is not string else x }}{% endwith "
       "%}{% endfor %}",
       "q"},
      {"{% for x in [1] recursive %}{{ loop([2]) if x == 1 }}{{ x }}{{ loop.nextitem is defined }}{% endfor "
       "%}{{ loop is defined }}",
       "2False1FalseFalse"},
  };
#undef TREE
  for (const Case& c : kCases) EXPECT_EQ(rendered(c.source), c.text) << c.source;
}

TEST(Statements, SyntaxErrorsSayWhereAndWhat) {
  static constexpr Case kCases[] = {
      {"{{ a b }}", "line 1, column 6: expected the end of the expression, found 'b'"},
      {"x\n  {{ (1 }}", "line 2, column 9: expected ')', found '}'"},
      {"é{% if %}{% endif %}", "line 1, column 8: expected an expression, found the end of the tag"},
      {"\n{% for x in l %}", "line 2, column 17: expected '{% endfor %}' to end the 'for' of line 2"},
      {"{% if a %}{% for x in l %}{% endif %}", "line 1, column 30: unknown or unexpected tag 'endif'"},
      {"{% endfor %}", "line 1, column 4: unexpected tag 'endfor': no block that it belongs to is open"},
      {"{% if a %}x", "line 1, column 12: expected '{% endif %}' to end the 'if' of line 1"},
      {"{{ 'abc }}", "line 1, column 4: expected ' to end this string"},
      {"{{ a", "line 1, column 1: expected '}}' to end this tag"},
      {"{% set x = 1 }}", "line 1, column 14: unexpected '}'"},
      {"{# abc", "line 1, column 1: expected '#}' to end this comment"},
      {"{% raw %}abc", "line 1, column 1: expected '{% endraw %}' to end this raw block"},
      {"{% foo %}", "line 1, column 4: unknown or unexpected tag 'foo'"},
      {"{% include 'x' %}", "line 1, column 4: 'include' is not available: a chat template stands alone"},
      {"{% break %}", "line 1, column 4: 'break' outside of a loop"},
      {"{% for x in l %}{% macro m() %}{% continue %}{% endmacro %}{% endfor %}",
       "line 1, column 35: 'continue' outside of a loop"},
      {"{% for x in l %}{% for y in x recursive %}{% else %}{% break %}{% endfor %}{% endfor %}",
       "line 1, column 56: 'break' outside of a loop"},
      {"{{ a $ b }}", "line 1, column 6: unexpected character '$'"},
      {"{{ '\\u12' }}", "line 1, column 5: expected 4 hexadecimal digits after this escape"},
      {"{% set 5 = x %}", "line 1, column 8: expected a variable to assign to, found '5'"},
      {"{% macro m(a, a) %}{% endmacro %}", "line 1, column 15: parameter 'a' is named twice"},
      {"{{ f(a=1, 2) }}", "line 1, column 11: a positional argument follows a named one"},
      {"{{ 99999999999999999999 }}", "line 1, column 4: the integer 99999999999999999999 is too large"},
      {"{{ a[1:2:3:4] }}", "line 1, column 11: a slice has at most three parts"},
      {"{{ a[] }}", "line 1, column 6: expected an index or a slice, found ']'"},
  };
  for (const Case& c : kCases) EXPECT_EQ(rendered(c.source), "error: " + std::string(c.text)) << c.source;
}

TEST(Statements, MistakesInCallsAreErrors) {
  const auto starts = [](std::string_view source, std::string_view message) {
    const std::string text = rendered(source);
    EXPECT_TRUE(text.starts_with("error: " + std::string(message))) << text;
  };
  starts("{% macro m(a) %}{% endmacro %}{{ m(1, 2) }}", "m() takes 1 arguments, but 2 were given");
  starts("{% macro m(a) %}{% endmacro %}{{ m(q=2) }}", "macro 'm' has no argument 'q'");
  starts("{% set a, b = [1] %}", "cannot unpack 1 values into 2");
  starts("{% set d.b = 1 %}", "cannot assign the attribute 'b': not a namespace");
  starts("{% for a in 5 %}{% endfor %}", "'int' object is not iterable");
  starts("{% for a, b in [1] %}{% endfor %}", "'int' object is not iterable");
  const std::string not_recursive = "this loop cannot be called: its 'for' does not end with 'recursive'";
  starts("{% for a in [1] %}{{ loop([2]) }}{% endfor %}", not_recursive);
  starts("{% for a in [1] recursive %}{% for b in [2] %}{{ loop([3]) }}{% endfor %}{% endfor %}",
         not_recursive);
  starts("{% for a in [1] recursive %}{{ loop() }}{% endfor %}", "loop() needs the argument 'iterable'");
  starts("{% for a in [1] recursive %}{{ loop([], 2) }}{% endfor %}",
         "loop() takes 1 arguments, but 2 were given");
  starts("{% for a in [1] recursive %}{{ loop(5) }}{% endfor %}", "'int' object is not iterable");
}

TEST(Statements, AProgramIsNotChangedByRendering) {
  const auto program = Program::parse("{% set x = [1] %}{% do x.append(n) %}{{ x }}");
  ASSERT_TRUE(program);
  EXPECT_EQ((*program)->render({{"n", 1}}).value(), "[1, 1]");
  EXPECT_EQ((*program)->render({{"n", 2}}).value(), "[1, 2]");
  EXPECT_FALSE((*program)->render(nlohmann::ordered_json::array()));
}

TEST(Statements, MethodsThatChangeAValue) {
  EXPECT_EQ(
      rendered("{% set x = [3] %}{% do x.append(1) %}{% do x.extend([2, 2]) %}{% do x.insert(0, 9) %}{{ x }}"
               "{{ x.pop() }}{{ x.pop(0) }}{{ x }}{% do x.sort() %}{{ x }}{% do x.reverse() %}{{ x }}"
               "{{ x.index(1) }}{% do x.remove(3) %}{{ x }}{{ x.count(2) }}{% do x.clear() %}{{ x }}"),
      "[9, 3, 1, 2, 2]29[3, 1, 2][1, 2, 3][3, 2, 1]2[2, 1]1[]");
  EXPECT_EQ(
      rendered(
          "{% set x = {'a': 1} %}{% do x.update({'b': 2}, c=3) %}{{ x }}{{ x.pop('a') }}{{ x.pop('z', 0) }}"
          "{{ x.setdefault('d', 4) }}{{ x.setdefault('b', 5) }}{{ x }}{{ x.copy() == x }}"),
      "{'a': 1, 'b': 2, 'c': 3}1042{'b': 2, 'c': 3, 'd': 4}True");
}

}  // namespace
}  // namespace quern::jinja
