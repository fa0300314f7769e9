#pragma once

#include "base/size.h"
#include "memory/chunk_pool.h"
#include "memory/populate.h"

namespace sllm::testing {

// Whether this kernel can make huge pages of shared memory now.
inline bool can_collapse() {
  const ChunkPool pool(4 * kMiB, 4 * kMiB);
  populate_write(pool.memory());
  return collapse(pool.memory());
}

}  // namespace sllm::testing
