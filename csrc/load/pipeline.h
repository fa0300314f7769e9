#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "io/read_queue.h"
#include "load/plan.h"
#include "load/report.h"

namespace sllm {

struct LoadOptions {
  QueueFactory queue = queue_factory(QueueKind::kAuto);
  FileAccess access = FileAccess::kDirect;
  unsigned depth = 8;
  std::uint64_t extent_bytes = std::uint64_t{8} << 20;  // a multiple of kSpanBytes
  unsigned check_threads = 1;
  bool is_fresh = true;  // the destination has not been touched, so fault it in ahead
};

// Called now and then by the thread that runs a load; throws to end it.
using Interrupt = std::function<void()>;

// Carries out the plan: reads, verifies and copies, overlapped. Blocks until all of it is done.
//
// 1. All files are opened; each one must be in the state that the plan was made from, then and at the end.
// 2. The calling thread keeps the read queue full. A read in place needs nothing; a staged one needs a slot,
//    and when there is none, the drive waits (at most depth + 1 slots of extent_bytes exist).
// 3. What is whole goes to the checker: CRC of each span, then the pieces of a staged read are copied out,
//    then its slot is free.
// 4. A Prefaulter goes ahead of the reads where the destination is fresh.
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
