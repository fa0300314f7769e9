#include "store/reservation.h"

#include <algorithm>
#include <string>

#include "base/error.h"
#include "load/plan.h"

namespace sllm {

Reservation::Impl::~Impl() {
  if (holding.parts.empty()) return;
  give_up();
  {
    const std::lock_guard lock(state->mutex);
    state->holdings.erase(&holding);
    state->let_go(checkpoint, holding.parts);
  }
  state->changes.note();
}

// A part that has no other hold and is not resident was placed for this reservation.
void Reservation::Impl::begin_locked() {
  for (const PartId& id : holding.parts) {
    const Part& part = state->catalog.at(id);
    const bool is_resident = part.state == PartState::kResident;
    const std::uint64_t part_bytes = state->catalog.bytes_of(id);
    bytes += part_bytes;
    if (is_resident || part.holds > 1) hit_bytes += part_bytes;
    if (!is_resident) holding.missing_bytes += part_bytes;
  }
  state->holdings.insert(&holding);
  state->hit_bytes += hit_bytes;
  state->miss_bytes += bytes - hit_bytes;
}

void Reservation::Impl::give_up() {
  {
    const std::lock_guard lock(state->mutex);
    const std::vector<PartId> gone = claims.give_up();
    for (const PartId& part : gone) state->catalog.set_state(part, PartState::kPlaced);
    if (gone.empty()) return;
    ++state->failed_fills;
  }
  state->changes.note();
}

Reservation::Reservation(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}

Reservation::~Reservation() = default;

// As a schedule reads them: files side by side, each as far as the others by the share of its bytes.
std::vector<PooledPiece> Reservation::claim() {
  StoreState& state = *impl_->state;
  const std::lock_guard lock(state.mutex);
  std::vector<std::pair<double, PartId>> claimed;
  for (const PartId& part : impl_->holding.parts) {
    if (state.catalog.at(part).state != PartState::kPlaced) continue;
    const FileRange range = state.catalog.range_of(part);
    const StoredFile& file = state.catalog.find(part.checkpoint).files[part.file].stored;
    claimed.emplace_back(static_cast<double>(range.begin) / static_cast<double>(file.bytes), part);
  }
  std::sort(claimed.begin(), claimed.end());
  std::vector<PooledPiece> pieces;
  for (const auto& [share, part] : claimed) {
    const FileRange range = state.catalog.range_of(part);
    state.catalog.set_state(part, PartState::kFilling);
    impl_->claims.add(part, (range.end - range.begin + kSpanBytes - 1) / kSpanBytes);
    state.append_pieces(part, range, pieces);
  }
  return pieces;
}

void Reservation::abandon() { impl_->give_up(); }

bool Reservation::is_complete() const {
  const std::lock_guard lock(impl_->state->mutex);
  return impl_->holding.missing_bytes == 0;
}

std::uint64_t Reservation::bytes() const { return impl_->bytes; }

std::uint64_t Reservation::hit_bytes() const { return impl_->hit_bytes; }

std::uint64_t Reservation::resident_bytes() const {
  const std::lock_guard lock(impl_->state->mutex);
  return impl_->bytes - impl_->holding.missing_bytes;
}

std::vector<PooledPiece> Reservation::pieces() const {
  StoreState& state = *impl_->state;
  const std::lock_guard lock(state.mutex);
  std::vector<PooledPiece> pieces;
  for (const FileRange& range : impl_->wanted) {
    for (const PartId& part : state.catalog.parts_of(impl_->checkpoint, {&range, 1})) {
      state.append_pieces(part, range, pieces);
    }
  }
  return pieces;
}

// The hold keeps its chunks from being evicted until the kernel knows the lease.
std::pair<LeaseNumber, UniqueFd> Reservation::lease() {
  StoreState& state = *impl_->state;
  std::vector<std::uint64_t> chunks;
  {
    const std::lock_guard lock(state.mutex);
    if (impl_->holding.missing_bytes > 0) {
      throw Error(ErrorCode::kConflict, "checkpoint " + std::to_string(impl_->checkpoint) +
                                            " cannot be leased before all of it is resident");
    }
    for (const PartId& part : impl_->holding.parts) {
      for (const PoolRun& run : state.catalog.at(part).runs) chunks.push_back(state.chunk_of(run));
    }
  }
  return state.leases.open(impl_->checkpoint, ranges_of(std::move(chunks)));
}

}  // namespace sllm
