#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
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
  // The whole file where it is in host memory already, and stays there during the load; else empty.
  std::span<std::byte> resident;
};

// Bytes of a file and where they belong in a target.
//
// With row_bytes == 0 they lie in the target as they lie in the file. Else they are rows, from_pitch bytes
// apart in the file and to_pitch bytes apart in the target, of each of which the first row_bytes are wanted;
// the last row ends with those.
struct Extent {
  std::uint64_t file = 0;
  std::uint64_t offset = 0;
  std::uint64_t bytes = 0;
  std::uint64_t target = 0;
  std::uint64_t destination = 0;  // counted from the target's start
  std::uint64_t row_bytes = 0;
  std::uint64_t from_pitch = 0;
  std::uint64_t to_pitch = 0;

  bool is_rows() const { return row_bytes != 0; }
  std::uint64_t rows() const { return is_rows() ? (bytes - row_bytes) / from_pitch + 1 : 1; }
};

// Which bytes of which files go where; plain data, without names or types of tensors.
//
// Extents are sorted by file and offset. They may overlap in a file: what several want is read once. In a
// target they do not. Where destination and offset are congruent modulo kBlockBytes, reads may go straight to
// an exclusive target in host memory, and the bytes of its last block behind an extent that reaches the end
// of its file belong to nobody.
struct LoadPlan {
  std::vector<PlannedFile> files;
  std::vector<Extent> extents;
  std::vector<std::uint64_t> target_bytes;
};

// Throws invalid for a plan that would read or write outside its files or its targets.
void validate(const LoadPlan& plan);

}  // namespace sllm
