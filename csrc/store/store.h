#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "base/unique_handle.h"
#include "load/options.h"
#include "load/plan.h"
#include "load/report.h"
#include "memory/chunk_pool.h"
#include "store/eviction.h"
#include "store/status.h"
#include "store/stored_file.h"

namespace sllm {

struct StoreState;

// Which bytes of which checkpoints are resident in one pool, who leases them, and what goes when room is
// needed.
//
// A checkpoint's files are cut into parts: one for each whole chunk_bytes of a file, which fills a chunk by
// itself, and one for what is left at its end (all of it, where the file is small), which shares chunks with
// others of its kind, packed by pages; where a chunk has less left than such a part needs, the part goes on
// in another one. So every part lies in the pool as one or several pieces, each of whole pages, congruent to
// the file modulo the page size; a part that has a chunk for itself modulo the chunk size.
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
// A reservation holds its parts: none of them is evicted. It is granted for all that it wants or not at all,
// so two that want more together than there is room for never wait for each other. A lease holds chunks by
// its locks (ChunkPool): all those that the parts of its reservation lie in. Where room is needed a chunk is
// evicted as a whole, when no reservation holds any part that lies in it and no lease covers it; what its
// parts have elsewhere is free, too. Which one goes first: one of a retired checkpoint; then the one of least
// priority (eviction.h); among equals that of the least recently used checkpoint, and of its file's end: a
// head that is there lets the next load begin at once. A shared chunk's turn comes with the last of its
// parts'.
//
// Free chunks are taken in runs, and touched ones before untouched ones, so that a checkpoint lies in few
// pieces. Thread-safe; nothing is read, copied or checked under its mutex. Reservations keep what they need
// of the store alive.
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
  // Nobody will ask for it again: what nobody holds of it goes at once, the rest when it is let go. With the
  // last of it the store forgets its number.
  void retire(CheckpointNumber checkpoint);
  // Evicts what can be evicted of it at once, and nothing that shares chunks with it; returns the bytes.
  std::uint64_t evict(CheckpointNumber checkpoint);

  // CRC32C of each span of a file that is resident as a whole; throws conflict where it is not.
  std::vector<std::uint32_t> span_crcs(CheckpointNumber checkpoint, std::uint64_t file) const;
  // From here on what is brought of the file is checked against these. Throws conflict where others are
  // known.
  void prove(CheckpointNumber checkpoint, std::uint64_t file, std::vector<std::uint32_t> span_crcs);

  // All of the ranges, or nullptr where there is no room for them: for now, when something else holds the
  // rest. Throws exhausted where the pool is too small for them whatever happens, invalid for ranges outside
  // a file, not_found for a checkpoint that is unknown or retired.
  std::shared_ptr<class Reservation> reserve(CheckpointNumber checkpoint, std::span<const FileRange> ranges);

  // Those that some process still has. What leases that are over kept of retired checkpoints goes with this.
  std::vector<LeaseStatus> leases() const;
  StoreStatus status() const;

  // A descriptor that becomes readable when a part became resident, a fill failed, a reservation went, or
  // something was evicted on request (eventfd(2), not blocking, to be read by the owner). Nobody is told of a
  // lease's end: who waits for room asks again. Valid while the store lives.
  int changes_fd() const;

  // Faults the pool in from here on, in a thread of its own at nice 19, in huge pages where those come
  // faster, and not while a fill runs. Ends with the store, or when all is there. Throws exhausted.
  void start_warming();
  ChunkPool& pool();

 private:
  std::shared_ptr<StoreState> state_;
};

// Parts of one checkpoint, held: all those that the ranges touch which were asked for. Its end lets them go,
// from any thread; no call may outlast it. Thread-safe.
class Reservation {
 public:
  ~Reservation();

  // Takes over those parts that nobody is bringing; fill() or write() owes their bytes. Returns them in the
  // order in which loads want them, neighbours in one piece. A part that lies in several pieces has one after
  // the other, and not each of them is whole spans.
  std::vector<PooledPiece> claim();
  // What it claimed and has not got yet goes back to placed, so that another reservation may claim it. What a
  // fill() or write() is bringing just now does so at the end of that, if it has not become resident by then.
  void abandon();

  // Brings what is claimed from local files, numbered as the checkpoint's are, and says what it did. Parts
  // become resident as they are whole and verified; without CRCs, once the file was seen to be still as it
  // was planned. Whatever it throws (as load() does, and invalid for options that map files), the parts that
  // have not become resident are abandoned.
  LoadReport fill(std::span<const PlannedFile> files, const LoadOptions& options, const Interrupt& interrupt);
  // Brings bytes of claimed parts that come from elsewhere: whole spans, or up to the file's end, in any
  // order. What has landed already is left as it is. Throws corrupt where a span's CRC is another: it, and
  // those behind it, stay claimed and missing. Throws invalid for what is not claimed, conflict for what is
  // being brought by another call. Blocking, thread-safe.
  void write(std::uint64_t file, std::uint64_t offset, std::span<const std::byte> bytes);

  // Whether all of it is resident.
  bool is_complete() const;
  // Of its parts: all of them, those that are resident, and those that were, or were on the way, when it was
  // made.
  std::uint64_t bytes() const;
  std::uint64_t resident_bytes() const;
  std::uint64_t hit_bytes() const;
  // Where the ranges that were asked for lie, whatever their state, neighbours in one piece; sorted by file
  // and offset, and cut to whole pages around what was wanted, or the file's end.
  std::vector<PooledPiece> pieces() const;
  // A descriptor that leases all of it, and the lease's number. Throws conflict where it is not complete.
  std::pair<LeaseNumber, UniqueFd> lease();

 private:
  friend class Store;
  struct Impl;
  explicit Reservation(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace sllm
