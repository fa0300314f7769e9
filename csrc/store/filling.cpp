#include <algorithm>
#include <cstring>
#include <string>
#include <utility>

#include "base/crc32c.h"
#include "base/error.h"
#include "base/size.h"
#include "load/pipeline.h"
#include "store/reservation.h"

// The part of a reservation that brings bytes.

namespace sllm {
namespace {

PlannedFile planned(const PlannedFile& file, const StoredFile& stored) {
  if (file.identity.bytes != stored.bytes) {
    throw Error(ErrorCode::kInvalid, file.path + " has " + std::to_string(file.identity.bytes) +
                                         " bytes, and the store knows of " + std::to_string(stored.bytes));
  }
  return {.path = file.path,
          .identity = file.identity,
          .span_crcs = stored.span_crcs.empty() ? file.span_crcs : stored.span_crcs,
          .resident = {}};
}

// Reads of parts into their places. The plan's files are those that have any.
struct FillPlan {
  LoadPlan plan;
  std::vector<std::uint64_t> files;  // what the checkpoint calls each of the plan's

  void add(const PooledPiece& piece, const PlannedFile& file, const StoredFile& stored) {
    if (files.empty() || files.back() != piece.file) {
      plan.files.push_back(planned(file, stored));
      files.push_back(piece.file);
    }
    plan.extents.push_back({.file = files.size() - 1,
                            .offset = piece.offset,
                            .bytes = piece.bytes,
                            .target = 0,
                            .destination = piece.pool_offset});
  }
};

// Neighbours are one extent, so that reads go on across them.
FillPlan make_plan(StoreState& state, std::span<const PartId> parts, std::span<const PlannedFile> files) {
  const std::lock_guard lock(state.mutex);
  const auto& stored = state.catalog.find(parts.front().checkpoint).files;
  if (files.size() != stored.size()) {
    throw Error(ErrorCode::kInvalid,
                std::to_string(files.size()) + " files for a checkpoint of " + std::to_string(stored.size()));
  }
  std::vector<PooledPiece> pieces;
  for (const PartId& part : parts) state.append_pieces(part, state.catalog.range_of(part), pieces);
  FillPlan fill;
  for (const PooledPiece& piece : pieces) fill.add(piece, files[piece.file], stored[piece.file].stored);
  fill.plan.target_bytes = {state.pool.memory().size()};
  return fill;
}

// What of it is in chunks that were never touched, by address.
std::vector<std::span<std::byte>> untouched_by(const FillPlan& fill, const StoreState& state) {
  std::vector<PoolRun> runs;
  for (const Extent& extent : fill.plan.extents) {
    const std::uint64_t end = extent.destination + extent.bytes;
    for (std::uint64_t at = extent.destination; at < end;) {
      const std::uint64_t chunk = state.chunk_of({at, 0});
      const std::uint64_t next = std::min(end, (chunk + 1) * state.pool.chunk_bytes());
      if (!state.pool.is_touched(chunk)) runs.push_back({at, next - at});
      at = next;
    }
  }
  std::sort(runs.begin(), runs.end());
  std::vector<std::span<std::byte>> memory;
  for (const PoolRun& run : runs) memory.push_back(state.memory_of(run));
  return memory;
}

// Checked where it lies: `bytes` may be somebody's who changes them.
void bring(StoreState& state, const WrittenSpan& span, std::span<const std::byte> bytes) {
  std::uint32_t crc = 0;
  for (const PooledPiece& piece : span.pieces) {
    const auto memory = state.memory_of({piece.pool_offset, piece.bytes});
    std::memcpy(memory.data(), bytes.data() + (piece.offset - span.range.begin), memory.size());
    if (span.crc) crc = crc32c(memory, crc);
  }
  if (!span.crc || crc == *span.crc) return;
  throw Error(ErrorCode::kCorrupt, "the crc32c of bytes " + std::to_string(span.range.begin) + " to " +
                                       std::to_string(span.range.end) + " of file " +
                                       std::to_string(span.range.file) + " does not match");
}

}  // namespace

LoadReport Reservation::fill(std::span<const PlannedFile> files, const LoadOptions& options,
                             const Interrupt& interrupt) {
  StoreState& state = *impl_->state;
  const std::vector<PartId> parts = impl_->begin_fill();
  if (parts.empty()) return {};
  try {
    const FillPlan fill = make_plan(state, parts, files);
    LoadOptions landing = options;
    const auto untouched = untouched_by(fill, state);
    landing.is_fresh = !untouched.empty();
    landing.on_landed = [&](std::uint64_t file, std::uint64_t offset, std::uint64_t bytes) {
      impl_->land({fill.files[file], offset, offset + bytes});
    };
    Target target = Target::in_host(state.pool.memory());
    target.backing = Backing::kShared;
    target.untouched = untouched;
    const Warmer::Pause pause = state.warmer.pause();
    return load(fill.plan, {&target, 1}, landing, interrupt);
  } catch (...) {
    impl_->fail_fill(parts);
    throw;
  }
}

void Reservation::write(std::uint64_t file, std::uint64_t offset, std::span<const std::byte> bytes) {
  const auto spans = impl_->begin_write({file, offset, checked_add(offset, bytes.size())});
  for (auto span = spans.begin(); span != spans.end(); ++span) {
    try {
      bring(*impl_->state, *span, bytes.subspan(span->range.begin - offset));
    } catch (...) {
      for (; span != spans.end(); ++span) impl_->miss(span->range);
      throw;
    }
    impl_->land(span->range);
  }
}

}  // namespace sllm
