#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

#include "base/mapping.h"
#include "base/unique_handle.h"

namespace sllm {

// Neighbouring chunks of a pool: `count` of them from `first` on.
struct ChunkRange {
  std::uint64_t first = 0;
  std::uint64_t count = 0;

  auto operator<=>(const ChunkRange&) const = default;
};

// A lease's number, unlike that of any other lease of the pool.
using LeaseNumber = std::uint64_t;

// Equally sized chunks of host memory in one sealed memfd, which other processes map from leases of it.
//
// 1. The file is sized once, sparse; this process maps all of it, shared; then it is sealed against growing,
//    shrinking, further seals and future writes (memfd_create(2), F_SEAL_FUTURE_WRITE). From then on nobody
//    but this mapping can write to it, whoever has a descriptor.
// 2. A lease is a file description of its own, read-only, with an OFD read lock on byte i for each chunk i
//    that it covers (fcntl(2), open file description locks), and one on a byte of the lease's own behind
//    those of all chunks. Whoever gets its descriptor maps the chunks privately. The kernel drops the locks
//    when the last descriptor and the last mapping of it are gone, in whatever process.
// 3. So is_leased() asks the kernel, and nothing here has to be told that a client died.
//
// Every range is checked: one that is empty or leaves the pool throws invalid. Thread-safe, but for the
// chunks' bytes: who writes them when is the owner's agreement.
class ChunkPool {
 public:
  // `chunk_bytes` is 4 MiB times a power of two, `bytes` a multiple of it. Touches nothing. The memory starts
  // at a multiple of kHugePageBytes. Throws invalid, exhausted, and unsupported where the kernel lacks the
  // seals (before Linux 5.1).
  ChunkPool(std::uint64_t bytes, std::uint64_t chunk_bytes);

  std::uint64_t chunk_bytes() const { return chunk_bytes_; }
  std::uint64_t chunks() const { return bytes_ / chunk_bytes_; }
  std::span<std::byte> memory() const { return {mapping_.start(), bytes_}; }
  std::span<std::byte> memory(ChunkRange range) const;

  // A descriptor that leases the chunks; it is closed on exec. Throws exhausted, and whatever opening a file
  // throws: it takes /proc.
  UniqueFd open_lease(LeaseNumber number, std::span<const ChunkRange> ranges) const;
  // Whether any lease covers any of these chunks.
  bool is_leased(ChunkRange range) const;
  // Whether a descriptor or a mapping of that lease is left anywhere.
  bool is_alive(LeaseNumber number) const;

  // Whether the chunk's memory is there, as far as it was told.
  bool is_touched(std::uint64_t chunk) const;
  void note_touched(ChunkRange range);
  std::uint64_t touched_chunks() const { return touched_count_.load(std::memory_order_relaxed); }

 private:
  void check(ChunkRange range) const;
  bool is_locked(std::uint64_t first, std::uint64_t count) const;

  std::uint64_t bytes_;
  std::uint64_t chunk_bytes_;
  UniqueFd file_;
  Mapping mapping_;
  std::unique_ptr<std::atomic<bool>[]> touched_;
  std::atomic<std::uint64_t> touched_count_{0};
};

}  // namespace sllm
