#pragma once

#include "device/device.h"

namespace sllm {

// Throws invalid where rows overlap.
void validate(const RowCopy& copy);

}  // namespace sllm
