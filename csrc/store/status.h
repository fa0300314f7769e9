#pragma once

#include <cstdint>
#include <vector>

#include "memory/chunk_pool.h"
#include "store/stored_file.h"

namespace sllm {

struct CheckpointStatus {
  CheckpointNumber number = 0;
  std::uint64_t bytes = 0;
  std::uint64_t resident_bytes = 0;
  std::uint64_t filling_bytes = 0;
  std::uint64_t leases = 0;
  std::uint64_t uses = 0;
  bool is_retired = false;
};

struct LeaseStatus {
  LeaseNumber number = 0;
  CheckpointNumber checkpoint = 0;
  std::uint64_t bytes = 0;  // of the chunks it covers
  double age_s = 0;
};

struct StoreStatus {
  std::uint64_t pool_bytes = 0;
  std::uint64_t chunk_bytes = 0;
  std::uint64_t touched_bytes = 0;
  std::uint64_t resident_bytes = 0;
  std::uint64_t filling_bytes = 0;
  std::uint64_t leased_bytes = 0;  // chunks that some lease covers
  std::uint64_t free_bytes = 0;    // chunks that have nothing
  std::uint64_t hit_bytes = 0;     // wanted, and resident or already on the way when it was asked for
  std::uint64_t miss_bytes = 0;
  std::uint64_t filled_bytes = 0;
  std::uint64_t evicted_bytes = 0;
  std::uint64_t failed_fills = 0;
  std::vector<CheckpointStatus> checkpoints;
};

}  // namespace sllm
