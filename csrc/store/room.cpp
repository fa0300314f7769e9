#include "store/room.h"

#include <algorithm>
#include <functional>
#include <string>
#include <utility>

#include "base/error.h"

namespace sllm {

Room::Room(Catalog& catalog, const Shape& shape, Pool pool)
    : catalog_(catalog),
      shape_(shape),
      pool_(std::move(pool)),
      places_(shape.chunks, shape.chunk_bytes),
      order_(shape.eviction),
      occupants_(shape.chunks) {}

Places::Request Room::request_for(std::span<const PartId> parts) {
  Places::Request request;
  for (const PartId& part : parts) {
    if (catalog_.is_whole(part)) {
      ++request.chunks;
    } else {
      request.packed.push_back(catalog_.bytes_of(part));
    }
  }
  return request;
}

void Room::refuse_too_large(std::span<const PartId> parts) {
  const std::uint64_t chunks = places_.chunks_needed_alone(request_for(parts));
  if (chunks <= shape_.chunks) return;
  throw Error(ErrorCode::kExhausted, "a load needs " + std::to_string(chunks * shape_.chunk_bytes) +
                                         " bytes of the host memory pool at once, and all of it is " +
                                         std::to_string(shape_.chunks * shape_.chunk_bytes) + " bytes");
}

std::vector<PartId> Room::absent_of(std::span<const PartId> parts) {
  std::vector<PartId> absent;
  for (const PartId& part : parts) {
    if (catalog_.at(part).state == PartState::kAbsent) absent.push_back(part);
  }
  return absent;
}

bool Room::place(std::span<const PartId> held) {
  // Once around, but for what goes from chunks that stay: its holes can tempt things to lie otherwise.
  while (!has_room(absent_of(held))) {
    auto victims = victims_for(request_for(absent_of(held)), turns({}));
    if (!victims) victims = victims_among(held);
    if (!victims || victims->empty()) return false;
    evict_all(*victims);
  }
  put(absent_of(held));
  return true;
}

bool Room::has_room(std::span<const PartId> absent) {
  return places_.chunks_needed(request_for(absent), {}) <= places_.free_chunks();
}

// Parts that share chunks can lie so scattered that there is no room for the rest of their own checkpoint,
// with nothing else in the way. Then those that nobody else holds are given up, too, and packed anew.
std::optional<Room::Victims> Room::victims_among(std::span<const PartId> held) {
  std::vector<PartId> own;
  for (const PartId& part : held) {
    if (catalog_.at(part).state == PartState::kResident && !catalog_.is_whole(part)) own.push_back(part);
  }
  if (own.empty()) return std::nullopt;
  std::vector<PartId> wanted = absent_of(held);
  wanted.insert(wanted.end(), own.begin(), own.end());
  return victims_for(request_for(wanted), turns(own));
}

// Chosen before anything is evicted, so that nothing goes in vain. Asks for a lease only of what has its
// turn.
std::optional<Room::Victims> Room::victims_for(const Places::Request& request, std::vector<Turn> turns) {
  std::make_heap(turns.begin(), turns.end(), std::greater());
  Victims victims;
  for (;;) {
    const std::uint64_t there = places_.free_chunks() + victims.size();
    std::uint64_t missing = places_.chunks_needed(request, victims);
    if (missing <= there) return victims;
    for (missing -= there; missing > 0;) {
      if (turns.empty()) return std::nullopt;
      std::pop_heap(turns.begin(), turns.end(), std::greater());
      const std::uint64_t chunk = turns.back().chunk;
      turns.pop_back();
      if (pool_.is_leased(chunk)) continue;
      victims.insert(chunk);
      --missing;
    }
  }
}

std::vector<Room::Turn> Room::turns(std::span<const PartId> own) {
  std::vector<Turn> found;
  for (std::uint64_t chunk = 0; chunk < shape_.chunks; ++chunk) {
    if (const auto turn = turn_of_chunk(chunk, own)) found.push_back(*turn);
  }
  return found;
}

// Nothing where the chunk is free, or somebody holds what lies in it. `own` parts, which are sorted, may have
// the one hold of whoever wants the room.
std::optional<Room::Turn> Room::turn_of_chunk(std::uint64_t chunk, std::span<const PartId> own) {
  if (occupants_[chunk].empty()) return std::nullopt;
  Turn last;
  last.chunk = chunk;
  for (const PartId& part : occupants_[chunk]) {
    const bool is_own = std::binary_search(own.begin(), own.end(), part);
    if (catalog_.at(part).holds > (is_own ? 1 : 0)) return std::nullopt;
    Turn turn = turn_of(part);
    turn.is_own = is_own;
    turn.chunk = chunk;
    last = std::max(last, turn, [](const Turn& a, const Turn& b) { return a < b; });
  }
  return last;
}

Room::Turn Room::turn_of(PartId part) {
  const Checkpoint& checkpoint = catalog_.find(part.checkpoint);
  const FileRange range = catalog_.range_of(part);
  const auto file_bytes = static_cast<double>(checkpoint.files[part.file].stored.bytes);
  return {.is_own = false,
          .is_kept = !checkpoint.is_retired,
          .rank = order_.rank_of(part.checkpoint),
          .head = 1 - static_cast<double>(range.begin) / file_bytes,
          .chunk = 0};
}

void Room::evict_all(const Victims& victims) {
  for (const std::uint64_t chunk : victims) {
    // A copy: each removal takes the part out of the list.
    for (const PartId& part : std::vector(occupants_[chunk])) {
      if (!catalog_.find(part.checkpoint).is_retired) order_.note_evicted(part.checkpoint);
      evicted_bytes_ += catalog_.bytes_of(part);
      remove(part);
    }
  }
}

std::uint64_t Room::evict(PartId id) {
  const Part& part = catalog_.at(id);
  if (part.state != PartState::kResident || part.holds > 0) return 0;
  for (const PoolRun& run : part.runs) {
    if (pool_.is_leased(run.offset / shape_.chunk_bytes)) return 0;
  }
  const std::uint64_t bytes = catalog_.bytes_of(id);
  evicted_bytes_ += bytes;
  remove(id);
  return bytes;
}

void Room::remove(PartId id) {
  Part& part = catalog_.at(id);
  for (const PoolRun& run : std::exchange(part.runs, {})) {
    const std::uint64_t chunk = run.offset / shape_.chunk_bytes;
    std::erase(occupants_[chunk], id);
    if (catalog_.is_whole(id)) {
      places_.give_back_chunk(chunk);
    } else {
      places_.give_back(run);
    }
  }
  catalog_.set_state(id, PartState::kAbsent);
  if (catalog_.find(id.checkpoint).placed_parts == 0) order_.forget(id.checkpoint);
}

void Room::put(std::span<const PartId> absent) {
  auto placement = places_.take(request_for(absent), pool_.is_touched);
  if (!placement) throw Error(ErrorCode::kInternal, "there is no room for what there was room for");
  auto chunk = placement->chunks.begin();
  auto packed = placement->packed.begin();
  for (const PartId& part : absent) {
    if (catalog_.is_whole(part)) {
      put(part, {{*chunk++ * shape_.chunk_bytes, shape_.chunk_bytes}});
    } else {
      put(part, std::move(*packed++));
    }
  }
}

void Room::put(PartId id, std::vector<PoolRun> runs) {
  for (const PoolRun& run : runs) {
    std::vector<PartId>& occupants = occupants_[run.offset / shape_.chunk_bytes];
    if (occupants.empty() || occupants.back() != id) occupants.push_back(id);
  }
  catalog_.at(id).runs = std::move(runs);
  catalog_.set_state(id, PartState::kPlaced);
}

}  // namespace sllm
