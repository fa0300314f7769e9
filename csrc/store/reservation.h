#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "store/claims.h"
#include "store/state.h"
#include "store/store.h"

namespace sllm {

// A span that is being written, where it lies, and what it must be.
struct WrittenSpan {
  FileRange range;
  std::vector<PooledPiece> pieces;
  std::optional<std::uint32_t> crc;
};

// What is behind a Reservation. What ends in _locked wants the state's mutex locked.
struct Reservation::Impl {
  Impl(std::shared_ptr<StoreState> of, CheckpointNumber number) : state(std::move(of)), checkpoint(number) {}
  Impl(const Impl&) = delete;
  Impl& operator=(const Impl&) = delete;
  ~Impl();

  // Once its parts are held and have their places.
  void begin_locked();
  void give_up();

  // For fill(): takes what is claimed and nobody is bringing.
  std::vector<PartId> begin_fill();
  // What of it has not become resident is claimed no more.
  void fail_fill(std::span<const PartId> parts);
  // For write(): takes the spans of the range, but for those that have landed already.
  std::vector<WrittenSpan> begin_write(const FileRange& range);
  // The end of spans that have begun.
  void land(const FileRange& range) { end_spans(range, &Claims::land); }
  void miss(const FileRange& range) { end_spans(range, &Claims::miss); }

  const std::shared_ptr<StoreState> state;
  const CheckpointNumber checkpoint;
  std::vector<FileRange> wanted;  // sorted, of whole pages, disjoint
  std::uint64_t bytes = 0;
  std::uint64_t hit_bytes = 0;
  // Guarded by the state's mutex.
  Holding holding;
  Claims claims;

 private:
  using EndOfSpan = Claims::Ended (Claims::*)(PartId part, std::uint64_t span);

  PartId part_at(const FileRange& span) const;
  std::uint64_t number_in_part(const FileRange& span) const;
  void check_write_locked(const FileRange& range) const;
  void begin_span_locked(const FileRange& span, std::vector<WrittenSpan>& begun);
  void end_spans(const FileRange& range, EndOfSpan end);
  void end_locked(PartId part, Claims::Ended ended);
};

}  // namespace sllm
