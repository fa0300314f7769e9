#include "load/cutting.h"

#include <algorithm>

namespace sllm {
namespace {

// The extent's bytes from `from` up to `to`, counted from its own start.
class RowCutter {
 public:
  RowCutter(const Extent& extent, std::uint64_t begin, std::vector<Piece>& pieces)
      : extent_(extent), begin_(begin), pieces_(pieces) {}

  void cut(std::uint64_t from, std::uint64_t to) {
    std::uint64_t row = from / extent_.from_pitch;
    const std::uint64_t column = from % extent_.from_pitch;
    if (column > 0) add_part(row++, column, to);
    const std::uint64_t whole =
        to < extent_.row_bytes ? 0 : (to - extent_.row_bytes) / extent_.from_pitch + 1;
    if (whole > row) {
      add(row, 0, extent_.row_bytes, whole - row);
      row = whole;
    }
    add_part(row, 0, to);
  }

 private:
  // Of one row, from a column up to wherever the row's wanted bytes or all that is there ends.
  void add_part(std::uint64_t row, std::uint64_t column, std::uint64_t to) {
    const std::uint64_t start = row * extent_.from_pitch;
    if (to <= start || column >= extent_.row_bytes) return;
    const std::uint64_t last = std::min(extent_.row_bytes, to - start);
    if (last > column) add(row, column, last - column, 1);
  }

  void add(std::uint64_t row, std::uint64_t column, std::uint64_t bytes, std::uint64_t rows) {
    pieces_.push_back({
        .from = extent_.offset + row * extent_.from_pitch + column - begin_,
        .bytes = bytes,
        .rows = rows,
        .from_pitch = extent_.from_pitch,
        .to_pitch = extent_.to_pitch,
        .target = extent_.target,
        .destination = extent_.destination + row * extent_.to_pitch + column,
    });
  }

  const Extent& extent_;
  std::uint64_t begin_;
  std::vector<Piece>& pieces_;
};

}  // namespace

void cut_extent(const Extent& extent, std::uint64_t begin, std::uint64_t end, std::vector<Piece>& pieces) {
  const std::uint64_t from = std::max(begin, extent.offset) - extent.offset;
  const std::uint64_t to = std::min(end, extent.offset + extent.bytes) - extent.offset;
  if (extent.is_rows()) return RowCutter(extent, begin, pieces).cut(from, to);
  pieces.push_back({
      .from = extent.offset + from - begin,
      .bytes = to - from,
      .target = extent.target,
      .destination = extent.destination + from,
  });
}

}  // namespace sllm
