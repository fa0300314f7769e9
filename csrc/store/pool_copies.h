#pragma once

#include <cstdint>
#include <span>

#include "load/plan.h"
#include "memory/chunk_pool.h"
#include "store/store.h"

namespace sllm {

// The plan that copies what the extents want of a checkpoint's files out of the pool, where the pieces say
// which of their bytes lie where: a plan of one file, the pool, which is resident. Pure.
//
// The pieces are sorted by file and offset and do not overlap; what of the files lies in none of them is not
// there. Each extent is cut where pieces end, and at the pool's chunks, since a driver copies from memory
// that it pinned as one only (PoolPins).
//
// Throws invalid for extents as validate() does, with `target_bytes` for their one target, and where they
// want bytes that no piece has, or more bytes in all than the target can hold; and for pieces outside the
// pool.
LoadPlan plan_pool_copies(std::span<const PooledPiece> pieces, std::span<const Extent> extents,
                          const ChunkPool& pool, std::uint64_t target_bytes);

// The same out of memory that is no pool and that no driver has pinned, such as a MappedRegion's; the pieces'
// pool offsets are offsets in it.
LoadPlan plan_copies(std::span<const PooledPiece> pieces, std::span<const Extent> extents,
                     std::span<std::byte> memory, std::uint64_t target_bytes);

}  // namespace sllm
