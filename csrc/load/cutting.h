#pragma once

#include <cstdint>
#include <vector>

#include "load/plan.h"
#include "load/schedule.h"

namespace sllm {

// Appends what of the extent lies in the file's bytes from `begin` up to `end`, which overlap it, as pieces
// counted from `begin`. Of rows, the first and the last may be cut, so there are three pieces at most.
void cut_extent(const Extent& extent, std::uint64_t begin, std::uint64_t end, std::vector<Piece>& pieces);

}  // namespace sllm
