#include "device/row_copy.h"

#include "base/error.h"

namespace sllm {

void validate(const RowCopy& copy) {
  if (copy.rows <= 1 || (copy.row_bytes <= copy.to_pitch && copy.row_bytes <= copy.from_pitch)) return;
  throw Error(ErrorCode::kInvalid, "rows of " + std::to_string(copy.row_bytes) + " bytes overlap, " +
                                       std::to_string(copy.from_pitch) + " apart at their source and " +
                                       std::to_string(copy.to_pitch) + " at their destination");
}

}  // namespace sllm
