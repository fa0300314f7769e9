#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "load/options.h"
#include "load/plan.h"
#include "load/report.h"
#include "load/target.h"

namespace sllm {

// Carries out the plan: reads, verifies and copies, overlapped. Blocks until all of it is done.
//
// 1. All files are opened; each one must be in the state that the plan was made from, then and at the end.
// 2. For each read it is decided where its bytes come from: the drive, a copy out of the page cache, a
// private
//    mapping of the file in the place of the target's memory, or memory that has the file already. Only reads
//    in place can be mapped.
// 3. The calling thread keeps the read queue full with what comes from the drive. A read in place, or of a
// resident
//    file, needs nothing; any other one needs a slot, and when there is none, the drive waits. The slots are
//    pinned where a device is loaded onto.
// 4. What is whole goes to the checker, what is in the page cache at once: it is copied out of there span by
//    span; CRC of each span, unless its file has none.
// 5. Then its pieces are put where they belong (Landing): copied in host memory, or given to the copy engine
// of
//    their device, in one stream a device. A slot is free again when the last device has read it.
// 6. A Prefaulter goes ahead of the reads in place where the target is fresh.
// 7. Registered with the queue are the files, and the slots where each is used a few times over.
// 8. The load is over when every copy is: nobody has to wait for a stream before he uses the tensors.
//
// Mapped bytes are the page cache's until they are written to: a file that is overwritten in place later
// changes them, one that is truncated later kills who touches them.
//
// The thread that calls it submits the reads; one that goes on to other work than loading has it run by
// run_in_own_thread(). There is a target for each entry of the plan's target_bytes, at least that large.
// Throws invalid, not_found, forbidden, io, corrupt, exhausted, device, or what `interrupt` threw. Then the
// targets' contents are undefined, no read and no copy is in flight, and no thread is left.
LoadReport load(const LoadPlan& plan, std::span<const Target> targets, const LoadOptions& options,
                const Interrupt& interrupt);

struct CheckResult {
  LoadReport report;
  std::vector<BadSpan> bad_spans;  // sorted
};

// Reads every span of every file of the plan and compares its CRC; the extents don't matter. Throws as load()
// does, but for corrupt spans, which it lists.
CheckResult check(const LoadPlan& plan, const LoadOptions& options, const Interrupt& interrupt);

}  // namespace sllm
