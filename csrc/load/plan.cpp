#include "load/plan.h"

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
}

}  // namespace

void validate(const LoadPlan& plan) {
  for (const PlannedFile& file : plan.files) validate_file(file);
  const Extent* previous = nullptr;
  for (const Extent& extent : plan.extents) {
    if (extent.file >= plan.files.size()) throw Error(ErrorCode::kInvalid, "an extent of an unknown file");
    const PlannedFile& file = plan.files[extent.file];
    if (checked_add(extent.offset, extent.bytes) > file.identity.bytes ||
        checked_add(extent.destination, extent.bytes) > plan.destination_bytes) {
      throw Error(ErrorCode::kInvalid, "an extent of " + std::to_string(extent.bytes) + " bytes at " +
                                           std::to_string(extent.offset) + " leaves " + file.path +
                                           " or its destination");
    }
    const bool follows =
        previous == nullptr || previous->file < extent.file ||
        (previous->file == extent.file && previous->offset + previous->bytes <= extent.offset);
    if (!follows) throw Error(ErrorCode::kInvalid, "extents of " + file.path + " overlap or are not sorted");
    previous = &extent;
  }
}

}  // namespace sllm
