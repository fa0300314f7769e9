#include "load/schedule.h"

#include <algorithm>
#include <iterator>
#include <utility>

#include "base/size.h"
#include "load/cutting.h"

namespace sllm {
namespace {

std::uint64_t end_of(const Extent& extent) { return extent.offset + extent.bytes; }

// Extents of one file, and those of them that reach into a window that moves on. They are sorted, and may
// overlap.
class Sweep {
 public:
  explicit Sweep(std::span<const Extent> extents) : extents_(extents) {}

  // Those that overlap the bytes from `begin` up to `end`; neither may lie before the last call's.
  const std::vector<const Extent*>& move_to(std::uint64_t begin, std::uint64_t end) {
    std::erase_if(active_, [begin](const Extent* extent) { return end_of(*extent) <= begin; });
    for (; next_ < extents_.size() && extents_[next_].offset < end; ++next_) {
      if (end_of(extents_[next_]) > begin) active_.push_back(&extents_[next_]);
    }
    return active_;
  }

  // Where the next byte at or behind `begin` is wanted; nothing where none is.
  bool find_next(std::uint64_t begin, std::uint64_t& found) const {
    for (const Extent* extent : active_) {
      if (end_of(*extent) > begin) return found = begin, true;
    }
    if (next_ == extents_.size()) return false;
    found = std::max(begin, extents_[next_].offset);
    return true;
  }

 private:
  std::span<const Extent> extents_;
  std::size_t next_ = 0;
  std::vector<const Extent*> active_;
};

// The bytes of one span that are read, and the extents that want some of them.
struct Cell {
  std::uint64_t begin = 0;
  std::uint64_t end = 0;
  const std::vector<const Extent*>& extents;
};

// Calls `visit` with each span of the file that the extents touch, in order.
template <typename Visit>
void for_each_cell(const PlannedFile& file, std::span<const Extent> extents, Visit visit) {
  Sweep sweep(extents);
  std::uint64_t wanted = 0;
  for (std::uint64_t begin = 0; sweep.find_next(begin, wanted);) {
    begin = align_down(wanted, kSpanBytes);
    const std::uint64_t end = std::min(begin + kSpanBytes, file.identity.bytes);
    const auto& active = sweep.move_to(begin, end);
    Cell cell{begin, end, active};
    if (file.span_crcs.empty()) {
      std::uint64_t first = end;
      std::uint64_t last = begin;
      for (const Extent* extent : active) {
        first = std::min(first, std::max(begin, extent->offset));
        last = std::max(last, std::min(end, end_of(*extent)));
      }
      cell.begin = align_down(first, kBlockBytes);
      cell.end = std::min(end, align_up(last, kBlockBytes));
    }
    visit(cell);
    begin = end;
  }
}

class Builder {
 public:
  Builder(const LoadPlan& plan, std::span<const Target> targets, std::uint64_t most_bytes)
      : plan_(plan), targets_(targets), most_bytes_(most_bytes) {}

  void add_file(std::uint64_t file, std::span<const Extent> extents) {
    const std::size_t first = schedule_.reads.size();
    for_each_cell(plan_.files[file], extents, [&](const Cell& cell) { add(file, cell); });
    Sweep sweep(extents);
    for (PlannedRead& read : std::span(schedule_.reads).subspan(first)) add_pieces(read, sweep);
  }

  Schedule finish() {
    balance();
    return std::move(schedule_);
  }

 private:
  void add(std::uint64_t file, const Cell& cell) {
    const bool in_place = can_land(cell);
    if (!continues(file, cell, in_place)) {
      PlannedRead read{.file = file, .offset = cell.begin, .in_place = in_place};
      if (in_place) {
        read.target = cell.extents.front()->target;
        read.destination = destination_of(cell);
      }
      schedule_.reads.push_back(read);
    }
    schedule_.reads.back().bytes += cell.end - cell.begin;
  }

  static std::uint64_t destination_of(const Cell& cell) {
    const Extent& extent = *cell.extents.front();
    return extent.destination + (cell.begin - extent.offset);
  }

  bool can_land(const Cell& cell) const {
    if (cell.extents.size() != 1) return false;
    const Extent& extent = *cell.extents.front();
    const Target& target = targets_[extent.target];
    if (!target.is_host() || !target.is_exclusive || extent.is_rows()) return false;
    if (extent.offset > cell.begin || end_of(extent) < cell.end) return false;
    const std::uint64_t destination = destination_of(cell);
    return (target.start + destination) % kBlockBytes == cell.begin % kBlockBytes &&
           align_up(destination + (cell.end - cell.begin), kBlockBytes) <=
               align_up(target.bytes, kBlockBytes);
  }

  bool continues(std::uint64_t file, const Cell& cell, bool in_place) const {
    if (schedule_.reads.empty()) return false;
    const PlannedRead& last = schedule_.reads.back();
    if (last.file != file || last.offset + last.bytes != cell.begin || last.in_place != in_place)
      return false;
    if (last.bytes + (cell.end - cell.begin) > most_bytes_) return false;
    return !in_place || (last.target == cell.extents.front()->target &&
                         last.destination + last.bytes == destination_of(cell));
  }

  void add_pieces(PlannedRead& read, Sweep& sweep) {
    const std::uint64_t end = read.offset + read.bytes;
    const auto& active = sweep.move_to(read.offset, end);
    read.first_piece = schedule_.pieces.size();
    if (read.in_place) return;
    for (const Extent* extent : active) cut_extent(*extent, read.offset, end, schedule_.pieces);
    read.pieces = schedule_.pieces.size() - read.first_piece;
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
  std::span<const Target> targets_;
  std::uint64_t most_bytes_;
  Schedule schedule_;
};

std::vector<Extent> without_empty(const std::vector<Extent>& extents) {
  std::vector<Extent> kept;
  std::copy_if(extents.begin(), extents.end(), std::back_inserter(kept),
               [](const Extent& e) { return e.bytes > 0; });
  return kept;
}

}  // namespace

Schedule make_schedule(const LoadPlan& plan, std::span<const Target> targets, std::uint64_t most_bytes) {
  const std::vector<Extent> extents = without_empty(plan.extents);
  Builder builder(plan, targets, most_bytes);
  for (auto first = extents.begin(); first != extents.end();) {
    const std::uint64_t file = first->file;
    const auto last = std::find_if(first, extents.end(), [file](const Extent& e) { return e.file != file; });
    builder.add_file(file, {first, last});
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
