#pragma once

#include <cstdint>
#include <memory>
#include <mutex>
#include <vector>

#include "device/device.h"
#include "memory/chunk_pool.h"

namespace sllm {

// Pins a pool's chunks with a device's driver, so that devices copy out of them at their full speed and
// without holding up who asks for it. The pins are good for every device of the driver, and go with this
// object.
//
// Neighbouring chunks are pinned as one, up to 64 GiB (drivers refuse much more at once), so a copy must not
// cross from one chunk into another.
//
// Where the driver refuses, half as many neighbours are tried, down to one chunk. When one is refused as
// well, a limit is met, whatever the reason given: what is pinned stays so, and nothing more is tried while
// this lives. Copies from the other chunks are right, and slower. A device that is lost says so at the next
// copy.
//
// Thread-safe.
class PoolPins {
 public:
  // The pool outlives it.
  PoolPins(ChunkPool& pool, std::shared_ptr<Device> device);

  // Pins those of the chunks that are touched and not pinned yet; untouched ones would be faulted in by the
  // driver, a small page at a time. Blocks while the driver pins. Returns the bytes.
  std::uint64_t pin(ChunkRange chunks);

  std::uint64_t pinned_bytes() const;
  bool has_met_limit() const;

 private:
  ChunkRange find_run(ChunkRange chunks) const;
  std::uint64_t pin_run(ChunkRange run);

  ChunkPool& pool_;
  std::shared_ptr<Device> device_;
  mutable std::mutex mutex_;
  std::vector<bool> is_pinned_;  // of each chunk
  std::uint64_t pinned_chunks_ = 0;
  bool has_met_limit_ = false;
  std::vector<std::unique_ptr<HostRegistration>> pins_;
};

}  // namespace sllm
