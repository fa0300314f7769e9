#include "load/schedule.h"

#include <algorithm>
#include <span>
#include <utility>

#include "base/size.h"

namespace sllm {
namespace {

// The bytes of one span that are read, and the extents that want some of them.
struct Cell {
  std::uint64_t begin = 0;
  std::uint64_t end = 0;
  std::span<const Extent> extents;
};

class Builder {
 public:
  Builder(const LoadPlan& plan, std::uint64_t most_bytes) : plan_(plan), most_bytes_(most_bytes) {}

  void add(std::uint64_t file, const Cell& cell) {
    const bool in_place = can_land(cell);
    if (!continues(file, cell, in_place)) {
      PlannedRead read{
          .file = file, .offset = cell.begin, .in_place = in_place, .first_piece = schedule_.pieces.size()};
      if (in_place) read.destination = destination_of(cell);
      schedule_.reads.push_back(read);
    }
    PlannedRead& read = schedule_.reads.back();
    if (!in_place) add_pieces(read, cell);
    read.bytes += cell.end - cell.begin;
  }

  Schedule finish() {
    balance();
    return std::move(schedule_);
  }

 private:
  static std::uint64_t destination_of(const Cell& cell) {
    const Extent& extent = cell.extents.front();
    return extent.destination + (cell.begin - extent.offset);
  }

  bool can_land(const Cell& cell) const {
    if (cell.extents.size() != 1) return false;
    const Extent& extent = cell.extents.front();
    if (extent.offset > cell.begin || extent.offset + extent.bytes < cell.end) return false;
    const std::uint64_t destination = destination_of(cell);
    return destination % kBlockBytes == cell.begin % kBlockBytes &&
           align_up(destination + (cell.end - cell.begin), kBlockBytes) <=
               align_up(plan_.destination_bytes, kBlockBytes);
  }

  bool continues(std::uint64_t file, const Cell& cell, bool in_place) const {
    if (schedule_.reads.empty()) return false;
    const PlannedRead& last = schedule_.reads.back();
    return last.file == file && last.offset + last.bytes == cell.begin && last.in_place == in_place &&
           last.bytes + (cell.end - cell.begin) <= most_bytes_ &&
           (!in_place || last.destination + last.bytes == destination_of(cell));
  }

  void add_pieces(PlannedRead& read, const Cell& cell) {
    for (const Extent& extent : cell.extents) {
      const std::uint64_t begin = std::max(cell.begin, extent.offset);
      const std::uint64_t end = std::min(cell.end, extent.offset + extent.bytes);
      add_piece(read, {begin - read.offset, end - begin, extent.destination + (begin - extent.offset)});
    }
  }

  void add_piece(PlannedRead& read, const Piece& piece) {
    if (read.pieces > 0) {
      Piece& last = schedule_.pieces.back();
      if (last.from + last.bytes == piece.from && last.destination + last.bytes == piece.destination) {
        last.bytes += piece.bytes;
        return;
      }
    }
    schedule_.pieces.push_back(piece);
    ++read.pieces;
  }

  // Sorts the reads by the share of their file that lies in front of them.
  void balance() {
    if (plan_.files.size() < 2) return;
    std::vector<std::uint64_t> bytes(plan_.files.size());
    for (const PlannedRead& read : schedule_.reads) bytes[read.file] += read.bytes;
    std::vector<std::uint64_t> before(plan_.files.size());
    std::vector<std::pair<double, PlannedRead>> placed;
    for (const PlannedRead& read : schedule_.reads) {
      placed.emplace_back(static_cast<double>(before[read.file]) / static_cast<double>(bytes[read.file]),
                          read);
      before[read.file] += read.bytes;
    }
    std::stable_sort(placed.begin(), placed.end(),
                     [](const auto& a, const auto& b) { return a.first < b.first; });
    std::transform(placed.begin(), placed.end(), schedule_.reads.begin(),
                   [](const auto& read) { return read.second; });
  }

  const LoadPlan& plan_;
  std::uint64_t most_bytes_;
  Schedule schedule_;
};

// Calls `visit` with each span of the file that the extents touch, in order.
template <typename Visit>
void for_each_cell(const PlannedFile& file, std::span<const Extent> extents, Visit visit) {
  std::size_t first = 0;
  std::uint64_t begin = 0;
  while (first < extents.size()) {
    begin = std::max(begin, align_down(extents[first].offset, kSpanBytes));
    const std::uint64_t end = std::min(begin + kSpanBytes, file.identity.bytes);
    std::size_t last = first;
    while (last < extents.size() && extents[last].offset < end) ++last;
    Cell cell{begin, end, extents.subspan(first, last - first)};
    const std::uint64_t wanted_end = cell.extents.back().offset + cell.extents.back().bytes;
    if (file.span_crcs.empty()) {
      cell.begin = std::max(begin, align_down(cell.extents.front().offset, kBlockBytes));
      cell.end = std::min(end, align_up(wanted_end, kBlockBytes));
    }
    visit(cell);
    // An extent that goes on is the first of the next span too.
    first = wanted_end > end ? last - 1 : last;
    begin = end;
  }
}

std::vector<Extent> without_empty(const std::vector<Extent>& extents) {
  std::vector<Extent> kept;
  std::copy_if(extents.begin(), extents.end(), std::back_inserter(kept),
               [](const Extent& e) { return e.bytes > 0; });
  return kept;
}

}  // namespace

Schedule make_schedule(const LoadPlan& plan, std::uint64_t most_bytes) {
  const std::vector<Extent> extents = without_empty(plan.extents);
  Builder builder(plan, most_bytes);
  for (auto first = extents.begin(); first != extents.end();) {
    const std::uint64_t file = first->file;
    const auto last = std::find_if(first, extents.end(), [file](const Extent& e) { return e.file != file; });
    for_each_cell(plan.files[file], {first, last}, [&](const Cell& cell) { builder.add(file, cell); });
    first = last;
  }
  return builder.finish();
}

Schedule make_check_schedule(const LoadPlan& plan, std::uint64_t most_bytes) {
  Schedule schedule;
  for (std::uint64_t file = 0; file < plan.files.size(); ++file) {
    const std::uint64_t size = plan.files[file].identity.bytes;
    for (std::uint64_t offset = 0; offset < size; offset += most_bytes) {
      schedule.reads.push_back(
          {.file = file, .offset = offset, .bytes = std::min(most_bytes, size - offset)});
    }
  }
  return schedule;
}

}  // namespace sllm
