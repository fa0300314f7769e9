#pragma once

#include <cstdint>
#include <vector>

namespace sllm {

using CheckpointNumber = std::uint64_t;

// A file of a checkpoint, as the store is told of it.
struct StoredFile {
  std::uint64_t bytes = 0;
  // CRC32C of each span, or none while nobody knows them.
  std::vector<std::uint32_t> span_crcs;
};

// Bytes of a checkpoint's file: from `begin` up to `end`.
struct FileRange {
  std::uint64_t file = 0;
  std::uint64_t begin = 0;
  std::uint64_t end = 0;

  bool operator==(const FileRange&) const = default;
};

// Bytes of a checkpoint's file and where they lie in the pool.
struct PooledPiece {
  std::uint64_t file = 0;
  std::uint64_t offset = 0;
  std::uint64_t bytes = 0;
  std::uint64_t pool_offset = 0;

  bool operator==(const PooledPiece&) const = default;
};

}  // namespace sllm
