#pragma once

#include <cstdint>
#include <mutex>
#include <set>
#include <span>
#include <vector>

#include "base/unique_handle.h"
#include "memory/chunk_pool.h"
#include "memory/warmer.h"
#include "store/catalog.h"
#include "store/leases.h"
#include "store/room.h"
#include "store/store.h"

namespace sllm {

// An eventfd that is readable once something has changed. Thread-safe.
class Changes {
 public:
  // Throws exhausted or io.
  Changes();
  int fd() const { return fd_.get(); }
  void note() const;

 private:
  UniqueFd fd_;
};

// Parts that a reservation holds, and how many of their bytes are not resident.
struct Holding {
  std::vector<PartId> parts;  // sorted
  std::uint64_t missing_bytes = 0;
};

// What a store and its reservations share.
struct StoreState {
  explicit StoreState(const Store::Options& options);

  std::uint64_t chunk_of(const PoolRun& run) const { return run.offset / pool.chunk_bytes(); }
  std::span<std::byte> memory_of(const PoolRun& run) const {
    return pool.memory().subspan(run.offset, run.bytes);
  }

  ChunkPool pool;
  Warmer warmer{pool};
  std::once_flag is_warming;
  LeaseBook leases{pool};
  Changes changes;

  // Guards what follows; the functions below want it locked.
  std::mutex mutex;
  Catalog catalog;
  Room room;
  std::set<Holding*> holdings;  // of all reservations
  std::uint64_t hit_bytes = 0;
  std::uint64_t miss_bytes = 0;
  std::uint64_t filled_bytes = 0;
  std::uint64_t failed_fills = 0;

  void hold(std::span<const PartId> parts);
  // Parts that are placed and that nobody else holds become absent. `checkpoint` is theirs.
  void let_go(CheckpointNumber checkpoint, std::span<const PartId> parts);
  // A part that was filling.
  void become_resident(PartId part);
  std::uint64_t evict(CheckpointNumber checkpoint);
  // Of a retired checkpoint: evicts what can be evicted, and forgets it with the last of it.
  void sweep(CheckpointNumber checkpoint);
  // Of all retired checkpoints that have none of the living leases.
  void sweep_retired(std::span<const LeaseStatus> living);
  // Retired checkpoints of which nothing is left.
  void forget_retired();
  // Neighbours in file and pool are one piece.
  void append_pieces(PartId part, const FileRange& range, std::vector<PooledPiece>& pieces);
};

}  // namespace sllm
