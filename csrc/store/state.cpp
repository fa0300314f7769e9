#include "store/state.h"

#include <sys/eventfd.h>

#include <algorithm>
#include <cerrno>

#include "base/error.h"

namespace sllm {

Changes::Changes() : fd_(::eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)) {
  if (!fd_) throw error_from_errno(errno, "cannot make an eventfd for a store");
}

void Changes::note() const {
  // It fails where the count is full: then the descriptor is readable already.
  [[maybe_unused]] const int result = ::eventfd_write(fd_.get(), 1);
}

StoreState::StoreState(const Store::Options& options)
    : pool(options.pool_bytes, options.chunk_bytes),
      catalog(options.chunk_bytes),
      room(catalog, {pool.chunks(), pool.chunk_bytes(), options.eviction},
           {.is_leased = [this](std::uint64_t chunk) { return pool.is_leased({chunk, 1}); },
            .is_touched = [this](std::uint64_t chunk) { return pool.is_touched(chunk); }}) {}

void StoreState::hold(std::span<const PartId> parts) {
  for (const PartId& part : parts) {
    ++catalog.at(part).holds;
    ++catalog.find(part.checkpoint).holds;
  }
}

void StoreState::let_go(CheckpointNumber checkpoint, std::span<const PartId> parts) {
  for (const PartId& id : parts) {
    Part& part = catalog.at(id);
    --catalog.find(checkpoint).holds;
    if (--part.holds == 0 && part.state == PartState::kPlaced) room.remove(id);
  }
  sweep(checkpoint);
}

void StoreState::become_resident(PartId id) {
  catalog.set_state(id, PartState::kResident);
  const std::uint64_t bytes = catalog.bytes_of(id);
  filled_bytes += bytes;
  for (const PoolRun& run : catalog.at(id).runs) pool.note_touched({chunk_of(run), 1});
  for (Holding* holding : holdings) {
    if (std::ranges::binary_search(holding->parts, id)) holding->missing_bytes -= bytes;
  }
}

std::uint64_t StoreState::evict(CheckpointNumber checkpoint) {
  std::uint64_t bytes = 0;
  for (const PartId& part : catalog.parts_of(checkpoint)) bytes += room.evict(part);
  return bytes;
}

void StoreState::sweep(CheckpointNumber number) {
  const auto found = catalog.checkpoints().find(number);
  if (found == catalog.checkpoints().end() || !found->second.is_retired) return;
  evict(number);
  if (found->second.is_forgettable()) catalog.remove(number);
}

void StoreState::sweep_retired(std::span<const LeaseStatus> living) {
  std::set<CheckpointNumber> leased;
  for (const LeaseStatus& lease : living) leased.insert(lease.checkpoint);
  for (const auto& [number, checkpoint] : catalog.checkpoints()) {
    if (checkpoint.is_retired && !leased.contains(number)) evict(number);
  }
  forget_retired();
}

void StoreState::forget_retired() {
  std::vector<CheckpointNumber> gone;
  for (const auto& [number, checkpoint] : catalog.checkpoints()) {
    if (checkpoint.is_forgettable()) gone.push_back(number);
  }
  for (const CheckpointNumber number : gone) catalog.remove(number);
}

void StoreState::append_pieces(PartId id, const FileRange& range, std::vector<PooledPiece>& pieces) {
  const FileRange whole = catalog.range_of(id);
  std::uint64_t begin = whole.begin;
  for (const PoolRun& run : catalog.at(id).runs) {
    const std::uint64_t from = std::max(begin, range.begin);
    const std::uint64_t to = std::min({begin + run.bytes, whole.end, range.end});
    const std::uint64_t at = run.offset + (from - begin);
    begin += run.bytes;
    if (from >= to) continue;
    PooledPiece* last = pieces.empty() ? nullptr : &pieces.back();
    if (last != nullptr && last->file == id.file && last->offset + last->bytes == from &&
        last->pool_offset + last->bytes == at) {
      last->bytes += to - from;
    } else {
      pieces.push_back({id.file, from, to - from, at});
    }
  }
}

}  // namespace sllm
