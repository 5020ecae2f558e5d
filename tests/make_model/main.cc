#include <CLI/CLI.hpp>

#include "make_model/make_model.h"

int main(int argc, char** argv) {
  quern::make_model::Options options;
  int64_t vocabulary_size = 0;
  int64_t layers = 0;
  CLI::App app("Writes a random-weight GGUF model of a known shape.", "quern_make_model");
  app.add_option("shape", options.shape, "tiny, tinyllama-1b, mistral-7b, ... (an unknown one lists all)")
      ->required();
  app.add_option("out", options.out, "the GGUF file to write")->required();
  app.add_option("--type", options.type,
                 "a type (F16, Q8_0, Q4_K, ...) for all matrices, or Q4_K_S, Q4_K_M, Q5_K_S, Q5_K_M");
  auto* vocabulary = app.add_option("--vocab", options.vocabulary, "take the tokenizer of this GGUF file");
  auto* size = app.add_option("--vocab-size", vocabulary_size, "make up a vocabulary of this many tokens")
                   ->excludes(vocabulary);
  auto* layer_count = app.add_option("--layers", layers, "instead of the shape's number");
  app.add_option("--seed", options.seed, "of the random numbers");
  app.add_option("--scale", options.scale, "of the matrices' random numbers");
  app.add_flag("--distinct", options.distinct, "other numbers in every layer (slower to make)");
  app.add_flag("--tied", options.tied, "no output.weight: the embeddings serve as head");
  app.add_flag("--old", options.old, "a file as of 2023: GGUF v2, without the metadata that came later");
  CLI11_PARSE(app, argc, argv);
  if (*size) options.vocabulary_size = vocabulary_size;
  if (*layer_count) options.layers = layers;
  const auto made = quern::make_model::make_model(options);
  if (!made) {
    fmt::print(stderr, "error: {}\n", made.error().message);
    return 1;
  }
  fmt::print("{}: {} tensors, {:.1f}M parameters, {:.1f} MiB\n", options.out, made->tensors,
             static_cast<double>(made->parameters) / 1e6, static_cast<double>(made->bytes) / 0x1p20);
  return 0;
}
