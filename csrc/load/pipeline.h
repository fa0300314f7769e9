#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "io/read_queue.h"
#include "load/plan.h"
#include "load/report.h"
#include "load/sources.h"

namespace sllm {

struct LoadOptions {
  QueueFactory queue = queue_factory(QueueKind::kAuto);
  FileAccess access = FileAccess::kDirect;
  CacheUse cache = CacheUse::kNone;
  unsigned depth = 8;
  std::uint64_t extent_bytes = std::uint64_t{8} << 20;  // at most; a multiple of kSpanBytes
  unsigned check_threads =
      0;  // 0: one beside a drive, as many as there are cores (4 at most) beside the page cache
  bool is_fresh = true;   // the destination has not been touched, so fault it in ahead
  bool registers = true;  // files and slots with the read queue, where that pays
};

// Called now and then by the thread that runs a load; throws to end it.
using Interrupt = std::function<void()>;

// Carries out the plan: reads, verifies and copies, overlapped. Blocks until all of it is done.
//
// 1. All files are opened; each one must be in the state that the plan was made from, then and at the end.
// 2. For each read it is decided where its bytes come from: the drive, a copy out of the page cache, or a
//    private mapping of the file in the place of the destination's memory. Only reads in place can be mapped.
// 3. The calling thread keeps the read queue full with what comes from the drive. A read in place needs
//    nothing; a staged one needs a slot, and when there is none, the drive waits (depth + 1 slots exist).
// 4. What is whole goes to the checker, what is in the page cache at once: it is copied out of there span by
//    span; CRC of each span; the pieces of a staged read are copied out, then its slot is free.
// 5. A Prefaulter goes ahead of the reads in place where the destination is fresh.
// 6. Registered with the queue are the files, and the slots where each is used a few times over.
//
// Mapped bytes are the page cache's until they are written to: a file that is overwritten in place later
// changes them, one that is truncated later kills who touches them.
//
// Throws invalid, not_found, forbidden, io, corrupt, exhausted, or what `interrupt` threw. Then the
// destination's contents are undefined, no read is in flight, and no thread is left.
LoadReport load(const LoadPlan& plan, std::span<std::byte> destination, const LoadOptions& options,
                const Interrupt& interrupt);

struct CheckResult {
  LoadReport report;
  std::vector<BadSpan> bad_spans;  // sorted
};

// Reads every span of every file of the plan and compares its CRC; the extents don't matter. Throws as load()
// does, but for corrupt spans, which it lists.
CheckResult check(const LoadPlan& plan, const LoadOptions& options, const Interrupt& interrupt);

}  // namespace sllm
