// The pre-tokenizers by llama.cpp's names. Each follows the pattern in the model's own tokenizer.json as
// llama.cpp reads it, simplified only where the same words come out.
#include <algorithm>

#include "text/pretokenizer.h"

namespace quern {
namespace {

using Set = std::vector<CodeRange>;

SplitRule pattern(std::string text, std::vector<Set> sets = {}) {
  return {SplitRule::Kind::pattern, std::move(text), std::move(sets)};
}

// Letters with case, as DeepSeek LLM lists them.
const Set cased_letters = {
    {0x41, 0x5A},       {0x61, 0x7A},       {0xB5, 0xB5},       {0xC0, 0xD6},       {0xD8, 0xF6},
    {0xF8, 0x1BA},      {0x1BC, 0x1BF},     {0x1C4, 0x293},     {0x295, 0x2AF},     {0x370, 0x373},
    {0x376, 0x377},     {0x37B, 0x37D},     {0x37F, 0x37F},     {0x386, 0x386},     {0x388, 0x38A},
    {0x38C, 0x38C},     {0x38E, 0x3A1},     {0x3A3, 0x3F5},     {0x3F7, 0x481},     {0x48A, 0x52F},
    {0x531, 0x556},     {0x10A0, 0x10C5},   {0x13A0, 0x13F5},   {0x13F8, 0x13FD},   {0x1C90, 0x1CBA},
    {0x1CBD, 0x1CBF},   {0x1D00, 0x1D2B},   {0x1D6B, 0x1D77},   {0x1D79, 0x1D9A},   {0x1E00, 0x1F15},
    {0x1F18, 0x1F1D},   {0x1F20, 0x1F45},   {0x1F48, 0x1F4D},   {0x1F50, 0x1F57},   {0x1F59, 0x1F59},
    {0x1F5B, 0x1F5B},   {0x1F5D, 0x1F5D},   {0x1F5F, 0x1F7D},   {0x1F80, 0x1FB4},   {0x1FB6, 0x1FBC},
    {0x1FBE, 0x1FBE},   {0x1FC2, 0x1FC4},   {0x1FC6, 0x1FCC},   {0x1FD0, 0x1FD3},   {0x1FD6, 0x1FDB},
    {0x1FE0, 0x1FEC},   {0x1FF2, 0x1FF4},   {0x1FF6, 0x1FFC},   {0x2102, 0x2102},   {0x2107, 0x2107},
    {0x210A, 0x2113},   {0x2115, 0x2115},   {0x2119, 0x211D},   {0x2124, 0x2124},   {0x2126, 0x2126},
    {0x2128, 0x2128},   {0x212A, 0x212D},   {0x212F, 0x2134},   {0x2139, 0x2139},   {0x213C, 0x213F},
    {0x2145, 0x2149},   {0x214E, 0x214E},   {0x2183, 0x2184},   {0x2C00, 0x2C7B},   {0x2C7E, 0x2CE4},
    {0x2CEB, 0x2CEE},   {0x2CF2, 0x2CF3},   {0xA640, 0xA66D},   {0xA680, 0xA69B},   {0xA722, 0xA76F},
    {0xA771, 0xA787},   {0xA78B, 0xA78E},   {0xAB70, 0xABBF},   {0xFB00, 0xFB06},   {0xFB13, 0xFB17},
    {0xFF21, 0xFF3A},   {0xFF41, 0xFF5A},   {0x10400, 0x1044F}, {0x104B0, 0x104D3}, {0x104D8, 0x104FB},
    {0x10C80, 0x10CB2}, {0x10CC0, 0x10CF2}, {0x118A0, 0x118DF}, {0x1E900, 0x1E943}};
const Set deepseek_punctuation = {{'!', '/'},       {':', '~'},       {0x2018, 0x201F},
                                  {0x3000, 0x3002}, {0xFF01, 0xFF0F}, {0xFF1A, 0xFF5E}};
const Set deepseek_cjk = {{0x800, 0x9FA5}, {0xAC00, 0xD7FF}};
const Set kana_and_han = {{0x3040, 0x30FF}, {0x4E00, 0x9FA5}};
const Set hangul = {{0x3131, 0x318E}, {0xAC00, 0xD7A3}};
const Set bopomofo = {{0x3105, 0x312F}};
const Set youtu_punctuation = {{0x2014, 0x2014}, {0x2018, 0x2019}, {0x201C, 0x201D},
                               {0x2026, 0x2026}, {0x3001, 0x303F}, {0xFE30, 0xFE4F},
                               {0xFF01, 0xFF01}, {0xFF0C, 0xFF0C}, {0xFF1A, 0xFF1B}};
const Set bloom_punctuation = {{0x60C, 0x60C},   {0x6D4, 0x6D4},   {0x964, 0x964},
                               {0x2026, 0x2026}, {0x3001, 0x3002}, {0xFF0C, 0xFF0C}};
// U+8C48 is where the source's U+F900 went in normalization; kept, since llama.cpp and its users have it so.
const Set afmoe_asian = {{0xE40, 0xEFF},   {0x1000, 0x109F}, {0x1100, 0x11FF},
                         {0x1780, 0x17FF}, {0x2F00, 0x2FDF}, {0x3040, 0x30FF},
                         {0x3400, 0x4DBF}, {0x4E00, 0xFAFF}, {0xFF65, 0xFF9F}};
// Blocks of Han characters, and the places in them that Unicode leaves free.
const Set han = {{0x3400, 0x4DBF},   {0x4E00, 0x9FFF},   {0xF900, 0xFA6D},   {0xFA70, 0xFAD9},
                 {0x20000, 0x2A6DF}, {0x2A700, 0x2B739}, {0x2B740, 0x2B81D}, {0x2B820, 0x2CEA1},
                 {0x2CEB0, 0x2EBE0}, {0x2F800, 0x2FA1D}};
const Set free_han = {{0xFA6E, 0xFA6F},   {0xFADA, 0xFAFF},   {0x2B73A, 0x2B73F}, {0x2B81E, 0x2B81F},
                      {0x2CEA2, 0x2CEAF}, {0x2EBE1, 0x2EBEF}, {0x2FA1E, 0x2FA1F}};

const std::string contraction = "'(?:[sdmt]|ll|ve|re)";
const std::string any_case_contraction = "'(?i:[sdmt]|ll|ve|re)";
const std::string word = R"([^\r\n\p{L}\p{N}]?\p{L}+)";
const std::string symbols = R"( ?[^\s\p{L}\p{N}]+[\r\n]*)";
const std::string last_space = R"(\s+(?!\S)|\s+)";  // the space before a word stays with the word
const std::string spaces = R"(\s*[\r\n]+|)" + last_space;
const std::string ascii_word_after_symbol = R"([!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+)";

std::string alternatives(std::initializer_list<std::string> parts) {
  std::string out;
  for (const std::string& part : parts) out += (out.empty() ? "" : "|") + part;
  return out;
}

const std::string gpt2 = alternatives({contraction, R"( ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+)", last_space});
const std::string llama3 = alternatives({any_case_contraction, word, R"(\p{N}{1,3})", symbols, spaces});
const std::string qwen2 = alternatives({any_case_contraction, word, R"(\p{N})", symbols, spaces});
const std::string deepseek3 = alternatives(
    {ascii_word_after_symbol, R"([^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*)", spaces});

/// Words of one capital run and one small run, with `mark` letters in both; `tail` may follow.
std::string cased_words(const std::string& mark, const std::string& tail) {
  const std::string lead = R"([^\r\n\p{L}\p{N}]?)";
  return lead + "[\\p{Lu}" + mark + "]*[\\p{Ll}" + mark + "]+" + tail + "|" + lead + "[\\p{Lu}" + mark +
         "]+[\\p{Ll}" + mark + "]*" + tail;
}
std::string gpt4o(const std::string& mark) {
  return alternatives({cased_words(mark, "(?:" + any_case_contraction + ")?"),
                       R"(\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*)", spaces});
}

const SplitRule digit = pattern(R"(\p{N})");
const SplitRule three_digits = pattern(R"(\p{N}{1,3})");
const SplitRule ascii_triple = pattern("[0-9][0-9][0-9]");
const SplitRule line_break = pattern(R"([\r\n])");
const SplitRule lines = pattern(R"([^\n]+|\n+)");
const SplitRule digit_triples{SplitRule::Kind::digit_triples, "", {}};

std::vector<PreTokenizerSpec> gpt2_family() {
  const SplitRule isolated = pattern(R"([\p{P}$+<=>^~|]+)"),
                  isolated_falcon = pattern(R"([\p{P}$+<=>^~|`]+)");
  const SplitRule bloom = pattern(R"( ?[^(\s|.,!?)\p{A}]+)", {bloom_punctuation});
  return {
      {.names = {"default"}, .rules = {isolated, pattern(gpt2), pattern(R"(\p{N}+)"), ascii_triple}},
      {.names = {"gpt-2", "phi-2", "jina-es", "jina-de", "gigachat", "jina-v2-es", "jina-v2-de", "a.x-4.0",
                 "mellum", "modern-bert", "jina-v1-en", "jina-v2-code", "roberta-bpe", "mpt", "olmo", "jais",
                 "trillion", "granite-docling", "exaone4"},
       .rules = {pattern(gpt2)}},
      {.names = {"starcoder", "refact", "command-r", "smollm", "codeshell", "exaone", "minerva-7b",
                 "mellum2"},
       .rules = {digit, pattern(gpt2)}},
      {.names = {"falcon"}, .rules = {isolated_falcon, pattern(gpt2), ascii_triple}},
      {.names = {"poro-chat", "bloom", "gpt3-finnish"}, .rules = {bloom}},
      {.names = {"viking"}, .rules = {bloom, digit}},
      {.names = {"chameleon"},
       .rules = {pattern("<sentinel:[0-9]+>"), pattern("IMGIMG[A-I]{1,4}Z"), pattern(R"([\t\n]|    |  )"),
                 digit, pattern(R"([\p{P}!-/:-@\[-`{-~])"), pattern(gpt2)},
       .add_bos = true},
  };
}

std::vector<PreTokenizerSpec> llama3_family() {
  // Not looked for again inside a run without line breaks that \s{512} is eating: that would cost its square.
  const std::string cascade =
      R"((?<![^\S\r\n])\s*[\r\n]+|\s{512}(?!\S)|\s{256}(?!\S)|\s{128}(?!\S)|\s{64}(?!\S)|\s{32}(?!\S)|\s{16}(?!\S)|)"
      R"(\s{8}(?!\S)|\s{4}(?!\S)|\s{1,2}(?!\S)|\s)";
  const SplitRule capitals_apart =
      pattern(alternatives({cased_words("", ""), R"(\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*)", spaces}));
  // llama.cpp takes \p{Lu}, \p{Ll}, … of these patterns as \p{L}.
  const std::string letters_and_marks = R"([^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+(?:)" + any_case_contraction + ")?";
  return {
      {.names = {"llama-bpe", "llama3", "llama-v3", "falcon3", "falcon-h1", "pixtral", "midm-2.0", "lfm2",
                 "jina-v5-nano"},
       .rules = {pattern(llama3)},
       .ignore_merges = true,
       .add_bos = true},
      {.names = {"dbrx", "smaug-bpe"}, .rules = {pattern(llama3)}},
      {.names = {"chatglm-bpe", "glm4"}, .rules = {pattern(llama3)}, .no_default_bos = true},
      {.names = {"jais-2"},
       .rules = {pattern(alternatives({any_case_contraction, word, R"(\p{N}{1,3})", symbols, cascade}))}},
      {.names = {"minicpm5"},
       .rules = {three_digits,
                 pattern(alternatives({any_case_contraction, word, R"(\p{N}+)", symbols, spaces}))},
       .ignore_merges = true},
      {.names = {"tekken"}, .rules = {capitals_apart}, .ignore_merges = true, .add_bos = true},
      {.names = {"gpt-4o", "llama4", "kanana2", "talkie", "minimax-m2"}, .rules = {pattern(gpt4o(""))}},
      {.names = {"granite-embed-multi-97m"}, .rules = {pattern(gpt4o(R"(\p{M})"))}, .ignore_merges = true},
      {.names = {"tiny_aya", "cohere2moe"},
       .rules = {digit_triples, pattern(alternatives({letters_and_marks,
                                                      R"(\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*)", spaces}))}},
      {.names = {"youtu"},
       .rules = {pattern(R"(\p{A}+|\p{B}+|\p{C}+|\p{D}+)",
                         {hangul, youtu_punctuation, bopomofo, kana_and_han}),
                 pattern(alternatives({letters_and_marks, R"(\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*)", spaces}))},
       .ignore_merges = true},
      {.names = {"kimi-k2"},
       .rules = {pattern(
           alternatives({R"([\p{A}\p{B}]+|[^\r\n\p{L}\p{N}\p{A}]?\p{L}+(?:)" + any_case_contraction + ")?",
                         R"(\p{N}{1,3}| ?[^\s\p{L}\p{N}\p{A}]+[\r\n]*)", spaces}),
           {han, free_han})}},
  };
}

std::vector<PreTokenizerSpec> qwen2_family() {
  return {
      {.names = {"qwen2", "deepseek-r1-qwen", "kormo", "f2llmv2", "megrez", "stablelm2", "hunyuan",
                 "solar-open", "grok-2"},
       .rules = {pattern(qwen2)}},
      {.names = {"qwen35"},
       .rules = {pattern(alternatives(
           {any_case_contraction, R"([^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*)",
            spaces}))}},
      {.names = {"bailingmoe", "bailingmoe2", "llada-moe"},
       .rules = {pattern(
           alternatives({any_case_contraction, word, R"(\p{N})", symbols, R"(\s*[\r\n])", last_space}))}},
      {.names = {"seed-coder"},
       .rules = {pattern(alternatives({any_case_contraction, word, R"(\p{N}| ?[^\s\p{L}\p{N}]+)", spaces}))}},
      {.names = {"ufakzeka"}, .rules = {pattern(alternatives({word, R"(\p{N})", symbols, spaces}))}},
      {.names = {"laguna"}, .rules = {lines, pattern(qwen2)}},
      {.names = {"exaone-moe"},
       .rules = {pattern(
           alternatives({any_case_contraction, R"([^\r\n\p{L}\p{N}]?\p{L}\p{M}*+(?: ?\p{L}\p{M}*+)*+)",
                         R"(\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]?|\s*[\r\n])", last_space}))}},
  };
}

std::vector<PreTokenizerSpec> deepseek_family() {
  return {
      {.names = {"deepseek-llm"},
       .rules = {line_break, pattern(R"(\s?\p{A}+)", {cased_letters}),
                 pattern(R"(\s?\p{A}+)", {deepseek_punctuation}),
                 // \s+$, started only where white space starts: else a long run costs its square.
                 pattern(R"((?<!\s)\s+$)"), pattern(R"(\p{A}+)", {deepseek_cjk}), pattern(R"(\p{N}+)")}},
      {.names = {"deepseek-coder"},
       .rules = {line_break, pattern(R"(\s?\p{L}+)"), pattern(R"(\s?\p{P}+)"),
                 pattern(R"(\p{A}+)", {deepseek_cjk}), digit}},
      {.names = {"deepseek-v3", "hunyuan-dense", "joyai-llm", "hy_v4"},
       .rules = {three_digits, pattern(R"(\p{A}+)", {kana_and_han}), pattern(deepseek3)}},
      {.names = {"spark2_5"},
       .rules = {three_digits, pattern(R"(\p{A}+)", {kana_and_han}),
                 pattern(alternatives({ascii_word_after_symbol,
                                       R"([^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+|[\r\n])",
                                       last_space})),
                 digit}},
      {.names = {"afmoe"}, .rules = {digit_triples, pattern(R"(\p{A}+)", {afmoe_asian}), pattern(deepseek3)}},
      {.names = {"superbpe"},
       .rules = {pattern(R"(\p{N}+)"), SplitRule{SplitRule::Kind::digit_cuts, "", {}}}},
  };
}

std::vector<PreTokenizerSpec> plain_utf8_family() {
  return {
      {.names = {"gemma4", "granite-embed-multi-311m"},
       .rules = {lines},
       .add_bos = true,
       .byte_encode = false,
       .escape_spaces = true,
       .whole_line_breaks = true},
      {.names = {"sarvam-moe"}, .rules = {lines}, .byte_encode = false, .escape_spaces = true},
  };
}

}  // namespace

const std::vector<PreTokenizerSpec>& pre_tokenizers() {
  static const std::vector<PreTokenizerSpec> all = [] {
    std::vector<PreTokenizerSpec> specs;
    for (auto family : {gpt2_family, llama3_family, qwen2_family, deepseek_family, plain_utf8_family}) {
      for (PreTokenizerSpec& spec : family()) specs.push_back(std::move(spec));
    }
    return specs;
  }();
  return all;
}

const PreTokenizerSpec* find_pre_tokenizer(std::string_view name) {
  for (const PreTokenizerSpec& spec : pre_tokenizers()) {
    if (std::find(spec.names.begin(), spec.names.end(), name) != spec.names.end()) return &spec;
  }
  return nullptr;
}

}  // namespace quern
