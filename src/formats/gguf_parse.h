// The container of one GGUF file: header, metadata, tensor table. Internal to formats/gguf*.cc.
#pragma once

#include <cstddef>
#include <span>
#include <string>
#include <vector>

#include "core/metadata.h"
#include "core/result.h"
#include "core/tensor.h"

namespace quern::gguf {

/// Value types as the file numbers them.
enum class ValueType : uint32_t {
  u8 = 0,
  i8 = 1,
  u16 = 2,
  i16 = 3,
  u32 = 4,
  i32 = 5,
  f32 = 6,
  boolean = 7,
  string = 8,
  array = 9,
  u64 = 10,
  i64 = 11,
  f64 = 12,
};

/// Limits that no honest file comes near. They bound what a hostile one can make us do.
constexpr size_t kMaxName = 65535;              // bytes of a key or a tensor's name
constexpr int kMaxArrayDepth = 4;               // arrays in arrays
constexpr uint64_t kMaxAlignment = 1u << 20;    // general.alignment
constexpr uint64_t kMaxParsedBytes = 1u << 30;  // memory for metadata and the tensor table

constexpr uint32_t kDefaultAlignment = 32;

struct File {
  uint32_t version = 0;
  Metadata metadata;  // without split.*
  Metadata split;     // split.no, split.count, split.tensors.count
  std::vector<RawTensor> tensors;
};

/// Parses and checks everything; the tensors view `bytes`. `name` is for messages.
Result<File> parse(std::span<const std::byte> bytes, const std::string& name);

/// Checks magic and version: what is this file, if not GGUF v2 or v3?
Result<> check_header(std::span<const std::byte> bytes, const std::string& name);

}  // namespace quern::gguf
