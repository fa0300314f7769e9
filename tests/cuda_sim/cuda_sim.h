#pragma once

#include <cstddef>
#include <cstdint>

// A CUDA driver without a GPU: a library with the driver's symbols, for SLLM_CUDA_DRIVER.
//
// 1. Devices are shared memory: each allocation is a memfd, mapped at an address that is not the one handed
//    out. Device addresses are reserved and inaccessible, so touching one on the CPU crashes, as it would.
//    Memory passes between processes as real descriptors, or by legacy handles.
// 2. A stream is a thread that copies real bytes. A device has one link a direction, shared by its streams;
//    a copy's bytes move when the link would have delivered the last of them. Missing waits are wrong bytes.
// 3. What a stream did is known to others by events and by synchronising, and by nothing else: submitting
//    work learns nothing of work that is done. So ThreadSanitizer sees memory that is reused too early.
// 4. What the driver would refuse is refused and written down as a violation, as is what it would let pass
//    and should not be: memory freed, unregistered or unmapped, and streams destroyed, with copies that
//    nobody waited for.
// 5. The n-th call of a function fails on request. Functions that give back or wait do their work even so.
//    A context that cannot be entered, or that had an error of its copies, is lost: its copies are off, and
//    what it still holds is reclaimed when it ends, which is no leak.
// 6. What is left at exit is printed to stderr.
//
// Settings, in $SLLM_CUDA_SIM and as text at run time, "name=value" with commas, KiB, MiB and GiB allowed:
//   devices=1          how many, at most 16; CUDA_VISIBLE_DEVICES (numbers) picks among them
//   memory=4GiB        of each device; what another process exported is not counted in this one
//   h2d=10e9 d2h=10e9  bytes per second of each device's links; 0 is as fast as memory goes
//   d2d=0
//   latency_us=10      from the link's last byte to the bytes' arrival
//   populate=0         1: allocations are faulted in at once; otherwise the first copy into fresh memory goes
//                      at the pace of page faults, where that is less than the link's
//   register_limit=0   bytes of host memory that can be registered, 0 for all
//   no_vmm=0 no_ipc=0  1: the device lacks shareable memory; the driver refuses legacy handles
//   version=12040      of the driver
//   fail=FUNCTION:N:CODE  the N-th call (from 0) since the settings were made returns the code; FUNCTION is
//                      a symbol, * for any, or `copy` for the N-th copy to fail in its stream. Repeatable
//   lost=N             after N calls the devices are gone: everything but giving back fails
//   report=PATH        the report is written there at exit
#define CUDA_SIM_API __attribute__((visibility("default")))

extern "C" {

// Replaces the settings by $SLLM_CUDA_SIM's and the text's on top, and sets every count to 0; objects live
// on. Returns 0, or -1 for text that it does not understand, and changes nothing then.
CUDA_SIM_API int sllm_cuda_sim_configure(const char* settings);

// The report as JSON: {"counts": {...}, "calls": {function: number}, "violations": [text]}. Writes at most
// `bytes`, with a zero at the end, and returns how many it takes without the zero.
CUDA_SIM_API std::size_t sllm_cuda_sim_report(char* into, std::size_t bytes);

// One count by its name, or the calls of a function by its symbol; -1 for a name that nothing has.
//
// Since the settings were made: calls, copies, pageable_copies (of host memory that is not registered),
// violations, most_registered_bytes, h2d_bytes, d2h_bytes, d2d_bytes, h2d_busy_us, d2h_busy_us, d2d_busy_us;
// those of links also of one device: "h2d_bytes.1".
// Alive: contexts, streams, events, allocations, opened (by legacy handles), handles, reservations,
// placements, registrations, registered_bytes, allocated_bytes (also "allocated_bytes.1"), entered (contexts
// that were pushed and not popped). Ever: calls_after_fork (in a child of the process that called cuInit).
CUDA_SIM_API long long sllm_cuda_sim_count(const char* name);
}
