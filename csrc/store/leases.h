#pragma once

#include <cstdint>
#include <map>
#include <mutex>
#include <utility>
#include <vector>

#include "base/clock.h"
#include "base/unique_handle.h"
#include "memory/chunk_pool.h"
#include "store/status.h"

namespace sllm {

// The leases of a pool that were granted and are still held somewhere, which the kernel knows. Thread-safe.
class LeaseBook {
 public:
  // The pool outlives it.
  explicit LeaseBook(const ChunkPool& pool) : pool_(pool) {}

  // The chunks must be held by somebody until this returns. Throws as ChunkPool::open_lease() does.
  std::pair<LeaseNumber, UniqueFd> open(CheckpointNumber checkpoint, std::vector<ChunkRange> ranges);
  // Sorted by number. Those that are over are forgotten.
  std::vector<LeaseStatus> living();
  // Chunks that any of them covers, each counted once.
  std::uint64_t covered_chunks();

 private:
  struct Lease {
    CheckpointNumber checkpoint = 0;
    std::vector<ChunkRange> ranges;
    Stopwatch since;
  };

  void forget_dead();

  const ChunkPool& pool_;
  std::mutex mutex_;
  LeaseNumber last_ = 0;
  std::size_t forget_at_ = 64;  // so many that it pays to look which are over
  std::map<LeaseNumber, Lease> leases_;
};

// The chunks, sorted and without gaps between neighbours.
std::vector<ChunkRange> ranges_of(std::vector<std::uint64_t> chunks);

}  // namespace sllm
