// quern imatrix: which columns of a model's matrices matter, measured on a text.
#include "quantize/imatrix.h"

#include "command.h"
#include "eval/perplexity.h"
#include "fetch_model.h"
#include "job_progress.h"
#include "quantize/imatrix_collect.h"
#include "text_file.h"

namespace quern {
namespace {

struct ImatrixFlags {
  CommonFlags common;
  std::string model, file, out;
  int64_t context = 512;
};

Result<> imatrix(const ImatrixFlags& flags) {
  QUERN_TRY(const Config config, flags.common.load(true));
  QUERN_TRY(const std::string text, read_text_file("imatrix", flags.file));
  QUERN_TRY(const auto backend, backend_of(config));
  QUERN_TRY(const ModelFiles files, local_model(flags.common, config, flags.model));
  QUERN_TRY(const auto source, open_model_source(files, config.model_path));
  QUERN_TRY(const auto tokenizer, Tokenizer::from_metadata(source->metadata()));
  const auto tokens = evaluation_tokens(*tokenizer, text);
  JobProgress shown("measuring importance", flags.model);
  QUERN_TRY(ImportanceMatrix matrix,
            collect_imatrix(*backend, *source, tokens, flags.context,
                            tokenizer->add_bos() ? tokenizer->bos() : -1, [&](int64_t done, int64_t total) {
                              shown.update(static_cast<uint64_t>(done), static_cast<uint64_t>(total));
                              return true;
                            }));
  shown.finish();
  matrix.datasets = {flags.file};
  QUERN_TRY_VOID(write_imatrix(matrix, flags.out));
  fmt::print("{}: {} matrices, {} chunks of {} tokens\n", flags.out, matrix.entries.size(), matrix.chunks,
             matrix.chunk_tokens);
  return {};
}

}  // namespace

void add_imatrix(CommandLine& line) {
  auto flags = std::make_shared<ImatrixFlags>();
  Arguments command = line.add("imatrix", "measure which weights matter, for quantize --imatrix",
                               [flags] { return status_of(imatrix(*flags)); });
  command.text("MODEL", flags->model, "model reference, best in full precision", Need::required);
  command.text("-f,--file", flags->file, "a text of the kind that the model is for", Need::required);
  command.text("OUT", flags->out, "the importance matrix (GGUF form, as llama.cpp's)", Need::required);
  command.number("--ctx", flags->context, {8, 1 << 20}, "tokens of a chunk");
  flags->common.add_to(command);
}

}  // namespace quern
