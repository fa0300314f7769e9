#pragma once

#include <cstdint>
#include <vector>

#include "load/plan.h"

namespace sllm {

// A part of a staged read and where it is copied to.
struct Piece {
  std::uint64_t from = 0;  // counted from the read's first byte
  std::uint64_t bytes = 0;
  std::uint64_t destination = 0;
};

// One read of a file. In place, its bytes are the destination's; else they go through a staging buffer,
// out of which its pieces are copied.
struct PlannedRead {
  std::uint64_t file = 0;
  std::uint64_t offset = 0;
  std::uint64_t bytes = 0;
  bool in_place = false;
  std::uint64_t destination = 0;  // in place only
  std::uint64_t first_piece = 0;
  std::uint64_t pieces = 0;
};

struct Schedule {
  std::vector<PlannedRead> reads;
  std::vector<Piece> pieces;
};

// The reads that carry out a valid plan, each of at most `most_bytes` (a multiple of kSpanBytes).
//
// Each file's are in its order, and files go side by side, each as far as the others by the share of its
// bytes, so that all end together whatever their sizes and however many drives they lie on. Of a file with
// CRCs whole spans are read, so that each can be checked; of one without, whole blocks. A span is read in
// place when one extent has all of it and memory and file are aligned alike.
Schedule make_schedule(const LoadPlan& plan, std::uint64_t most_bytes);

// Reads of every span of every file, for checking alone: staged, without pieces.
Schedule make_check_schedule(const LoadPlan& plan, std::uint64_t most_bytes);

}  // namespace sllm
