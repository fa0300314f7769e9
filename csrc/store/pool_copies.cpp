#include "store/pool_copies.h"

#include <algorithm>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "base/error.h"
#include "base/size.h"
#include "load/cutting.h"

namespace sllm {
namespace {

std::string text_of(const PooledPiece& piece) {
  return "a piece of " + std::to_string(piece.bytes) + " bytes at " + std::to_string(piece.offset) +
         " of file " + std::to_string(piece.file);
}

std::uint64_t end_of(const PooledPiece& piece) { return checked_add(piece.offset, piece.bytes); }

void check_pieces(std::span<const PooledPiece> pieces, std::uint64_t pool_bytes) {
  const PooledPiece* previous = nullptr;
  for (const PooledPiece& piece : pieces) {
    if (checked_add(piece.pool_offset, piece.bytes) > pool_bytes) {
      throw Error(ErrorCode::kInvalid, text_of(piece) + " leaves a pool of " + std::to_string(pool_bytes));
    }
    if (previous != nullptr &&
        std::tuple(piece.file, piece.offset) < std::tuple(previous->file, end_of(*previous))) {
      throw Error(ErrorCode::kInvalid, text_of(piece) + " lies before the end of " + text_of(*previous));
    }
    static_cast<void>(end_of(piece));
    previous = &piece;
  }
}

// As if the pieces were all that there is of the files.
void check_extents(std::span<const PooledPiece> pieces, std::span<const Extent> extents,
                   std::uint64_t target_bytes) {
  LoadPlan asked{.files = {}, .extents = {extents.begin(), extents.end()}, .target_bytes = {target_bytes}};
  for (const PooledPiece& piece : pieces) {
    while (asked.files.size() <= piece.file) {
      const std::string name = "file " + std::to_string(asked.files.size());
      asked.files.push_back({.path = name, .identity = {}, .span_crcs = {}, .resident = {}});
    }
    asked.files[piece.file].identity.bytes = end_of(piece);
  }
  validate(asked);
}

std::uint64_t wanted_bytes(const Extent& extent) {
  return extent.rows() * (extent.is_rows() ? extent.row_bytes : extent.bytes);
}

// A part of an extent that was cut, as an extent of the pool.
Extent extent_in_pool(const Piece& part, std::uint64_t pool_offset) {
  Extent extent{.offset = pool_offset + part.from, .bytes = part.bytes, .destination = part.destination};
  if (part.rows == 1) return extent;
  extent.bytes = (part.rows - 1) * part.from_pitch + part.bytes;
  extent.row_bytes = part.bytes;
  extent.from_pitch = part.from_pitch;
  extent.to_pitch = part.to_pitch;
  return extent;
}

class PoolCutter {
 public:
  PoolCutter(std::span<const PooledPiece> pieces, std::uint64_t chunk_bytes)
      : pieces_(pieces), chunk_bytes_(chunk_bytes) {}

  void cut(const Extent& extent) {
    const std::uint64_t before = cut_bytes_;
    const std::uint64_t end = extent.offset + extent.bytes;
    auto piece = std::partition_point(pieces_.begin(), pieces_.end(), [&](const PooledPiece& each) {
      return std::tuple(each.file, end_of(each)) <= std::tuple(extent.file, extent.offset);
    });
    for (; piece != pieces_.end() && piece->file == extent.file && piece->offset < end; ++piece) {
      cut_at_chunks(extent, *piece);
    }
    if (cut_bytes_ - before == wanted_bytes(extent)) return;
    throw Error(ErrorCode::kInvalid, "an extent of " + std::to_string(extent.bytes) + " bytes at " +
                                         std::to_string(extent.offset) + " of file " +
                                         std::to_string(extent.file) + " is not wholly in the pool");
  }

  std::vector<Extent> take_extents() { return std::move(extents_); }

 private:
  void cut_at_chunks(const Extent& extent, const PooledPiece& piece) {
    const std::uint64_t last = std::min(extent.offset + extent.bytes, end_of(piece));
    // From the chunk on in which the extent begins.
    const std::uint64_t first = std::max(extent.offset, piece.offset);
    std::uint64_t skipped = align_down(piece.pool_offset + (first - piece.offset), chunk_bytes_);
    skipped = std::max(skipped, piece.pool_offset) - piece.pool_offset;
    for (std::uint64_t begin = piece.offset + skipped; begin < last;) {
      const std::uint64_t place = piece.pool_offset + (begin - piece.offset);
      const std::uint64_t in_chunk = chunk_bytes_ - place % chunk_bytes_;
      const std::uint64_t end = begin + std::min(in_chunk, end_of(piece) - begin);
      parts_.clear();
      cut_extent(extent, begin, end, parts_);
      for (const Piece& part : parts_) add(part, place);
      begin = end;
    }
  }

  void add(const Piece& part, std::uint64_t place) {
    extents_.push_back(extent_in_pool(part, place));
    cut_bytes_ += part.rows * part.bytes;
  }

  std::span<const PooledPiece> pieces_;
  std::uint64_t chunk_bytes_;
  std::vector<Piece> parts_;
  std::vector<Extent> extents_;
  std::uint64_t cut_bytes_ = 0;
};

// Nobody's bytes are copied twice into one place, so no more of them than it has places.
void check_sum(std::span<const Extent> extents, std::uint64_t target_bytes) {
  std::uint64_t sum = 0;
  for (const Extent& extent : extents) sum = checked_add(sum, wanted_bytes(extent));
  if (sum <= target_bytes) return;
  throw Error(ErrorCode::kInvalid,
              "extents of " + std::to_string(sum) + " bytes for a target of " + std::to_string(target_bytes));
}

// Cut at multiples of `chunk_bytes` in the memory.
LoadPlan make_plan(std::span<const PooledPiece> pieces, std::span<const Extent> extents,
                   std::span<std::byte> memory,
                   std::pair<std::uint64_t, std::uint64_t> chunk_and_target_bytes) {
  const auto [chunk_bytes, target_bytes] = chunk_and_target_bytes;
  check_pieces(pieces, memory.size());
  check_extents(pieces, extents, target_bytes);
  check_sum(extents, target_bytes);
  PoolCutter cutter(pieces, chunk_bytes);
  for (const Extent& extent : extents) {
    if (extent.bytes > 0) cutter.cut(extent);
  }
  LoadPlan plan{.files = {}, .extents = cutter.take_extents(), .target_bytes = {target_bytes}};
  std::stable_sort(plan.extents.begin(), plan.extents.end(),
                   [](const Extent& a, const Extent& b) { return a.offset < b.offset; });
  PlannedFile file{.path = "the pool", .identity = {}, .span_crcs = {}, .resident = memory};
  file.identity.bytes = memory.size();
  plan.files.push_back(std::move(file));
  return plan;
}

}  // namespace

LoadPlan plan_pool_copies(std::span<const PooledPiece> pieces, std::span<const Extent> extents,
                          const ChunkPool& pool, std::uint64_t target_bytes) {
  return make_plan(pieces, extents, pool.memory(), {pool.chunk_bytes(), target_bytes});
}

LoadPlan plan_copies(std::span<const PooledPiece> pieces, std::span<const Extent> extents,
                     std::span<std::byte> memory, std::uint64_t target_bytes) {
  return make_plan(pieces, extents, memory, {std::max<std::uint64_t>(memory.size(), 1), target_bytes});
}

}  // namespace sllm
