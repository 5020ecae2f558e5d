// llama.cpp's own quantizer, from the library that node-llama-cpp brings.
//
// usage: quern_llamacpp_quantize LIBLLAMA.so IN.gguf OUT.gguf FTYPE
//
// FTYPE is llama.cpp's number of a file type (Recipe::file_type). OUT is llama.cpp's alone: Quern reads it,
// so that both quantizers are judged by the same model code.
#include <dlfcn.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>

namespace {

/// llama_model_quantize_params begins so in every version; what follows keeps its defaults.
struct Parameters {
  int32_t threads;
  int32_t file_type;
  unsigned char rest[248];  // more than there is
};

}  // namespace

int main(int argc, char** argv) {
  if (argc != 5) {
    std::fprintf(stderr, "usage: quern_llamacpp_quantize LIBLLAMA.so IN.gguf OUT.gguf FTYPE\n");
    return 2;
  }
  void* library = dlopen(argv[1], RTLD_NOW);
  if (library == nullptr) {
    std::fprintf(stderr, "error: %s\n", dlerror());
    return 1;
  }
  const auto defaults =
      reinterpret_cast<Parameters (*)()>(dlsym(library, "llama_model_quantize_default_params"));
  const auto quantize = reinterpret_cast<uint32_t (*)(const char*, const char*, const Parameters*)>(
      dlsym(library, "llama_model_quantize"));
  const auto log_to =
      reinterpret_cast<void (*)(void (*)(int, const char*, void*), void*)>(dlsym(library, "llama_log_set"));
  if (defaults == nullptr || quantize == nullptr || log_to == nullptr) {
    std::fprintf(stderr, "error: %s: no quantizer in it\n", argv[1]);
    return 1;
  }
  constexpr int kErrorLevel = 4;
  log_to(
      [](int level, const char* text, void*) {
        if (level == kErrorLevel) std::fputs(text, stderr);
      },
      nullptr);
  Parameters parameters = defaults();
  parameters.file_type = std::atoi(argv[4]);
  return quantize(argv[2], argv[3], &parameters) == 0 ? 0 : 1;
}
