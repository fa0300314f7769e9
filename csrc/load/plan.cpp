#include "load/plan.h"

#include <tuple>

#include "base/error.h"
#include "base/size.h"

namespace sllm {
namespace {

void validate_file(const PlannedFile& file) {
  const std::uint64_t spans = (file.identity.bytes + kSpanBytes - 1) / kSpanBytes;
  if (!file.span_crcs.empty() && file.span_crcs.size() != spans) {
    throw Error(ErrorCode::kInvalid, file.path + " has " + std::to_string(spans) + " spans and " +
                                         std::to_string(file.span_crcs.size()) + " crcs");
  }
  if (!file.resident.empty() && file.resident.size() < file.identity.bytes) {
    throw Error(ErrorCode::kInvalid, file.path + " is not wholly resident");
  }
}

void validate_rows(const Extent& extent) {
  const bool is_whole = extent.bytes >= extent.row_bytes && extent.from_pitch >= extent.row_bytes &&
                        extent.to_pitch >= extent.row_bytes &&
                        (extent.bytes - extent.row_bytes) % extent.from_pitch == 0;
  if (!is_whole) {
    throw Error(ErrorCode::kInvalid, "an extent of " + std::to_string(extent.bytes) +
                                         " bytes is not rows of " + std::to_string(extent.row_bytes));
  }
}

// Where the extent ends in its target.
std::uint64_t destination_end(const Extent& extent) {
  if (!extent.is_rows()) return checked_add(extent.destination, extent.bytes);
  std::uint64_t before_last = 0;
  if (__builtin_mul_overflow(extent.rows() - 1, extent.to_pitch, &before_last)) return ~std::uint64_t{0};
  return checked_add(checked_add(extent.destination, before_last), extent.row_bytes);
}

void validate_extent(const LoadPlan& plan, const Extent& extent) {
  if (extent.file >= plan.files.size()) throw Error(ErrorCode::kInvalid, "an extent of an unknown file");
  if (extent.target >= plan.target_bytes.size())
    throw Error(ErrorCode::kInvalid, "an extent of an unknown target");
  if (extent.is_rows()) validate_rows(extent);
  const PlannedFile& file = plan.files[extent.file];
  if (checked_add(extent.offset, extent.bytes) > file.identity.bytes ||
      destination_end(extent) > plan.target_bytes[extent.target]) {
    throw Error(ErrorCode::kInvalid, "an extent of " + std::to_string(extent.bytes) + " bytes at " +
                                         std::to_string(extent.offset) + " leaves " + file.path +
                                         " or its target");
  }
}

}  // namespace

void validate(const LoadPlan& plan) {
  for (const PlannedFile& file : plan.files) validate_file(file);
  const Extent* previous = nullptr;
  for (const Extent& extent : plan.extents) {
    validate_extent(plan, extent);
    if (previous != nullptr &&
        std::tie(extent.file, extent.offset) < std::tie(previous->file, previous->offset)) {
      throw Error(ErrorCode::kInvalid, "extents of " + plan.files[extent.file].path + " are not sorted");
    }
    previous = &extent;
  }
}

}  // namespace sllm
