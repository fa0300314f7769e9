#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <set>
#include <span>
#include <vector>

#include "store/catalog.h"
#include "store/eviction.h"
#include "store/places.h"

namespace sllm {

// Gives parts their places in a pool and takes them away again: what lies in which chunk, and what goes when
// room is needed (store.h has the rules). Bookkeeping alone; not thread-safe.
class Room {
 public:
  struct Shape {
    std::uint64_t chunks = 0;
    std::uint64_t chunk_bytes = 0;
    EvictionPolicy eviction = EvictionPolicy::kGreedyDual;
  };
  // What the pool knows. Asking for leases costs a system call.
  struct Pool {
    Places::ChunkPredicate is_leased;
    Places::ChunkPredicate is_touched;
  };

  // The catalog outlives it.
  Room(Catalog& catalog, const Shape& shape, Pool pool);

  // Throws exhausted where not even the empty pool has room for the parts.
  void refuse_too_large(std::span<const PartId> parts);
  // Places what is absent of these sorted parts, each of which is held; evicts for that what it must. False
  // where there is no room; then nothing was placed.
  bool place(std::span<const PartId> held);
  // The part becomes absent, and its place is free.
  void remove(PartId part);
  // Removes the part if it is resident, nobody holds it and no lease covers it; returns its bytes, else 0.
  std::uint64_t evict(PartId part);

  EvictionOrder& order() { return order_; }
  std::uint64_t free_chunks() const { return places_.free_chunks(); }
  // Of all that went to make room, or was evicted on request.
  std::uint64_t evicted_bytes() const { return evicted_bytes_; }

 private:
  // Of a chunk that may go: the lesser one first. That of a shared chunk is the greatest of its parts'.
  struct Turn {
    bool is_own = false;   // of the checkpoint that room is made for: the last resort
    bool is_kept = false;  // not retired
    EvictionOrder::Rank rank;
    double head = 0;  // the share of the file that lies behind it
    std::uint64_t chunk = 0;

    auto operator<=>(const Turn&) const = default;
  };
  using Victims = std::set<std::uint64_t>;

  Places::Request request_for(std::span<const PartId> parts);
  std::vector<PartId> absent_of(std::span<const PartId> parts);
  bool has_room(std::span<const PartId> absent);
  Turn turn_of(PartId part);
  std::optional<Turn> turn_of_chunk(std::uint64_t chunk, std::span<const PartId> own);
  std::vector<Turn> turns(std::span<const PartId> own);
  std::optional<Victims> victims_for(const Places::Request& request, std::vector<Turn> turns);
  std::optional<Victims> victims_among(std::span<const PartId> held);
  void evict_all(const Victims& victims);
  void put(std::span<const PartId> absent);
  void put(PartId part, std::vector<PoolRun> runs);

  Catalog& catalog_;
  Shape shape_;
  Pool pool_;
  Places places_;
  EvictionOrder order_;
  std::vector<std::vector<PartId>> occupants_;  // of each chunk
  std::uint64_t evicted_bytes_ = 0;
};

}  // namespace sllm
