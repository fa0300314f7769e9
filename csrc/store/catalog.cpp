#include "store/catalog.h"

#include <algorithm>
#include <cmath>
#include <string>
#include <utility>

#include "base/error.h"
#include "load/plan.h"

namespace sllm {
namespace {

std::uint64_t count_of(std::uint64_t bytes, std::uint64_t each) {
  return bytes / each + (bytes % each == 0 ? 0 : 1);
}

// Larger than any checkpoint, and small enough that its parts can be listed.
constexpr std::uint64_t kMostFileBytes = std::uint64_t{1} << 44;

void refuse_outside(const FileRange& range, const Checkpoint& checkpoint) {
  const bool is_known = range.file < checkpoint.files.size();
  if (is_known && range.begin <= range.end && range.end <= checkpoint.files[range.file].stored.bytes) return;
  throw Error(ErrorCode::kInvalid, "bytes " + std::to_string(range.begin) + " to " +
                                       std::to_string(range.end) + " lie outside file " +
                                       std::to_string(range.file) + " of their checkpoint");
}

}  // namespace

void validate_crcs(std::uint64_t bytes, std::span<const std::uint32_t> span_crcs) {
  const std::uint64_t spans = count_of(bytes, kSpanBytes);
  if (span_crcs.empty() || span_crcs.size() == spans) return;
  throw Error(ErrorCode::kInvalid, std::to_string(span_crcs.size()) + " crcs for a file of " +
                                       std::to_string(bytes) + " bytes, which has " + std::to_string(spans) +
                                       " spans");
}

CheckpointNumber Catalog::add(std::vector<StoredFile> files, double cost_s_per_byte) {
  if (!std::isfinite(cost_s_per_byte) || cost_s_per_byte < 0) {
    throw Error(ErrorCode::kInvalid, "a cost of " + std::to_string(cost_s_per_byte) + " s a byte");
  }
  Checkpoint checkpoint;
  checkpoint.cost_s_per_byte = cost_s_per_byte;
  for (StoredFile& file : files) {
    if (file.bytes > kMostFileBytes) {
      throw Error(ErrorCode::kInvalid, "a file of " + std::to_string(file.bytes) + " bytes");
    }
    validate_crcs(file.bytes, file.span_crcs);
    const std::uint64_t parts = count_of(file.bytes, chunk_bytes_);
    checkpoint.files.push_back({.stored = std::move(file), .parts = std::vector<Part>(parts)});
  }
  checkpoints_.emplace(++last_, std::move(checkpoint));
  return last_;
}

Checkpoint& Catalog::find(CheckpointNumber number) {
  const auto found = checkpoints_.find(number);
  if (found == checkpoints_.end()) {
    throw Error(ErrorCode::kNotFound, "the store knows no checkpoint " + std::to_string(number));
  }
  return found->second;
}

std::vector<PartId> Catalog::parts_of(CheckpointNumber number, std::span<const FileRange> ranges) {
  const Checkpoint& checkpoint = find(number);
  std::vector<FileRange> sorted(ranges.begin(), ranges.end());
  std::sort(sorted.begin(), sorted.end(), [](const FileRange& a, const FileRange& b) {
    return std::pair(a.file, a.begin) < std::pair(b.file, b.begin);
  });
  std::vector<PartId> parts;
  for (const FileRange& range : sorted) {
    refuse_outside(range, checkpoint);
    if (range.begin == range.end) continue;
    std::uint64_t part = range.begin / chunk_bytes_;
    if (!parts.empty() && parts.back().file == range.file) part = std::max(part, parts.back().part + 1);
    for (; part * chunk_bytes_ < range.end; ++part) parts.push_back({number, range.file, part});
  }
  return parts;
}

std::vector<PartId> Catalog::parts_of(CheckpointNumber number) {
  std::vector<FileRange> ranges;
  for (const CatalogFile& file : find(number).files) ranges.push_back({ranges.size(), 0, file.stored.bytes});
  return parts_of(number, ranges);
}

Part& Catalog::at(PartId id) { return checkpoints_.at(id.checkpoint).files[id.file].parts[id.part]; }

FileRange Catalog::range_of(PartId id) {
  const std::uint64_t begin = id.part * chunk_bytes_;
  const std::uint64_t bytes = checkpoints_.at(id.checkpoint).files[id.file].stored.bytes;
  return {id.file, begin, std::min(begin + chunk_bytes_, bytes)};
}

std::uint64_t Catalog::bytes_of(PartId id) {
  const FileRange range = range_of(id);
  return range.end - range.begin;
}

void Catalog::set_state(PartId id, PartState state) {
  Checkpoint& checkpoint = checkpoints_.at(id.checkpoint);
  Part& part = at(id);
  const std::uint64_t bytes = bytes_of(id);
  if (part.state == PartState::kResident) checkpoint.resident_bytes -= bytes;
  if (part.state == PartState::kFilling) checkpoint.filling_bytes -= bytes;
  checkpoint.placed_parts -= part.state != PartState::kAbsent;
  part.state = state;
  if (state == PartState::kResident) checkpoint.resident_bytes += bytes;
  if (state == PartState::kFilling) checkpoint.filling_bytes += bytes;
  checkpoint.placed_parts += state != PartState::kAbsent;
}

}  // namespace sllm
