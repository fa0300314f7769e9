#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "load/plan.h"
#include "load/target.h"

namespace sllm {

// A part of a read's bytes and where it is copied to: `rows` runs of `bytes` each, the pitches apart.
struct Piece {
  std::uint64_t from = 0;  // counted from the read's first byte
  std::uint64_t bytes = 0;
  std::uint64_t rows = 1;
  std::uint64_t from_pitch = 0;
  std::uint64_t to_pitch = 0;
  std::uint64_t target = 0;
  std::uint64_t destination = 0;
};

// One read of a file. In place, its bytes are a host target's; else its pieces are copied out of wherever it
// was read to.
struct PlannedRead {
  std::uint64_t file = 0;
  std::uint64_t offset = 0;
  std::uint64_t bytes = 0;
  bool in_place = false;
  std::uint64_t target = 0;       // in place only
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
// CRCs whole spans are read, so that each can be checked; of one without, whole blocks. No byte is read
// twice. A span is read in place when one extent has all of it, nothing else wants any of it, its target is
// exclusive host memory, and memory and file are aligned alike.
Schedule make_schedule(const LoadPlan& plan, std::span<const Target> targets, std::uint64_t most_bytes);

// Reads of every span of every file, for checking alone: staged, without pieces.
Schedule make_check_schedule(const LoadPlan& plan, std::uint64_t most_bytes);

}  // namespace sllm
