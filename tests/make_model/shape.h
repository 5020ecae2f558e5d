// The shapes of the random-weight models, and the tensors that each consists of.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace quern::make_model {

enum class VocabularyKind { spm, bpe };

struct Shape {
  std::string_view name;
  std::string_view architecture;
  int64_t dim, ffn, heads, kv_heads, head_dim, layers;
  double rope_base;
  int64_t context;
  double eps;
  VocabularyKind vocabulary;
  int64_t vocabulary_size;  // of the made-up vocabulary, unless another is asked for
  struct Extras {
    int64_t experts = 0;             // of which two are used
    bool tensor_per_expert = false;  // as in the Mixtral files of 2023
    int64_t sliding_window = 0;
    bool llama3_rope = false;      // rope_freqs.weight, as Llama 3.1 has it
    int64_t original_context = 0;  // with rope_factors_long and _short, as Phi-3 128k has them
  } extras;
};

const std::vector<Shape>& shapes();
const Shape* find_shape(std::string_view name);

enum class Values { matrix, norm, bias, router, given };

struct Tensor {
  std::string name;
  std::vector<int64_t> shape;  // outermost first
  Values values;
  std::vector<float> given;  // Values::given
  // Where the random numbers come from: tensors of one stream hold the same numbers, from `first_row` on.
  std::string stream;
  int64_t first_row = 0;
};

struct Layout {
  int64_t vocabulary;
  bool tied = false;      // no output.weight
  bool distinct = false;  // else all layers hold the same numbers
};
std::vector<Tensor> tensors_of(const Shape& shape, const Layout& layout);

}  // namespace quern::make_model
