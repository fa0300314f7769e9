#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/unique_handle.h"
#include "load/options.h"
#include "load/plan.h"
#include "load/report.h"
#include "memory/chunk_pool.h"

namespace sllm {

using CheckpointNumber = std::uint64_t;

// Bytes of a checkpoint's file: from `begin` up to `end`.
struct FileRange {
  std::uint64_t file = 0;
  std::uint64_t begin = 0;
  std::uint64_t end = 0;
};

// Bytes of a checkpoint's file and where they lie in the pool.
struct PooledPiece {
  std::uint64_t file = 0;
  std::uint64_t offset = 0;
  std::uint64_t bytes = 0;
  std::uint64_t pool_offset = 0;
};

enum class EvictionPolicy { kGreedyDual, kLru };

// A file of a checkpoint, as the store is told of it.
struct StoredFile {
  std::uint64_t bytes = 0;
  // CRC32C of each span, or none while nobody knows them.
  std::vector<std::uint32_t> span_crcs;
};

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
  std::uint64_t bytes = 0;   // of the chunks it covers
  double age_s = 0;
};

struct StoreStatus {
  std::uint64_t pool_bytes = 0;
  std::uint64_t chunk_bytes = 0;
  std::uint64_t touched_bytes = 0;
  std::uint64_t resident_bytes = 0;
  std::uint64_t filling_bytes = 0;
  std::uint64_t leased_bytes = 0;   // chunks that some lease covers
  std::uint64_t free_bytes = 0;     // chunks that have nothing
  std::uint64_t hit_bytes = 0;      // wanted, and resident or already on the way when it was asked for
  std::uint64_t miss_bytes = 0;
  std::uint64_t filled_bytes = 0;
  std::uint64_t evicted_bytes = 0;
  std::uint64_t failed_fills = 0;
  std::vector<CheckpointStatus> checkpoints;
};

// Which bytes of which checkpoints are resident in one pool, who leases them, and what goes when room is needed.
//
// A checkpoint's files are cut into parts: one for each whole chunk_bytes of a file, which fills a chunk by
// itself, and one for what is left at its end (all of it, where the file is small), which shares chunks with
// others of its kind, packed by pages; where a chunk has less left than such a part needs, the part goes on in
// another one. So every part lies in the pool as one or several pieces, each of whole pages, congruent to the
// file modulo the page size; a part that has a chunk for itself modulo the chunk size.
//
// Each part is in one of four states:
// 1. absent: it has no place. Where all parts start.
// 2. placed: room is kept for it, and nobody is bringing its bytes. absent -> placed when a reservation wants
//    it and there is room; placed -> absent when the last reservation that holds it goes.
// 3. filling: one reservation has claimed it and is bringing its bytes. placed -> filling by claim();
//    filling -> placed when that fill fails or its reservation goes.
// 4. resident: its bytes are there, verified where they have a CRC, and never written to again. filling ->
//    resident span by span is not visible; the part changes as a whole. resident -> absent by eviction.
//
// A reservation holds its parts: none of them is evicted. It is granted for all that it wants or not at all, so
// two that want more together than there is room for never wait for each other. A lease holds chunks by its
// locks (ChunkPool). A chunk is evicted as a whole, when no reservation holds any part that lies in it and no
// lease covers it. Which one goes first: one of a retired checkpoint; then the one of least priority (eviction.h);
// among equals that of the least recently used checkpoint, and of its file's end: a head that is there lets the
// next load begin at once.
//
// Free chunks are taken in runs, and touched ones before untouched ones, so that a checkpoint lies in few
// pieces. Thread-safe. The store outlives its reservations.
class Store {
 public:
  struct Options {
    std::uint64_t pool_bytes = 0;
    std::uint64_t chunk_bytes = std::uint64_t{4} << 20;
    EvictionPolicy eviction = EvictionPolicy::kGreedyDual;
  };
  explicit Store(const Options& options);
  ~Store();

  // `cost_s_per_byte` is what it takes to bring its bytes back from the tier below, as measured so far.
  CheckpointNumber add(std::vector<StoredFile> files, double cost_s_per_byte);
  void set_cost(CheckpointNumber checkpoint, double cost_s_per_byte);
  // Nobody will ask for it again: what nobody holds of it goes first, the rest when it is let go.
  void retire(CheckpointNumber checkpoint);
  // Evicts what can be evicted of it at once; returns the bytes.
  std::uint64_t evict(CheckpointNumber checkpoint);

  // CRC32C of each span of a file that is resident as a whole; throws conflict where it is not.
  std::vector<std::uint32_t> span_crcs(CheckpointNumber checkpoint, std::uint64_t file) const;
  // From here on what is brought of the file is checked against these.
  void prove(CheckpointNumber checkpoint, std::uint64_t file, std::vector<std::uint32_t> span_crcs);

  // All of the ranges, or nullptr where there is no room for them: for now, when something else holds the rest.
  // Throws exhausted where the pool is too small for them whatever happens, invalid for ranges outside a file.
  std::shared_ptr<class Reservation> reserve(CheckpointNumber checkpoint, std::span<const FileRange> ranges);

  std::vector<LeaseStatus> leases() const;
  StoreStatus status() const;

  // A descriptor that becomes readable when a part became resident, a fill failed or a reservation went
  // (eventfd(2), to be read by the owner). Valid while the store lives.
  int changes_fd() const;

  // Faults the pool in from here on, in a thread of its own at nice 19, in huge pages where those come faster,
  // and not while a fill runs. Ends with the store, or when all is there.
  void start_warming();
  ChunkPool& pool();

 private:
  struct State;
  std::shared_ptr<State> state_;
};

// Parts of one checkpoint, held. Its end lets them go, from any thread. Thread-safe.
class Reservation {
 public:
  ~Reservation();

  // Takes over those parts that nobody is bringing; fill() or write() owes their bytes. Returns them in the
  // order in which loads want them.
  std::vector<PooledPiece> claim();
  // What it claimed and has not got yet goes back to placed, so that another reservation may claim it.
  void abandon();

  // Brings what is claimed from local files, numbered as the checkpoint's are, and says what it did. Parts
  // become resident as they are whole and verified. Whatever it throws (as load() does), the parts that have not
  // become resident are abandoned.
  LoadReport fill(std::span<const PlannedFile> files, const LoadOptions& options, const Interrupt& interrupt);
  // Brings bytes of a claimed part that come from elsewhere: whole spans, or up to the file's end, in any order.
  // Throws corrupt where a span's CRC is another, invalid for what is not claimed. Blocking, thread-safe.
  void write(std::uint64_t file, std::uint64_t offset, std::span<const std::byte> bytes);

  // Whether all of it is resident.
  bool is_complete() const;
  std::uint64_t bytes() const;
  std::uint64_t resident_bytes() const;
  // Where the ranges that were asked for lie, whatever their state, neighbours in one piece; sorted by file and
  // offset, and cut to whole pages around what was wanted.
  std::vector<PooledPiece> pieces() const;
  // A descriptor that leases all of it. Throws conflict where it is not complete.
  UniqueFd lease();

 private:
  friend class Store;
  struct Impl;
  explicit Reservation(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace sllm
