#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "io/file.h"

namespace sllm {

inline constexpr std::uint64_t kSpanBytes = 1 << 20;

// A file that a plan reads from.
struct PlannedFile {
  std::string path;
  // The state of the file that the plan was made from; the load fails if it meets another.
  FileIdentity identity;
  // CRC32C of each span of the file, or none: then its bytes are taken as they are.
  std::vector<std::uint32_t> span_crcs;
};

// Bytes of a file and where they belong in the destination.
struct Extent {
  std::uint64_t file = 0;
  std::uint64_t offset = 0;
  std::uint64_t bytes = 0;
  std::uint64_t destination = 0;
};

// Which bytes of which files go where; plain data, without names or types of tensors.
//
// Extents of a file are sorted by offset and do not overlap. Where destination and offset are congruent
// modulo kBlockBytes, reads may go straight to the destination, and the bytes of the destination's last block
// behind an extent that reaches the end of its file belong to nobody.
struct LoadPlan {
  std::vector<PlannedFile> files;
  std::vector<Extent> extents;
  std::uint64_t destination_bytes = 0;
};

// Throws invalid for a plan that would read or write outside its files or its destination.
void validate(const LoadPlan& plan);

}  // namespace sllm
