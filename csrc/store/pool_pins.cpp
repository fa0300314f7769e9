#include "store/pool_pins.h"

#include <algorithm>
#include <utility>

#include "base/error.h"
#include "base/size.h"

namespace sllm {
namespace {

constexpr std::uint64_t kMostBytesAtOnce = 64 * 1024 * kMiB;

}  // namespace

PoolPins::PoolPins(ChunkPool& pool, std::shared_ptr<Device> device)
    : pool_(pool), device_(std::move(device)), is_pinned_(pool.chunks()) {}

std::uint64_t PoolPins::pin(ChunkRange chunks) {
  static_cast<void>(pool_.memory(chunks));  // refuses what leaves it
  const std::lock_guard lock(mutex_);
  std::uint64_t bytes = 0;
  const std::uint64_t end = chunks.first + chunks.count;
  for (std::uint64_t next = chunks.first; next < end && !has_met_limit_;) {
    const ChunkRange run = find_run({next, end - next});
    if (run.count == 0) break;
    const std::uint64_t count = pin_run(run);
    bytes += count * pool_.chunk_bytes();
    next = run.first + count;
  }
  return bytes;
}

// The first of the chunks that are to be pinned, and its neighbours.
ChunkRange PoolPins::find_run(ChunkRange chunks) const {
  const auto is_wanted = [this](std::uint64_t chunk) {
    return pool_.is_touched(chunk) && !is_pinned_[chunk];
  };
  const std::uint64_t end = chunks.first + chunks.count;
  const std::uint64_t most = std::max<std::uint64_t>(kMostBytesAtOnce / pool_.chunk_bytes(), 1);
  ChunkRange run{chunks.first, 0};
  while (run.first < end && !is_wanted(run.first)) ++run.first;
  while (run.count < most && run.first + run.count < end && is_wanted(run.first + run.count)) ++run.count;
  return run;
}

// Of the run, so many from its first on; none where a limit is met.
std::uint64_t PoolPins::pin_run(ChunkRange run) {
  for (; run.count > 0; run.count /= 2) {
    try {
      pins_.push_back(device_->register_host(pool_.memory(run)));
    } catch (const Error&) {
      continue;  // drivers give many reasons for one thing
    }
    const auto first = is_pinned_.begin() + static_cast<std::ptrdiff_t>(run.first);
    std::fill_n(first, run.count, true);
    pinned_chunks_ += run.count;
    return run.count;
  }
  has_met_limit_ = true;
  return 0;
}

std::uint64_t PoolPins::pinned_bytes() const {
  const std::lock_guard lock(mutex_);
  return pinned_chunks_ * pool_.chunk_bytes();
}

bool PoolPins::has_met_limit() const {
  const std::lock_guard lock(mutex_);
  return has_met_limit_;
}

}  // namespace sllm
