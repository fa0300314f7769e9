#pragma once

#include <cstdint>
#include <functional>

#include "io/file.h"
#include "io/read_queue.h"
#include "load/sources.h"

namespace sllm {

// Called, by any of a load's threads, once the bytes that a read brought lie where they belong, verified; of
// a file without CRCs, when it was seen after that to be as it was planned. Whole spans (without CRCs:
// blocks), or up to the file's end; each byte once. `file` is the plan's number. What it throws ends the
// load.
using OnLanded = std::function<void(std::uint64_t file, std::uint64_t offset, std::uint64_t bytes)>;

struct LoadOptions {
  QueueFactory queue = queue_factory(QueueKind::kAuto);
  FileAccess access = FileAccess::kDirect;
  CacheUse cache = CacheUse::kNone;
  unsigned depth = 32;
  std::uint64_t extent_bytes = std::uint64_t{4} << 20;  // at most; a multiple of kSpanBytes
  unsigned check_threads =
      0;  // 0: one beside a drive, as many as there are cores (4 at most) beside the page cache
  std::uint64_t staging_bytes = std::uint64_t{256} << 20;  // at most, where a device is loaded onto
  bool is_fresh = true;   // exclusive host memory has not been touched, so fault it in ahead
  bool registers = true;  // files and slots with the read queue, where that pays
  OnLanded on_landed;     // or none; only where all targets are host memory
};

// Called now and then by the thread that runs a load; throws to end it.
using Interrupt = std::function<void()>;

}  // namespace sllm
