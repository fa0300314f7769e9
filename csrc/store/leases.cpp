#include "store/leases.h"

#include <algorithm>
#include <utility>

namespace sllm {
namespace {

std::uint64_t chunks_in(const std::vector<ChunkRange>& ranges) {
  std::uint64_t chunks = 0;
  for (const ChunkRange& range : ranges) chunks += range.count;
  return chunks;
}

}  // namespace

std::vector<ChunkRange> ranges_of(std::vector<std::uint64_t> chunks) {
  std::sort(chunks.begin(), chunks.end());
  chunks.erase(std::unique(chunks.begin(), chunks.end()), chunks.end());
  std::vector<ChunkRange> ranges;
  for (const std::uint64_t chunk : chunks) {
    if (!ranges.empty() && ranges.back().first + ranges.back().count == chunk) {
      ++ranges.back().count;
    } else {
      ranges.push_back({chunk, 1});
    }
  }
  return ranges;
}

std::pair<LeaseNumber, UniqueFd> LeaseBook::open(CheckpointNumber checkpoint,
                                                 std::vector<ChunkRange> ranges) {
  LeaseNumber number = 0;
  {
    const std::lock_guard lock(mutex_);
    number = ++last_;
  }
  UniqueFd lease = pool_.open_lease(number, ranges);
  const std::lock_guard lock(mutex_);
  if (leases_.size() >= forget_at_) {
    forget_dead();
    forget_at_ = std::max<std::size_t>(64, 2 * leases_.size());
  }
  leases_.emplace(number, Lease{checkpoint, std::move(ranges), {}});
  return {number, std::move(lease)};
}

void LeaseBook::forget_dead() {
  std::erase_if(leases_, [this](const auto& lease) { return !pool_.is_alive(lease.first); });
}

std::vector<LeaseStatus> LeaseBook::living() {
  const std::lock_guard lock(mutex_);
  forget_dead();
  std::vector<LeaseStatus> living;
  for (const auto& [number, lease] : leases_) {
    living.push_back({.number = number,
                      .checkpoint = lease.checkpoint,
                      .bytes = chunks_in(lease.ranges) * pool_.chunk_bytes(),
                      .age_s = lease.since.elapsed_s()});
  }
  return living;
}

std::uint64_t LeaseBook::covered_chunks() {
  const std::lock_guard lock(mutex_);
  forget_dead();
  std::vector<bool> is_covered(pool_.chunks());
  for (const auto& [number, lease] : leases_) {
    for (const ChunkRange& range : lease.ranges) {
      std::fill_n(is_covered.begin() + static_cast<std::ptrdiff_t>(range.first), range.count, true);
    }
  }
  return static_cast<std::uint64_t>(std::count(is_covered.begin(), is_covered.end(), true));
}

}  // namespace sllm
